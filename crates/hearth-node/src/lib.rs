//! The node daemon as a library.
pub mod binder;
pub mod journal;
pub mod pod;
pub mod server;
