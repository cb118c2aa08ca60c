//! The `kvmdirty-trace` command.
fn main() {}
