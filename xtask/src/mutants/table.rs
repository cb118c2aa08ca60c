//! The table of a run, for the terminal and for `docs/mutants.md`.

use std::fmt::Write as _;

use super::{
    judgement::Judgement,
    mutant::{Mutant, Proof},
};

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

/// The document `docs/mutants.md`.
pub fn document(kernel: &str, rows: &[Row]) -> String {
    let mut text = format!(
        "# Kernels broken on purpose\n\n\
         Written by `cargo xtask lab mutants` on {kernel}. Each row is a `kvm.ko` with one planted \
         bug,\nbooted in the lab with the demo's guest. *Fired* counts pages on which the bug says \
         it fired,\n*lost* those whose content shows a write no harvest reported, *named* those \
         the tool called\nlost or at risk, *expected* those of them under an expected rule, \
         *unknown* pages without a\nverdict, *dropped* records that did not arrive. A \
         mutant is caught if every\nlost page is named under an expected rule and no page is named \
         on which the bug did not fire.\n\n\
         | mutant | rule | content proves | fired | lost | named | expected | unknown | dropped | \
         result |\n|---|---|---|--:|--:|--:|--:|--:|--:|---|\n"
    );
    for Row { mutant, result } in rows {
        let Mutant { name, rules, proof, .. } = mutant;
        let rules = if rules.is_empty() { "none".to_owned() } else { rules.join(", ") };
        let proof = match proof {
            Proof::Expected => "yes",
            Proof::Possible => "sometimes",
            Proof::None => "no",
        };
        let _ = write!(text, "| {name} | {rules} | {proof} | ");
        let _ = match result {
            Ok(judgement) => {
                let complaints = judgement.complaints(mutant);
                let verdict =
                    if complaints.is_empty() { "caught".to_owned() } else { complaints.join("; ") };
                let verdict = if mutant.edits.is_empty() && complaints.is_empty() {
                    "clean".to_owned()
                } else {
                    verdict
                };
                writeln!(
                    text,
                    "{} | {} | {} | {} | {} | {} | {verdict} |",
                    judgement.fired.len(),
                    judgement.lost.len(),
                    judgement.named.len(),
                    judgement.named_as_expected(mutant),
                    judgement.unknown,
                    judgement.dropped,
                )
            }
            Err(reason) => writeln!(text, "| | | | | | not run: {} |", reason.replace('\n', " ")),
        };
    }
    text.push('\n');
    for Row { mutant, .. } in rows {
        let _ = writeln!(text, "- **{}**: {}.", mutant.name, mutant.bug);
    }
    text
}
