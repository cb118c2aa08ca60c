//! Counts of judgements.

use super::Verdict;

/// Verdict counts. A *judgement* is one page at one harvest that took it, or one third-case window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are the verdicts")]
pub struct VerdictCounts {
    pub lost: u64,
    pub at_risk: u64,
    pub exposed: u64,
    pub safe: u64,
    pub unknown: u64,
}

/// Cells of a slot's heat map.
pub const HEAT_CELLS: usize = 256;

/// One range of a slot's heat map.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeatCell {
    /// Pages harvested.
    pub harvested: u64,
    /// Times a page of it became writable.
    pub opened: u64,
    /// Third-case windows.
    pub windows: u64,
    /// Judgements that were `unknown`.
    pub unknown: u64,
    /// Worst verdict, if any was given.
    pub worst: Option<Verdict>,
}

impl VerdictCounts {
    /// Counts `n` judgements of one verdict.
    pub fn add(&mut self, verdict: Verdict, n: u64) {
        *self.of(verdict) += n;
    }

    /// Takes back `n` judgements of one verdict.
    pub fn take_back(&mut self, verdict: Verdict, n: u64) {
        let count = self.of(verdict);
        *count = count.saturating_sub(n);
    }

    /// The count of one verdict.
    #[must_use]
    pub const fn get(&self, verdict: Verdict) -> u64 {
        match verdict {
            Verdict::Lost => self.lost,
            Verdict::AtRisk => self.at_risk,
            Verdict::Exposed => self.exposed,
            Verdict::Safe => self.safe,
            Verdict::Unknown => self.unknown,
        }
    }

    fn of(&mut self, verdict: Verdict) -> &mut u64 {
        match verdict {
            Verdict::Lost => &mut self.lost,
            Verdict::AtRisk => &mut self.at_risk,
            Verdict::Exposed => &mut self.exposed,
            Verdict::Safe => &mut self.safe,
            Verdict::Unknown => &mut self.unknown,
        }
    }
}
