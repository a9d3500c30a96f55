//! CRI behind a small trait: the client over a unix socket and an in-process fake server.
//!
//! [`PodRuntime`], [`StreamRuntime`] and [`ImageStore`] are what the node asks of a container runtime. [`CriClient`] answers them by a
//! real CRI server, [`fake::FakeRuntime`] by a state machine in memory whose failures are scripted, and which can also
//! be served over a unix socket. [`contract`] holds the checks that both must pass.
//!
//! Messages are those of [`v1`]; identifiers are the runtime's own strings. Each call has a deadline
//! ([`Deadlines`]), and each failure is a [`CriError`] that says whether the effect may have happened all the same.

mod call;
mod classify;
mod client;
pub mod contract;
mod deadlines;
mod error;
pub mod fake;
mod runtime;
mod stream;

pub use client::CriClient;
pub use deadlines::Deadlines;
pub use error::{CriError, ErrorKind, Operation, RuntimeAnswer};
pub use runtime::{ContainerEvents, ImageStore, PodRuntime};
pub use stream::{
    AttachOptions, ExecOptions, Input, Output, Session, SessionInput, SessionOutput, StreamRuntime,
    TerminalSize,
};

/// The CRI messages, generated from the `runtime.v1` definitions.
pub use k8s_cri::v1;
