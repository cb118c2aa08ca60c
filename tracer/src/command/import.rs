//! `import`: what trace-cmd recorded as a recording of ours.

use anyhow::{Context as _, Result, bail};

use super::progress::Progress;
use super::recording;
use crate::cli::ImportArgs;
use crate::event::Batch;
use crate::outcome::Outcome;
use crate::trace::import::{Import, ImportOptions};
use crate::trace::{Header, Origin, Writer};

/// Runs `import`.
///
/// # Errors
/// The file is none of trace-cmd's, or damaged: what was read before the damage is in the recording.
pub fn run(args: &ImportArgs) -> Result<Outcome> {
    let name = || args.file.display().to_string();
    recording::must_be_new(&args.output)?;
    let slots = args.slot.iter().map(|text| Ok(text.parse()?)).collect::<Result<_>>()?;
    let options = ImportOptions { slots, epsilon_ns: args.epsilon, is_final: args.is_final };
    let mut import = Import::open(&args.file, &options).with_context(name)?;
    let mut header = Header::new(Origin::Import, import.setup().clone());
    import.host().clone_into(&mut header.host);
    let mut writer = Writer::create(&args.output, &header)?;
    let mut progress = Progress::to_terminal();
    let mut batch = Batch::default();
    let (mut records, mut gaps) = (0, 0);
    let damage = loop {
        match import.next_batch(&mut batch) {
            Ok(Some(())) => {
                records += batch.records.len();
                gaps += batch.gaps.len();
                writer.write(&batch)?;
                progress.show(import.progress());
            }
            Ok(None) => break None,
            Err(error) => break Some(error),
        }
    };
    writer.finish()?;
    progress.clear();
    let output = args.output.display();
    if let Some(error) = damage {
        bail!("{}: {error}; what could be read, {records} records, is in {output}", name());
    }
    eprintln!("{records} records and {gaps} gaps written to {output}");
    Ok(Outcome::Clean)
}
