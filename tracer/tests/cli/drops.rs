//! Rings that are too small: dropped records are counted and located, and what they touch is unknown, never safe.

use serde_json::Value;

use super::tool::{Guest, Recorder, can_trace, check, folder, run};

fn count(report: &Value, field: &str) -> u64 {
    report[field].as_u64().unwrap_or_else(|| panic!("no {field}: {report}"))
}

#[test]
fn a_full_ring_is_told_by_cpu_and_hook_and_makes_verdicts_unknown() {
    if !can_trace("a_full_ring_is_told_by_cpu_and_hook_and_makes_verdicts_unknown") {
        return;
    }
    let file = folder("drops").join("drops.kdt");
    let path = file.to_str().unwrap();
    let demo = ["demo", "--json", "--seconds", "1", "--ring-size", "4k", "--output", path];
    let said = run(&demo);
    let report = said.json();
    if report["plan"] == "kprobe" && report["oracle"].is_null() {
        return; // The bundled recording was played: there is no KVM here, which another test says.
    }
    assert_eq!(said.status, 3, "dropped records prove nothing");
    let dropped = count(&report, "dropped_events");
    assert!(0 < dropped);
    // Every lane's gaps name it, and the hooks' own counters tell the same sum.
    let gaps = report["gaps"].as_array().unwrap();
    assert!(gaps.iter().any(|gap| gap["lane"].as_str().is_some_and(|lane| lane.contains("cpu"))));
    let by_hook: u64 =
        report["drops"].as_array().unwrap().iter().map(|row| count(row, "records")).sum();
    assert_eq!(by_hook, dropped, "{}", report["drops"]);
    let verdicts = &report["verdicts"];
    assert_eq!((count(verdicts, "lost"), count(verdicts, "at_risk")), (0, 0), "{verdicts}");
    assert!(0 < count(verdicts, "unknown"), "{verdicts}");
    assert!(report["unknown_causes"]["dropped-records"].as_u64().is_some());

    let checked = check(&file, &["--final"]).json();
    for field in
        ["verdicts", "dropped_events", "gaps_total", "gaps", "events", "harvests", "hazards"]
    {
        assert_eq!(report[field], checked[field], "{field}: live and its recording");
    }
}

#[test]
fn a_budget_that_is_exceeded_stops_tracing_and_says_so() {
    let test = "a_budget_that_is_exceeded_stops_tracing_and_says_so";
    if !can_trace(test) {
        return;
    }
    let Some(mut guest) = Guest::start(test, &["--seconds=120", "--interval=5"]) else { return };
    let folder = folder("budget");
    let recorder = Recorder::start(&folder, &guest.pid(), &["--budget", "0"]);
    guest.go();
    let (said, file) = recorder.finish();
    assert_eq!(said.status, 3, "{said:?}");
    assert!(said.errors.contains("more than its budget"), "{}", said.errors);
    assert!(said.errors.contains("--budget PERCENT"), "{}", said.errors);
    let report = check(&file, &[]);
    assert_eq!(report.status, 3);
    let report = report.json();
    let gaps = report["gaps"].as_array().unwrap();
    assert!(gaps.iter().any(|gap| gap["cause"] == "budget"), "{gaps:?}");
    assert!(0 < count(&report, "events"));
}
