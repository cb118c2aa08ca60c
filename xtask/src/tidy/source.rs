//! A source file as the checks see it.

use std::path::{Path, PathBuf};

use super::Finding;

/// A file, its lines, and its lines without comments.
#[derive(Debug)]
pub struct Source {
    /// Relative to the workspace root.
    pub path: PathBuf,
    /// As written.
    pub lines: Vec<String>,
    /// The same lines without comments; the text of strings stays.
    pub code: Vec<String>,
    /// Index of the line that opens the unit tests, or the number of lines.
    pub tests_start: usize,
}

impl Source {
    /// Reads a file's text.
    pub fn new(path: PathBuf, text: String) -> Self {
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        let code: Vec<String> = lines.iter().map(|line| without_comment(line).to_owned()).collect();
        let opens_tests = |at: &usize| {
            lines[*at] == "#[cfg(test)]"
                && lines.get(at + 1).is_some_and(|next| next.starts_with("mod "))
        };
        let is_test = is_test_path(&path);
        let tests_start =
            if is_test { 0 } else { (0..lines.len()).find(opens_tests).unwrap_or(lines.len()) };
        Self { path, lines, code, tests_start }
    }

    /// The code outside tests, with line indexes.
    pub fn product(&self) -> impl Iterator<Item = (usize, &str)> {
        self.code[..self.tests_start].iter().map(String::as_str).enumerate()
    }

    /// The module of the tracer this file belongs to, if it is one of its library's.
    pub fn layer(&self) -> Option<&str> {
        let within = self.path.strip_prefix("tracer/src").ok()?;
        let first = within.iter().next()?.to_str()?;
        Some(first.strip_suffix(".rs").unwrap_or(first))
    }

    /// A finding in this file; `at` counts from zero.
    pub fn finding(&self, at: usize, what: String) -> Finding {
        Finding { path: self.path.clone(), line: at + 1, what }
    }
}

fn is_test_path(path: &Path) -> bool {
    path.iter().any(|part| part == "tests" || part == "benches" || part == "tests.rs")
}

/// The line up to `//`, unless that stands in a string.
fn without_comment(line: &str) -> &str {
    let mut in_string = false;
    let mut previous = ' ';
    for (at, character) in line.char_indices() {
        match character {
            '"' if previous != '\\' && previous != '\'' => in_string = !in_string,
            '/' if !in_string && line[at..].starts_with("//") => return &line[..at],
            _ => {}
        }
        previous = if previous == '\\' && character == '\\' { ' ' } else { character };
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_go_and_strings_stay() {
        let lines = ["a // b", "\"https://a\" // b", "'\"' // \"", "/// doc"];
        assert_eq!(lines.map(without_comment), ["a ", "\"https://a\" ", "'\"' ", ""]);
    }

    #[test]
    fn tests_are_no_product() {
        let text = "//! A.\nfn a() {}\n#[cfg(test)]\nmod tests {\n}\n";
        let source = Source::new("tracer/src/order/mod.rs".into(), text.to_owned());
        assert_eq!(source.product().count(), 2);
        assert_eq!(source.layer(), Some("order"));
    }
}
