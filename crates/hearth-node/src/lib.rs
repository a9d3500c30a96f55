//! The node daemon as a library.

pub mod binder;
pub mod config;
pub mod journal;
pub mod paths;
pub mod pod;
pub mod runtime;
pub mod server;
