//! Kernel memory through the probe's `peek` program.

use aya::maps::{Array, MapData};
use kvmdirty_common::target::ABSENT;

use super::LiveError;
use super::object::Object;

const MAP: &str = "PEEK";

/// The map through which [`Memory`] talks with the probe.
pub struct Window(Array<MapData, [u64; 32]>);

/// Reads kernel memory, one block at a time.
pub struct Memory<'a> {
    object: &'a mut Object,
    window: &'a mut Window,
}

impl Window {
    /// Takes the map out of the object.
    ///
    /// # Errors
    /// [`LiveError::ObjectMismatch`].
    pub fn of(object: &mut Object) -> Result<Self, LiveError> {
        object.take(MAP).map(Self)
    }
}

impl<'a> Memory<'a> {
    /// Reads through `window` with the programs of `object`.
    pub fn new(object: &'a mut Object, window: &'a mut Window) -> Self {
        Self { object, window }
    }

    /// Eight words at an address; `None` where nothing is mapped.
    ///
    /// # Errors
    /// The kernel refuses the program.
    pub fn block(&mut self, address: u64) -> Result<Option<[u64; 8]>, LiveError> {
        if address == 0 || self.object.run("peek", address)? != 0 {
            return Ok(None);
        }
        self.first_words().map(Some)
    }

    /// One word; 0 where nothing is mapped.
    ///
    /// # Errors
    /// As [`Self::block`].
    pub fn word(&mut self, address: u64) -> Result<u64, LiveError> {
        Ok(self.block(address)?.map_or(0, |block| block[0]))
    }

    /// The field at `offset` of the struct at `base`; 0 for fields this kernel lacks.
    ///
    /// # Errors
    /// As [`Self::block`].
    pub fn field(&mut self, base: u64, offset: u32) -> Result<u64, LiveError> {
        if offset == ABSENT || base == 0 {
            return Ok(0);
        }
        self.word(base + u64::from(offset))
    }

    /// The address of this thread's `task_struct`.
    ///
    /// # Errors
    /// As [`Self::block`].
    pub fn current_task(&mut self) -> Result<u64, LiveError> {
        self.object.run("peek", 0)?;
        Ok(self.first_words()?[0])
    }

    /// Runs a program that takes its input from the window.
    ///
    /// # Errors
    /// As [`Self::block`].
    pub fn announce(&mut self, program: &'static str, words: &[u64]) -> Result<(), LiveError> {
        let mut input = [0; 32];
        input[..words.len()].copy_from_slice(words);
        self.window.0.set(0, input, 0).map_err(|source| LiveError::Map { map: MAP, source })?;
        self.object.run(program, 0)?;
        Ok(())
    }

    fn first_words(&mut self) -> Result<[u64; 8], LiveError> {
        let words =
            self.window.0.get(&0, 0).map_err(|source| LiveError::Map { map: MAP, source })?;
        let mut first = [0; 8];
        first.copy_from_slice(&words[..8]);
        Ok(first)
    }
}
