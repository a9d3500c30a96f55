//! The node daemon as a library.

pub mod journal;
pub mod pod;
