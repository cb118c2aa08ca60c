//! Hosts that forbid something: which capability is missing, no /dev/kvm, no BTF.
//!
//! `setpriv` and `unshare` (util-linux) take the privilege or the file away for one run of the tool.

use std::process::Command;

use super::tool::{Said, TOOL, can_trace, command, folder, run, said, skipped};

/// Runs the tool without these capabilities (`sys_admin`).
fn without(capabilities: &[&str], arguments: &[&str]) -> Said {
    let dropped: Vec<_> = capabilities.iter().map(|name| format!("-{name}")).collect();
    let dropped = dropped.join(",");
    let mut words = vec!["--bounding-set", &dropped, "--inh-caps", &dropped, TOOL];
    words.extend(arguments);
    said(command("setpriv", &words))
}

/// Runs the tool in a mount namespace that a shell line has changed.
fn mounted(change: &str, arguments: &[&str]) -> Said {
    let script = format!("{change} && exec \"$0\" \"$@\"");
    let mut words = vec!["--mount", "sh", "-c", &script, TOOL];
    words.extend(arguments);
    said(command("unshare", &words))
}

/// Privileges can be taken away here.
fn is_root(test: &str) -> bool {
    let is_root = nix::unistd::geteuid().is_root();
    let has = |program: &str| Command::new(program).arg("--version").output().is_ok();
    if !is_root || !has("setpriv") || !has("unshare") {
        skipped(test, "needs root, setpriv and unshare (util-linux)");
        return false;
    }
    is_root
}

#[test]
fn a_missing_capability_is_named_with_the_way_to_grant_it() {
    let test = "a_missing_capability_is_named_with_the_way_to_grant_it";
    if !is_root(test) || !can_trace(test) {
        return;
    }
    let own = std::process::id().to_string();
    let out = folder("capabilities").join("x.kdt");
    let record =
        ["record", "--pid", &own, "--wait", "--duration", "1s", "-o", out.to_str().unwrap()];
    for (dropped, named) in [
        (&["sys_admin", "bpf"][..], &["CAP_BPF", "setcap cap_bpf"][..]),
        (&["sys_admin", "perfmon"], &["CAP_PERFMON", "setcap cap_bpf"]),
        (&["sys_admin", "bpf", "perfmon", "syslog"], &["CAP_BPF, CAP_PERFMON, CAP_SYSLOG"]),
        (&["syslog"], &["CAP_SYSLOG", "/proc/kallsyms"]),
    ] {
        let said = without(dropped, &record);
        for word in named {
            assert!(said.refusal().contains(word), "without {dropped:?}: {}", said.errors);
        }
        assert!(!out.exists(), "a refused trace leaves no file");
    }
}

#[test]
fn doctor_tells_what_is_missing() {
    if !is_root("doctor_tells_what_is_missing") {
        return;
    }
    let said = without(&["sys_admin", "perfmon"], &["doctor", "--json"]);
    if said.status == 2 {
        skipped("doctor_tells_what_is_missing", said.errors.trim());
        return;
    }
    let report = said.json();
    assert_eq!(report["capabilities_missing"], serde_json::json!(["CAP_PERFMON"]));
    assert_eq!(report["is_rehearsed"], false);
    let text = without(&["sys_admin", "perfmon"], &["doctor"]).out;
    assert!(text.contains("CAP_PERFMON          missing"), "{text}");
    assert!(text.contains("setcap cap_bpf"), "{text}");
}

#[test]
fn doctor_names_a_state_for_every_rule_and_operation() {
    let said = run(&["doctor", "--json"]);
    if said.status == 2 {
        skipped("doctor", said.errors.trim());
        return;
    }
    let report = said.json();
    assert_eq!(report["rules"].as_array().unwrap().len(), 15);
    let entries = report["plan"]["entries"].as_array().unwrap();
    assert_eq!(entries.len(), kvmdirty_trace::event::Operation::ALL.len());
    for entry in entries {
        let is_seen = entry["evidence"] != "none";
        assert_eq!(is_seen, entry["points"].as_array().is_some_and(|points| !points.is_empty()));
        assert!(is_seen || entry["note"] != "", "{entry}: why is it not observed?");
    }
}

#[test]
fn a_kernel_without_btf_is_told_from_one_without_kvm() {
    let test = "a_kernel_without_btf_is_told_from_one_without_kvm";
    if !is_root(test) || !can_trace(test) {
        return;
    }
    let own = std::process::id().to_string();
    for arguments in [&["doctor"][..], &["--pid", &own, "--wait"]] {
        let said = mounted("mount -t tmpfs none /sys/kernel/btf", arguments);
        assert!(said.refusal().contains("CONFIG_DEBUG_INFO_BTF=y"), "{}", said.errors);
    }
}

/// Where KVM or BPF is forbidden the demo says what is missing, plays its recording, and proves nothing.
#[test]
fn the_demo_falls_back_to_its_recording_and_says_why() {
    let test = "the_demo_falls_back_to_its_recording_and_says_why";
    if !is_root(test) {
        return;
    }
    let demo = ["demo", "--headless", "--json", "--seconds", "1"];
    let hidden = mounted("mount -t tmpfs none /dev", &demo);
    assert_eq!(hidden.status, 3, "{hidden:?}");
    assert!(hidden.errors.contains("no /dev/kvm on this host"), "{}", hidden.errors);
    assert!(hidden.errors.contains("modprobe"), "{}", hidden.errors);
    let report = hidden.json();
    assert_eq!(report["plan"], "kprobe");
    assert!(1000 < report["events"].as_u64().unwrap());
    if can_trace(test) && std::fs::File::open("/dev/kvm").is_ok() {
        let forbidden = without(&["sys_admin", "bpf"], &demo);
        assert_eq!(forbidden.status, 3, "{forbidden:?}");
        assert!(forbidden.errors.contains("CAP_BPF"), "{}", forbidden.errors);
        assert_eq!(forbidden.json()["plan"], "kprobe");
    }
}
