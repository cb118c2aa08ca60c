//! Traces of a VMM the tool has not started: how they begin, how they end, and what is left behind.

use nix::sys::signal::Signal;

use super::tool::{Guest, Recorder, are_gone, can_trace, check, folder, run, wait_for};

const LONG: [&str; 3] = ["--seconds=300", "--interval=10", "--pages=2048"];

#[test]
fn signals_end_a_recording_that_is_whole() {
    let test = "signals_end_a_recording_that_is_whole";
    if !can_trace(test) {
        return;
    }
    let Some(mut guest) = Guest::start(test, &LONG) else { return };
    guest.go();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        let folder = folder(&format!("signal-{signal}"));
        let recorder = Recorder::start(&folder, &guest.pid(), &["--budget", "1000"]);
        recorder.wait_for_bytes(100_000);
        let programs = recorder.programs();
        assert!(!programs.is_empty());
        recorder.signal(signal);
        let (said, file) = recorder.finish();
        are_gone(&programs);
        let report = check(&file, &[]);
        assert_eq!(said.status, report.status, "{signal}: {said:?}");
        let report = report.json();
        assert_eq!(report["gaps"], serde_json::json!([]), "{signal}");
        assert!(1000 < report["events"].as_u64().unwrap(), "{signal}");
        assert!(said.out.contains("verdicts"), "{signal}: the report is printed");
    }
}

#[test]
fn a_killed_recorder_leaves_no_probe_and_a_recording_that_can_be_read() {
    let test = "a_killed_recorder_leaves_no_probe_and_a_recording_that_can_be_read";
    if !can_trace(test) {
        return;
    }
    let Some(mut guest) = Guest::start(test, &LONG) else { return };
    guest.go();
    let folder = folder("killed");
    let recorder = Recorder::start(&folder, &guest.pid(), &["--budget", "1000"]);
    recorder.wait_for_bytes(100_000);
    let programs = recorder.programs();
    assert!(10 < programs.len(), "{programs:?}");
    recorder.signal(Signal::SIGKILL);
    let (_, file) = recorder.finish();
    are_gone(&programs);
    let report = check(&file, &[]);
    assert!([0, 3].contains(&report.status), "{report:?}");
    assert!(1000 < report.json()["events"].as_u64().unwrap());
}

#[test]
fn a_trace_ends_when_its_vmm_does_with_all_it_did() {
    let test = "a_trace_ends_when_its_vmm_does_with_all_it_did";
    if !can_trace(test) {
        return;
    }
    let Some(mut guest) = Guest::start(test, &LONG) else { return };
    let folder = folder("vmm-ends");
    let recorder = Recorder::start(&folder, &guest.pid(), &["--budget", "1000"]);
    guest.go();
    recorder.wait_for_bytes(100_000);
    assert!(guest.stop().success());
    let (said, file) = recorder.finish();
    assert_eq!(said.status, 0, "{said:?}");
    assert!(said.errors.contains("has exited"), "{}", said.errors);
    let report = check(&file, &["--final"]).json();
    assert_eq!(report["outcome"], "clean", "the final harvest is in the recording: {report}");
}

#[test]
fn a_vm_made_after_the_attach_is_picked_up_and_two_vms_are_two() {
    let test = "a_vm_made_after_the_attach_is_picked_up_and_two_vms_are_two";
    if !can_trace(test) {
        return;
    }
    let flags = ["--seconds=1", "--pages=1024", "--late-vm", "--workload=second-vm"];
    let Some(mut guest) = Guest::start(test, &flags) else { return };
    let pid = guest.pid();
    let folder = folder("late-vm");
    let recorder = Recorder::start(&folder, &pid, &["--wait", "--budget", "1000"]);
    guest.go();
    let (said, file) = recorder.finish();
    assert_eq!(said.status, 0, "{said:?}");
    let report = check(&file, &[]).json();
    let vms = report["vms"].as_array().unwrap();
    assert!(2 <= vms.len(), "{vms:?}");
    for vm in vms {
        assert_eq!(vm["tgid"].to_string(), pid);
    }
}

#[test]
fn list_shows_a_running_vmm() {
    let test = "list_shows_a_running_vmm";
    let Some(mut guest) = Guest::start(test, &LONG) else { return };
    guest.go();
    let pid = guest.pid();
    let number: Option<u64> = pid.parse().ok();
    let row = wait_for("the VMM in the list", || {
        let said = run(&["list", "--json"]);
        assert_eq!(said.status, 0);
        let rows = said.json();
        let rows = rows.as_array().unwrap();
        rows.iter().find(|row| row["pid"].as_u64() == number && row["vcpus"] == 2).cloned()
    });
    assert_eq!(row["vms"], 1, "{row}");
    let text = run(&["list"]).out;
    assert!(text.lines().any(|line| line.trim_start().starts_with(&pid)), "{text}");
}

#[test]
fn an_interrupted_demo_still_makes_its_final_harvest() {
    use super::tool::{TOOL, command};
    use std::process::Stdio;
    let test = "an_interrupted_demo_still_makes_its_final_harvest";
    if !can_trace(test) || std::fs::File::open("/dev/kvm").is_err() {
        return;
    }
    let file = folder("demo-interrupted").join("demo.kdt");
    let mut demo = command(TOOL, &["demo", "--json", "--seconds", "300", "--output"]);
    let child = demo.arg(&file).stdout(Stdio::piped()).spawn().unwrap();
    wait_for("the demo to record", || {
        std::fs::metadata(&file).is_ok_and(|file| 100_000 < file.len()).then_some(())
    });
    let pid = nix::unistd::Pid::from_raw(child.id() as i32);
    nix::sys::signal::kill(pid, Signal::SIGINT).unwrap();
    let output = child.wait_with_output().unwrap();
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{report}");
    assert_eq!(report["oracle"]["lost_pages"], 0);
    assert!(0 < report["oracle"]["compared"].as_u64().unwrap());
}
