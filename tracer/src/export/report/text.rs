//! The text report: what a person reads first, at a terminal.

use std::fmt::Write as _;

use super::block::{Block, Fact, Table, wrap};
use super::content::blocks;
use super::provenance::Judged;

/// Columns of a line of prose.
const WIDTH: usize = 110;

/// Columns of a fact's name.
const NAME: usize = 11;

/// The report of a judged trace.
#[must_use]
pub fn report(judged: &Judged<'_>) -> String {
    let mut text = String::new();
    for block in blocks(judged) {
        put(&mut text, &block);
    }
    text
}

fn put(text: &mut String, block: &Block) {
    match block {
        Block::Headline(outcome, meaning) => {
            let _ = writeln!(text, "{}: {meaning}\n", outcome.name());
        }
        Block::Facts(facts) => facts.iter().for_each(|fact| put_fact(text, fact)),
        Block::Section(section) => {
            let _ = writeln!(text, "\n{}", section.title().to_uppercase());
        }
        Block::Title(title) => {
            let _ = writeln!(text, "\n{title}");
        }
        Block::Sentence(sentence) => {
            for line in wrap(sentence, WIDTH) {
                let _ = writeln!(text, "  {line}");
            }
        }
        Block::Drawing(lines) => {
            text.push('\n');
            for line in lines {
                let _ = writeln!(text, "  {line}");
            }
        }
        Block::Table(table) => put_table(text, table),
    }
}

fn put_fact(text: &mut String, Fact { name, text: said }: &Fact) {
    for (n, line) in wrap(said, WIDTH - NAME).into_iter().enumerate() {
        let name = if n == 0 { name } else { "" };
        let _ = writeln!(text, "{name:<NAME$}{line}");
    }
}

fn put_table(text: &mut String, table: &Table) {
    let widths = table.widths();
    let heads: Vec<String> = table.heads.iter().map(|head| head.name.to_owned()).collect();
    for row in std::iter::once(&heads).chain(&table.rows) {
        let mut line = String::new();
        for ((cell, &width), head) in row.iter().zip(&widths).zip(&table.heads) {
            let _ = match head.is_number {
                true => write!(line, "  {cell:>width$}"),
                false => write!(line, "  {cell:<width$}"),
            };
        }
        let _ = writeln!(text, "{}", line.trim_end());
    }
}
