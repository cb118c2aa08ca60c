//! The contract between the probe (`probe-ebpf`) and user space (`tracer`): no logic, no allocation, no `std`.
//!
//! Everything that crosses the kernel boundary is defined here: one fixed 64-byte record ([`RawEvent`]), what its
//! fields mean per [`Kind`], the hooks whose misses are counted ([`Hook`]), the globals the loader fills in, and every
//! bound in one place ([`limits`]). A change of any of these bumps [`ABI_VERSION`] and brings a decoder test for the
//! old layout.
#![no_std]

pub mod raw;

pub mod kind;

pub mod hook;

pub mod target;

pub mod limits;

pub use hook::Hook;
pub use kind::{Class, IoctlOp, Kind};
pub use raw::RawEvent;

/// Version of the record layout and of the meaning of [`Kind`]s; stored in every recording.
pub const ABI_VERSION: u16 = 1;
