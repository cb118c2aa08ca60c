//! `cargo xtask tidy --reflow`: breaks comments that are too wide, and touches nothing else.
//!
//! Only paragraphs with a line that is too wide are broken anew. Fenced code, tables, headings,
//! link targets and indented lines stay as they are.

use super::style::COLUMNS_MAX;

/// The text with its wide comments broken.
pub fn comments(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let mut out: Vec<String> = Vec::new();
    let mut in_fence = false;
    let mut at = 0;
    while at < lines.len() {
        let line = lines[at];
        let prose = Comment::parse(line);
        in_fence ^= prose.is_some_and(|comment| comment.text.starts_with("```"));
        let Some(first) = prose.filter(|comment| !in_fence && comment.is_prose()) else {
            out.push(line.to_owned());
            at += 1;
            continue;
        };
        let end = paragraph_end(&lines, at, first);
        let paragraph = &lines[at..end];
        if paragraph.iter().any(|line| COLUMNS_MAX < line.chars().count()) {
            out.extend(broken(paragraph, first));
        } else {
            out.extend(paragraph.iter().map(|&line| line.to_owned()));
        }
        at = end;
    }
    out.join("\n") + "\n"
}

/// A line that is nothing but a comment.
#[derive(Debug, Clone, Copy)]
struct Comment<'a> {
    /// Indentation, marker and one blank.
    prefix: &'a str,
    text: &'a str,
}

impl<'a> Comment<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let body = line.trim_start();
        let marker = ["//! ", "/// ", "// "].into_iter().find(|marker| body.starts_with(marker))?;
        let (prefix, text) = line.split_at(line.len() - body.len() + marker.len());
        Some(Self { prefix, text })
    }

    fn is_prose(&self) -> bool {
        let is_special = [" ", "|", "#", "```", "["].iter().any(|sign| self.text.starts_with(sign));
        !is_special || self.text.starts_with("[`")
    }

    /// Blanks under which the lines of a list item continue.
    fn hanging(&self) -> &'static str {
        let is_numbered = || {
            let (number, rest) = self.text.split_once(". ").unwrap_or_default();
            !rest.is_empty() && number.len() == 1 && number.bytes().all(|b| b.is_ascii_digit())
        };
        match self.text {
            text if text.starts_with("- ") || text.starts_with("* ") => "  ",
            _ if is_numbered() => "   ",
            _ => "",
        }
    }
}

/// One past the last line of the paragraph that starts at `at`.
fn paragraph_end(lines: &[&str], at: usize, first: Comment<'_>) -> usize {
    let hanging = first.hanging();
    let belongs = |line: &&&str| {
        Comment::parse(line).is_some_and(|comment| {
            let text = comment.text.strip_prefix(hanging);
            comment.prefix == first.prefix
                && text.is_some_and(|text| {
                    let rest = Comment { prefix: comment.prefix, text };
                    rest.is_prose() && rest.hanging().is_empty()
                })
        })
    };
    at + 1 + lines[at + 1..].iter().take_while(belongs).count()
}

fn broken(paragraph: &[&str], first: Comment<'_>) -> Vec<String> {
    let words = paragraph.iter().flat_map(|line| line[first.prefix.len()..].split_whitespace());
    let mut lines = Vec::new();
    let mut line = first.prefix.to_owned();
    let mut is_empty = true;
    for word in words {
        if !is_empty && COLUMNS_MAX < line.chars().count() + 1 + word.chars().count() {
            lines.push(std::mem::replace(&mut line, first.prefix.to_owned() + first.hanging()));
            is_empty = true;
        }
        if !is_empty {
            line.push(' ');
        }
        line += word;
        is_empty = false;
    }
    lines.push(line);
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(count: usize) -> String {
        vec!["words"; count].join(" ")
    }

    #[test]
    fn wide_paragraph_is_broken_and_its_neighbours_stay() {
        let text = format!("//! Short.\n//!\n//! {}\nuse a;\n", words(24));
        let (first, second) = (words(19), words(5));
        let expected = format!("//! Short.\n//!\n//! {first}\n//! {second}\nuse a;\n");
        assert_eq!(comments(&text), expected);
    }

    #[test]
    fn list_items_hang() {
        let text = format!("    /// - {}\n    ///   more\n    /// - next\n", words(21));
        let (first, second) = (words(18), words(3));
        let expected = format!("    /// - {first}\n    ///   {second} more\n    /// - next\n");
        assert_eq!(comments(&text), expected);
    }

    #[test]
    fn fences_and_tables_stay() {
        let wide = words(24);
        let text = format!("//! ```text\n//! {wide}\n//! ```\n//! | {wide} |\n");
        assert_eq!(comments(&text), text);
    }
}
