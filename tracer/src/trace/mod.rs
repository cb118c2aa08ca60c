//! Traces at rest: forms in which records leave one run and enter another.

pub mod litmus;
