//! Any bytes as a recording: read to the end, judged, its index read.

#![no_main]

use std::io::Cursor;

use kvmdirty_trace::event::{Batch, Limits, Setup};
use kvmdirty_trace::pipeline::Pipeline;
use kvmdirty_trace::trace::Reader;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Ok(mut reader) = Reader::new(Cursor::new(bytes.to_vec())) else { return };
    let setup = Setup { limits: Limits::STANDARD, ..reader.header().setup.clone() };
    let mut pipeline = Pipeline::new(setup);
    let mut batch = Batch::default();
    while reader.next_batch(&mut batch).expect("a Cursor can be read").is_some() {
        pipeline.push(&batch);
    }
    pipeline.finish();
    reader.index().expect("a Cursor can be read");
});
