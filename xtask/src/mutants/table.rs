//! The table of a run, for the terminal and for `docs/mutants.md`.

use std::fmt::Write as _;

use super::{
    judgement::Judgement,
    mutant::{Mutant, Proof},
};
use crate::lab::guest;

/// One mutant and what became of it.
#[derive(Debug)]
pub struct Row {
    /// The mutant.
    pub mutant: &'static Mutant,
    /// What came of it; the reason if it could not be run.
    pub result: Result<Judgement, String>,
}

impl Row {
    /// Whether the tool did what it promises.
    pub fn is_caught(&self) -> bool {
        self.result.as_ref().is_ok_and(|judgement| judgement.complaints(self.mutant).is_empty())
    }
}

/// What stands above the table.
const HEAD: &str = "\
A row is a `kvm.ko` with one planted bug, booted in the lab with the demo's guest and traced by the
tool, or a mistake of the VMM on a module that only says where it happened. Bugs that can be kept to
some pages befall one page in 64, so that a finding about any other page is a false alarm; races
are widened by a wait.

- *rule*: the rules that may name the bug's pages, the one it was made for first.
- *content*: whether page contents can prove the loss. Those of a zap without a flush cannot under
  emulation: a page that a TLB holds writable has a mark that no harvest has taken yet, and whatever
  takes the frame from the VMM interrupts its CPUs, which empties the emulator's TLB. A processor's is
  tagged by ASID and would hold on.
- *fired*: pages on which the bug itself says it fired.
- *lost*: pages whose content shows a write that no harvest reported.
- *of these named*: those among them that the tool called `lost` or `at-risk` under one of the
  rules.
- *named*: all pages it called so, under any rule.
- *stray*: named pages on which the bug did not fire.
- *beside*: what else the tool said: pages named under other rules, windows and pages called
  `exposed`, contradictions between trace and locks (`integrity`), pages without a verdict
  (`unknown`).

A mutant is caught if every lost page is named under one of its rules, none is named on which the
bug did not fire, and no record was dropped.
";

/// The document `docs/mutants.md`.
pub fn document(kernel: &str, rows: &[Row]) -> String {
    let mut text = format!(
        "# Kernels broken on purpose\n\nWritten by `cargo xtask lab mutants` on Linux {kernel}.\n\n\
         {HEAD}\n\
         | mutant | rule | content | fired | lost | of these named | named | stray | beside | result |\n\
         |---|---|---|--:|--:|--:|--:|--:|---|---|\n"
    );
    for row in rows {
        text += &line(row);
    }
    text.push('\n');
    text.extend(rows.iter().map(|row| described(row.mutant)));
    text
}

/// The document with the lines of these mutants in place of those it had.
pub fn with_rows(before: &str, rows: &[Row]) -> String {
    let replaced = |old: &str| {
        let is_of = |row: &&Row| {
            let name = row.mutant.name;
            old.starts_with(&format!("| {name} |")) || old.starts_with(&format!("- **{name}**:"))
        };
        match rows.iter().find(is_of) {
            Some(row) if old.starts_with('|') => line(row),
            Some(row) => described(row.mutant),
            None => format!("{old}\n"),
        }
    };
    before.lines().map(replaced).collect()
}

/// What a mutant is, below the table.
fn described(Mutant { name, bug, guest, .. }: &Mutant) -> String {
    format!("- **{name}**: {bug}. Guest: `{}`.\n", guest.join(" "))
}

fn line(Row { mutant, result }: &Row) -> String {
    let Mutant { name, rules, proof, .. } = mutant;
    let rules = if rules.is_empty() { "none".to_owned() } else { rules.join(", ") };
    let proof = match proof {
        Proof::Expected => "yes",
        Proof::None => "no",
    };
    let head = format!("| {name} | {rules} | {proof} |");
    let judgement = match result {
        Ok(judgement) => judgement,
        Err(reason) => {
            return format!("{head} | | | | | | not run: {} |\n", reason.replace('\n', " "));
        }
    };
    let complaints = judgement.complaints(mutant);
    let verdict = match (complaints.as_slice(), mutant.is_broken()) {
        ([], true) => "caught".to_owned(),
        ([], false) => "clean".to_owned(),
        _ => complaints.join("; "),
    };
    let verdict = match judgement.resets {
        0 => verdict,
        resets => format!("{verdict}; {}", guest::in_words(resets)),
    };
    let lost = judgement.lost.len();
    format!(
        "{head} {} | {lost} | {} | {} | {} | {} | {verdict} |\n",
        judgement.fired.len(),
        lost - judgement.missed(mutant).len(),
        judgement.named.len(),
        judgement.strays().len(),
        beside(judgement, mutant),
    )
}

/// The lost pages of a run and what the tool said of each.
pub fn pages(rows: &[Row]) -> String {
    const PAGES_MAX: usize = 40;
    let mut text = String::new();
    for Row { mutant, result } in rows {
        let Ok(judgement) = result else { continue };
        let _ = writeln!(text, "\n{}, pages lost by content:", mutant.name);
        for gfn in judgement.lost.iter().take(PAGES_MAX) {
            let said = match judgement.named.get(gfn) {
                Some(rules) => rules.iter().map(String::as_str).collect::<Vec<_>>().join(", "),
                None => "NOT NAMED".to_owned(),
            };
            let _ = writeln!(text, "  gfn {gfn:#x}  {said}");
        }
    }
    text
}

/// What else the tool said.
fn beside(judgement: &Judgement, mutant: &Mutant) -> String {
    let counts = [
        ("exposed", judgement.exposed),
        ("integrity", judgement.integrity),
        ("unknown", judgement.unknown),
    ];
    let rules = judgement.beside(mutant);
    let rules = rules.iter().map(|(&rule, &pages)| (rule, pages as u64));
    let said = rules.chain(counts).filter(|&(_, count)| 0 < count);
    said.map(|(what, count)| format!("{what} {count}")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mutants::catalogue;

    #[test]
    fn a_run_of_one_mutant_replaces_its_lines_only() {
        let rows: Vec<Row> = catalogue::all()
            .into_iter()
            .map(|mutant| Row { mutant, result: Err("old".to_owned()) })
            .collect();
        let before = document("6.12", &rows);
        let [first, ..] = rows.as_slice() else { panic!("no mutants") };
        let new = Row { mutant: first.mutant, result: Err("new".to_owned()) };
        let after = with_rows(&before, &[new]);
        assert_eq!(after.matches("not run: new").count(), 1);
        assert_eq!(after.replace("not run: new", "not run: old"), before);
    }
}
