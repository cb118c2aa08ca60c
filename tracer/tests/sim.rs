//! A seeded model of KVM's dirty logging that knows which pages were lost, and what the tool must say of its records.

#[path = "sim/mod.rs"]
mod sim;
