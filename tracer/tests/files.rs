//! The commands that write, read and compare files, run as a user runs them.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A folder of one test, emptied before and left for whoever looks into a failure.
fn folder(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = std::fs::remove_dir_all(&path);
    std::fs::create_dir_all(&path).unwrap();
    path
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(name)
}

fn tool(arguments: &[&dyn AsRef<std::ffi::OsStr>]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kvmdirty-trace"));
    command.args(arguments.iter().map(|argument| argument.as_ref()));
    command.output().unwrap()
}

fn said(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn what_trace_cmd_recorded_is_imported_and_judged() {
    let folder = folder("import");
    for name in ["ring-v6.dat", "ring-v7.dat", "ring.txt"] {
        let out = folder.join(name).with_extension("kdt");
        let _ = std::fs::remove_file(&out);
        let from = fixture("import").join(name);
        let (status, _, errors) = said(&tool(&[&"import", &from, &"-o", &out]));
        assert_eq!(status, 0, "{errors}");
        assert!(errors.starts_with("724 records and 0 gaps written to "), "{errors}");
        let (status, report, _) = said(&tool(&[&"check", &out, &"--json"]));
        let report: serde_json::Value = serde_json::from_str(&report).unwrap();
        // Without marks, harvested words and SPTE values no rule can speak, and nothing is called clean.
        assert_eq!((status, &report["outcome"]), (3, &serde_json::json!("inconclusive")));
        assert_eq!((&report["plan"], &report["events"]), (&"import".into(), &724.into()));
        let (status, _, errors) = said(&tool(&[&"import", &from, &"-o", &out]));
        assert_eq!(status, 2, "a recording is never overwritten");
        assert!(errors.contains("exists already"), "{errors}");
    }
}

#[test]
fn a_damaged_import_says_where_and_keeps_what_came_before() {
    let folder = folder("import-damaged");
    let whole = std::fs::read(fixture("import/ring-v7.dat")).unwrap();
    let (cut, out) = (folder.join("cut.dat"), folder.join("cut.kdt"));
    std::fs::write(&cut, &whole[..whole.len() / 3]).unwrap();
    let (status, _, errors) = said(&tool(&[&"import", &cut, &"-o", &out]));
    assert_eq!(status, 2);
    assert!(errors.contains("at byte "), "{errors}");
}

#[test]
fn a_recording_is_the_same_as_itself_and_text_and_json_agree() {
    let v1 = fixture("fixtures/v1.kdt");
    let (status, text, _) = said(&tool(&[&"diff", &v1, &v1]));
    let (_, json, _) = said(&tool(&[&"diff", &v1, &v1, &"--json"]));
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let conclusion = json["conclusion"].as_str().unwrap();
    // The fixture has a gap of every cause, so nothing can be concluded from it.
    assert_eq!((status, conclusion), (3, "inconclusive"));
    assert!(text.starts_with("inconclusive: "), "{text}");
    assert_eq!(json["appeared"], serde_json::json!([]));
}
