//! What the local API answers when it does not do something.

use std::time::Duration;

use hearth_core::ids::{Key, SandboxUid};
use hearth_telemetry::ErrorChain;
use thiserror::Error;
use tonic::Status;

use crate::pod::HostError;

/// Why a request was not served. Whoever sent it is told the whole chain, and nothing is logged here.
#[derive(Debug, Error)]
pub(super) enum Refusal {
    #[error(
        "sandbox is {0:?}: this node has none of that name or UID; name one as NAMESPACE/NAME or by its UID, as `hearthd ctl list` shows them"
    )]
    NoSandbox(String),
    #[error("sandbox is {name:?}: this node has more than one of that name; name it by its UID, one of {}", join(.uids))]
    Ambiguous { name: String, uids: Vec<SandboxUid> },
    #[error("{0} calls are under way already; end some, such as logs that are followed")]
    Busy(usize),
    #[error("not done within {0:?}")]
    Deadline(Duration),
    #[error("the daemon is being stopped")]
    Stopping,
    #[error("sandbox {key}")]
    Host {
        key: Key,
        #[source]
        source: Box<HostError>,
    },
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        let text = ErrorChain(&refusal).to_string();
        match refusal {
            Refusal::NoSandbox(_) => Self::not_found(text),
            Refusal::Ambiguous { .. } => Self::invalid_argument(text),
            Refusal::Busy(_) => Self::resource_exhausted(text),
            Refusal::Deadline(_) => Self::deadline_exceeded(text),
            Refusal::Stopping => Self::unavailable(text),
            Refusal::Host { .. } => Self::internal(text),
        }
    }
}

/// Names for a sentence.
pub(super) fn join<T: ToString>(names: &[T]) -> String {
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    names.join(", ")
}
