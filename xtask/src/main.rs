//! The development tool of the repository, run as `cargo xtask`.

fn main() {}
