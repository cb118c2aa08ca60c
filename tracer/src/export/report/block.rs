//! A report before it is text, Markdown or HTML: the same blocks in the same order for all three.

use crate::outcome::Outcome;

/// A piece of a report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Block {
    /// How it ends, and what that means: the first thing a person reads.
    Headline(Outcome, &'static str),
    /// Names and what there is to say about them.
    Facts(Vec<Fact>),
    /// A new section.
    Section(Section),
    /// One finding's title.
    Title(String),
    /// A sentence.
    Sentence(String),
    /// Lines whose columns count.
    Drawing(Vec<String>),
    /// Rows of equal length under their heads.
    Table(Table),
}

/// One fact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fact {
    pub name: &'static str,
    pub text: String,
}

/// The sections, by name, so that a form can add to one what only it can show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Section {
    Hazards,
    Exposed,
    Windows,
    Harvests,
    Memory,
    Losses,
}

/// A table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Table {
    pub heads: Vec<Head>,
    pub rows: Vec<Vec<String>>,
}

/// The head of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub name: &'static str,
    /// Numbers stand flush right.
    pub is_number: bool,
}

impl Section {
    pub const fn title(self) -> &'static str {
        match self {
            Self::Hazards => "hazards",
            Self::Exposed => "exposed pages",
            Self::Windows => "windows",
            Self::Harvests => "harvests",
            Self::Memory => "memory",
            Self::Losses => "dropped records and other doubts",
        }
    }
}

impl Table {
    /// A table with these columns; a name that begins with `#` is of numbers.
    pub fn new(names: &[&'static str]) -> Self {
        let head = |&name: &&'static str| match name.strip_prefix('#') {
            Some(name) => Head { name, is_number: true },
            None => Head { name, is_number: false },
        };
        Self { heads: names.iter().map(head).collect(), rows: Vec::new() }
    }

    /// Adds a row, one cell per column.
    pub fn row(&mut self, cells: Vec<String>) {
        assert_eq!(cells.len(), self.heads.len(), "a row has a cell for every column");
        self.rows.push(cells);
    }

    /// Columns each column needs.
    pub fn widths(&self) -> Vec<usize> {
        let mut widths: Vec<usize> = self.heads.iter().map(|head| head.name.len()).collect();
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = cell.chars().count().max(*width);
            }
        }
        widths
    }
}

impl Fact {
    pub fn new(name: &'static str, text: impl Into<String>) -> Self {
        Self { name, text: text.into() }
    }
}

/// Breaks a text into lines of at most `width` columns, at blanks where there are any.
pub(super) fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let mut word = word;
        loop {
            let line = lines.last_mut().expect("there is always a line");
            let used = line.chars().count();
            let needed = word.chars().count() + usize::from(used != 0);
            if used + needed <= width {
                if used != 0 {
                    line.push(' ');
                }
                line.push_str(word);
                break;
            }
            if used != 0 {
                lines.push(String::new());
                continue;
            }
            // A word wider than a line is cut.
            let at = word.char_indices().nth(width.max(1)).map_or(word.len(), |(at, _)| at);
            line.push_str(&word[..at]);
            word = &word[at..];
            lines.push(String::new());
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_break_at_blanks_and_long_words_are_cut() {
        assert_eq!(wrap("take the bit of a page", 10), ["take the", "bit of a", "page"]);
        assert_eq!(wrap("0123456789abc d", 5), ["01234", "56789", "abc d"]);
        assert_eq!(wrap("", 5), [""]);
    }
}
