//! The numbers of a lane: which one comes next, and where one stands that does not.

/// The numbers of a lane, in the order they are looked at.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sequence {
    is_known: bool,
    /// The number that comes next.
    next: u32,
    /// The newest missing numbers, `missing.0..missing.1`.
    missing: (u32, u32),
}

/// Where a number stands among those of its lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The first one, or the one that comes next.
    Next,
    /// The numbers from this one up to it are missing.
    Behind(u32),
    /// It was missing: an interrupting program took the next one and was first.
    Missing,
    /// Another record has it: two programs took it.
    Again,
}

impl Sequence {
    /// Takes the next number at hand.
    #[inline]
    pub fn place(&mut self, number: u32) -> Place {
        let next = self.next;
        let ahead = number.wrapping_sub(next);
        if !std::mem::replace(&mut self.is_known, true) || ahead == 0 {
            self.next = number.wrapping_add(1);
            return Place::Next;
        }
        self.jump(number, ahead)
    }

    #[cold]
    fn jump(&mut self, number: u32, ahead: u32) -> Place {
        let next = self.next;
        let (from, to) = self.missing;
        if ahead < 1 << 31 {
            self.missing = (next, number);
            self.next = number.wrapping_add(1);
            Place::Behind(next)
        } else if number.wrapping_sub(from) < to.wrapping_sub(from) {
            Place::Missing
        } else {
            Place::Again
        }
    }

    /// Numbers below this one that have not come, as far as the sequence can tell.
    #[must_use]
    pub const fn missing_before(&self, number: u32) -> u32 {
        let ahead = number.wrapping_sub(self.next);
        if self.is_known && ahead < 1 << 31 { ahead } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_stands_next_behind_a_jump_in_it_or_twice() {
        let mut sequence = Sequence::default();
        assert_eq!(sequence.missing_before(9), 0, "nothing was seen yet");
        let places = [u32::MAX, 3, 1, 3, 4].map(|number| sequence.place(number));
        assert_eq!(
            places,
            [Place::Next, Place::Behind(0), Place::Missing, Place::Again, Place::Next]
        );
        assert_eq!((sequence.missing_before(9), sequence.missing_before(4)), (4, 0));
    }
}
