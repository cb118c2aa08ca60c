//! The header: everything a reader needs before the first record, as JSON between a magic and a checksum.
//!
//! ```text
//! offset  0            4               6            8          12      16
//!         "KDT\x1a"    format version  ABI version  JSON size  CRC32   JSON
//! ```
//!
//! All numbers are little-endian. The CRC32 covers bytes 0..12 and the JSON.

use std::collections::BTreeMap;
use std::io::{self, Read};

use super::limits::HEADER_BYTES_MAX;
use super::{FORMAT_VERSION, TraceError};
use crate::event::Setup;

/// The first bytes of every recording.
pub const MAGIC: [u8; 4] = *b"KDT\x1a";

/// Bytes before the JSON.
pub const PREFIX_BYTES: usize = 16;

/// What a recording says about itself.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Header {
    /// Version of the tool that wrote it, as in `--version`.
    pub tool: String,
    /// Where the records come from.
    pub origin: Origin,
    /// What the pipeline must be told: kernel release, plan, masks, epsilon, bounds.
    pub setup: Setup,
    /// When it began.
    pub started: StartClock,
    /// CPUs of the host.
    pub cpus: u32,
    /// Name of the host, empty if redacted.
    #[serde(default)]
    pub host: String,
    /// The process that was attached to.
    #[serde(default)]
    pub vmm: Option<Vmm>,
    /// Which MMU the host's KVM used: `tdp mmu (ept)`, `shadow mmu`; empty if not known.
    #[serde(default)]
    pub mmu: String,
    /// Field offsets of the traced kernel, by `struct.field`, as they were given to the probe.
    #[serde(default)]
    pub offsets: BTreeMap<String, u32>,
    /// VMs and slots at the start, if they were known. The records repeat them (`vm-seen`, `slot-state`).
    #[serde(default)]
    pub vms: Vec<VmInventory>,
}

/// Who wrote the records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// The probe, on a VMM of the user.
    Live,
    /// The probe, on the guest of `demo`.
    Demo,
    /// The simulator.
    Simulator,
    /// Another tool's recording.
    Import,
    /// A litmus file.
    Litmus,
}

impl Origin {
    /// The origin in reports, as it stands in the header.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Demo => "demo",
            Self::Simulator => "simulator",
            Self::Import => "import",
            Self::Litmus => "litmus",
        }
    }
}

/// One instant on both clocks, so that trace time can be told as time of day.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct StartClock {
    /// Nanoseconds since 1970-01-01 UTC.
    pub wall_ns: u64,
    /// CLOCK_MONOTONIC at that instant, in nanoseconds.
    pub monotonic_ns: u64,
}

/// The process that was attached to.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Vmm {
    /// Its process id.
    pub pid: u32,
    /// Its command line; only the program after [`Header::redact`].
    pub command: Vec<String>,
}

/// A VM at the start of the recording.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct VmInventory {
    /// Address of its `struct kvm`.
    pub vm: u64,
    /// Process that created it.
    pub tgid: u32,
    /// Its memslots.
    pub slots: Vec<SlotInventory>,
}

/// A memslot at the start of the recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct SlotInventory {
    /// `as_id << 16 | id`.
    pub slot: u32,
    /// First gfn.
    pub base: u64,
    /// Pages.
    pub npages: u64,
    /// `KVM_MEM_*`.
    pub flags: u32,
}

impl Header {
    /// A header of this tool with nothing known but the setup.
    #[must_use]
    pub fn new(origin: Origin, setup: Setup) -> Self {
        Self {
            tool: env!("CARGO_PKG_VERSION").to_owned(),
            origin,
            setup,
            started: StartClock::default(),
            cpus: 0,
            host: String::new(),
            vmm: None,
            mmu: String::new(),
            offsets: BTreeMap::new(),
            vms: Vec::new(),
        }
    }

    /// Forgets what may name a customer: the VMM's arguments and the host.
    pub fn redact(&mut self) {
        self.host.clear();
        if let Some(Vmm { command, pid: _ }) = &mut self.vmm {
            command.truncate(1);
        }
    }

    /// The header as it stands at the beginning of a file.
    ///
    /// # Errors
    /// [`TraceError::HeaderTooLarge`].
    pub fn to_bytes(&self) -> Result<Vec<u8>, TraceError> {
        let json = serde_json::to_vec(self)
            .expect("a struct of strings, integers and lists is always JSON");
        let size = u32::try_from(json.len()).unwrap_or(u32::MAX);
        if HEADER_BYTES_MAX < size {
            return Err(TraceError::HeaderTooLarge { bytes: json.len() as u64 });
        }
        let mut bytes = Vec::with_capacity(PREFIX_BYTES + json.len());
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        bytes.extend_from_slice(&kvmdirty_common::ABI_VERSION.to_le_bytes());
        bytes.extend_from_slice(&size.to_le_bytes());
        let crc = checksum(&bytes, &json);
        bytes.extend_from_slice(&crc.to_le_bytes());
        bytes.extend_from_slice(&json);
        Ok(bytes)
    }

    /// Reads a header from the beginning of a file; with it, its size.
    ///
    /// # Errors
    /// Every way in which this is not the beginning of a recording that can be read here.
    pub fn read(source: &mut impl Read) -> Result<(Self, u64), TraceError> {
        let mut prefix = Vec::with_capacity(PREFIX_BYTES);
        read_up_to(source, PREFIX_BYTES, &mut prefix)?;
        let magic = &prefix[..prefix.len().min(MAGIC.len())];
        if magic.is_empty() || magic != &MAGIC[..magic.len()] {
            return Err(TraceError::Foreign);
        }
        let Ok(prefix) = <[u8; PREFIX_BYTES]>::try_from(prefix.as_slice()) else {
            return Err(TraceError::HeaderCut { bytes: prefix.len() as u64 });
        };
        let half = |at: usize| u16::from_le_bytes([prefix[at], prefix[at + 1]]);
        let word = |at: usize| {
            u32::from_le_bytes([prefix[at], prefix[at + 1], prefix[at + 2], prefix[at + 3]])
        };
        accept("format", half(4), FORMAT_VERSION)?;
        accept("record layout", half(6), kvmdirty_common::ABI_VERSION)?;
        let size = word(8);
        if HEADER_BYTES_MAX < size {
            return Err(TraceError::HeaderTooLarge { bytes: u64::from(size) });
        }
        let mut json = Vec::new();
        read_up_to(source, size as usize, &mut json)?;
        if json.len() < size as usize {
            return Err(TraceError::HeaderCut { bytes: (PREFIX_BYTES + json.len()) as u64 });
        }
        let damaged = |what| TraceError::HeaderDamaged { offset: PREFIX_BYTES as u64, what };
        if checksum(&prefix[..12], &json) != word(12) {
            return Err(damaged(String::from("its checksum does not match")));
        }
        let header = serde_json::from_slice(&json).map_err(|error| damaged(error.to_string()))?;
        Ok((header, PREFIX_BYTES as u64 + u64::from(size)))
    }
}

fn accept(what: &'static str, found: u16, known: u16) -> Result<(), TraceError> {
    if found == 0 {
        return Err(TraceError::HeaderDamaged {
            offset: 4,
            what: format!("{what} 0 never existed"),
        });
    }
    if known < found {
        return Err(TraceError::Newer { what, found, known });
    }
    Ok(())
}

fn checksum(prefix: &[u8], json: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(prefix);
    hasher.update(json);
    hasher.finalize()
}

/// Reads `size` bytes, or fewer at the end of the file, without trusting `size` for an allocation.
fn read_up_to(source: &mut impl Read, size: usize, into: &mut Vec<u8>) -> Result<(), TraceError> {
    source
        .take(size as u64)
        .read_to_end(into)
        .map(|_| ())
        .map_err(|source: io::Error| TraceError::Read { offset: into.len() as u64, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        let mut header = Header::new(Origin::Litmus, Setup::complete("litmus"));
        header.host = String::from("node-7");
        header.vmm = Some(Vmm { pid: 7, command: vec!["qemu".into(), "-name".into(), "c".into()] });
        header
    }

    #[test]
    fn header_survives_the_file() {
        let bytes = header().to_bytes().unwrap();
        let (read, size) = Header::read(&mut bytes.as_slice()).unwrap();
        assert_eq!(read, header());
        assert_eq!(size, bytes.len() as u64);
    }

    #[test]
    fn redaction_keeps_only_the_program() {
        let mut header = header();
        header.redact();
        let text =
            String::from_utf8_lossy(&header.to_bytes().unwrap()[PREFIX_BYTES..]).into_owned();
        assert!(text.contains("qemu") && !text.contains("-name") && !text.contains("node-7"));
    }

    #[test]
    fn other_files_are_refused_by_name() {
        let bytes = header().to_bytes().unwrap();
        let message = |bytes: &[u8]| Header::read(&mut { bytes }).unwrap_err().to_string();
        assert!(message(b"\x7fELF").contains("not a kvmdirty-trace recording"));
        assert!(message(b"").contains("not a kvmdirty-trace recording"));
        assert!(message(&bytes[..9]).contains("ends inside its header: 9 bytes"));
        assert!(message(&bytes[..40]).contains("ends inside its header: 40 bytes"));
        let mut newer = bytes.clone();
        newer[4] = 9;
        assert!(message(&newer).contains("format 9 is newer than this tool reads (1)"));
        let mut flipped = bytes;
        flipped[30] ^= 1;
        assert!(message(&flipped).contains("damaged at byte 16: its checksum"));
    }
}
