//! kvmdirty-trace: where KVM's dirty logging lost a page, or could lose one.
//!
//! Modules in reading order, which is also the import order: a module uses only those above it (ARCHITECTURE.md).
//! `event` to `pipeline` are pure: no clock, no file, no terminal, no async, no `Result` between stages.

pub mod event;

pub mod order;

pub mod verdict;

pub mod summary;

pub mod pipeline;

pub mod feed;

pub mod outcome;

pub mod trace;

pub mod player;

pub mod export;

pub mod demo;

pub mod live;

pub mod tui;

pub mod cli;

pub mod command;
