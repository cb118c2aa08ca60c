//! Guest memory on the host: one aligned mapping per memslot, read and written as plain bytes.

use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::ptr::{self, NonNull};

use crate::demo::DemoError;
use crate::demo::config::Backing;
use crate::demo::layout::{HUGE_BYTES, PAGE};

/// Whether the host is asked for transparent huge pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostPages {
    /// Leave it to the host's default for small pages (`MADV_NOHUGEPAGE`).
    Small,
    /// `MADV_HUGEPAGE`.
    Huge,
}

/// The host memory behind one memslot.
///
/// The guest writes it at any time, so nothing here hands out references into it: pages are copied
/// out, and a copy that races with a store may hold either value of each word. That is enough for a
/// migration, because KVM reports the racing store in the next harvest.
#[derive(Debug)]
pub struct Mapping {
    // Invariant: `start` is huge-page aligned and `start..start + bytes` lies in the reservation,
    // which stays mapped for the life of this value.
    start: NonNull<u8>,
    bytes: usize,
    reservation: NonNull<u8>,
    reserved_bytes: usize,
    backing: Backing,
}

// SAFETY: the mapping belongs to the process, not to a thread, and every access goes through raw
// pointers into memory that is shared with the guest anyway.
unsafe impl Send for Mapping {}

impl Mapping {
    /// Maps `bytes` of zeroed memory, aligned to a huge page.
    ///
    /// # Errors
    ///
    /// [`DemoError::Memory`] names the system call that failed.
    pub fn new(bytes: usize, backing: Backing, pages: HostPages) -> Result<Self, DemoError> {
        let reserved_bytes = bytes.next_multiple_of(PAGE) + HUGE_BYTES as usize;
        let reservation = map(ptr::null_mut(), reserved_bytes, libc::PROT_NONE, None)?;
        let padding = reservation.as_ptr().align_offset(HUGE_BYTES as usize);
        // SAFETY: `padding` is below the huge page by which the reservation exceeds `bytes`.
        let start = unsafe { reservation.add(padding) };
        let file = match backing {
            Backing::Anonymous => None,
            Backing::Memfd => Some(memory_file(bytes)?),
        };
        map(start.as_ptr(), bytes, libc::PROT_READ | libc::PROT_WRITE, file.as_ref())?;
        let mapping = Self { start, bytes, reservation, reserved_bytes, backing };
        // A host without transparent huge pages refuses both; small pages are then what it has
        // anyway.
        let _ = mapping.advise(match pages {
            HostPages::Small => libc::MADV_NOHUGEPAGE,
            HostPages::Huge => libc::MADV_HUGEPAGE,
        });
        // Every page is there before the guest starts. Without this, the first full copy would map
        // the zero page everywhere, and the first store to each page would be a copy-on-write with
        // its own notifier call and flush.
        for offset in (0..bytes).step_by(PAGE) {
            mapping.write_word(offset as u64, 0);
        }
        Ok(mapping)
    }

    /// Address of the first byte in this process.
    pub fn host_address(&self) -> u64 {
        self.start.as_ptr() as u64
    }

    /// Size in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// How the memory must be zapped.
    pub fn backing(&self) -> Backing {
        self.backing
    }

    /// Copies one page out of guest memory.
    ///
    /// # Panics
    ///
    /// If the page lies outside the mapping.
    pub fn read_page(&self, index: usize, into: &mut [u8; PAGE]) {
        assert!((index + 1) * PAGE <= self.bytes, "page {index} outside the slot");
        // SAFETY: the page was just checked to lie inside the mapping.
        let from = unsafe { self.start.add(index * PAGE) };
        // SAFETY: `from` is readable for a page and `into` is a local buffer that cannot overlap
        // it. The guest may store meanwhile; any mix of old and new bytes is a valid `[u8; PAGE]`.
        unsafe { ptr::copy_nonoverlapping(from.as_ptr(), into.as_mut_ptr(), PAGE) };
    }

    /// Reads an aligned word.
    ///
    /// # Panics
    ///
    /// If the word is misaligned or lies outside the mapping.
    pub fn read_word(&self, offset: u64) -> u64 {
        // SAFETY: `word` checked alignment and bounds; guest stores are whole words, so the
        // volatile read sees one of them.
        unsafe { self.word(offset).read_volatile() }
    }

    /// Writes an aligned word.
    ///
    /// # Panics
    ///
    /// If the word is misaligned or lies outside the mapping.
    pub fn write_word(&self, offset: u64, value: u64) {
        // SAFETY: as in `read_word`; the mapping is writable.
        unsafe { self.word(offset).write_volatile(value) };
    }

    /// Writes bytes; for what is in place before the guest runs.
    ///
    /// # Panics
    ///
    /// If they would not fit.
    pub fn write_bytes(&self, offset: u64, bytes: &[u8]) {
        let offset = offset as usize;
        assert!(offset + bytes.len() <= self.bytes, "bytes outside the slot");
        // SAFETY: the range was just checked to lie inside the mapping.
        let to = unsafe { self.start.add(offset) };
        // SAFETY: `to` is writable for that many bytes and no slice of ours can overlap the
        // mapping.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), to.as_ptr(), bytes.len()) };
    }

    /// Makes the host drop its page-table entries, and KVM its SPTEs, while the content stays.
    ///
    /// A memory file is unmapped and faulted back (`MADV_DONTNEED` on shared memory), which the
    /// guest may run through. Anonymous memory is made read-only and writable again; a guest store
    /// in between would fail, so the caller holds the vCPUs.
    ///
    /// # Errors
    ///
    /// [`DemoError::Memory`] if the host refuses.
    pub fn zap(&self) -> Result<(), DemoError> {
        match self.backing {
            Backing::Memfd => self.advise(libc::MADV_DONTNEED),
            Backing::Anonymous => {
                self.protect(libc::PROT_READ)?;
                self.protect(libc::PROT_READ | libc::PROT_WRITE)
            }
        }
    }

    fn word(&self, offset: u64) -> *mut u64 {
        let offset = offset as usize;
        assert!(offset.is_multiple_of(8) && offset + 8 <= self.bytes, "word outside the slot");
        // SAFETY: the word was just checked to lie inside the mapping.
        unsafe { self.start.add(offset) }.as_ptr().cast()
    }

    fn advise(&self, advice: libc::c_int) -> Result<(), DemoError> {
        // SAFETY: the range is ours. Of the advices used here, only MADV_DONTNEED could change
        // content, and not that of a shared file mapping.
        let result = unsafe { libc::madvise(self.start.as_ptr().cast(), self.bytes, advice) };
        check(result, "madvise", self.bytes)
    }

    fn protect(&self, protection: libc::c_int) -> Result<(), DemoError> {
        // SAFETY: the range is ours, and the caller of `zap` lets nobody write in between.
        let result = unsafe { libc::mprotect(self.start.as_ptr().cast(), self.bytes, protection) };
        check(result, "mprotect", self.bytes)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the reservation is ours and nothing refers to it any more: the VM that used it as
        // a slot is dropped before its memory.
        unsafe { libc::munmap(self.reservation.as_ptr().cast(), self.reserved_bytes) };
    }
}

/// Maps memory at an address of the kernel's choice, or over a reservation of ours.
fn map(
    at: *mut u8,
    bytes: usize,
    protection: libc::c_int,
    file: Option<&OwnedFd>,
) -> Result<NonNull<u8>, DemoError> {
    let placed = if at.is_null() { 0 } else { libc::MAP_FIXED };
    let (kind, fd) = match file {
        None => (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE, -1),
        Some(file) => (libc::MAP_SHARED, file.as_raw_fd()),
    };
    // SAFETY: with MAP_FIXED the range lies inside a reservation that the caller owns; without it
    // the kernel chooses unused addresses.
    let start = unsafe { libc::mmap(at.cast(), bytes, protection, kind | placed, fd, 0) };
    match NonNull::new(start.cast::<u8>()) {
        Some(mapped) if start != libc::MAP_FAILED => Ok(mapped),
        Some(_) | None => {
            Err(DemoError::Memory { call: "mmap", bytes, source: io::Error::last_os_error() })
        }
    }
}

/// Creates a memory file of `bytes`.
fn memory_file(bytes: usize) -> Result<OwnedFd, DemoError> {
    // SAFETY: the name is a C string literal.
    let fd = unsafe { libc::memfd_create(c"kvmdirty-demo".as_ptr(), libc::MFD_CLOEXEC) };
    check(if fd < 0 { -1 } else { 0 }, "memfd_create", bytes)?;
    // SAFETY: the call succeeded, so the descriptor is open and belongs to nobody else.
    let file = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: the descriptor is open.
    let result = unsafe { libc::ftruncate(file.as_raw_fd(), bytes as libc::off_t) };
    check(result, "ftruncate", bytes)?;
    Ok(file)
}

fn check(result: libc::c_int, call: &'static str, bytes: usize) -> Result<(), DemoError> {
    if result == 0 {
        return Ok(());
    }
    Err(DemoError::Memory { call, bytes, source: io::Error::last_os_error() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zap_keeps_content(backing: Backing) {
        let mapping = Mapping::new(3 * PAGE, backing, HostPages::Small).unwrap();
        mapping.write_word(2 * PAGE as u64 + 8, 77);
        mapping.zap().unwrap();
        assert_eq!(mapping.read_word(2 * PAGE as u64 + 8), 77);
        mapping.write_word(0, 5);
        assert_eq!(mapping.read_word(0), 5);
    }

    #[test]
    fn anonymous_memory_keeps_its_content_when_zapped() {
        zap_keeps_content(Backing::Anonymous);
    }

    #[test]
    fn a_memory_file_keeps_its_content_when_zapped() {
        zap_keeps_content(Backing::Memfd);
    }

    #[test]
    fn memory_starts_on_a_huge_page() {
        let mapping = Mapping::new(PAGE, Backing::Anonymous, HostPages::Huge).unwrap();
        assert_eq!(mapping.host_address() % HUGE_BYTES, 0);
    }

    #[test]
    #[should_panic(expected = "outside the slot")]
    fn reading_beyond_the_slot_panics() {
        let mapping = Mapping::new(PAGE, Backing::Anonymous, HostPages::Small).unwrap();
        mapping.read_page(1, &mut [0; PAGE]);
    }
}
