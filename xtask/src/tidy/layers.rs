//! Who may import whom in the tracer: the table of ARCHITECTURE.md, as data.

use super::{Finding, source::Source};

/// One module of the tracer and what it may use.
struct Layer {
    name: &'static str,
    /// Modules of the tracer.
    modules: &'static [&'static str],
    /// Crates other than `std`.
    crates: &'static [&'static str],
}

/// Pure: no clock, no file, no terminal, no thread, no async, nothing that can fail.
const PURE: [&str; 5] = ["event", "order", "verdict", "summary", "pipeline"];

/// In reading order. Whoever adds a module or an edge changes this table and ARCHITECTURE.md
/// together.
const LAYERS: [Layer; 16] = [
    // `Setup` stands in every recording's header, so the types of the plan are serializable.
    Layer { name: "event", modules: &[], crates: &["kvmdirty_common", "zerocopy", "serde"] },
    Layer { name: "order", modules: &["event"], crates: &["kvmdirty_common"] },
    Layer { name: "verdict", modules: &["event", "order"], crates: &["kvmdirty_common"] },
    Layer { name: "summary", modules: &["event", "order", "verdict"], crates: &[] },
    Layer { name: "pipeline", modules: &["event", "order", "verdict", "summary"], crates: &[] },
    Layer {
        name: "trace",
        // Litmus files state expectations about summaries.
        modules: &["event", "verdict", "summary"],
        crates: &[
            "kvmdirty_common",
            "zerocopy",
            "thiserror",
            "crc32fast",
            "zstd",
            "serde",
            "serde_json",
        ],
    },
    Layer {
        name: "live",
        modules: &["event"],
        crates: &[
            "kvmdirty_common",
            "zerocopy",
            "thiserror",
            "aya",
            "aya_log",
            "aya_obj",
            "log",
            "tokio",
            "libc",
            "nix",
        ],
    },
    Layer {
        name: "demo",
        modules: &["event"],
        crates: &[
            "kvmdirty_common",
            "thiserror",
            "kvm_bindings",
            "kvm_ioctls",
            "libc",
            "nix",
            "serde",
            "serde_json",
            "clap",
        ],
    },
    Layer {
        name: "export",
        modules: &["event", "order", "verdict", "summary", "pipeline", "outcome"],
        crates: &["kvmdirty_common", "serde", "serde_json", "thiserror", "prost", "parquet"],
    },
    Layer {
        name: "feed",
        modules: &["event", "order", "verdict", "summary"],
        crates: &["tokio", "kvmdirty_common"],
    },
    Layer {
        name: "player",
        modules: &["event", "order", "verdict", "summary", "pipeline", "feed", "trace"],
        crates: &["thiserror", "kvmdirty_common"],
    },
    Layer {
        name: "tui",
        modules: &["event", "order", "verdict", "summary", "feed"],
        crates: &[
            "ratatui",
            "crossterm",
            "thiserror",
            "toml",
            "serde",
            "signal_hook",
            "nix",
            "kvmdirty_common",
        ],
    },
    Layer { name: "outcome", modules: &["verdict", "summary"], crates: &[] },
    Layer { name: "cli", modules: &["demo"], crates: &["clap", "clap_complete", "clap_mangen"] },
    Layer {
        name: "command",
        modules: &[
            "event", "order", "verdict", "summary", "pipeline", "trace", "live", "demo", "export",
            "feed", "player", "tui", "outcome", "cli",
        ],
        crates: &[
            "kvmdirty_common",
            "anyhow",
            "tokio",
            "clap",
            "clap_complete",
            "clap_mangen",
            "serde",
            "serde_json",
            "crossterm",
            "ratatui",
            "nix",
            "libc",
            "thiserror",
        ],
    },
    Layer { name: "main", modules: &[], crates: &["kvmdirty_trace", "clap", "anyhow", "tokio"] },
];

/// How a function says that it can fail.
const FAILING: &str = "-> Result<";

/// "Either this or a value that says why not" is no failure: the caller counts the value and goes on.
fn fails_by_value(line: &str) -> bool {
    ["Anomaly>", "AnomalyKind>", "UnknownCause>"].iter().any(|value| line.contains(value))
}

/// What the pure part must not name, and what it would bring in.
const IMPURE: [(&str, &str); 13] = [
    ("std::fs", "files"),
    ("std::io", "input and output"),
    ("std::net", "sockets"),
    ("std::env", "the environment"),
    ("std::process", "processes"),
    ("std::thread", "threads"),
    ("std::sync::Mutex", "locks"),
    ("Instant::now", "the clock"),
    ("SystemTime", "the clock"),
    ("HashMap", "an order that differs from run to run"),
    ("HashSet", "an order that differs from run to run"),
    ("async fn", "waiting"),
    (FAILING, "failing"),
];

/// Reports a module used by one that must not know it.
pub fn imports_point_one_way(source: &Source) -> Vec<Finding> {
    let Some(name) = source.layer().filter(|&name| name != "lib") else {
        return Vec::new();
    };
    let Some(layer) = LAYERS.iter().find(|layer| layer.name == name) else {
        let what = format!("module {name} is not in the import table (xtask/src/tidy/layers.rs)");
        return vec![source.finding(0, what)];
    };
    let mut findings = Vec::new();
    for (at, used) in modules_used(source) {
        if used != name && !layer.modules.contains(&used.as_str()) {
            findings.push(source.finding(at, format!("{name} must not use {used}")));
        }
    }
    let foreign: Vec<String> =
        dependencies().filter(|krate| !layer.crates.contains(&krate.as_str())).collect();
    for (at, line) in source.product() {
        for krate in foreign.iter().filter(|krate| names_crate(line, krate)) {
            findings.push(source.finding(at, format!("{name} must not use the crate {krate}")));
        }
    }
    findings
}

/// Reports what a pure module must not touch.
pub fn pure_layers_stay_pure(source: &Source) -> Vec<Finding> {
    let Some(name) = source.layer().filter(|name| PURE.contains(name)) else {
        return Vec::new();
    };
    let breaches = source.product().flat_map(|(at, line)| {
        let touches =
            |word: &str| line.contains(word) && !(FAILING == word && fails_by_value(line));
        IMPURE.iter().filter(move |(word, _)| touches(word)).map(move |(word, brings)| {
            source.finding(at, format!("{name} is pure and must not know {brings} ({word})"))
        })
    });
    breaches.collect()
}

/// Names of top-level modules behind `crate::`, also inside `use crate::{…}`.
fn modules_used(source: &Source) -> Vec<(usize, String)> {
    let mut used = Vec::new();
    let mut depth = 0_usize;
    for (at, line) in source.product() {
        if 0 < depth {
            names_in_group(line, &mut depth, |name| used.push((at, name)));
            continue;
        }
        for (start, path) in line.match_indices("crate::") {
            // `$crate::` and `other_crate::` are something else.
            if line[..start].ends_with(|before: char| before.is_alphanumeric() || before == '_') {
                continue;
            }
            let rest = &line[start + path.len()..];
            match rest.strip_prefix('{') {
                Some(group) => {
                    depth = 1;
                    names_in_group(group, &mut depth, |name| used.push((at, name)));
                }
                None => used.push((at, identifier(rest).to_owned())),
            }
        }
    }
    // `crate::Item` names a re-export of the root, which belongs to no layer.
    used.retain(|(_, name)| name.starts_with(|first: char| first.is_lowercase()));
    used
}

/// Calls `found` for every name at the first level of a `{…}` group; `depth` carries over to the
/// next line.
fn names_in_group(text: &str, depth: &mut usize, mut found: impl FnMut(String)) {
    let mut name = String::new();
    let mut is_first = true;
    for character in text.chars() {
        match character {
            '{' => *depth += 1,
            '}' => *depth -= 1,
            ',' if *depth == 1 => is_first = true,
            _ if *depth == 1 && is_first && (character.is_alphanumeric() || character == '_') => {
                name.push(character);
                continue;
            }
            _ => {}
        }
        if !name.is_empty() {
            found(std::mem::take(&mut name));
            is_first = character == ',';
        }
        if *depth == 0 {
            return;
        }
    }
    if !name.is_empty() {
        found(name);
    }
}

/// The crates the tracer depends on, as code names them, and the tracer's own library.
fn dependencies() -> impl Iterator<Item = String> {
    let manifest = include_str!("../../../tracer/Cargo.toml");
    let section = manifest.split("\n[").find_map(|section| section.strip_prefix("dependencies]"));
    let keys = section.unwrap_or_default().lines().map(|line| line.split(['.', ' ']).next());
    let keys = keys.flatten().filter(|key| !key.is_empty() && !key.starts_with('#'));
    keys.chain(["kvmdirty-trace"]).map(|key| key.replace('-', "_"))
}

/// Whether a line of code names a crate at the head of a path.
fn names_crate(line: &str, krate: &str) -> bool {
    line.match_indices(krate).any(|(start, _)| {
        let before = line[..start].chars().next_back();
        let is_head = before.is_none_or(|c| !c.is_alphanumeric() && c != '_' && c != ':');
        is_head && line[start + krate.len()..].starts_with("::")
    })
}

fn identifier(text: &str) -> &str {
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found_in(path: &str, text: &str) -> Vec<String> {
        let source = Source::new(path.into(), text.to_owned());
        let found = [imports_point_one_way(&source), pure_layers_stay_pure(&source)];
        found.into_iter().flatten().map(|found| format!("{} {}", found.line, found.what)).collect()
    }

    #[test]
    fn later_layer_is_found_in_a_group_over_lines() {
        let text = "use crate::{\n    event::{Event, Gfn},\n    summary::Summary,\n};\n";
        assert_eq!(found_in("tracer/src/order/merge.rs", text), ["3 order must not use summary"]);
    }

    #[test]
    fn later_layer_is_found_in_a_path() {
        let text = "fn a() { crate::tui::draw(); }\n";
        assert_eq!(found_in("tracer/src/verdict/a.rs", text), ["1 verdict must not use tui"]);
    }

    #[test]
    fn earlier_layers_and_tests_are_free() {
        let text = "use crate::event::Gfn;\n#[cfg(test)]\nmod tests {\n    use crate::tui::X;\n}\n";
        assert_eq!(found_in("tracer/src/order/merge.rs", text), Vec::<String>::new());
    }

    #[test]
    fn foreign_crate_is_found() {
        let text = "use tokio::sync::watch;\n";
        let expected = ["1 event must not use the crate tokio"];
        assert_eq!(found_in("tracer/src/event/mod.rs", text), expected);
    }

    #[test]
    fn clock_in_the_pure_part_is_found() {
        let text = "fn a() { let now = Instant::now(); }\n";
        let expected = ["1 order is pure and must not know the clock (Instant::now)"];
        assert_eq!(found_in("tracer/src/order/mod.rs", text), expected);
    }

    #[test]
    fn module_outside_the_table_is_found() {
        assert_eq!(found_in("tracer/src/misc.rs", "//! X.\n").len(), 1);
    }
}
