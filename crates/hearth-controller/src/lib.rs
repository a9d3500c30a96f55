//! The controller as a library: the IO around `hearth-core`.
//!
//! Tasks: one a watched kind, one a node session, a fixed number of writers, the election, the Event publisher, the
//! webhook with a task a connection, and the loop ([`engine`]) that owns the picture and decides. They talk over bounded channels into the loop; the loop hands work
//! out without waiting.

pub mod attachments;
pub mod confirm;
pub mod election;
pub mod engine;
mod events;
mod feeds;
pub mod locations;
pub mod metrics;
pub mod migrate;
mod namespaces;
pub mod operator_config;
mod run;
pub mod sessions;
pub mod shelves;
pub mod supplies;
mod volumes;
pub mod watches;
mod webhook;
pub mod writer;

pub use hearth_kube::ConnectError;
pub use operator_config::own_namespace;
pub use run::{ControllerConfig, RunError, run};
pub use webhook::{CertificateSource, WebhookError, WebhookSettings};
