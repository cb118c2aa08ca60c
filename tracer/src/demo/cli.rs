//! The hidden subcommand `demo-guest`: a demo guest on standard input and output.

use std::io;

use crate::demo::DemoError;
use crate::demo::config::GuestConfig;
use crate::demo::protocol::GuestReport;
use crate::demo::vmm;

/// Arguments of `demo-guest`.
#[derive(Clone, Debug, clap::Args)]
pub struct DemoGuestArgs {
    /// What the guest does.
    #[command(flatten)]
    pub config: GuestConfig,
}

/// Runs a demo guest that takes commands from standard input and writes its lines to standard
/// output.
///
/// # Errors
///
/// As [`vmm::run`]; the error is the caller's to print, since standard output belongs to the
/// protocol.
pub fn main(args: &DemoGuestArgs) -> Result<GuestReport, DemoError> {
    vmm::run(&args.config, io::BufReader::new(io::stdin()), io::stdout().lock())
}
