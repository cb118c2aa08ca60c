//! Checks of form: documentation, lengths, widths.

use super::{Finding, source::Source};

/// Lines a file may have before its tests.
const FILE_LINES_MAX: usize = 400;
/// Lines a function may have, signature and braces included.
const FUNCTION_LINES_MAX: usize = 60;
/// Lines of a function that is one table: a list of names with nothing to follow in between.
const TABLE_LINES_MAX: usize = 66;
/// Such tables.
const TABLES: [&str; 2] = ["tracer/src/live/offsets.rs", "tracer/src/summary/words.rs"];
/// Columns of a line; of code, rustfmt keeps fewer (rustfmt.toml).
pub const COLUMNS_MAX: usize = 120;

/// Every file opens with its one-sentence purpose.
pub fn opens_with_documentation(source: &Source) -> Vec<Finding> {
    match source.lines.first() {
        Some(line) if line.starts_with("//!") => Vec::new(),
        Some(_) | None => vec![source.finding(0, "the file does not open with //!".to_owned())],
    }
}

/// Files that are over budget and wait to be split; they may not grow past these lines.
const TO_BE_SPLIT: [(&str, usize); 4] = [
    ("tracer/src/trace/reader.rs", 410),
    ("tracer/src/tui/sample.rs", 430),
    ("tracer/src/verdict/detector/fault.rs", 420),
    ("tracer/src/verdict/detector/mod.rs", 410),
];

/// A file that has grown past its budget holds more than one thought.
pub fn file_is_short(source: &Source) -> Vec<Finding> {
    let length = source.tests_start;
    let path = source.path.to_string_lossy();
    let waiting = TO_BE_SPLIT.iter().find(|(file, _)| path.ends_with(file));
    let allowed = waiting.map_or(FILE_LINES_MAX, |&(_, lines)| lines);
    if length <= allowed {
        return Vec::new();
    }
    let what = format!("{length} lines before the tests, {allowed} are allowed");
    vec![source.finding(allowed, what)]
}

/// Relies on rustfmt: a function ends at the first brace that stands as deep as its signature.
pub fn functions_are_short(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    let path = source.path.to_string_lossy();
    let is_table = TABLES.iter().any(|table| path.ends_with(table));
    let allowed = if is_table { TABLE_LINES_MAX } else { FUNCTION_LINES_MAX };
    for (at, line) in source.product() {
        let body = line.trim_start();
        if !is_function(body) {
            continue;
        }
        let closing = format!("{}}}", &line[..line.len() - body.len()]);
        let end = (at..source.tests_start).find(|&end| source.code[end].trim_end() == closing);
        let length = end.map_or(0, |end| end - at + 1);
        let has_body = (at..=end.unwrap_or(at))
            .map(|line| source.code[line].trim_end())
            .find(|line| line.ends_with(['{', ';', '}']))
            .is_some_and(|line| line.ends_with('{'));
        if has_body && allowed < length {
            let what = format!("a function of {length} lines, {allowed} are allowed");
            findings.push(source.finding(at, what));
        }
    }
    findings
}

fn is_function(line: &str) -> bool {
    const BEFORE: [&str; 8] =
        ["pub", "pub(crate)", "pub(super)", "const", "unsafe", "async", "extern", "\"C\""];
    line.split_whitespace().find(|word| !BEFORE.contains(word)) == Some("fn")
}

/// No line is wider than the screen half it is read in, and none ends in blanks.
pub fn lines_fit(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (at, line) in source.lines.iter().enumerate() {
        let columns = line.chars().count();
        // A permalink cannot be broken, a table or a drawn screen in a test neither; a string reads
        // better whole.
        let is_row = source.code[at].trim().is_empty() && line.trim_end().ends_with('|');
        let is_whole = is_row || line.contains("https://") || source.code[at].contains('"');
        let can_break = at < source.tests_start && !is_whole;
        if COLUMNS_MAX < columns && can_break {
            findings.push(source.finding(at, format!("{columns} columns, {COLUMNS_MAX} fit")));
        }
        if line.ends_with([' ', '\t']) {
            findings.push(source.finding(at, "blanks at the end of the line".to_owned()));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> Source {
        Source::new("tracer/src/order/mod.rs".into(), text.to_owned())
    }

    #[test]
    fn undocumented_file_is_found() {
        assert_eq!(opens_with_documentation(&source("use std::fmt;\n")).len(), 1);
        assert_eq!(opens_with_documentation(&source("//! Order.\n")), []);
    }

    #[test]
    fn long_function_is_found_and_a_declaration_is_not() {
        let body = "    a();\n".repeat(60);
        let long = format!("pub fn long() {{\n{body}}}\n");
        assert_eq!(functions_are_short(&source(&long)).len(), 1);
        let declared = format!("trait T {{\n    fn declared();\n{body}}}\n");
        assert_eq!(functions_are_short(&source(&declared)), []);
    }

    #[test]
    fn wide_line_and_trailing_blank_are_found() {
        let text = format!("{}\nshort \n", "x".repeat(121));
        let lines: Vec<usize> = lines_fit(&source(&text)).iter().map(|found| found.line).collect();
        assert_eq!(lines, [1, 2]);
    }
}
