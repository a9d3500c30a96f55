//! Criterion benches of the pure hot paths.
