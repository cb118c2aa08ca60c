//! The command line as a user meets it: help, bad input, missing privileges, signals, full rings, and what is left
//! behind. What needs a host with KVM and BPF says so on standard error where it cannot run, and passes.

#[path = "cli/tool.rs"]
mod tool;

#[path = "cli/bad_input.rs"]
mod bad_input;
#[path = "cli/drops.rs"]
mod drops;
#[path = "cli/forbidden.rs"]
mod forbidden;
#[path = "cli/help.rs"]
mod help;
#[path = "cli/running.rs"]
mod running;
