//! Which of two traces is worse, on summaries made by hand.

use std::sync::Arc;

use super::*;
use crate::event::Evidence;
use crate::event::{Gfn, Nanos, Operation, SlotId, Tid, VmId};
use crate::verdict::{VerdictCounts, Witness};

fn summary(safe: u64) -> Summary {
    let harvest = Harvest {
        id: 1,
        vm: VmId(1),
        slot: SlotId::default(),
        op: IoctlOp::GetDirtyLog,
        iteration: 1,
        tid: Tid(1),
        begin: Nanos(1_000),
        end: Nanos(5_000),
        ret: 0,
        words: 1,
        pages: 3,
        protect_ns: 0,
        flush_ns: None,
        flush_counter_moved: false,
        is_complete: true,
        worst: None,
    };
    Summary {
        harvests: [harvest].into(),
        harvests_total: 1,
        verdicts: VerdictCounts { safe, ..VerdictCounts::default() },
        ..Summary::default()
    }
}

fn with_hazard(mut summary: Summary, rule: RuleId, gfn: u64, lost: u64) -> Summary {
    summary.verdicts.lost += lost;
    summary.findings_total += 1;
    summary.findings.push(Arc::new(Finding {
        verdict: Verdict::Lost,
        rule,
        // Addresses of VMs differ from run to run.
        vm: VmId(gfn + lost),
        slot: SlotId { as_id: 0, id: 1 },
        gfn: Some(Gfn(gfn)),
        first: Nanos(1),
        last: Nanos(2),
        count: lost,
        sentence: String::from("taken and not protected"),
        known: None,
        witness: Witness::default(),
    }));
    summary
}

fn diff(before: &Summary, after: &Summary) -> Diff {
    let setup = Setup::complete("test");
    let side = |name, summary| Side { name, summary, setup: &setup };
    Diff::new(&side("a.kdt", before), &side("b.kdt", after))
}

fn conclusion(before: &Summary, after: &Summary) -> Conclusion {
    diff(before, after).conclusion()
}

#[test]
fn a_rule_with_its_first_hazards_is_worse_and_one_without_its_last_is_better() {
    let healthy = summary(1_000);
    let broken = with_hazard(summary(1_000), RuleId::K04, 7, 5);
    assert_eq!(conclusion(&healthy, &broken), Conclusion::Worse);
    assert_eq!(conclusion(&broken, &healthy), Conclusion::Better);
    assert_eq!(conclusion(&healthy, &healthy), Conclusion::Same);
}

#[test]
fn another_rule_is_worse_even_if_hazards_are_rarer() {
    let before = with_hazard(summary(1_000), RuleId::K04, 7, 500);
    let after = with_hazard(summary(1_000), RuleId::K05, 7, 1);
    assert_eq!(conclusion(&before, &after), Conclusion::Worse);
}

#[test]
fn shares_are_compared_not_counts() {
    let short = with_hazard(summary(1_000), RuleId::K04, 7, 10);
    let long = with_hazard(summary(100_000), RuleId::K04, 8, 1_000);
    assert_eq!(conclusion(&short, &long), Conclusion::Same);
    let rarer = with_hazard(summary(100_000), RuleId::K04, 7, 10);
    assert_eq!(conclusion(&short, &rarer), Conclusion::Better);
    assert_eq!(conclusion(&rarer, &short), Conclusion::Worse);
}

#[test]
fn dropped_records_and_rules_that_went_off_are_never_better() {
    let broken = with_hazard(summary(1_000), RuleId::K04, 7, 5);
    let mut dropping = summary(1_000);
    dropping.dropped_events = 9;
    dropping.gaps_total = 1;
    assert_eq!(conclusion(&broken, &dropping), Conclusion::Inconclusive);
    let mut blind = summary(1_000);
    blind.rules_off.push((RuleId::K04, Operation::WriteProtect, Evidence::None));
    assert_eq!(conclusion(&broken, &blind), Conclusion::Inconclusive);
    assert_eq!(conclusion(&blind, &summary(1_000)), Conclusion::Same);
}

#[test]
fn a_comparison_reads_well() {
    let before = with_hazard(summary(1_000), RuleId::K05, 0x400, 1);
    let after = with_hazard(summary(2_000), RuleId::K04, 0x401, 2);
    insta::assert_snapshot!(diff(&before, &after).text(), @r"
    worse: K04 found hazards only in the second recording

                          a.kdt                     b.kdt
    kernel                0.0.0-litmus              0.0.0-litmus
    plan                  test                      test
    outcome               hazard                    hazard
    covered               0.000 s                   0.000 s
    events                0                         0
    dropped records       0                         0
    integrity violations  0                         0
    harvests              1                         1
    judged lost           1                         2
    judged at-risk        0                         0
    judged exposed        0                         0
    judged safe           1000                      2000
    unknown               0                         0
    rules off             none                      none

    findings by rule                    before                    after
      K04 harvested-not-protected       0 hazards, 0 exposed      2 hazards, 0 exposed
      K05 harvested-not-flushed         1 hazards, 0 exposed      0 hazards, 0 exposed

    hazards only in the second
      lost K04 gfn 0x401 slot 0:1, 2 time(s)
        taken and not protected

    hazards only in the first
      lost K05 gfn 0x400 slot 0:1, 1 time(s)
        taken and not protected

    harvests                 number  pages each    p50 us    p90 us    p99 us    max us
      get before                  1         3.0       4.0       4.0       4.0       4.0
      get after                   1         3.0       4.0       4.0       4.0       4.0
      change                                         +0 %      +0 %      +0 %      +0 %
    ");
}
