//! Rows: one definition per table, from which CSV, JSON lines, Parquet and the JSON Schema all take names and types.

use std::fmt::{self, Write as _};

use serde::{Serialize, Serializer};

use crate::event::SlotId;

/// A column of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: &'static str,
    /// Its type.
    pub ty: ColumnType,
    /// It can be absent.
    pub nullable: bool,
    /// What it means.
    pub doc: &'static str,
}

/// Types of columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ColumnType {
    /// An unsigned integer.
    Unsigned,
    /// A time in nanoseconds of CLOCK_MONOTONIC: unsigned, sorted or nearly so.
    Time,
    /// A signed integer.
    Signed,
    /// A bit pattern or kernel address: text `0x..` in JSON and CSV, because JSON numbers end at 2^53.
    Bits,
    /// True or false.
    Bool,
    /// Text.
    Text,
    /// A JSON value; text in CSV and Parquet.
    Json,
}

/// One value of a row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Cell<'a> {
    /// [`ColumnType::Unsigned`] or [`ColumnType::Time`].
    Unsigned(u64),
    /// [`ColumnType::Signed`].
    Signed(i64),
    /// [`ColumnType::Bits`].
    Bits(u64),
    /// [`ColumnType::Bool`].
    Bool(bool),
    /// [`ColumnType::Text`].
    Text(&'a str),
    /// A slot, [`ColumnType::Text`].
    Slot(SlotId),
    /// [`ColumnType::Json`].
    Json(&'a serde_json::Value),
}

/// A row of a table.
pub trait Row: Serialize {
    /// The columns, in order.
    const COLUMNS: &'static [Column];

    /// Shows every column's value in order, `None` where it is absent.
    fn for_each_cell(&self, visit: &mut dyn FnMut(Option<Cell<'_>>));
}

/// A type of value a row can hold.
pub trait Value {
    /// The column's type.
    const TYPE: ColumnType;
    /// The value can be absent.
    const NULLABLE: bool = false;

    /// The value, `None` if absent.
    fn cell(&self) -> Option<Cell<'_>>;

    /// There is no value.
    fn is_absent(&self) -> bool {
        self.cell().is_none()
    }
}

/// A bit pattern or an address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bits(pub u64);

/// A time in nanoseconds of CLOCK_MONOTONIC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Time(pub u64);

/// A slot as text, `as_id:id`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Slot(pub SlotId);

/// Words joined by `|`; absent if there are none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flags(String);

impl Flags {
    /// Adds `word` where `condition` holds.
    #[must_use]
    pub fn with(mut self, condition: bool, word: &str) -> Self {
        if condition {
            if !self.0.is_empty() {
                self.0.push('|');
            }
            self.0.push_str(word);
        }
        self
    }
}

macro_rules! unsigned {
    ($($ty:ty),+) => {
        $(impl Value for $ty {
            const TYPE: ColumnType = ColumnType::Unsigned;

            fn cell(&self) -> Option<Cell<'_>> {
                Some(Cell::Unsigned(u64::from(*self)))
            }
        })+
    };
}

unsigned!(u8, u16, u32, u64);

impl Value for Time {
    const TYPE: ColumnType = ColumnType::Time;

    fn cell(&self) -> Option<Cell<'_>> {
        Some(Cell::Unsigned(self.0))
    }
}

impl Value for i64 {
    const TYPE: ColumnType = ColumnType::Signed;

    fn cell(&self) -> Option<Cell<'_>> {
        Some(Cell::Signed(*self))
    }
}

impl Value for Bits {
    const TYPE: ColumnType = ColumnType::Bits;

    fn cell(&self) -> Option<Cell<'_>> {
        Some(Cell::Bits(self.0))
    }
}

impl Value for bool {
    const TYPE: ColumnType = ColumnType::Bool;

    fn cell(&self) -> Option<Cell<'_>> {
        Some(Cell::Bool(*self))
    }
}

impl Value for &'static str {
    const TYPE: ColumnType = ColumnType::Text;

    fn cell(&self) -> Option<Cell<'_>> {
        Some(Cell::Text(self))
    }
}

impl Value for String {
    const TYPE: ColumnType = ColumnType::Text;

    fn cell(&self) -> Option<Cell<'_>> {
        Some(Cell::Text(self))
    }
}

impl Value for Slot {
    const TYPE: ColumnType = ColumnType::Text;

    fn cell(&self) -> Option<Cell<'_>> {
        Some(Cell::Slot(self.0))
    }
}

impl Value for Flags {
    const TYPE: ColumnType = ColumnType::Text;
    const NULLABLE: bool = true;

    fn cell(&self) -> Option<Cell<'_>> {
        (!self.0.is_empty()).then_some(Cell::Text(&self.0))
    }
}

impl Value for serde_json::Value {
    const TYPE: ColumnType = ColumnType::Json;

    fn cell(&self) -> Option<Cell<'_>> {
        Some(Cell::Json(self))
    }
}

impl<T: Value> Value for Option<T> {
    const TYPE: ColumnType = T::TYPE;
    const NULLABLE: bool = true;

    fn cell(&self) -> Option<Cell<'_>> {
        self.as_ref().and_then(Value::cell)
    }
}

impl Serialize for Bits {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{:#x}", self.0))
    }
}

impl Serialize for Slot {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl Serialize for Flags {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.split('|'))
    }
}

impl fmt::Display for Cell<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unsigned(value) => write!(f, "{value}"),
            Self::Signed(value) => write!(f, "{value}"),
            Self::Bits(value) => write!(f, "{value:#x}"),
            Self::Bool(value) => write!(f, "{value}"),
            Self::Text(text) => f.write_str(text),
            Self::Slot(slot) => write!(f, "{slot}"),
            Self::Json(value) => write!(f, "{value}"),
        }
    }
}

/// Replaces the contents of `text` by the cell's text, or by nothing.
pub fn set_text(text: &mut String, cell: Option<Cell<'_>>) {
    text.clear();
    if let Some(cell) = cell {
        write!(text, "{cell}").expect("a String takes every write");
    }
}

macro_rules! rows {
    ($($(#[$doc:meta])* $row:ident { $($name:ident : $ty:ty = $text:literal,)+ })+) => {
        $(
            $(#[$doc])*
            #[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
            pub struct $row {
                $(
                    #[doc = $text]
                    #[serde(skip_serializing_if = "crate::export::row::Value::is_absent")]
                    pub $name: $ty,
                )+
            }

            impl $crate::export::row::Row for $row {
                const COLUMNS: &'static [$crate::export::row::Column] = &[
                    $($crate::export::row::Column {
                        name: stringify!($name),
                        ty: <$ty as $crate::export::row::Value>::TYPE,
                        nullable: <$ty as $crate::export::row::Value>::NULLABLE,
                        doc: $text,
                    }),+
                ];

                fn for_each_cell(&self, visit: &mut dyn FnMut(Option<$crate::export::row::Cell<'_>>)) {
                    $(visit($crate::export::row::Value::cell(&self.$name));)+
                }
            }
        )+
    };
}

pub(super) use rows;
