//! Faults beside the words of a harvest that has not returned (K02): they are judged at its return.
//!
//! Until then the page may be marked again, and of a RESET only the end of `kvm_dirty_ring_reset` tells which entries
//! it popped.
//!
//! ```text
//! vcpu                                   harvester
//! push entry 57                          RESET: pops entries 33 .. 55
//!                                        protects the page of an older entry
//! SPTE becomes writable                  ring-reset 33 .. 55           <- entry 57 is still in the ring: reported
//! ```

use crate::event::MarkWord;
use crate::verdict::UnknownCause;

use super::slot::{Opening, WordSeen};
use super::thread::PendingMark;
use super::{At, Detector};

/// Pairs kept until their harvest returns.
const PAIRS_MAX: usize = 1024;

impl Detector {
    /// The entry of the mark is in its ring: no RESET has popped it.
    pub(super) fn is_entry_left(&self, vm: usize, mark: &PendingMark) -> bool {
        let (MarkWord::Ring(index), Some(vcpu)) = (mark.word, mark.vcpu) else { return false };
        let ring = self.vms[vm].rings.iter().find(|ring| ring.vcpu == vcpu);
        let is_reset = ring.filter(|ring| ring.popped.is_some());
        is_reset.is_some_and(|ring| ring.popped_by(index.wrapping_sub(1)).is_none())
    }

    /// The harvest of that word has not returned: the pair will be judged then.
    pub(super) fn is_pair_deferred(
        &mut self,
        vm: usize,
        opening: &Opening,
        word: &WordSeen,
    ) -> bool {
        if !self.threads.iter().any(|thread| thread.is_taking(word)) {
            return false;
        }
        if self.vms[vm].pairs.len() < PAIRS_MAX {
            self.vms[vm].pairs.push((*opening, *word));
        } else {
            self.unknown_page(opening.page(), UnknownCause::Limit);
        }
        true
    }

    /// The ioctl of the thread returns: its pairs are judged.
    pub(super) fn settle_pairs(&mut self, at: At<'_>, vm: usize, place: usize) {
        if self.vms[vm].pairs.is_empty() {
            return;
        }
        for (opening, word) in std::mem::take(&mut self.vms[vm].pairs) {
            if self.threads.get_mut(place).has_taken(&word) {
                self.judge_between(at, vm, &opening, &word);
            } else {
                self.vms[vm].pairs.push((opening, word));
            }
        }
    }

    /// The ioctl never returned in this trace: how it went on is not known.
    pub(super) fn abandon_pairs(&mut self, vm: usize, cause: UnknownCause) {
        for (opening, _) in std::mem::take(&mut self.vms[vm].pairs) {
            self.unknown_page(opening.page(), cause);
        }
    }
}
