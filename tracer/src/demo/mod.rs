//! A small KVM guest of our own, with a harvest loop like a migration's and a content oracle.
//!
//! It runs in a child process, so that the tracer attaches to it by pid like to any other VMM. The
//! parent and the child exchange lines ([`protocol`]); the child says what it will do, waits for
//! `go`, and at the end reports which pages were lost, judged by their content alone.
//!
//! Modules in reading order: what is asked ([`config`], [`workload`]), what is said ([`protocol`]),
//! what the guest is ([`layout`], [`code`], [`plan`]), what the VMM is made of ([`memory`],
//! [`ring`], [`sys`], [`vcpu`], [`gate`], [`bell`], [`machine`]), and what it does ([`harvest`],
//! [`disturbance`], [`oracle`], [`vmm`], [`cli`]).

pub mod config;
pub mod workload;

pub mod protocol;

pub mod code;
pub mod layout;
pub mod plan;

pub mod bell;
pub mod capability;
pub mod gate;
pub mod host_write;
pub mod interrupt;
pub mod machine;
pub mod memory;
pub mod ring;
pub mod smm;
pub mod sys;
pub mod vcpu;

pub mod disturbance;
pub mod harvest;
pub mod interrupter;
pub mod oracle;

pub mod control;
pub mod vmm;

pub mod cli;

mod error;

pub use error::DemoError;
