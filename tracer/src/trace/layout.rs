//! Layout: what each kind's arguments are to the predictor, and which prediction serves a frame best.
//!
//! Only the writer needs this. A wrong or missing entry costs bytes, never a record.

use super::predict::{At, Context, Difference, Role, Source, Tag, Tags};
use kvmdirty_common::{Kind, RawEvent};

/// The roles of the arguments of a kind.
fn roles(kind: u8) -> [Role; 4] {
    use Role::{Gfn, Gpa, Plain, Spte, Sptep, Taken, Word};
    let Some(kind) = Kind::from_u8(kind) else {
        return [Plain; 4];
    };
    match kind {
        Kind::Mark => [Gfn, Plain, Word, Spte],
        Kind::SpteChange => [Gfn, Spte, Spte, Sptep],
        Kind::FastFault => [Gfn, Spte, Plain, Sptep],
        Kind::SpteSet => [Gfn, Spte, Word, Sptep],
        Kind::Split => [Gfn, Spte, Plain, Plain],
        Kind::RmapAdd => [Gfn, Sptep, Plain, Plain],
        Kind::HarvestWord | Kind::UserWord => [Gfn, Taken, Plain, Plain],
        Kind::Fault | Kind::HostWrite => [Gpa, Plain, Plain, Plain],
        Kind::Zap => [Gfn, Plain, Plain, Plain],
        Kind::VmSeen
        | Kind::VmGone
        | Kind::SlotState
        | Kind::IoctlBegin
        | Kind::IoctlEnd
        | Kind::Flush
        | Kind::RingReset
        | Kind::SlotProtect
        | Kind::Invalidate
        | Kind::LockWait
        | Kind::RingPush
        | Kind::RunBegin
        | Kind::RunEnd => [Plain; 4],
    }
}

/// The predictions worth trying for argument `arg` with that role.
fn candidates(role: Role, arg: usize) -> impl Iterator<Item = (Source, Difference)> {
    use Difference::{Bits, Sum};
    let special: &[(Source, Difference)] = match role {
        Role::Plain | Role::Gfn | Role::Gpa => &[(Source::Gfn, Sum), (Source::Gpa, Sum)],
        Role::Spte => &[(Source::Spte, Bits)],
        Role::Sptep => &[(Source::Sptep, Sum)],
        Role::Word => &[(Source::WordMarked, Bits), (Source::Word, Bits)],
        Role::Taken => &[(Source::Word, Bits)],
    };
    const OWN: [(Source, Difference); 3] =
        [(Source::Arg0, Bits), (Source::Arg1, Bits), (Source::Arg2, Bits)];
    [(Source::Zero, Sum), (Source::Previous, Sum), (Source::Previous, Bits)]
        .into_iter()
        .chain(special.iter().copied())
        .chain(OWN.into_iter().take(arg))
}

/// One candidate and what it would have cost.
#[derive(Clone, Copy, Debug)]
struct Trial {
    tag: Tag,
    /// Majority vote over the differences seen.
    vote: u64,
    lead: u32,
    /// Bits without a constant over all samples; without and with one over the judged samples.
    bits_all: u64,
    bits_plain: u64,
    bits_voted: u64,
}

/// Tries candidates on samples of a frame.
#[derive(Debug, Default)]
pub(super) struct Chooser {
    kinds: Vec<KindTrial>,
}

#[derive(Debug)]
struct KindTrial {
    args: [Vec<Trial>; 4],
    judged: u32,
    span_bits: u64,
    outer_bits: u64,
}

/// Records looked at in each of the three places of a frame.
const SAMPLE: usize = 1024;

impl Chooser {
    /// The best tags for the kinds of a frame.
    ///
    /// `place` tells the lane and kind index of a record; `kinds` the kind of each index.
    pub fn choose(
        &mut self,
        records: &[RawEvent],
        places: &[(u16, u8)],
        kinds: &[u8],
        context: &mut Context,
    ) -> Vec<Tags> {
        self.kinds.clear();
        self.kinds.extend(kinds.iter().map(|&kind| KindTrial::new(kind)));
        let n = records.len();
        let third = n / 3;
        let learned = [0..third.min(SAMPLE), third..third + third.min(SAMPLE)];
        let judged = 2 * third..n.min(2 * third + 2 * SAMPLE);
        for (range, judges) in
            learned.into_iter().map(|range| (range, false)).chain([(judged, true)])
        {
            for (record, &(lane, kind)) in records[range.clone()].iter().zip(&places[range]) {
                self.kinds[usize::from(kind)].sample(
                    record,
                    usize::from(lane),
                    usize::from(kind),
                    judges,
                    context,
                );
            }
        }
        self.kinds.iter().map(KindTrial::best).collect()
    }
}

impl KindTrial {
    fn new(kind: u8) -> Self {
        let roles = roles(kind);
        let trials = |arg: usize| {
            candidates(roles[arg], arg)
                .map(|(source, difference)| Trial {
                    tag: Tag { role: roles[arg], source, difference, constant: 0 },
                    vote: 0,
                    lead: 0,
                    bits_all: 0,
                    bits_plain: 0,
                    bits_voted: 0,
                })
                .collect()
        };
        Self {
            args: [trials(0), trials(1), trials(2), trials(3)],
            judged: 0,
            span_bits: 0,
            outer_bits: 0,
        }
    }

    fn sample(
        &mut self,
        record: &RawEvent,
        lane: usize,
        kind: usize,
        judges: bool,
        context: &mut Context,
    ) {
        self.judged += u32::from(judges);
        let state = &mut context.lanes[lane];
        let begin = record.ts_ns.wrapping_sub(u64::from(record.span_ns));
        self.span_bits += bits(u64::from(record.span_ns));
        self.outer_bits += bits(super::column::zigzag(state.begin.wrapping_sub(begin)));
        (state.ts, state.begin) = (record.ts_ns, begin);
        let mut gfn = state.gfn;
        let mut args = [0; 4];
        for (arg, trials) in self.args.iter_mut().enumerate() {
            let value = record.args[arg];
            for trial in trials.iter_mut() {
                let at = At { lane, kind, vm: record.vm, gfn, args: &args };
                trial.sample(value, context.predict(&at, arg, trial.tag.source), judges);
            }
            args[arg] = value;
            gfn = context.learn(gfn, record.vm, trials[0].tag.role, value);
        }
        context.lanes[lane].gfn = gfn;
        *context.previous(lane, kind) = args;
    }

    fn best(&self) -> Tags {
        let best = |trials: &[Trial]| {
            let (_, tag) = trials
                .iter()
                .map(|trial| trial.result(8 <= self.judged))
                .min_by_key(|&(bits, _)| bits)
                .expect("every argument has candidates");
            tag
        };
        Tags {
            is_outer: self.outer_bits < self.span_bits,
            args: [0, 1, 2, 3].map(|arg| best(&self.args[arg])),
        }
    }
}

impl Trial {
    #[inline]
    fn sample(&mut self, value: u64, prediction: u64, judges: bool) {
        let plain = self.tag.residual(value, prediction);
        self.bits_all += bits(plain);
        if judges {
            self.bits_plain += bits(plain);
            let voted = Tag { constant: self.vote, ..self.tag };
            self.bits_voted += bits(voted.residual(value, prediction));
            return;
        }
        let difference = match self.tag.difference {
            Difference::Sum => value.wrapping_sub(prediction),
            Difference::Bits => value ^ prediction,
        };
        // Boyer-Moore: if more than half of the differences are equal, that one remains.
        if self.lead == 0 {
            (self.vote, self.lead) = (difference, 1);
        } else if self.vote == difference {
            self.lead += 1;
        } else {
            self.lead -= 1;
        }
    }

    fn result(&self, has_judged: bool) -> (u64, Tag) {
        if !has_judged {
            return (self.bits_all, self.tag);
        }
        if self.bits_voted < self.bits_plain {
            return (self.bits_voted, Tag { constant: self.vote, ..self.tag });
        }
        (self.bits_plain, self.tag)
    }
}

const fn bits(residual: u64) -> u64 {
    (64 - residual.leading_zeros()) as u64
}
