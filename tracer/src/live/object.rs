//! The probe in the kernel: the embedded object, loaded with this kernel's constants, and its programs attached.

use aya::maps::{ArrayOfMaps, Map, MapData, RingBuf};
use aya::programs::kprobe::KProbeLink;
use aya::programs::raw_trace_point::RawTracePointLink;
use aya::programs::{KProbe, Program, RawTracePoint};
use aya::{Ebpf, EbpfLoader, RawTracePointRunOptions, TestRun as _};
use aya_log::EbpfLogger;
use kvmdirty_common::limits;
use kvmdirty_common::target::{Config, Offsets};
use zerocopy::IntoBytes as _;

use super::LiveError;
use super::plan::{Attachment, PlanKind};
use super::points::Site;

static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("KVMDIRTY_PROBE_OBJECT"));

/// Sizes of the probe's tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Page-ring shards.
    pub shards: u32,
    /// Bytes of one shard, a power of two.
    pub page_ring_bytes: u32,
    /// Entries of the read-back table, a power of two.
    pub readback_entries: u32,
}

/// The loaded probe. Dropping it detaches and unloads everything: nothing is pinned.
pub struct Object {
    ebpf: Ebpf,
    /// Programs in the kernel, by name.
    loaded: Vec<&'static str>,
    links: Vec<AttachedLink>,
    /// Only the debug build of the probe writes log lines.
    log: Option<EbpfLogger<ProbeLog>>,
}

/// Log lines of the probe, as they come, on standard error.
#[derive(Debug)]
struct ProbeLog;

impl log::Log for ProbeLog {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        eprintln!("probe {}: {}", record.level().as_str().to_lowercase(), record.args());
    }

    fn flush(&self) {}
}

/// An attached program; dropping it detaches.
#[derive(Debug)]
#[expect(dead_code, reason = "held for its drop")]
enum AttachedLink {
    Tracepoint(RawTracePointLink),
    Probe(KProbeLink),
}

impl std::fmt::Debug for Object {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Object").field("loaded", &self.loaded).finish_non_exhaustive()
    }
}

impl Object {
    /// Creates the maps and fills in the constants; no program is in the kernel yet.
    ///
    /// # Errors
    /// The kernel refuses maps (permission, memory) or the object.
    pub fn create(
        kind: PlanKind,
        offsets: &Offsets,
        config: &Config,
        sizes: Sizes,
    ) -> Result<Self, LiveError> {
        let (readback_entries, syscall_ring) = match kind {
            PlanKind::Tracepoint => (sizes.readback_entries, limits::SYSCALL_RING_BYTES),
            // Not used: as small as a map can be.
            PlanKind::Kprobe => (1, 4096),
        };
        let mut ebpf = EbpfLoader::new()
            .btf(None)
            .override_global("OFFSETS", offsets.as_bytes(), true)
            .override_global("CONFIG", config.as_bytes(), true)
            .map_max_entries("READBACK", readback_entries)
            .map_max_entries("SYSCALL_RING", syscall_ring)
            .load(OBJECT)
            .map_err(refused_maps)?;
        // Kept as long as programs are loaded: they refer to its map. Without that map there is nothing to log.
        let log = EbpfLogger::init_with_logger(&mut ebpf, ProbeLog).ok();
        Ok(Self { ebpf, loaded: Vec::new(), links: Vec::new(), log })
    }

    /// Prints the log lines of the debug build.
    pub fn print_log(&mut self) {
        if let Some(log) = &mut self.log {
            log.flush();
        }
    }

    /// Puts a program into the kernel.
    ///
    /// # Errors
    /// The verifier or a security policy refuses it.
    pub fn load(&mut self, program: &'static str) -> Result<(), LiveError> {
        if self.loaded.contains(&program) {
            return Ok(());
        }
        let found =
            self.ebpf.program_mut(program).ok_or(LiveError::ObjectMismatch { name: program })?;
        let result = match found {
            Program::RawTracePoint(found) => found.load(),
            Program::KProbe(found) => found.load(),
            other => unreachable!("the probe has no program of type {:?}", other.prog_type()),
        };
        result.map_err(|source| LiveError::Program { program, source: Box::new(source) })?;
        self.loaded.push(program);
        Ok(())
    }

    /// Attaches a loaded program to every symbol of its attachment.
    ///
    /// # Errors
    /// The kernel refuses the place.
    pub fn attach(&mut self, attachment: &Attachment) -> Result<(), LiveError> {
        let program = attachment.point.program;
        let failed = |source| LiveError::Program { program, source: Box::new(source) };
        for symbol in &attachment.symbols {
            match attachment.point.site {
                Site::Tracepoint(_) => {
                    let found: &mut RawTracePoint = self.program(program)?;
                    let id = found.attach(symbol).map_err(failed)?;
                    let link = found.take_link(id).map_err(failed)?;
                    self.links.push(AttachedLink::Tracepoint(link));
                }
                Site::Entry(_) | Site::Return(_) | Site::EveryEntry(_) | Site::EveryReturn(_) => {
                    let found: &mut KProbe = self.program(program)?;
                    let id = found.attach(symbol, 0).map_err(failed)?;
                    let link = found.take_link(id).map_err(failed)?;
                    self.links.push(AttachedLink::Probe(link));
                }
            }
        }
        Ok(())
    }

    /// Detaches every program; they stay in the kernel, for their counters.
    pub fn detach_all(&mut self) {
        self.links.clear();
    }

    /// Runs a program that is never attached, with up to two arguments; its return value.
    ///
    /// # Errors
    /// The kernel refuses (BPF_PROG_TEST_RUN of raw tracepoints needs 5.10).
    pub fn run(&mut self, program: &'static str, argument: u64) -> Result<u32, LiveError> {
        self.load(program)?;
        let found: &mut RawTracePoint = self.program(program)?;
        let mut options = RawTracePointRunOptions::new();
        options.args[0] = argument;
        let result = found.test_run(options);
        let result =
            result.map_err(|source| LiveError::Program { program, source: Box::new(source) })?;
        Ok(result.return_value)
    }

    /// A map, taken out of the object.
    ///
    /// # Errors
    /// [`LiveError::ObjectMismatch`], [`LiveError::Map`].
    pub fn take<T>(&mut self, map: &'static str) -> Result<T, LiveError>
    where
        T: TryFrom<Map, Error = aya::maps::MapError>,
    {
        T::try_from(self.take_map(map)?).map_err(|source| LiveError::Map { map, source })
    }

    /// As [`Self::take`], whatever its type.
    ///
    /// # Errors
    /// [`LiveError::ObjectMismatch`].
    pub fn take_map(&mut self, map: &'static str) -> Result<Map, LiveError> {
        self.ebpf.take_map(map).ok_or(LiveError::ObjectMismatch { name: map })
    }

    /// Creates the shards of the page ring and puts them where the programs look for them.
    ///
    /// # Errors
    /// [`LiveError::Map`].
    pub fn create_page_rings(&mut self, sizes: Sizes) -> Result<Vec<RingBuf<MapData>>, LiveError> {
        const MAP: &str = "PAGE_RINGS";
        let failed = |source| LiveError::Map { map: MAP, source };
        // Borrowed, not taken: a map taken out and dropped is gone before the programs are loaded.
        let outer = self.ebpf.map_mut(MAP).ok_or(LiveError::ObjectMismatch { name: MAP })?;
        let mut outer: ArrayOfMaps<&mut MapData> = outer.try_into().map_err(failed)?;
        let mut rings = Vec::new();
        for shard in 0..sizes.shards {
            let ring = aya_obj::Map::new_from_params(
                aya_obj::generated::bpf_map_type::BPF_MAP_TYPE_RINGBUF as u32,
                0,
                0,
                sizes.page_ring_bytes,
                0,
            );
            let ring = MapData::create(ring, "page_ring", None).map_err(failed)?;
            outer.set(shard, &ring, 0).map_err(failed)?;
            rings.push(RingBuf::try_from(Map::RingBuf(ring)).map_err(failed)?);
        }
        Ok(rings)
    }

    /// Programs in the kernel, by name.
    #[must_use]
    pub fn loaded(&self) -> &[&'static str] {
        &self.loaded
    }

    /// A program's descriptor, for the counters the kernel keeps about it.
    #[must_use]
    pub fn program_fd(&self, program: &str) -> Option<std::os::fd::BorrowedFd<'_>> {
        use std::os::fd::AsFd as _;
        self.ebpf.program(program)?.fd().ok().map(|fd| fd.as_fd())
    }

    fn program<'a, T>(&'a mut self, program: &'static str) -> Result<T, LiveError>
    where
        T: TryFrom<&'a mut Program>,
    {
        self.ebpf
            .program_mut(program)
            .and_then(|found| T::try_from(found).ok())
            .ok_or(LiveError::ObjectMismatch { name: program })
    }
}

/// Creating maps is the first thing that needs a privilege; say which.
fn refused_maps(source: aya::EbpfError) -> LiveError {
    let mut cause: Option<&dyn std::error::Error> = Some(&source);
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref::<std::io::Error>()
            && matches!(io.raw_os_error(), Some(libc::EPERM | libc::EACCES))
        {
            return LiveError::NotPermitted {
                action: "create BPF maps",
                missing: super::privilege::missing_text(),
                source: io.raw_os_error().map(std::io::Error::from_raw_os_error),
            };
        }
        cause = error.source();
    }
    LiveError::Load(Box::new(source))
}
