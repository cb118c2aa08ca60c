//! The self-check in the report: functions that are attached and do not fire.

use serde::Serialize;

use crate::summary::{Check, State, Summary};

/// How often an operation was seen inside the one that contains it.
#[derive(Debug, Serialize)]
pub(super) struct CheckRow {
    operation: &'static str,
    inside: &'static str,
    exits: u64,
    hits: u64,
    state: &'static str,
}

/// Every line of the self-check.
pub(super) fn rows(summary: &Summary) -> Vec<CheckRow> {
    summary.self_check.checks().map(|check| CheckRow::new(&check)).collect()
}

impl CheckRow {
    fn new(check: &Check) -> Self {
        let Check { operation, wrapper, exits, hits } = *check;
        let state = check.state().name();
        Self { operation: operation.name(), inside: wrapper, exits, hits, state }
    }
}

/// A sentence per operation that was never seen where it belongs.
pub(super) fn silent(summary: &Summary) -> impl Iterator<Item = String> + '_ {
    let silent = summary.self_check.checks().filter(|check| check.state() == State::Silent);
    silent.map(|Check { operation, wrapper, exits, .. }| {
        format!(
            "{operation} was attached and not seen in any of {exits} x {wrapper}: \
             inlined there, or not done"
        )
    })
}
