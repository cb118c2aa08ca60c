//! The running kernel: what it can show, how the probe attaches to it, and the records that come out.
//!
//! ```text
//! kernel (btf, offsets, symbols) --> plan (points) --> attach (object) --> session: drain -> Batch
//!                                                      target, inventory ---^  lanes, misses
//! ```
//!
//! Impure by nature: everything below `event` to `pipeline` sees only [`crate::event::Batch`]es and a
//! [`crate::event::Setup`]. Nothing here decides what a record means.

pub mod btf;
pub mod error;
pub mod offsets;
pub mod symbols;

pub mod kernel;
pub mod plan;
pub mod points;
pub mod privilege;
pub mod target;
pub mod ways;

pub mod attach;

mod clock;
mod counters;
mod inventory;
mod lanes;
mod mapped;
mod masks;
mod memory;
mod misses;
mod object;

pub mod session;
pub mod urgency;

pub use counters::Cost;
pub use error::LiveError;
pub use misses::Drops;
pub use session::{Measure, Options, Session};
pub use target::Target;
