//! The model, in reading order; nothing here uses the engine's code, only the wire and the summary.

pub mod rng;

pub mod config;

pub mod fault;

pub mod machine;

pub mod world;

pub mod probe;

pub mod mark;

pub mod pagefault;

pub mod huge;

pub mod vcpu;

pub mod host;

pub mod harvest;

pub mod vmm;

pub mod run;

pub mod seeds;

pub mod judge;

pub mod weave;

pub mod forms;

mod model;

mod healthy;

mod miss;

mod deliver;

mod concurrent;

mod removal;

mod orders;

mod small;

mod std_form;

mod real;

mod chain;
