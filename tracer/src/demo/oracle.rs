//! The content oracle: a shadow copy built only from reported pages, compared with the truth at the
//! end.
//!
//! ```text
//! logging on; copy every page         the copy may be torn, but every later write is logged
//! harvest → copy the reported pages   again and again, while the guest writes
//! stop the vCPUs; harvest, copy       nothing writes any more
//! compare every page                  a difference is a write that no harvest reported: lost
//! ```
//!
//! A page is copied only after the ioctl that protected it again has returned (GET, or CLEAR in
//! manual mode, or RESET in ring mode), which is the order KVM's interface asks of every VMM.

use crate::demo::layout::PAGE;
use crate::demo::memory::Mapping;
use crate::demo::protocol::LostPage;
use crate::event::{Gfn, SlotId};

/// The copy of one slot.
#[derive(Debug)]
pub struct Shadow {
    // Invariant: both as long as the slot has pages.
    pages: Vec<[u8; PAGE]>,
    changed: Vec<bool>,
}

/// What a comparison found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Comparison {
    /// Pages compared.
    pub compared: u64,
    /// Pages whose content changed after the first full copy.
    pub changed: u64,
    /// Pages that differ from their shadow.
    pub lost: Vec<LostPage>,
}

impl Shadow {
    /// An empty copy for a slot of `pages` pages.
    pub fn new(pages: usize) -> Self {
        Self { pages: vec![[0; PAGE]; pages], changed: vec![false; pages] }
    }

    /// Copies every page, as a migration does when logging has just been turned on.
    pub fn copy_all(&mut self, memory: &Mapping) {
        for (index, page) in self.pages.iter_mut().enumerate() {
            memory.read_page(index, page);
        }
    }

    /// Copies a reported page.
    ///
    /// # Panics
    ///
    /// If the page lies outside the slot.
    pub fn copy(&mut self, memory: &Mapping, index: usize) {
        let copied = &mut self.pages[index];
        if self.changed[index] {
            memory.read_page(index, copied);
            return;
        }
        let before = *copied;
        memory.read_page(index, copied);
        self.changed[index] = before != *copied;
    }

    /// Compares guest memory with the copy; meaningful only when nothing writes any more.
    pub fn compare(&self, memory: &Mapping, slot: SlotId, first: Gfn) -> Comparison {
        let mut page = [0; PAGE];
        let mut found = Comparison::default();
        for (index, (copied, changed)) in self.pages.iter().zip(&self.changed).enumerate() {
            memory.read_page(index, &mut page);
            found.compared += 1;
            if let Some((offset, guest, copied)) = first_difference(&page, copied) {
                let gfn = first.0 + index as u64;
                found.lost.push(LostPage { slot: slot.to_abi(), gfn, offset, guest, copied });
                found.changed += 1;
            } else {
                found.changed += u64::from(*changed);
            }
        }
        found
    }
}

/// Offset and both values of the first word in which two pages differ.
fn first_difference(guest: &[u8; PAGE], copied: &[u8; PAGE]) -> Option<(u32, u64, u64)> {
    // The comparison of whole pages is the common case and fast even without optimization.
    if guest == copied {
        return None;
    }
    let (guest, _) = guest.as_chunks::<8>();
    let (copied, _) = copied.as_chunks::<8>();
    let index = guest.iter().zip(copied).position(|(guest, copied)| guest != copied)?;
    let word = |words: &[[u8; 8]]| u64::from_le_bytes(words[index]);
    Some((8 * index as u32, word(guest), word(copied)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::config::Backing;
    use crate::demo::memory::HostPages;

    fn two_pages() -> (Mapping, Shadow) {
        let memory = Mapping::new(2 * PAGE, Backing::Anonymous, HostPages::Small).unwrap();
        let mut shadow = Shadow::new(2);
        shadow.copy_all(&memory);
        (memory, shadow)
    }

    #[test]
    fn a_reported_write_is_not_lost() {
        let (memory, mut shadow) = two_pages();
        memory.write_word(PAGE as u64, 1);
        shadow.copy(&memory, 1);
        let found = shadow.compare(&memory, SlotId::from_abi(1), Gfn(0x400));
        assert_eq!((found.compared, found.changed, found.lost.len()), (2, 1, 0));
    }

    #[test]
    fn an_unreported_write_is_lost_and_named() {
        let (memory, mut shadow) = two_pages();
        memory.write_word(PAGE as u64 + 16, 1);
        shadow.copy(&memory, 1);
        memory.write_word(PAGE as u64 + 16, 2);
        let found = shadow.compare(&memory, SlotId::from_abi(1), Gfn(0x400));
        let lost = LostPage { slot: 1, gfn: 0x401, offset: 16, guest: 2, copied: 1 };
        assert_eq!(found.lost, [lost]);
    }
}
