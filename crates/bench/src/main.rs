//! Thin binary: arguments to configuration to run.

fn main() {}
