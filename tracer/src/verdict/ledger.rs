//! The ledger: every judgement given, so that one given too early can be taken back.
//!
//! A gap is found only when the next record of its lane comes, and by then harvests inside it have been judged as if
//! nothing were missing. The ledger keeps judgements by time: a gap turns those made since its begin into `unknown`,
//! or weakens them (DESIGN.md, section 4: removal).

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::event::{Class, Gap, Gfn, Nanos, SlotId, VmId};

use super::benign::LookAlikes;
use super::{Finding, LookAlike, RuleId, Step, UnknownCause, Verdict, VerdictCounts};

/// What a finding rests on, which says what dropped records can do to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Proof {
    /// Something was not seen that any dropped record could have been.
    Absence,
    /// No flush was seen: only dropped boundary records could have shown one. Dropped page records could have shown
    /// that the page was reported again, so they weaken it.
    NoFlush,
    /// Values that were read: dropped records weaken `lost` and leave `at-risk`.
    Values,
}

/// Which page a judgement is about, and by which rule.
pub(crate) type Key = (RuleId, VmId, SlotId, Option<Gfn>);

#[derive(Clone, Debug)]
struct Entry {
    finding: Arc<Finding>,
    proof: Proof,
    judged: Nanos,
    /// How often it was `lost`.
    lost: u64,
    is_withdrawn: bool,
}

/// Judgements of one stretch of time.
#[derive(Clone, Copy, Debug, Default)]
struct Slice {
    begin: Nanos,
    end: Nanos,
    counts: VerdictCounts,
}

/// The ledger.
#[derive(Clone, Debug)]
pub(crate) struct Ledger {
    pub counts: VerdictCounts,
    pub causes: BTreeMap<UnknownCause, u64>,
    pub look_alikes: LookAlikes,
    pub integrity_total: u64,
    pub findings_total: u64,
    /// The kept findings changed since they were last taken.
    pub is_changed: bool,
    entries: Vec<Entry>,
    /// Places of entries whose witness may not be minimal yet.
    unsettled: VecDeque<usize>,
    index: BTreeMap<Key, usize>,
    findings_max: usize,
    slices: VecDeque<Slice>,
}

/// Slices kept; older judgements are final.
const SLICES_MAX: usize = 4096;

/// Judgements that close together are taken back together.
const SLICE_NS: u64 = 1_000_000;

impl Ledger {
    pub fn new(findings_max: u32) -> Self {
        Self {
            counts: VerdictCounts::default(),
            causes: BTreeMap::new(),
            look_alikes: LookAlikes::default(),
            integrity_total: 0,
            findings_total: 0,
            is_changed: false,
            entries: Vec::new(),
            unsettled: VecDeque::new(),
            index: BTreeMap::new(),
            findings_max: findings_max as usize,
            slices: VecDeque::new(),
        }
    }

    /// `n` pages or windows are judged safe or exposed.
    pub fn judge(&mut self, verdict: Verdict, at: Nanos, n: u64) {
        if 0 < n {
            self.counts.add(verdict, n);
            self.slice(at).counts.add(verdict, n);
        }
    }

    /// `n` pages or windows cannot be judged.
    pub fn unknown(&mut self, cause: UnknownCause, n: u64) {
        if 0 < n {
            self.counts.unknown += n;
            *self.causes.entry(cause).or_default() += n;
        }
    }

    /// Counts benign look-alikes.
    pub fn benign(&mut self, kind: LookAlike, n: u64) {
        self.look_alikes.add(kind, n);
    }

    /// A finding. `make` is called for the first one of its key only, while there is room, and when it gets worse.
    pub fn find(
        &mut self,
        key: Key,
        verdict: Verdict,
        at: Nanos,
        proof: Proof,
        make: impl FnOnce() -> Finding,
    ) {
        self.note_integrity(verdict, 1);
        if let Some(&place) = self.index.get(&key)
            && !self.entries[place].is_withdrawn
        {
            self.is_changed = true;
            let entry = &mut self.entries[place];
            let finding = Arc::make_mut(&mut entry.finding);
            self.counts.take_back(finding.verdict, finding.count);
            finding.count += 1;
            entry.lost += u64::from(verdict == Verdict::Lost);
            finding.last = finding.last.max(at);
            if finding.verdict < verdict {
                let Finding { verdict, sentence, witness, .. } = make();
                (finding.verdict, finding.sentence, finding.witness) = (verdict, sentence, witness);
                (entry.proof, entry.judged) = (proof, at);
                self.unsettled.push_back(place);
            }
            self.counts.add(finding.verdict, finding.count);
            return;
        }
        self.counts.add(verdict, 1);
        self.findings_total += 1;
        if self.findings_max <= self.entries.len() {
            self.slice(at).counts.add(verdict, 1);
            return;
        }
        self.is_changed = true;
        self.index.insert(key, self.entries.len());
        self.unsettled.push_back(self.entries.len());
        let finding = Arc::new(make());
        let lost = u64::from(verdict == Verdict::Lost);
        self.entries.push(Entry { finding, proof, judged: at, lost, is_withdrawn: false });
    }

    /// One time that the page was called lost, something was under way that may have saved it.
    pub fn weaken(&mut self, key: Key, shown: impl FnOnce() -> Step) {
        let Some(&place) = self.index.get(&key) else { return };
        let entry = &mut self.entries[place];
        if entry.is_withdrawn || entry.finding.verdict != Verdict::Lost {
            return;
        }
        entry.lost = entry.lost.saturating_sub(1);
        if 0 < entry.lost {
            return;
        }
        let finding = Arc::make_mut(&mut entry.finding);
        self.counts.take_back(Verdict::Lost, finding.count);
        self.counts.add(Verdict::AtRisk, finding.count);
        finding.verdict = Verdict::AtRisk;
        finding.witness.steps.push(shown());
        self.is_changed = true;
        self.unsettled.push_back(place);
    }

    /// What the finding rests on can have been otherwise after all.
    pub fn withdraw(&mut self, key: Key, cause: UnknownCause) {
        let Some(&place) = self.index.get(&key) else { return };
        let entry = &mut self.entries[place];
        if entry.is_withdrawn {
            return;
        }
        entry.is_withdrawn = true;
        let n = entry.finding.count;
        self.counts.take_back(entry.finding.verdict, n);
        self.counts.unknown += n;
        *self.causes.entry(cause).or_default() += n;
        self.findings_total -= 1;
        self.is_changed = true;
    }

    /// The next finding whose witness may not be minimal yet.
    pub fn next_unsettled(&mut self) -> Option<&mut Arc<Finding>> {
        let entries = &self.entries;
        while self.unsettled.front().is_some_and(|&place| entries[place].is_withdrawn) {
            self.unsettled.pop_front();
        }
        let place = self.unsettled.pop_front()?;
        self.is_changed = true;
        Some(&mut self.entries[place].finding)
    }

    /// A finding that is `unknown` says that the trace contradicts a promise of the kernel.
    fn note_integrity(&mut self, verdict: Verdict, n: u64) {
        if verdict == Verdict::Unknown {
            *self.causes.entry(UnknownCause::Integrity).or_default() += n;
        }
    }

    /// Records are missing since `gap.from`: takes back what they could have changed.
    pub fn gap(&mut self, gap: &Gap) {
        self.unknown(UnknownCause::Dropped, 1);
        for slice in self.slices.iter_mut().rev().take_while(|slice| gap.from <= slice.end) {
            for verdict in Verdict::ALL {
                let n = slice.counts.get(verdict);
                self.counts.take_back(verdict, n);
                self.counts.unknown += n;
                *self.causes.entry(UnknownCause::Dropped).or_default() += n;
            }
            slice.counts = VerdictCounts::default();
        }
        let is_page = gap.lane.is_some_and(|lane| lane.class == Class::Page);
        for entry in &mut self.entries {
            if entry.is_withdrawn || entry.judged < gap.from {
                continue;
            }
            let weakened = match (entry.proof, entry.finding.verdict) {
                (Proof::Values, Verdict::Lost | Verdict::AtRisk) => Some(Verdict::AtRisk),
                (Proof::NoFlush, Verdict::Lost | Verdict::AtRisk) if is_page => {
                    Some(Verdict::AtRisk)
                }
                (Proof::Values | Proof::NoFlush | Proof::Absence, _) => None,
            };
            let n = entry.finding.count;
            self.is_changed = true;
            self.counts.take_back(entry.finding.verdict, n);
            if entry.finding.verdict == Verdict::Unknown {
                let contradicted = self.causes.entry(UnknownCause::Integrity).or_default();
                *contradicted = contradicted.saturating_sub(n);
            }
            match weakened {
                Some(verdict) => {
                    let finding = Arc::make_mut(&mut entry.finding);
                    if finding.verdict != verdict {
                        // The witness shows it with the gap behind its events, where it was found.
                        let (from, to) = (entry.judged, entry.judged);
                        finding.witness.gaps.push(Gap { from, to, ..*gap });
                    }
                    finding.verdict = verdict;
                    self.counts.add(verdict, n);
                }
                None => {
                    entry.is_withdrawn = true;
                    self.findings_total -= 1;
                    self.counts.unknown += n;
                    *self.causes.entry(UnknownCause::Dropped).or_default() += n;
                }
            }
        }
    }

    /// The findings that stand, in order of their first time.
    pub fn findings(&self) -> Vec<Arc<Finding>> {
        let standing = self.entries.iter().filter(|entry| !entry.is_withdrawn);
        standing.map(|entry| Arc::clone(&entry.finding)).collect()
    }

    fn slice(&mut self, at: Nanos) -> &mut Slice {
        let is_new = self.slices.back().is_none_or(|slice| SLICE_NS <= at.since(slice.begin));
        if is_new {
            if self.slices.len() == SLICES_MAX {
                self.slices.pop_front();
            }
            self.slices.push_back(Slice { begin: at, end: at, ..Slice::default() });
        }
        let last = self.slices.len() - 1;
        let slice = &mut self.slices[last];
        slice.end = slice.end.max(at);
        slice
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{CpuId, GapCause, Lane};

    fn finding(verdict: Verdict) -> Finding {
        Finding {
            verdict,
            rule: RuleId::K01,
            vm: VmId(1),
            slot: SlotId::default(),
            gfn: Some(Gfn(7)),
            first: Nanos(50),
            last: Nanos(50),
            count: 1,
            sentence: String::new(),
            known: None,
            witness: super::super::Witness::default(),
        }
    }

    fn gap(class: Class, from: u64) -> Gap {
        Gap {
            lane: Some(Lane { class, cpu: CpuId(0) }),
            hook: None,
            cause: GapCause::RingFull,
            from: Nanos(from),
            to: Nanos(100),
            dropped: 1,
        }
    }

    fn ledger(proof: Proof) -> Ledger {
        let mut ledger = Ledger::new(10);
        ledger.judge(Verdict::Safe, Nanos(50), 3);
        let key = (RuleId::K01, VmId(1), SlotId::default(), Some(Gfn(7)));
        ledger.find(key, Verdict::Lost, Nanos(50), proof, || finding(Verdict::Lost));
        ledger
    }

    #[test]
    fn a_gap_before_the_judgement_takes_it_back() {
        let mut ledger = ledger(Proof::Absence);
        ledger.gap(&gap(Class::Page, 40));
        assert_eq!(ledger.counts, VerdictCounts { unknown: 5, ..VerdictCounts::default() });
        assert_eq!(ledger.findings().len(), 0);
        assert_eq!(ledger.findings_total, 0);
    }

    #[test]
    fn a_gap_after_the_judgement_leaves_it() {
        let mut ledger = ledger(Proof::Absence);
        ledger.gap(&gap(Class::Page, 60));
        assert_eq!((ledger.counts.safe, ledger.counts.lost, ledger.counts.unknown), (3, 1, 1));
    }

    #[test]
    fn dropped_page_records_weaken_a_missing_flush_and_dropped_boundary_records_undo_it() {
        let mut weakened = ledger(Proof::NoFlush);
        weakened.gap(&gap(Class::Page, 40));
        assert_eq!((weakened.counts.lost, weakened.counts.at_risk), (0, 1));
        assert_eq!(weakened.findings()[0].verdict, Verdict::AtRisk);
        let mut undone = ledger(Proof::NoFlush);
        undone.gap(&gap(Class::Boundary, 40));
        assert_eq!((undone.counts.lost, undone.counts.at_risk), (0, 0));
    }

    #[test]
    fn a_full_ledger_counts_on() {
        let mut ledger = Ledger::new(0);
        for gfn in 0..3 {
            let key = (RuleId::K01, VmId(1), SlotId::default(), Some(Gfn(gfn)));
            let make = || finding(Verdict::Lost);
            ledger.find(key, Verdict::Lost, Nanos(50), Proof::Absence, make);
        }
        assert_eq!((ledger.findings_total, ledger.counts.lost), (3, 3));
        assert_eq!(ledger.findings().len(), 0);
        ledger.gap(&gap(Class::Page, 40));
        assert_eq!((ledger.counts.lost, ledger.counts.unknown), (0, 4));
    }
}
