//! The report as one HTML file that needs nothing else: styles and plots are inside, no script, no link to load.

mod plot;

use std::fmt::Write as _;

use super::block::{Block, Section, Table};
use super::content::blocks;
use super::provenance::Judged;

/// The report of a judged trace.
#[must_use]
pub fn report(judged: &Judged<'_>) -> String {
    let mut page = String::new();
    let title = judged.provenance.map_or("live trace", |file| &file.file);
    let _ = write!(
        page,
        "{HEAD}<title>kvmdirty-trace: {}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n",
        escaped(title)
    );
    for block in blocks(judged) {
        put(&mut page, &block, judged);
    }
    page.push_str("</body>\n</html>\n");
    page
}

const HEAD: &str = "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
                    <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n";

const STYLE: &str = include_str!("html/style.css");

fn put(page: &mut String, block: &Block, judged: &Judged<'_>) {
    let _ = match block {
        Block::Headline(outcome, meaning) => writeln!(
            page,
            "<h1><span class=\"{name}\">{name}</span></h1>\n<p>{}</p>",
            escaped(meaning),
            name = outcome.name()
        ),
        Block::Facts(facts) => {
            page.push_str("<dl>\n");
            for fact in facts {
                let _ = writeln!(page, "<dt>{}</dt><dd>{}</dd>", fact.name, escaped(&fact.text));
            }
            writeln!(page, "</dl>")
        }
        Block::Section(section) => {
            let _ = writeln!(page, "<h2>{}</h2>", section.title());
            for figure in figures(*section, judged) {
                page.push_str(&figure);
            }
            Ok(())
        }
        Block::Title(title) => writeln!(page, "<h3>{}</h3>", escaped(title)),
        Block::Sentence(sentence) => writeln!(page, "<p>{}</p>", escaped(sentence)),
        Block::Drawing(lines) => writeln!(page, "<pre>{}</pre>", escaped(&lines.join("\n"))),
        Block::Table(table) => put_table(page, table),
    };
}

/// What only a page can show.
fn figures(section: Section, judged: &Judged<'_>) -> Vec<String> {
    match section {
        Section::Windows => plot::window_histograms(judged.summary),
        Section::Harvests => plot::convergence(judged.summary),
        Section::Memory => plot::heat_maps(judged.summary),
        Section::Hazards | Section::Exposed | Section::Losses => Vec::new(),
    }
}

fn put_table(page: &mut String, table: &Table) -> std::fmt::Result {
    let class = |is_number: bool| if is_number { " class=\"number\"" } else { "" };
    write!(page, "<table>\n<tr>")?;
    for head in &table.heads {
        write!(page, "<th{}>{}</th>", class(head.is_number), escaped(head.name))?;
    }
    writeln!(page, "</tr>")?;
    for row in &table.rows {
        write!(page, "<tr>")?;
        for (cell, head) in row.iter().zip(&table.heads) {
            write!(page, "<td{}>{}</td>", class(head.is_number), escaped(cell))?;
        }
        writeln!(page, "</tr>")?;
    }
    writeln!(page, "</table>")
}

/// What HTML would take for its own; a VMM's command line is anybody's text.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            letter => out.push(letter),
        }
    }
    out
}
