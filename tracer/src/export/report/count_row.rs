//! Verdict counts and windows as the JSON documents write them, of one trace and of two compared.

use serde::Serialize;

use super::figures::percentile;
use crate::summary::{VerdictCounts, WindowStats};
use crate::verdict::Window;

/// Judgements by verdict.
#[derive(Debug, Serialize)]
pub(in crate::export) struct VerdictRow {
    pub lost: u64,
    pub at_risk: u64,
    pub exposed: u64,
    pub safe: u64,
    pub unknown: u64,
}

/// Windows of one kind; percentiles are upper bounds of powers of two, in nanoseconds.
#[derive(Debug, Serialize)]
pub(in crate::export) struct WindowRow {
    pub closed: u64,
    pub open: u64,
    pub with_harvest: u64,
    pub p50_ns: Option<u64>,
    pub p99_ns: Option<u64>,
    pub longest_ns: Option<u64>,
}

impl VerdictRow {
    pub fn new(counts: &VerdictCounts) -> Self {
        let VerdictCounts { lost, at_risk, exposed, safe, unknown } = *counts;
        Self { lost, at_risk, exposed, safe, unknown }
    }
}

impl WindowRow {
    pub fn new(stats: &WindowStats) -> Self {
        Self {
            closed: stats.closed,
            open: stats.open,
            with_harvest: stats.with_harvest,
            p50_ns: percentile(stats, 50),
            p99_ns: percentile(stats, 99),
            longest_ns: stats.longest.first().and_then(Window::open_for_ns),
        }
    }
}
