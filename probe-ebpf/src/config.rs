//! What the loader knows: constants of the running kernel, patched into read-only data before the programs are loaded.
//!
//! The verifier sees their values, so code for fields a kernel lacks is dead and never checked.

use kvmdirty_common::target::{Config, Offsets};

/// Field offsets.
#[unsafe(no_mangle)]
pub static OFFSETS: Offsets = Offsets::NONE;

/// Everything else.
#[unsafe(no_mangle)]
pub static CONFIG: Config = Config::NONE;

/// A field offset of the running kernel, or `ABSENT`.
macro_rules! offset {
    ($name:ident) => {{
        // SAFETY: the static is initialised and never written; volatile keeps the compiler from folding its default.
        unsafe { core::ptr::read_volatile(&raw const $crate::config::OFFSETS.$name) }
    }};
}

/// A constant of the running kernel.
macro_rules! config {
    ($name:ident) => {{
        // SAFETY: as for `offset!`.
        unsafe { core::ptr::read_volatile(&raw const $crate::config::CONFIG.$name) }
    }};
}

pub(crate) use config;
pub(crate) use offset;
