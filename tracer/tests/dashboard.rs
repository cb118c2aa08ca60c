//! The dashboard over the whole litmus corpus: every finding of every file can be opened, drawn and explained.

use std::path::Path;
use std::sync::Arc;

use kvmdirty_trace::feed::{Facts, Snapshot};
use kvmdirty_trace::pipeline::Pipeline;
use kvmdirty_trace::trace::litmus::Litmus;
use kvmdirty_trace::tui::Theme;
use kvmdirty_trace::tui::model::{Model, Overlay};
use kvmdirty_trace::tui::msg::{Msg, Wish};
use kvmdirty_trace::tui::update::update;
use kvmdirty_trace::tui::view::{below, view};
use kvmdirty_trace::verdict::Finding;
use ratatui::Terminal;
use ratatui::backend::TestBackend;

/// A dashboard at the end of a litmus file.
fn dashboard(text: &str) -> Model {
    let Litmus { setup, batch, threads, .. } = Litmus::read(text).expect("the corpus is readable");
    let mut pipeline = Pipeline::new(setup.clone());
    pipeline.push(&batch);
    pipeline.finish();
    let summary = Arc::new(pipeline.summary().clone());
    let snapshot = Snapshot { summary, ..Snapshot::default() };
    let facts = Facts { threads, ..Facts::default() };
    Model::new(Arc::new(setup), facts, Arc::new(snapshot), Theme::Dark)
}

fn screen(model: &Model, columns: u16, rows: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(columns, rows)).expect("never fails");
    terminal.draw(|frame| view(frame, model)).expect("never fails");
    let buffer = terminal.backend().buffer();
    let row = |y: u16| (0..columns).map(move |x| buffer[(x, y)].symbol()).collect::<String>();
    (0..rows).map(row).collect::<Vec<_>>().join("\n")
}

/// A terminal so tall that a witness is seen whole.
const TALL: (u16, u16) = (80, 200);

fn check_finding(model: &mut Model, finding: &Arc<Finding>, file: &str) {
    model.overlays = vec![Overlay::Finding { finding: Arc::clone(finding), scroll: 0 }];
    update(model, Msg::Resize(TALL.0, TALL.1));
    assert_eq!(below(model), 0, "{file}: {} steps", finding.witness.steps.len());
    let text = screen(model, TALL.0, TALL.1);
    assert!(text.contains(finding.rule.name()), "{file}:\n{text}");
    for (index, step) in finding.witness.steps.iter().enumerate() {
        // The first word of a note survives wherever its column breaks.
        let word = step.note.split_whitespace().next().unwrap_or_default();
        assert!(text.contains(word), "{file}: step {} ({word}) is missing:\n{text}", index + 1);
    }
    if finding.witness.losing.is_some() {
        assert!(text.contains("✗"), "{file}: the losing step is not marked:\n{text}");
    }
    update(model, Msg::Wish(Wish::Explain));
    let rule = screen(model, TALL.0, TALL.1);
    assert!(rule.contains("Kernel:"), "{file}: the rule is not explained:\n{rule}");
    for (columns, rows) in [(80, 24), (160, 50), (40, 10)] {
        update(model, Msg::Resize(columns, rows));
        screen(model, columns, rows);
    }
    model.overlays.clear();
}

#[test]
fn every_finding_of_the_corpus_can_be_read() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/litmus");
    let mut findings = 0;
    for entry in std::fs::read_dir(folder).expect("the corpus is there").flatten() {
        let path = entry.path();
        if path.extension().is_none_or(|end| end != "litmus") {
            continue;
        }
        let file = path.display().to_string();
        let text = std::fs::read_to_string(&path).expect("readable");
        let mut model = dashboard(&text);
        for finding in model.shown.summary.findings.clone() {
            check_finding(&mut model, &finding, &file);
            findings += 1;
        }
    }
    assert!(20 < findings, "only {findings} findings: has the corpus moved?");
}
