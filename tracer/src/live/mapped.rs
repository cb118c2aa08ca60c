//! Counters of the probe, read where they lie: array maps that are mapped into this process.
//!
//! A map read with `bpf(2)` keeps every kprobe program of that CPU from running meanwhile
//! (`bpf_disable_instrumentation`, kernel/bpf/syscall.c); a reader that is preempted in the middle of it blinds the
//! probe for a whole time slice.

use std::num::NonZeroUsize;
use std::os::fd::AsFd as _;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use aya::maps::{Map, MapError};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

use super::LiveError;
use super::object::Object;

/// An array map of 64-bit words, mapped.
#[derive(Debug)]
pub struct Counters {
    /// Keeps the map, and names it in messages.
    _map: Map,
    start: NonNull<AtomicU64>,
    words: u32,
}

// SAFETY: the mapping belongs to this value alone, and its words are only read, atomically.
unsafe impl Send for Counters {}

impl Counters {
    /// Maps an array map of the object, which holds that many words.
    ///
    /// # Errors
    /// [`LiveError::ObjectMismatch`], [`LiveError::Map`].
    pub fn of(object: &mut Object, name: &'static str, words: u32) -> Result<Self, LiveError> {
        let map = object.take_map(name)?;
        let Map::Array(data) = &map else {
            return Err(LiveError::ObjectMismatch { name });
        };
        let length = NonZeroUsize::new(words as usize * size_of::<u64>())
            .ok_or(LiveError::ObjectMismatch { name })?;
        // SAFETY: a new mapping at an address of the kernel's choice; nothing else refers to it.
        let start = unsafe {
            mmap(None, length, ProtFlags::PROT_READ, MapFlags::MAP_SHARED, data.fd().as_fd(), 0)
        };
        let start = start.map_err(|errno| LiveError::Map {
            map: name,
            source: MapError::IoError(std::io::Error::from(errno)),
        })?;
        Ok(Self { _map: map, start: start.cast(), words })
    }

    /// One word as it is now; 0 beyond the end.
    #[must_use]
    pub fn word(&self, index: u32) -> u64 {
        if self.words <= index {
            return 0;
        }
        // SAFETY: the index is inside the mapping.
        let word = unsafe { self.start.add(index as usize) };
        // SAFETY: the mapping is page aligned, made of atomics, and lives as long as `self`.
        let word = unsafe { word.as_ref() };
        // Acquire: what is read after the numbers may not be older than they are.
        word.load(Ordering::Acquire)
    }
}

impl Drop for Counters {
    fn drop(&mut self) {
        let length = self.words as usize * size_of::<u64>();
        // SAFETY: exactly the mapping made in `of`; no reference into it outlives `self`. A failing unmap leaves a
        // read-only page of a process that is about to end.
        let _ = unsafe { munmap(self.start.cast(), length) };
    }
}
