//! Recordings: the records of a trace in a file that survives its writer (`docs/trace-format.md`).
//!
//! ```text
//! Batch --Writer--> header | frame | frame | ... | index | trailer --Reader--> Batch
//! ```
//!
//! A recording holds raw records and what is needed to read them, never a judgement: verdicts are computed again by
//! every reader. Any prefix that holds the header is a valid recording; what is missing or damaged comes out of the
//! [`Reader`] as a located [`Gap`](crate::event::Gap), never as silence.

pub mod header;

pub mod frame;

mod column;
mod predict;

mod layout;

mod decode;
mod encode;

pub mod index;

mod framer;

pub mod writer;

mod carry;

pub mod rotate;

pub mod flight;

pub mod recover;

pub mod reader;

pub mod litmus;

pub mod import;

use std::io;
use std::path::PathBuf;

pub use flight::{Flight, FlightLimits};
pub use header::{Header, Origin, StartClock, Vmm};
pub use reader::{Ending, Place, Reader};
pub use recover::{Damage, DamageKind};
pub use rotate::{Rotation, RotationLimits};
pub use writer::{Medium, WriteLimits, Writer};

/// The version of the format this module writes. Readers accept every version from 1 to this one.
pub const FORMAT_VERSION: u16 = 1;

/// Every bound of the format in one place; a file that exceeds one is damaged there, whatever its checksums say.
pub mod limits {
    /// Bytes of the header's JSON.
    pub const HEADER_BYTES_MAX: u32 = 4 << 20;
    /// Records of one frame.
    pub const FRAME_RECORDS_MAX: usize = 1 << 16;
    /// Lanes of one frame.
    pub const FRAME_LANES_MAX: usize = 1 << 12;
    /// Gaps of one frame.
    pub const FRAME_GAPS_MAX: usize = 1 << 14;
    /// Bytes of a frame's payload, compressed or not.
    pub const FRAME_BYTES_MAX: u32 = 16 << 20;
    /// Frames the index names; a longer recording has an entry for every second, fourth, ... frame.
    pub const INDEX_ENTRIES_MAX: usize = 1 << 16;
    /// Damaged places described one by one.
    pub const DAMAGES_MAX: usize = 256;
}

/// Why a recording cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// The file cannot be created.
    #[error("create recording {}", path.display())]
    Create {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The file cannot be opened.
    #[error("open recording {}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// Reading failed.
    #[error("read recording at byte {offset}")]
    Read {
        /// Where.
        offset: u64,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// Writing failed; the file was cut back to its last complete frame.
    #[error("write recording at byte {offset}")]
    Write {
        /// Where.
        offset: u64,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// A frame could not be compressed.
    #[error("compress a frame")]
    Compress {
        /// zstd's answer.
        #[source]
        source: io::Error,
    },
    /// No space is left; the file was cut back to its last complete frame and stays a valid recording.
    #[error(
        "disk full: the recording ends at byte {offset}, {dropped} records could not be written"
    )]
    DiskFull {
        /// Where the recording ends.
        offset: u64,
        /// Records of the frame that did not fit.
        dropped: u64,
    },
    /// A file that is no longer wanted cannot be removed.
    #[error("remove old recording {}", path.display())]
    Remove {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// An earlier error ended the recording.
    #[error("the recording has already ended")]
    Ended,
    /// The header is larger than the format allows.
    #[error("header of {bytes} bytes exceeds the limit of {}", limits::HEADER_BYTES_MAX)]
    HeaderTooLarge {
        /// Its size.
        bytes: u64,
    },
    /// The file does not begin like a recording.
    #[error("not a kvmdirty-trace recording: it does not begin with the bytes `KDT`")]
    Foreign,
    /// The file ends inside its header.
    #[error("the recording ends inside its header: {bytes} bytes are there")]
    HeaderCut {
        /// Bytes of the file.
        bytes: u64,
    },
    /// The header's checksum or contents are wrong.
    #[error("the header is damaged at byte {offset}: {what}")]
    HeaderDamaged {
        /// Where.
        offset: u64,
        /// What is wrong there.
        what: String,
    },
    /// The file was written by a newer version of the tool.
    #[error(
        "{what} {found} is newer than this tool reads ({known}): use the kvmdirty-trace that wrote it, or a newer one"
    )]
    Newer {
        /// `format` or `record layout`.
        what: &'static str,
        /// The file's version.
        found: u16,
        /// The newest version known here.
        known: u16,
    },
}
