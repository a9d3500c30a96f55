//! The node daemon as a library.

pub mod pod;
