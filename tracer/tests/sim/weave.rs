//! All total orders of a small trace, one by one: what `orders.rs` does for a lockless fault, for any small machine.

use std::fmt::Debug;

use super::rng::Rng;

/// What one order does to the page, step by step.
pub trait Machine: Copy + Debug {
    type Step: Copy + PartialEq + Debug;

    /// The programs of the threads.
    fn programs(&self) -> Vec<Vec<Self::Step>>;

    /// Takes one step; `false`: it cannot happen here, or reads something else than was read.
    fn step(&mut self, step: Self::Step) -> bool;

    /// Everything has happened, and a write is reported nowhere.
    fn is_broken(&self) -> bool;

    /// Where the step can lie, as far as records tell; and whether what its thread did before and after is told by times
    /// only, because that order is what the rule asks.
    fn span(&self, step: Self::Step, at: &dyn Fn(Self::Step) -> u64) -> (u64, u64, bool);

    /// At its start again; what is read is compared with what this one has read.
    fn again(&self) -> Self;
}

/// A bit that is read while a trace is drawn, and compared while its orders are enumerated.
#[derive(Clone, Copy, Debug, Default)]
pub struct Read {
    was: Option<bool>,
    is_replayed: bool,
}

impl Read {
    pub fn now(&mut self, value: bool) -> bool {
        if self.is_replayed {
            return self.was == Some(value);
        }
        self.was = Some(value);
        true
    }

    /// What was read; `false` if nothing was.
    pub fn value(&self) -> bool {
        self.was == Some(true)
    }

    pub fn again(&self) -> Self {
        Self { is_replayed: true, ..*self }
    }
}

/// A trace: each step with its time, and what the steps read.
#[derive(Clone, Debug)]
pub struct Trace<M: Machine> {
    pub times: Vec<(M::Step, u64)>,
    /// The machine at the end, with all it has read.
    pub seen: M,
}

/// A step, its thread, and where it can lie.
struct Instant<S> {
    step: S,
    thread: usize,
    lo: u64,
    hi: u64,
    is_free: bool,
}

impl<M: Machine> Trace<M> {
    /// A random interleaving of the machine's programs.
    pub fn draw(rng: &Rng, start: M) -> Self {
        let (mut seen, mut programs) = (start, start.programs());
        let (mut now, mut times) = (1000, Vec::new());
        while programs.iter().any(|program| !program.is_empty()) {
            let thread = rng.below(programs.len() as u64) as usize;
            for _ in 0..rng.between(1, 4) {
                if programs[thread].is_empty() {
                    break;
                }
                let step = programs[thread].remove(0);
                now += rng.between(1, 9);
                assert!(seen.step(step), "{step:?} {seen:?}");
                times.push((step, now));
            }
        }
        Self { times, seen }
    }

    pub fn at(&self, step: M::Step) -> u64 {
        self.times.iter().find(|(of, _)| *of == step).map_or(0, |(_, at)| *at)
    }

    /// `(orders, broken)`.
    pub fn enumerate(&self) -> (u64, u64) {
        let programs = self.seen.programs();
        let mut left: Vec<Instant<M::Step>> = Vec::new();
        for (thread, program) in programs.iter().enumerate() {
            for &step in program {
                let (lo, hi, is_free) = self.seen.span(step, &|step| self.at(step));
                left.push(Instant { step, thread, lo, hi, is_free });
            }
        }
        let mut tally = (0, 0);
        extend(&mut left, self.seen.again(), &mut tally);
        tally
    }
}

fn extend<M: Machine>(left: &mut Vec<Instant<M::Step>>, machine: M, tally: &mut (u64, u64)) {
    if left.is_empty() {
        tally.0 += 1;
        tally.1 += u64::from(machine.is_broken());
        return;
    }
    for index in 0..left.len() {
        let next = &left[index];
        let is_first = left.iter().enumerate().all(|(other, earlier)| {
            let is_own = earlier.thread == next.thread && !next.is_free && !earlier.is_free;
            let is_before = earlier.hi < next.lo || is_own && other < index;
            other == index || !is_before
        });
        let (mut after, step) = (machine, next.step);
        if is_first && after.step(step) {
            let taken = left.remove(index);
            extend(left, after, tally);
            left.insert(index, taken);
        }
    }
}
