//! Help texts, and that every command line a document shows is one the tool takes.

use std::path::Path;

use clap::{CommandFactory as _, Parser as _};
use kvmdirty_trace::cli::Cli;

use super::tool::run;

#[test]
fn help_of_every_command_reads_as_it_did() {
    let mut names: Vec<String> = Cli::command()
        .get_subcommands()
        .filter(|command| !command.is_hide_set())
        .map(|command| command.get_name().to_owned())
        .collect();
    names.insert(0, String::new());
    for name in names {
        let arguments: Vec<&str> =
            [name.as_str(), "--help"].into_iter().filter(|a| !a.is_empty()).collect();
        let said = run(&arguments);
        assert_eq!(said.status, 0);
        assert!(said.out.contains("Example"), "{name} --help has no example");
        let snapshot = if name.is_empty() { "help" } else { &format!("help-{name}") };
        insta::assert_snapshot!(snapshot, said.out);
    }
}

/// The command lines in a text: what follows `kvmdirty-trace` on lines that begin with it.
fn command_lines(text: &str) -> Vec<Vec<String>> {
    let mut lines = Vec::new();
    for line in text.lines().flat_map(|line| line.split(" && ")) {
        let line = line.trim().trim_start_matches("$ ").trim_start_matches("sudo ");
        let line = match line.split_once(" -- ") {
            Some((before, rest)) if before.starts_with("cargo xtask lab") => rest,
            _ => line,
        };
        let demo = line.strip_prefix("cargo run --release -- ");
        let Some(rest) = line.strip_prefix("kvmdirty-trace ").or(demo) else { continue };
        // The first lines of the dashboard, as the README shows it, begin with the tool's name as well.
        if rest.starts_with(' ') || rest.contains('\u{b7}') {
            continue;
        }
        // Comments, redirections and pipes belong to the shell.
        let rest = rest.split(" #").next().unwrap_or_default();
        let rest = rest.split([';', '|', '>']).next().unwrap_or_default();
        let rest = rest.replace("$(pidof qemu-system-x86_64)", "4711");
        lines.push(rest.split_whitespace().map(str::to_owned).collect());
    }
    lines
}

fn all_parse(name: &str, text: &str) -> usize {
    let lines = command_lines(text);
    for line in &lines {
        let words = std::iter::once("kvmdirty-trace").chain(line.iter().map(String::as_str));
        if let Err(error) = Cli::try_parse_from(words) {
            let is_asked = matches!(
                error.kind(),
                clap::error::ErrorKind::DisplayHelp | clap::error::ErrorKind::DisplayVersion
            );
            assert!(is_asked, "{name}: `kvmdirty-trace {}`: {error}", line.join(" "));
        }
    }
    lines.len()
}

#[test]
fn every_command_line_of_the_readme_and_the_docs_is_taken() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let readme = std::fs::read_to_string(root.join("README.md")).unwrap();
    assert!(8 <= all_parse("README.md", &readme), "README.md has lost its examples");
    for entry in std::fs::read_dir(root.join("docs")).unwrap().flatten() {
        if entry.path().extension().is_some_and(|ending| ending == "md") {
            let text = std::fs::read_to_string(entry.path()).unwrap();
            all_parse(&entry.path().display().to_string(), &text);
        }
    }
}

#[test]
fn every_example_of_a_help_text_is_taken() {
    for command in Cli::command().get_subcommands().filter(|command| !command.is_hide_set()) {
        let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        assert!(0 < all_parse(command.get_name(), &help), "{}: {help}", command.get_name());
    }
}

#[test]
fn explain_alone_lists_every_rule() {
    let said = run(&["explain"]);
    assert_eq!(said.status, 0);
    assert_eq!(said.out.lines().count(), 15);
    for (line, number) in said.out.lines().zip(1..) {
        assert!(line.starts_with(&format!("K{number:02}  ")), "{line}");
    }
    assert!(run(&["explain", "k06"]).out.contains("kvm_dirty_ring_reset"));
}

#[test]
fn every_help_fits_its_screen() {
    for line in run(&["--help"]).out.lines() {
        assert!(line.chars().count() <= 100, "{line}");
    }
}
