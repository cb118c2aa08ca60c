//! Sends signals to the harvester's thread while it resets dirty rings.
//!
//! `kvm_dirty_ring_reset` of Linux 7.2 and later ends early when a signal is pending. Signals are
//! sent only while the ioctl runs, so that most of them find it at work.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use nix::sys::pthread::{Pthread, pthread_kill, pthread_self};
use nix::sys::signal::Signal;

use crate::demo::DemoError;

/// Caught by a handler that does nothing (`gate::ignore_kicks`).
const SIGNAL: Signal = Signal::SIGUSR2;

#[derive(Debug, Default)]
struct Shared {
    resetting: AtomicBool,
    quit: AtomicBool,
    sent: AtomicU64,
}

/// A thread that interrupts another one.
#[derive(Debug)]
pub struct Interrupter {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// Interrupts as long as it lives.
#[derive(Debug)]
pub struct Interrupting<'a>(&'a Shared);

impl Interrupter {
    /// Starts a thread that will interrupt the calling one.
    ///
    /// # Errors
    ///
    /// [`DemoError::Thread`] if no thread can be made.
    pub fn for_this_thread() -> Result<Self, DemoError> {
        let shared = Arc::<Shared>::default();
        let target = pthread_self();
        let mine = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("interrupter".to_owned())
            .spawn(move || interrupt(&mine, target))
            .map_err(|source| DemoError::Thread { call: "clone", source })?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Begins to interrupt.
    pub fn start(&self) -> Interrupting<'_> {
        self.shared.resetting.store(true, Ordering::SeqCst);
        if let Some(thread) = &self.thread {
            thread.thread().unpark();
        }
        Interrupting(&self.shared)
    }

    /// Signals sent so far.
    pub fn sent(&self) -> u64 {
        self.shared.sent.load(Ordering::Relaxed)
    }
}

impl Drop for Interrupting<'_> {
    fn drop(&mut self) {
        self.0.resetting.store(false, Ordering::SeqCst);
    }
}

impl Drop for Interrupter {
    fn drop(&mut self) {
        self.shared.quit.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // A panic of the thread was printed by its hook.
            let _ = thread.join();
        }
    }
}

/// Sends signals while a reset runs, and sleeps otherwise.
fn interrupt(shared: &Shared, target: Pthread) {
    let Shared { resetting, quit, sent } = shared;
    while !quit.load(Ordering::SeqCst) {
        if !resetting.load(Ordering::SeqCst) {
            std::thread::park();
            continue;
        }
        if pthread_kill(target, SIGNAL).is_ok() {
            sent.fetch_add(1, Ordering::Relaxed);
        }
        // One signal at a time stays pending; more would only take turns with the ioctl.
        std::thread::yield_now();
    }
}
