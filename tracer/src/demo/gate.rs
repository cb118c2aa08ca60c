//! Starts, holds and stops the vCPU threads of a VM.
//!
//! ```text
//! harvester                          vCPU thread
//! run()  ── wanted = Run ──────────▶ enter() returns, KVM_RUN
//! hold() ── wanted = Hold, kick ───▶ KVM_RUN returns EINTR, leave(), enter() blocks
//!        ◀── inside == 0 ──────────
//! quit() ── hold(), wanted = Quit ─▶ enter() says no, the thread ends
//! ```

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use nix::sys::pthread::{Pthread, pthread_kill, pthread_self};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

use crate::demo::DemoError;

/// The signal that makes `KVM_RUN` return.
const KICK: Signal = Signal::SIGUSR1;

/// What the vCPUs of a VM are meant to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    Hold,
    Run,
    Quit,
}

#[derive(Debug)]
struct GateState {
    wanted: Wanted,
    inside: u32,
    harvests: u64,
}

/// The gate between the vCPU threads of one VM and their guest.
#[derive(Debug)]
pub struct Gate {
    state: Mutex<GateState>,
    changed: Condvar,
}

impl Gate {
    /// A closed gate.
    pub fn closed() -> Self {
        let state = GateState { wanted: Wanted::Hold, inside: 0, harvests: 0 };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }

    /// Waits for permission to run; false means that the thread should end.
    ///
    /// `prepare` runs while a concurrent hold is still excluded: it takes back the request for an
    /// immediate exit, so that a request made afterwards is never overlooked.
    pub fn enter(&self, prepare: impl FnOnce()) -> bool {
        let mut state = self.lock();
        loop {
            match state.wanted {
                Wanted::Quit => return false,
                Wanted::Run => break,
                Wanted::Hold => state = self.wait(state),
            }
        }
        prepare();
        state.inside += 1;
        true
    }

    /// Says that a vCPU is out of the guest.
    pub fn leave(&self) {
        let mut state = self.lock();
        state.inside -= 1;
        if state.inside == 0 {
            self.changed.notify_all();
        }
    }

    /// Waits, outside the guest, until the next harvest is done or the vCPUs are held.
    pub fn await_harvest(&self) {
        let mut state = self.lock();
        let seen = state.harvests;
        while state.wanted == Wanted::Run && state.harvests == seen {
            state = self.wait(state);
        }
    }

    /// Says that a harvest is done.
    pub fn harvested(&self) {
        self.lock().harvests += 1;
        self.changed.notify_all();
    }

    /// Lets the vCPUs run.
    pub fn run(&self) {
        self.lock().wanted = Wanted::Run;
        self.changed.notify_all();
    }

    /// Takes all vCPUs out of the guest and returns when the last one is out.
    pub fn hold(&self, kickers: &[Kicker]) {
        self.lock().wanted = Wanted::Hold;
        self.changed.notify_all();
        kickers.iter().for_each(Kicker::kick);
        let mut state = self.lock();
        while 0 < state.inside {
            state = self.wait(state);
        }
    }

    /// Ends all vCPU threads. They are held first: once a thread may end, its kicker must not be
    /// used.
    pub fn quit(&self, kickers: &[Kicker]) {
        self.hold(kickers);
        self.lock().wanted = Wanted::Quit;
        self.changed.notify_all();
    }

    /// Waits, outside the guest, until the thread should end.
    pub fn await_quit(&self) {
        let mut state = self.lock();
        while state.wanted != Wanted::Quit {
            state = self.wait(state);
        }
    }

    fn lock(&self) -> MutexGuard<'_, GateState> {
        // The state is whole after every statement, so a panic elsewhere does not spoil it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&'a self, state: MutexGuard<'a, GateState>) -> MutexGuard<'a, GateState> {
        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes one vCPU thread leave the guest.
#[derive(Debug)]
pub struct Kicker {
    // Invariant: points into the vCPU's `kvm_run` mapping, which its thread unmaps as its last act;
    // threads end only after `Gate::quit` has kicked for the last time.
    immediate_exit: *const AtomicU8,
    thread: Pthread,
}

// SAFETY: the pointer is only used for atomic stores into a mapping of the process.
unsafe impl Send for Kicker {}

impl Kicker {
    /// A kicker for the calling thread, which is about to run the vCPU whose `immediate_exit` this
    /// is.
    ///
    /// # Safety
    ///
    /// The byte stays mapped, and the calling thread stays unjoined, as long as the kicker is used.
    pub unsafe fn for_this_thread(immediate_exit: *mut u8) -> Self {
        let immediate_exit = immediate_exit.cast();
        Self { immediate_exit, thread: pthread_self() }
    }

    /// Makes `KVM_RUN` return now, or return at once when it is called next.
    fn kick(&self) {
        // SAFETY: the byte is mapped (invariant); the kernel reads it and never writes it.
        let immediate_exit = unsafe { &*self.immediate_exit };
        immediate_exit.store(1, Ordering::SeqCst);
        // A thread that has ended by itself needs no kick.
        let _ = pthread_kill(self.thread, KICK);
    }
}

/// Installs handlers that do nothing, so that the signals interrupt system calls and end nobody.
///
/// # Errors
///
/// [`DemoError::Thread`] if the kernel refuses.
pub fn ignore_kicks() -> Result<(), DemoError> {
    extern "C" fn nothing(_: libc::c_int) {}
    let action = SigAction::new(SigHandler::Handler(nothing), SaFlags::empty(), SigSet::empty());
    for signal in [KICK, Signal::SIGUSR2] {
        // SAFETY: the handler does nothing, which is async-signal-safe.
        unsafe { sigaction(signal, &action) }
            .map_err(|errno| DemoError::Thread { call: "sigaction", source: errno.into() })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_gate_lets_nobody_in_until_it_opens() {
        let gate = Gate::closed();
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| gate.enter(|| ()));
            gate.run();
            assert!(thread.join().unwrap());
        });
        gate.leave();
        gate.hold(&[]);
        gate.quit(&[]);
        assert!(!gate.enter(|| ()));
    }
}
