//! Where the state of each thread lies, for those who keep one per thread.

use std::collections::BTreeMap;

use super::Tid;

/// Places by thread id. Of the threads that are busy the place is found without a search.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TidIndex {
    places: BTreeMap<Tid, u32>,
    /// The thread asked for last, by the low bits of its id.
    recent: [Option<(Tid, u32)>; Self::RECENT],
}

impl Default for TidIndex {
    fn default() -> Self {
        Self { places: BTreeMap::new(), recent: [None; Self::RECENT] }
    }
}

impl TidIndex {
    const RECENT: usize = 256;

    /// The thread's place.
    #[inline]
    pub fn get(&mut self, tid: Tid) -> Option<usize> {
        self.recent(tid).or_else(|| self.search(tid))
    }

    /// The place of a busy thread: where there is none, [`Self::search`] may find it.
    #[inline(always)]
    #[must_use]
    pub fn recent(&self, tid: Tid) -> Option<usize> {
        let (recent, place) = self.recent[tid.0 as usize % Self::RECENT]?;
        (recent == tid).then_some(place as usize)
    }

    /// The place of a thread that was not asked for lately.
    #[cold]
    #[inline(never)]
    pub fn search(&mut self, tid: Tid) -> Option<usize> {
        let place = *self.places.get(&tid)?;
        self.recent[tid.0 as usize % Self::RECENT] = Some((tid, place));
        Some(place as usize)
    }

    /// Notes the place of a thread.
    pub fn insert(&mut self, tid: Tid, place: usize) {
        self.places.insert(tid, place as u32);
        self.recent[tid.0 as usize % Self::RECENT] = Some((tid, place as u32));
    }

    /// Forgets a thread.
    pub fn remove(&mut self, tid: Tid) {
        self.places.remove(&tid);
        self.recent[tid.0 as usize % Self::RECENT] = None;
    }

    /// All threads, by id.
    pub fn iter(&self) -> impl Iterator<Item = (Tid, usize)> + '_ {
        self.places.iter().map(|(&tid, &place)| (tid, place as usize))
    }

    /// Threads.
    #[must_use]
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// There is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_whose_ids_share_their_low_bits_keep_their_places() {
        let mut index = TidIndex::default();
        for n in 0..3 {
            index.insert(Tid(7 + 256 * n), n as usize);
        }
        assert_eq!(
            [7, 263, 519, 775].map(|tid| index.get(Tid(tid))),
            [Some(0), Some(1), Some(2), None]
        );
        index.remove(Tid(7));
        assert_eq!((index.get(Tid(7)), index.get(Tid(263)), index.len()), (None, Some(1), 2));
    }
}
