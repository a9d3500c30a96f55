//! The node daemon as a library.

mod adapters;
pub mod assignment;
mod attachments;
pub mod binder;
mod census;
pub mod cleanup;
pub mod config;
mod configs;
mod cri_log;
pub mod daemon;
pub mod freezers;
mod heartbeat;
pub mod host;
pub mod images;
pub mod journal;
mod ladder;
mod log_files;
mod metered;
mod metrics;
pub mod paths;
pub mod pod;
mod presence;
pub mod reporter;
mod runtime_classes;
pub mod sandboxes;
pub mod server;
pub mod volumes;
