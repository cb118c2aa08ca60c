//! What the summary takes over.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::verdict::rule::RuleSet;
use crate::verdict::{Finding, Harvest, UnknownCause, VerdictCounts, Window, WindowStats};

use super::{Detector, Vm};

impl Detector {
    /// Verdicts so far.
    #[must_use]
    pub const fn counts(&self) -> VerdictCounts {
        self.ledger.counts
    }

    /// Why verdicts are unknown.
    pub fn causes(&self) -> impl Iterator<Item = (UnknownCause, u64)> + '_ {
        self.ledger.causes.iter().map(|(&cause, &n)| (cause, n)).filter(|&(_, n)| 0 < n)
    }

    /// Benign look-alikes by name.
    pub fn look_alikes(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        self.ledger.look_alikes.seen()
    }

    /// The findings, if they changed since the last call.
    pub fn take_findings(&mut self) -> Option<Vec<Arc<Finding>>> {
        std::mem::take(&mut self.ledger.is_changed).then(|| self.ledger.findings())
    }

    /// Findings in all.
    #[must_use]
    pub const fn findings_total(&self) -> u64 {
        self.ledger.findings_total
    }

    /// Integrity violations in all.
    #[must_use]
    pub const fn integrity_total(&self) -> u64 {
        self.ledger.integrity_total
    }

    /// The rules and their state on this plan.
    #[must_use]
    pub const fn rules(&self) -> &RuleSet {
        &self.ctx.rules
    }

    /// Windows per kind.
    #[must_use]
    pub const fn windows(&self) -> &[WindowStats; 4] {
        &self.windows
    }

    /// Keeps every window until it is taken.
    pub fn follow_windows(&mut self) {
        self.followed.get_or_insert_default();
    }

    /// Somebody asks for the windows.
    #[inline(never)]
    pub(super) fn follow_window(&mut self, window: Window) {
        self.followed.get_or_insert_default().push(window);
    }

    /// The windows since the last call.
    pub fn take_windows(&mut self) -> Vec<Window> {
        self.followed.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// The newest harvests.
    #[must_use]
    pub const fn harvests(&self) -> &VecDeque<Harvest> {
        &self.harvests
    }

    /// A harvest that was handed out has got a worse verdict since the last call.
    pub(crate) fn take_harvests_changed(&mut self) -> bool {
        std::mem::take(&mut self.harvests_changed)
    }

    /// Harvests in all.
    #[must_use]
    pub const fn harvests_total(&self) -> u64 {
        self.harvests_total
    }

    /// The VMs, in order of appearance.
    pub(crate) fn vms_mut(&mut self) -> &mut [Vm] {
        &mut self.vms
    }
}
