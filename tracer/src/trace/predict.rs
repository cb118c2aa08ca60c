//! Prediction: what a record's fields most likely are, given the records before it in the same frame.
//!
//! The file holds only the difference between a field and its prediction. Which prediction a column uses stands in the
//! file as a [`Tag`], so that writers may choose better ones without a new format. Both directions walk through the
//! records with the same [`Context`]; it starts empty with every frame, so that frames can be read by themselves.

use super::column::{Cursor, Malformed, Plain, unzigzag, zigzag};

/// What a value means for later predictions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Role {
    /// Nothing.
    Plain = 0,
    /// A gfn in the low 48 bits: the page this lane works on.
    Gfn = 1,
    /// A guest physical address: the page this lane works on.
    Gpa = 2,
    /// The SPTE of the lane's page.
    Spte = 3,
    /// The address of that SPTE.
    Sptep = 4,
    /// The bitmap word of the lane's page.
    Word = 5,
    /// Bits taken from that word, which is 0 now.
    Taken = 6,
}

/// Where a prediction comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Source {
    /// 0.
    Zero = 0,
    /// The same argument of the previous record of this kind on this lane.
    Previous = 1,
    /// Argument 0, 1 or 2 of the same record.
    Arg0 = 2,
    /// See [`Self::Arg0`].
    Arg1 = 3,
    /// See [`Self::Arg0`].
    Arg2 = 4,
    /// The gfn the lane works on.
    Gfn = 5,
    /// Its guest physical address.
    Gpa = 6,
    /// The last SPTE seen for it.
    Spte = 7,
    /// The address of its SPTE, from the last one seen in the same page table.
    Sptep = 8,
    /// The last bitmap word seen for it.
    Word = 9,
    /// That word with the page's bit set.
    WordMarked = 10,
}

/// How a value differs from its prediction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Difference {
    /// By a sum.
    Sum = 0,
    /// In bits.
    Bits = 1,
}

/// How one column is coded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tag {
    pub role: Role,
    pub source: Source,
    pub difference: Difference,
    /// The difference that most values of the column have.
    pub constant: u64,
}

/// How the columns of one kind are coded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tags {
    /// The span is told from the begin of the lane's previous record, which lies inside this one.
    pub is_outer: bool,
    pub args: [Tag; 4],
}

impl Tag {
    pub const PLAIN: Self =
        Self { role: Role::Plain, source: Source::Zero, difference: Difference::Sum, constant: 0 };

    /// What is stored for `value`.
    #[inline]
    pub fn residual(&self, value: u64, prediction: u64) -> u64 {
        match self.difference {
            Difference::Sum => zigzag(value.wrapping_sub(prediction).wrapping_sub(self.constant)),
            Difference::Bits => value ^ prediction ^ self.constant,
        }
    }

    /// The inverse of [`Self::residual`].
    #[inline]
    pub fn value(&self, residual: u64, prediction: u64) -> u64 {
        match self.difference {
            Difference::Sum => {
                unzigzag(residual).wrapping_add(prediction).wrapping_add(self.constant)
            }
            Difference::Bits => residual ^ prediction ^ self.constant,
        }
    }

    fn put(&self, plain: &mut Plain) {
        let Self { role, source, difference, constant } = *self;
        plain.bytes.extend_from_slice(&[role as u8, source as u8, difference as u8]);
        plain.put_varint(constant);
    }

    fn read(cursor: &mut Cursor<'_>) -> Result<Self, Malformed> {
        use Role as R;
        use Source as S;
        const ROLES: [Role; 7] = [R::Plain, R::Gfn, R::Gpa, R::Spte, R::Sptep, R::Word, R::Taken];
        const SOURCES: [Source; 11] = [
            S::Zero,
            S::Previous,
            S::Arg0,
            S::Arg1,
            S::Arg2,
            S::Gfn,
            S::Gpa,
            S::Spte,
            S::Sptep,
            S::Word,
            S::WordMarked,
        ];
        const DIFFERENCES: [Difference; 2] = [Difference::Sum, Difference::Bits];
        Ok(Self {
            role: *ROLES.get(usize::from(cursor.byte()?)).ok_or(Malformed)?,
            source: *SOURCES.get(usize::from(cursor.byte()?)).ok_or(Malformed)?,
            difference: *DIFFERENCES.get(usize::from(cursor.byte()?)).ok_or(Malformed)?,
            constant: cursor.varint()?,
        })
    }
}

impl Tags {
    pub const PLAIN: Self = Self { is_outer: false, args: [Tag::PLAIN; 4] };

    pub fn put(&self, plain: &mut Plain) {
        plain.bytes.push(u8::from(self.is_outer));
        for tag in &self.args {
            tag.put(plain);
        }
    }

    pub fn read(cursor: &mut Cursor<'_>) -> Result<Self, Malformed> {
        let is_outer = match cursor.byte()? {
            0 => false,
            1 => true,
            _ => return Err(Malformed),
        };
        let mut args = [Tag::PLAIN; 4];
        for tag in &mut args {
            *tag = Tag::read(cursor)?;
        }
        Ok(Self { is_outer, args })
    }
}

/// What is remembered of one lane.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct LaneState {
    /// End of its last record.
    pub ts: u64,
    /// Begin of its last record.
    pub begin: u64,
    /// The page it works on.
    pub gfn: u64,
    /// The number its next record should have.
    pub seq: u32,
    /// Index of its thread and VM, plus one.
    pub who: u32,
}

/// What is remembered of the records of a frame so far.
#[derive(Debug)]
pub(super) struct Context {
    pub lanes: Vec<LaneState>,
    previous: Vec<[u64; 4]>,
    kinds: usize,
    sptes: Table,
    tables: Table,
    words: Table,
}

/// A direct-mapped table; two pages may share a slot, which spoils a prediction and nothing else.
#[derive(Debug, Default)]
struct Table {
    slots: Vec<u64>,
    shift: u32,
}

/// Lanes told apart by the context; lane `n` shares the state of lane `n % LANES`.
pub(super) const LANES: usize = 256;

/// Largest number of slots of each table, as a power of two. A small frame has smaller ones: the smallest power of two
/// that is not less than its number of records.
const SPTES_BITS: u32 = 15;
const TABLES_BITS: u32 = 11;
const WORDS_BITS: u32 = 14;
const GFN_MASK: u64 = kvmdirty_common::kind::gfnref::GFN;

impl Context {
    pub fn new() -> Self {
        Self {
            lanes: Vec::new(),
            previous: Vec::new(),
            kinds: 0,
            sptes: Table::default(),
            tables: Table::default(),
            words: Table::default(),
        }
    }

    /// Forgets everything, for a frame with that many records, lanes and kinds.
    pub fn reset(&mut self, records: usize, lanes: usize, kinds: usize) {
        let lanes = lanes.min(LANES);
        self.lanes.clear();
        self.lanes.resize(lanes, LaneState::default());
        self.previous.clear();
        self.previous.resize(lanes * kinds, [0; 4]);
        self.kinds = kinds;
        let bits = records.next_power_of_two().ilog2();
        self.sptes.reset(bits.min(SPTES_BITS));
        self.tables.reset(bits.min(TABLES_BITS));
        self.words.reset(bits.min(WORDS_BITS));
    }

    /// The previous record of that kind on that lane.
    #[inline]
    pub fn previous(&mut self, lane: usize, kind: usize) -> &mut [u64; 4] {
        &mut self.previous[lane * self.kinds + kind]
    }

    /// The prediction for argument `arg` of a record, of which the earlier arguments are known.
    #[inline(always)]
    pub fn predict(&self, at: &At<'_>, arg: usize, source: Source) -> u64 {
        let gfn = at.gfn;
        match source {
            Source::Zero => 0,
            Source::Previous => self.previous[at.lane * self.kinds + at.kind][arg],
            Source::Arg0 => at.args[0],
            Source::Arg1 => at.args[1],
            Source::Arg2 => at.args[2],
            Source::Gfn => gfn,
            Source::Gpa => gfn << 12,
            Source::Spte => self.sptes.slots[self.sptes.slot(gfn, at.vm)],
            Source::Sptep => {
                let slot = self.tables.slot(gfn >> 9, at.vm);
                self.tables.slots[slot].wrapping_add(8 * (gfn & 511))
            }
            Source::Word => self.words.slots[self.words.slot(gfn >> 6, at.vm)],
            Source::WordMarked => {
                self.words.slots[self.words.slot(gfn >> 6, at.vm)] | 1 << (gfn & 63)
            }
        }
    }

    /// Takes note of a value; returns the page the lane works on from now on.
    #[inline(always)]
    pub fn learn(&mut self, gfn: u64, vm: u64, role: Role, value: u64) -> u64 {
        match role {
            Role::Plain => {}
            Role::Gfn => return value & GFN_MASK,
            Role::Gpa => return value >> 12,
            Role::Spte => self.sptes.set(gfn, vm, value),
            Role::Sptep => {
                self.tables.set(gfn >> 9, vm, value.wrapping_sub(8 * (gfn & 511)));
            }
            Role::Word => self.words.set(gfn >> 6, vm, value),
            Role::Taken => self.words.set(gfn >> 6, vm, 0),
        }
        gfn
    }
}

/// The place of a prediction.
#[derive(Debug)]
pub(super) struct At<'a> {
    pub lane: usize,
    pub kind: usize,
    pub vm: u64,
    /// The page the lane works on.
    pub gfn: u64,
    /// The arguments of the record that are known already, zeros behind them.
    pub args: &'a [u64; 4],
}

impl Table {
    fn reset(&mut self, bits: u32) {
        self.slots.clear();
        self.slots.resize(1 << bits, 0);
        self.shift = 63 - bits;
    }

    #[inline]
    fn slot(&self, key: u64, vm: u64) -> usize {
        // Shifting in two steps keeps a table of one slot within 63 bits of shift.
        ((key ^ vm).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 1 >> self.shift) as usize
    }

    #[inline]
    fn set(&mut self, key: u64, vm: u64, value: u64) {
        let slot = self.slot(key, vm);
        self.slots[slot] = value;
    }
}
