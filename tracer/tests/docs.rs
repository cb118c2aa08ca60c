//! Documents that are generated: stale ones fail, `KVMDIRTY_UPDATE=1 cargo test --test docs` writes them anew.

use std::path::Path;

use kvmdirty_trace::verdict::rule::rules_page;

#[test]
fn the_rules_page_is_what_the_rule_files_say() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/rules.md");
    let page = rules_page();
    if std::env::var_os("KVMDIRTY_UPDATE").is_some() {
        std::fs::write(&path, &page).expect("docs/ can be written");
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(written == page, "docs/rules.md is stale: KVMDIRTY_UPDATE=1 cargo test --test docs");
}
