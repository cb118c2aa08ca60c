//! Order: which operation precedes which, and how we know (DESIGN.md, section 3).
//!
//! ```text
//! Batch --Merge--> records in one sequence, gaps located --Spool--> the recent past, by ordinal
//! ```
//!
//! The merge is by time and orders nothing by itself; [`relation`] says what two intervals prove.

pub mod instant;
pub mod merge;
mod number;
pub mod relation;
pub mod spool;

pub use instant::{Bound, Hidden, Instant};
pub use merge::{Item, Merge, Note};
pub use relation::{Relation, relation};
pub use spool::{Ordinal, Spool};
