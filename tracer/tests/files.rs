//! The commands that write, read and compare files, run as a user runs them.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

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

/// Rows of an export of the bundled lab recording, without its first line.
fn rows(format: &str, filters: &[&str]) -> usize {
    let demo = fixture("../assets/demo.kdt");
    let output = Command::new(env!("CARGO_BIN_EXE_kvmdirty-trace"))
        .args(["export", "--format", format])
        .args(filters)
        .arg(demo)
        .output()
        .unwrap();
    assert!(output.status.success(), "{filters:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout.iter().filter(|&&byte| byte == b'\n').count() - 1
}

#[test]
fn filters_keep_the_same_rows_in_every_form() {
    let marks = ["--kind", "mark"];
    let all = rows("jsonl", &marks);
    assert!(10_000 < all);
    assert_eq!(rows("csv", &marks), all);
    // Stretches of time that touch add up.
    let before = rows("jsonl", &[&marks[..], &["--to", "2s"]].concat());
    let after = rows("jsonl", &[&marks[..], &["--from", "2s"]].concat());
    assert!(0 < before && 0 < after);
    assert_eq!(before + after, all);
    // So do ranges of pages, and slots.
    let of = |filter: [&str; 2]| rows("csv", &[marks, filter].concat());
    let halves = of(["--gfn", "0x0..0x500"]) + of(["--gfn", "0x500..0xffffffff"]);
    assert_eq!(halves, all);
    assert_eq!(of(["--slot", "0:0"]) + of(["--slot", "0:1"]), all);
    assert_eq!(of(["--vm", "0x1"]), 0);
    assert!(0 < rows("csv", &["--kind", "harvests"]));
    // With a rule and no kind, only its verdicts are kept.
    assert_eq!(rows("jsonl", &["--rule", "K04"]), 0);
}

#[test]
fn a_filter_that_means_nothing_is_refused() {
    let v1 = fixture("fixtures/v1.kdt");
    for filter in [["--rule", "K99"], ["--gfn", "7..3"], ["--from", "soon"], ["--kind", "marks"]] {
        let (status, _, errors) =
            said(&tool(&[&"export", &v1, &"-f", &"jsonl", &filter[0], &filter[1]]));
        assert_eq!(status, 2, "{filter:?}");
        assert!(errors.contains(filter[1]), "{errors}");
    }
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    for format in ["jsonl", "csv", "std", "perfetto"] {
        let mut export = Command::new(env!("CARGO_BIN_EXE_kvmdirty-trace"))
            .args(["export", "--format", format])
            .arg(fixture("../assets/demo.kdt"))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = Vec::new();
        BufReader::new(export.stdout.take().unwrap()).read_until(b'\n', &mut line).unwrap();
        let (status, _, errors) = said(&export.wait_with_output().unwrap());
        assert_eq!((status, errors.as_str()), (0, ""), "{format}");
    }
}
