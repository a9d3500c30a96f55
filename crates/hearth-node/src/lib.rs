//! The node daemon as a library.

pub mod binder;
pub mod cleanup;
pub mod config;
pub mod host;
pub mod journal;
pub mod paths;
pub mod pod;
pub mod server;
