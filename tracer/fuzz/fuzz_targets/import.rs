//! Any bytes as a trace.dat or as the text of one: imported and judged.

#![no_main]

use std::io::Write as _;

use kvmdirty_trace::event::Batch;
use kvmdirty_trace::pipeline::Pipeline;
use kvmdirty_trace::trace::import::{Import, ImportOptions};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    // Imports are read twice, so they come from a file.
    let path = std::env::temp_dir().join(format!("kvmdirty-fuzz-{}", std::process::id()));
    let mut file = std::fs::File::create(&path).expect("a scratch file");
    file.write_all(bytes).expect("a scratch file");
    let Ok(mut import) = Import::open(&path, &ImportOptions::default()) else { return };
    let mut pipeline = Pipeline::new(import.setup().clone());
    let mut batch = Batch::default();
    while let Ok(Some(())) = import.next_batch(&mut batch) {
        pipeline.push(&batch);
    }
    pipeline.finish();
});
