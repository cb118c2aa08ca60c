//! The last few of something, in place.

/// The last few of something, newest last, without allocation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Recent<T, const N: usize> {
    items: [T; N],
    pushed: usize,
}

impl<T: Copy + Default, const N: usize> Default for Recent<T, N> {
    fn default() -> Self {
        Self { items: [T::default(); N], pushed: 0 }
    }
}

impl<T: Copy + Default, const N: usize> Recent<T, N> {
    pub fn push(&mut self, item: T) {
        self.items[self.pushed % N] = item;
        self.pushed += 1;
    }

    pub const fn clear(&mut self) {
        self.pushed = 0;
    }

    /// As if what is not kept any more had been pushed.
    pub fn forget(&mut self) {
        (self.items, self.pushed) = ([T::default(); N], N + 1);
    }

    /// Newest first.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        (self.pushed.saturating_sub(N)..self.pushed).rev().map(|n| &self.items[n % N])
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        let len = self.len();
        self.items[..len].iter_mut()
    }

    /// The newest one that fits.
    pub fn newest_mut(&mut self, fits: impl Fn(&T) -> bool) -> Option<&mut T> {
        let oldest = self.pushed.saturating_sub(N);
        let place = (oldest..self.pushed).rev().map(|n| n % N).find(|&n| fits(&self.items[n]))?;
        Some(&mut self.items[place])
    }

    /// Something was pushed out.
    pub const fn has_forgotten(&self) -> bool {
        N < self.pushed
    }

    pub const fn len(&self) -> usize {
        if self.pushed < N { self.pushed } else { N }
    }
}
