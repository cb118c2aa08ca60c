//! Reports: what a judged trace says, for a person or for a script.
//!
//! A report repeats the [`crate::summary::Summary`]; it computes nothing that changes a verdict.

mod check;
pub mod provenance;

pub mod figures;

mod block;
mod drawing;

mod content;
pub(in crate::export) mod count_row;
mod finding_row;

pub mod html;
pub mod json;
pub mod markdown;
pub mod schema;
pub mod text;

pub use json::{Document, finding_json};
pub use provenance::{DamageRow, Judged, Provenance};
