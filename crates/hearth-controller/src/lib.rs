//! The controller as a library.

pub mod sessions;
pub mod writer;
