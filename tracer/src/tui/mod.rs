//! The dashboard: `Model`, `Msg`, `update`, `view`.
//!
//! ```text
//!              key, resize, signal --> Msg --+
//! Feed::newest() --(at most 10 per second)---+--> update(&mut Model) --> Option<Effect> --> loop
//!                                                        |
//!                                                        +--> view(&mut Frame, &Model)
//! ```
//!
//! The loop below is the only part that touches the terminal, the clock or the feed.

pub mod figures;
pub mod palette;

pub mod model;
pub mod msg;

pub mod describe;
pub mod rows;
pub mod scroll;

pub mod keys;
pub mod open;
pub mod prompt;
pub mod travel;
pub mod update;
pub mod view;

pub mod settings;
pub mod terminal;

mod run;

#[cfg(test)]
mod sample;

pub use msg::ExportFormat;
pub use palette::Theme;
pub use run::{Closing, Host, Options, TuiError, run};
pub use settings::{Environment, Settings, SettingsError};
