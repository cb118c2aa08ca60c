//! kvmdirty-trace.
