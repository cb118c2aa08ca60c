//! Fields of an event line: `name=value` words, and how each type of value is read and written.

use std::cell::Cell;
use std::fmt::Write as _;

use super::read::Slots;
use crate::event::{Gfn, SpteMasks, VmId};

/// What is wrong with a line, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// No such directive or kind.
    #[error(
        "no kind `{0}`; write a record kind such as `mark`, or one of setup, thread, gap, expect"
    )]
    Kind(String),
    /// A line with a thread and nothing else.
    #[error("`{0}` stands alone; write `<thread> <kind> [@time] field=value ...`")]
    NoKind(String),
    /// The kind has no such field.
    #[error("no field `{field}` here; write {known}")]
    Field {
        /// The word.
        field: String,
        /// What may stand here.
        known: String,
    },
    /// A field is missing.
    #[error("`{field}` is missing; write {field}=<{wanted}>")]
    Missing {
        /// The field.
        field: &'static str,
        /// Its type in words.
        wanted: &'static str,
    },
    /// A field's value cannot be read.
    #[error("`{field}={value}` cannot be read; write {field}=<{wanted}>")]
    Value {
        /// The field.
        field: String,
        /// What stands there.
        value: String,
        /// Its type in words.
        wanted: &'static str,
    },
    /// A time cannot be read.
    #[error(
        "`@{0}` is no time; write @100, @100..140, @..140, or @name.. after a `begin name` line"
    )]
    Time(String),
    /// A span too long for a record.
    #[error("@{lo}..{hi} is longer than 2^32 - 2 ns; write @..{hi} for an unknown begin")]
    Span {
        /// Begin.
        lo: u64,
        /// End.
        hi: u64,
    },
    /// No slot is known for the page.
    #[error("no slot-state line above covers gfn {0}; add one or write slot=<as:id[+log][+map]>")]
    NoSlot(Gfn),
    /// A word that is not `key=value` where one is needed.
    #[error("`{word}` is not understood in {place}; write {known}")]
    Word {
        /// The word.
        word: String,
        /// The directive.
        place: &'static str,
        /// What may stand here.
        known: &'static str,
    },
}

/// The words of one event line behind its kind.
pub(super) struct Fields<'a> {
    words: Vec<(&'a str, Option<&'a str>, Cell<bool>)>,
    pub masks: &'a SpteMasks,
    pub slots: &'a Slots,
    pub vm: VmId,
    /// The page the line speaks of, as far as it was read.
    pub page: Cell<Option<Gfn>>,
}

impl<'a> Fields<'a> {
    /// Splits `words` into names and values.
    pub(super) fn new(words: &[&'a str], masks: &'a SpteMasks, slots: &'a Slots, vm: VmId) -> Self {
        let words = words
            .iter()
            .map(|word| match word.split_once('=') {
                Some((name, value)) => (name, Some(value), Cell::new(false)),
                None => (*word, None, Cell::new(false)),
            })
            .collect();
        Self { words, masks, slots, vm, page: Cell::new(None) }
    }

    /// The value of `name`, which counts as read from now on; a bare word reads `yes`.
    pub(super) fn text(&self, name: &str) -> Option<&'a str> {
        let (_, value, used) = self.words.iter().find(|(word, ..)| *word == name)?;
        used.set(true);
        Some(value.unwrap_or("yes"))
    }

    /// Reads `name` with `T`'s reader.
    pub(super) fn value<T: Value>(&self, name: &str) -> Result<Option<T>, Problem> {
        let Some(text) = self.text(name) else { return Ok(None) };
        match T::parse(text, self) {
            Some(value) => Ok(Some(value)),
            None => Err(Problem::Value {
                field: name.to_owned(),
                value: text.to_owned(),
                wanted: T::WANTED,
            }),
        }
    }

    /// The text of `mask` or of its other name.
    fn mask_text(&self) -> Option<&'a str> {
        self.text("mask").or_else(|| self.text("gfns"))
    }

    /// The first word that nobody read.
    pub(super) fn unread(&self) -> Option<&'a str> {
        self.words.iter().find(|(.., used)| !used.get()).map(|(name, ..)| *name)
    }
}

/// The words of one event line, being written.
pub(super) struct Words<'a> {
    pub text: String,
    pub masks: &'a SpteMasks,
    pub page: Option<Gfn>,
}

impl Words<'_> {
    pub(super) fn put(&mut self, name: &str, value: &str) {
        let _ = write!(self.text, " {name}={value}");
    }
}

/// A type that stands in a field.
pub(super) trait Value: Sized + PartialEq {
    /// What is wanted, for messages.
    const WANTED: &'static str;

    /// Reads the value's text.
    fn parse(text: &str, fields: &Fields<'_>) -> Option<Self>;

    /// Writes the value's text.
    fn show(&self, name: &str, words: &Words<'_>) -> String;

    /// Reads the field, or gives the default.
    fn take(
        fields: &Fields<'_>,
        name: &'static str,
        default: Option<Self>,
    ) -> Result<Self, Problem> {
        match (fields.value(name)?, default) {
            (Some(value), _) | (None, Some(value)) => Ok(value),
            (None, None) => Err(Problem::Missing { field: name, wanted: Self::WANTED }),
        }
    }

    /// Writes the field, unless it is the default.
    fn put(&self, words: &mut Words<'_>, name: &'static str, default: Option<Self>) {
        if default.as_ref() != Some(self) {
            let text = self.show(name, words);
            words.put(name, &text);
        }
    }
}

/// Reads a number, decimal or with `0x`, `_` allowed between digits.
pub(super) fn number(text: &str) -> Option<u64> {
    let digits: String = text.chars().filter(|c| *c != '_').collect();
    match digits.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => digits.parse().ok(),
    }
}

macro_rules! small_numbers {
    ($($type:ty),+) => { $(
        impl Value for $type {
            const WANTED: &'static str = "number";
            fn parse(text: &str, _: &Fields<'_>) -> Option<Self> {
                number(text)?.try_into().ok()
            }
            fn show(&self, _: &str, _: &Words<'_>) -> String {
                self.to_string()
            }
        }
    )+ };
}

small_numbers!(u8, u32);

impl Value for u64 {
    const WANTED: &'static str = "number or [gfn,gfn,...] or all";

    fn parse(text: &str, fields: &Fields<'_>) -> Option<Self> {
        if text == "all" {
            // One gfn alone looks like a number.
            if let (None, Some(gfns)) = (fields.text("mask"), fields.text("gfns")) {
                return mask_of(gfns, fields.page.get()?);
            }
            let mask = fields.mask_text().filter(|mask| *mask != "all")?;
            return Self::parse(mask, fields);
        }
        if text.starts_with('[') || text.contains(',') {
            return mask_of(text, fields.page.get()?);
        }
        number(text)
    }

    fn show(&self, name: &str, words: &Words<'_>) -> String {
        let is_mask = matches!(name, "mask" | "protected" | "writable");
        match words.page {
            Some(first) if is_mask && (1..=4).contains(&self.count_ones()) => list_of(*self, first),
            _ if is_mask
                || matches!(
                    name,
                    "word" | "bitmap" | "start" | "end" | "sptep" | "lock" | "gpa" | "addr"
                ) =>
            {
                format!("{self:#x}")
            }
            _ => self.to_string(),
        }
    }

    fn take(
        fields: &Fields<'_>,
        name: &'static str,
        default: Option<Self>,
    ) -> Result<Self, Problem> {
        let listed = match (name, fields.text("gfns"), fields.page.get()) {
            ("mask", Some(list), Some(first)) => mask_of(list, first),
            _ => None,
        };
        let Some(value) = fields.value(name)?.or(listed).or(default) else {
            return Err(Problem::Missing { field: name, wanted: Self::WANTED });
        };
        if name == "gpa" {
            fields.page.set(Some(Gfn(value >> 12)));
        }
        Ok(value)
    }
}

/// The gfns of a list such as `[0x7,0xe]`, as bits of a word that begins at `first`.
fn mask_of(list: &str, first: Gfn) -> Option<u64> {
    let mut mask = 0;
    let list = list.trim_start_matches('[').trim_end_matches(']');
    for gfn in list.split(',').filter(|item| !item.is_empty()) {
        let bit = number(gfn)?.checked_sub(first.0).filter(|bit| *bit < 64)?;
        mask |= 1 << bit;
    }
    Some(mask)
}

fn list_of(mask: u64, first: Gfn) -> String {
    let gfns: Vec<_> = (0..64)
        .filter(|bit| mask >> bit & 1 != 0)
        .map(|bit| Gfn(first.0.wrapping_add(bit)).to_string())
        .collect();
    format!("[{}]", gfns.join(","))
}

/// First gfn of the aligned word that holds the first gfn of a list such as `[0x47,0x48]`.
fn word_base(list: &str) -> Option<Gfn> {
    let first = list.trim_start_matches('[').split([',', ']']).next()?;
    Some(Gfn(number(first)? & !63))
}

impl Value for i64 {
    const WANTED: &'static str = "signed number";

    fn parse(text: &str, _: &Fields<'_>) -> Option<Self> {
        text.parse().ok()
    }

    fn show(&self, _: &str, _: &Words<'_>) -> String {
        self.to_string()
    }
}

impl Value for bool {
    const WANTED: &'static str = "yes|no";

    fn parse(text: &str, _: &Fields<'_>) -> Option<Self> {
        match text {
            "yes" => Some(true),
            "no" => Some(false),
            _ => None,
        }
    }

    fn show(&self, _: &str, _: &Words<'_>) -> String {
        String::from(if *self { "yes" } else { "no" })
    }

    fn put(&self, words: &mut Words<'_>, name: &'static str, default: Option<Self>) {
        match (*self, default) {
            (true, Some(true)) | (false, Some(false)) => {}
            (true, _) => {
                let _ = write!(words.text, " {name}");
            }
            (false, _) => words.put(name, "no"),
        }
    }
}

impl<T: Value> Value for Option<T> {
    const WANTED: &'static str = T::WANTED;

    fn parse(text: &str, fields: &Fields<'_>) -> Option<Self> {
        if text == "?" { Some(None) } else { T::parse(text, fields).map(Some) }
    }

    fn show(&self, name: &str, words: &Words<'_>) -> String {
        self.as_ref().map_or_else(|| String::from("?"), |value| value.show(name, words))
    }
}

impl Value for Gfn {
    const WANTED: &'static str = "gfn";

    fn parse(text: &str, _: &Fields<'_>) -> Option<Self> {
        number(text).map(Self)
    }

    fn show(&self, _: &str, _: &Words<'_>) -> String {
        self.to_string()
    }

    fn take(
        fields: &Fields<'_>,
        name: &'static str,
        default: Option<Self>,
    ) -> Result<Self, Problem> {
        let implied = match (name, fields.text("gfns"), fields.mask_text()) {
            ("first", Some(list), _) => word_base(list),
            ("first", None, Some(list)) if list.starts_with('[') => word_base(list),
            _ => None,
        };
        let Some(gfn) = fields.value(name)?.or(implied).or(default) else {
            return Err(Problem::Missing { field: name, wanted: Self::WANTED });
        };
        fields.page.set(Some(gfn));
        Ok(gfn)
    }

    fn put(&self, words: &mut Words<'_>, name: &'static str, default: Option<Self>) {
        words.page = Some(*self);
        if default != Some(*self) {
            words.put(name, &self.to_string());
        }
    }
}
