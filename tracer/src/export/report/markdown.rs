//! The report as Markdown, for a bug tracker or a mail.

use std::fmt::Write as _;

use super::block::{Block, Table};
use super::content::blocks;
use super::provenance::Judged;

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
    let _ = match block {
        Block::Headline(outcome, meaning) => {
            writeln!(text, "# kvmdirty-trace: {}\n\n{}\n", outcome.name(), escaped(meaning))
        }
        Block::Facts(facts) => {
            for fact in facts {
                let _ = writeln!(text, "- **{}**: {}", fact.name, escaped(&fact.text));
            }
            writeln!(text)
        }
        Block::Section(section) => writeln!(text, "## {}\n", sentence_case(section.title())),
        Block::Title(title) => writeln!(text, "### {}\n", escaped(title)),
        Block::Sentence(sentence) => writeln!(text, "{}\n", escaped(sentence)),
        Block::Drawing(lines) => writeln!(text, "```text\n{}\n```\n", lines.join("\n")),
        Block::Table(table) => put_table(text, table),
    };
}

fn put_table(text: &mut String, table: &Table) -> std::fmt::Result {
    let row = |cells: &[String]| format!("| {} |", cells.join(" | "));
    let heads: Vec<String> = table.heads.iter().map(|head| escaped(head.name)).collect();
    let rule = |is_number| String::from(if is_number { "---:" } else { "---" });
    let rules: Vec<String> = table.heads.iter().map(|head| rule(head.is_number)).collect();
    writeln!(text, "{}\n{}", row(&heads), row(&rules))?;
    for cells in &table.rows {
        let cells: Vec<String> = cells.iter().map(|cell| escaped(cell)).collect();
        writeln!(text, "{}", row(&cells))?;
    }
    writeln!(text)
}

fn sentence_case(title: &str) -> String {
    let mut letters = title.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

/// What Markdown would take for its own.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        if matches!(letter, '\\' | '`' | '*' | '_' | '<' | '>' | '[' | ']' | '|' | '#') {
            out.push('\\');
        }
        out.push(letter);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_markdown_would_take_for_its_own_is_escaped() {
        assert_eq!(escaped("a|b <c> _d_"), r"a\|b \<c\> \_d\_");
        assert_eq!(sentence_case("exposed pages"), "Exposed pages");
    }
}
