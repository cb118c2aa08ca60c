//! Any text as a litmus file: read, judged, written again.

#![no_main]

use kvmdirty_trace::pipeline::Pipeline;
use kvmdirty_trace::trace::litmus::Litmus;

libfuzzer_sys::fuzz_target!(|text: &str| {
    let Ok(litmus) = Litmus::read(text) else { return };
    let mut pipeline = Pipeline::new(litmus.setup.clone());
    pipeline.push(&litmus.batch);
    pipeline.finish();
    let written = litmus.write();
    Litmus::read(&written).expect("what we write we read");
});
