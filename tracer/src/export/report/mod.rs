//! Reports: what a judged trace says, for a person or for a script.
//!
//! A report repeats the [`crate::summary::Summary`]; it computes nothing that changes a verdict.

pub mod json;
pub mod text;

pub use json::{Document, finding_json};
