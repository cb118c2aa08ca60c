//! Help: the key table, and the words of the screen.

use ratatui::text::{Line, Span};

use crate::tui::keys::{BINDINGS, Scope};
use crate::tui::model::Model;
use crate::tui::view::frame::heading;
use crate::verdict::Verdict;

/// The page.
#[must_use]
pub fn lines(model: &Model, width: usize) -> Vec<Line<'static>> {
    let palette = &model.palette;
    let mut lines = Vec::new();
    for scope in Scope::ALL {
        lines.push(heading(model, &format!("keys, {}", scope.title()), width));
        for binding in BINDINGS.iter().filter(|binding| binding.scope == scope) {
            let keys: Vec<_> = binding.keys.iter().map(|key| key.name()).collect();
            lines.push(Line::from(vec![
                Span::styled(format!("  {:<12}", keys.join(" ")), palette.heading()),
                Span::raw(binding.help),
            ]));
        }
    }
    lines.push(heading(model, "verdicts", width));
    for verdict in Verdict::ALL {
        lines.push(Line::from(vec![
            Span::styled(format!("  {:<12}", verdict.name()), palette.verdict(verdict)),
            Span::raw(meaning(verdict)),
        ]));
    }
    lines.push(heading(model, "words", width));
    for (word, text) in WORDS {
        lines.push(Line::from(vec![
            Span::styled(format!("  {word:<12}"), palette.heading()),
            Span::raw(*text),
        ]));
    }
    lines
}

const fn meaning(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Lost => "in every possible order a write escaped the dirty log",
        Verdict::AtRisk => "in some possible order a write escaped it",
        Verdict::Exposed => "an allowed window a harvest fell into, or nothing later harvested",
        Verdict::Unknown => "a missing record, probe or initial state could change the result",
        Verdict::Safe => "the rule holds in every possible order",
    }
}

const WORDS: &[(&str, &str)] = &[
    ("dropped", "records the probe could not deliver; each is located as a gap"),
    ("lost", "pages: written, and neither reported nor protected"),
    ("harvest", "one GET_DIRTY_LOG, CLEAR_DIRTY_LOG or RESET_DIRTY_RINGS"),
    ("window", "a page is writable or written, and not yet reported"),
    ("third case", "windows the kernel allows: lockless fast fault, host write"),
    ("integrity", "the trace contradicts what the kernel's locks promise"),
];

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;

    use crate::tui::msg::{Step, Wish};
    use crate::tui::sample::{after, busy, screen};

    #[test]
    fn every_key_is_explained() {
        let model = after(busy(), &[Wish::Help]);
        assert_snapshot!(screen(&model, 80, 24), @r#"
        kvmdirty-trace  1 overview  2 memory  3 coverage  4 mmu_lock  5 vms   live 2.5 s
        qemu-system-x86 pid 4711 · kernel 6.12.95 · tdp · manual-protect · 2 vcpus
        2 slots, 1 logging for 2.4 s
        ─ keys, everywhere ─────────────────────────────────────────────────────────────
          ? F1        this page
          q ^C        quit
          Esc BkSp    back; clear the filter
          Tab         next screen
          S-Tab       previous screen
          1           overview
          2           memory map
          3           coverage: probes, rules, gaps
          4           mmu_lock waits
          5           VMs
          Up k        up
          Down j      down
          PgUp ^B     page up
          PgDn ^F     page down
          g Home      first
          G End       last
          Left h      previous list, range or page
          Right l     next list, range or page
        dropped 0 · gaps 0 · cpu: probe 3.1% tool 1.2% max 25%
        j 40 more lines  Esc back  q quit
        "#);
        let end = after(model, &[Wish::Move(Step::Bottom)]);
        assert_snapshot!(screen(&end, 80, 24), @r#"
        kvmdirty-trace  1 overview  2 memory  3 coverage  4 mmu_lock  5 vms   live 2.5 s
        qemu-system-x86 pid 4711 · kernel 6.12.95 · tdp · manual-protect · 2 vcpus
        2 slots, 1 logging for 2.4 s
          ,           to the previous harvest
          ]           to the next window
          [           to the previous window
          t           to a time: 12.5, 1:02.5 or 40%
          0 ^         to the begin
          $           to the end
        ─ verdicts ─────────────────────────────────────────────────────────────────────
          lost        in every possible order a write escaped the dirty log
          at-risk     in some possible order a write escaped it
          exposed     an allowed window a harvest fell into, or nothing later harvested
          unknown     a missing record, probe or initial state could change the result
          safe        the rule holds in every possible order
        ─ words ────────────────────────────────────────────────────────────────────────
          dropped     records the probe could not deliver; each is located as a gap
          lost        pages: written, and neither reported nor protected
          harvest     one GET_DIRTY_LOG, CLEAR_DIRTY_LOG or RESET_DIRTY_RINGS
          window      a page is writable or written, and not yet reported
          third case  windows the kernel allows: lockless fast fault, host write
          integrity   the trace contradicts what the kernel's locks promise
        dropped 0 · gaps 0 · cpu: probe 3.1% tool 1.2% max 25%
        Esc back  q quit
        "#);
    }

    #[test]
    fn the_key_that_opens_help_closes_it() {
        assert!(after(busy(), &[Wish::Help, Wish::Help]).overlays.is_empty());
    }
}
