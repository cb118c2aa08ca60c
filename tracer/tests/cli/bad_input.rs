//! Bad input: one sentence with the remedy, exit status 2, nothing written.

use std::path::Path;

use super::tool::{folder, run};

/// Each word has to be in the sentence.
fn refuses(arguments: &[&str], words: &[&str]) {
    let said = run(arguments);
    let sentence = said.refusal();
    for word in words {
        assert!(sentence.contains(word), "{arguments:?}: no {word:?} in {sentence:?}");
    }
    assert_eq!(sentence.lines().count(), 1, "{sentence}");
}

/// What clap says is longer; it names the argument and points at the help.
fn is_misuse(arguments: &[&str], word: &str) {
    let said = run(arguments);
    assert!(said.refusal().contains(word), "{}", said.errors);
    assert!(said.errors.contains("--help"), "{}", said.errors);
}

#[test]
fn a_pid_that_is_no_vmm_is_refused_with_the_way_to_find_one() {
    // The largest pid Linux gives is 2^22.
    refuses(&["--pid", "4194305"], &["no process has pid 4194305", "kvmdirty-trace list"]);
    refuses(&["--pid", "0"], &["no process has pid 0"]);
    let own = std::process::id().to_string();
    refuses(&["--pid", &own], &["no KVM VM open", "kvmdirty-trace list", "--wait"]);
    let out = folder("no-vmm").join("x.kdt");
    refuses(&["record", "--pid", &own, "-o", out.to_str().unwrap()], &["no KVM VM open"]);
    assert!(!out.exists(), "a refused trace leaves no file");
}

#[test]
fn a_thread_is_refused_and_its_process_named() {
    let own = std::process::id();
    std::thread::spawn(move || {
        let tid = nix::unistd::gettid().to_string();
        refuses(&["--pid", &tid], &["is a thread of process", &format!("--pid {own}")]);
    })
    .join()
    .unwrap();
}

#[test]
fn a_recording_is_not_overwritten_and_its_folder_must_exist() {
    let folder = folder("outputs");
    let exists = folder.join("old.kdt");
    std::fs::write(&exists, "evidence").unwrap();
    let own = std::process::id().to_string();
    let record = |path: &Path| {
        let path = path.to_str().unwrap().to_owned();
        move |words: &[&str]| {
            refuses(&["record", "--pid", &own, "--wait", "--output", &path], words);
        }
    };
    record(&exists)(&["exists already", "another file"]);
    assert_eq!(std::fs::read_to_string(&exists).unwrap(), "evidence");
    let own = std::process::id().to_string();
    let path = folder.join("missing/new.kdt");
    let path = path.to_str().unwrap();
    refuses(&["record", "--pid", &own, "--wait", "-o", path], &["no folder", "create it first"]);
}

#[test]
fn files_that_are_no_recordings_are_refused_by_every_command_that_reads_one() {
    let folder = folder("foreign");
    let foreign = folder.join("foreign.kdt");
    std::fs::write(&foreign, "this is a letter, not a recording").unwrap();
    let foreign = foreign.to_str().unwrap();
    for arguments in [
        &["check", foreign][..],
        &["replay", foreign],
        &["export", foreign, "--format", "jsonl"],
        &["diff", foreign, foreign],
    ] {
        refuses(arguments, &["not a kvmdirty-trace recording"]);
    }
    refuses(&["check", "/nonexistent.kdt"], &["/nonexistent.kdt", "No such file"]);
    refuses(&["check", folder.to_str().unwrap()], &["Is a directory"]);
}

/// Cut inside its header nothing is left; cut anywhere later, what came before is judged and the rest is a gap.
#[test]
fn a_truncated_recording_is_judged_up_to_where_it_ends() {
    let folder = folder("truncated");
    let whole = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/demo.kdt");
    let whole = std::fs::read(whole).unwrap();
    let cut = folder.join("cut.kdt");
    let path = cut.to_str().unwrap();
    std::fs::write(&cut, &whole[..60]).unwrap();
    refuses(&["check", path], &["ends inside its header"]);
    std::fs::write(&cut, &whole[..whole.len() * 2 / 3]).unwrap();
    let said = run(&["check", path, "--json"]);
    assert_eq!(said.status, 3, "{said:?}");
    let report = said.json();
    assert!(0 < report["events"].as_u64().unwrap());
    assert!(0 < report["dropped_events"].as_u64().unwrap());
    assert_eq!(report["gaps"][0]["cause"], "damaged");
}

#[test]
fn misuse_names_the_argument_and_points_at_the_help() {
    is_misuse(&["frobnicate"], "frobnicate");
    is_misuse(&["--pid", "qemu"], "qemu");
    is_misuse(&["demo", "--mode", "bitmap"], "bitmap");
    is_misuse(&["record", "--pid", "1", "-o", "x", "--duration", "3 weeks"], "3 weeks");
    is_misuse(&["check", "x", "--epsilon", "-5"], "-5");
    refuses(&["demo", "--vcpus", "0"], &["--vcpus 0", "1 to 16"]);
    refuses(&["explain", "K99"], &["K99", "K01 to K15"]);
}

#[test]
fn no_arguments_print_the_help() {
    let said = run(&[]);
    assert_eq!(said.status, 2);
    assert!(said.errors.contains("Commands:") && said.errors.contains("Examples:"));
}
