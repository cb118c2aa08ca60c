//! Time travel: plays a recording to a screen, at any speed, to any moment.
//!
//! ```text
//! Tape --batches--> Deck { Pipeline, restart points } --Summary at a moment--> Publisher
//!                    ^                                                            |
//!                    +----------- requests: play, seek, follow <------- Feed -----+
//! ```
//!
//! There is no second analysis: a moment is what the one pipeline says when the watermark has reached it.

pub mod tape;

pub mod deck;

pub mod session;

mod scan;

pub use deck::Deck;
pub use session::{Player, play};
pub use tape::{MemoryTape, Tape};
