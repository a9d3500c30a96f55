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
    #[error(
        "sandbox {0} has no pod, and so neither containers nor logs; its phase and message are in `hearthd ctl list`"
    )]
    NoPod(Key),
    #[error("container is {container:?}: sandbox {key} has none of that name, but {}; choose one with -c", join(.names))]
    NoContainer {
        key: Key,
        container: String,
        names: Vec<String>,
    },
    #[error("container is not given: sandbox {key} has {}; choose one with -c", join(.names))]
    WhichContainer { key: Key, names: Vec<String> },
    #[error("sandbox {0} has no logs yet: none of its containers was started")]
    NoLogs(Key),
    #[error(
        "previous is set: container {container} of sandbox {key} was not started again; leave --previous out for its only log"
    )]
    NoPrevious { key: Key, container: String },
    #[error("logs of sandbox {key}")]
    Log {
        key: Key,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
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
            Refusal::NoSandbox(_) | Refusal::NoContainer { .. } => Self::not_found(text),
            Refusal::Ambiguous { .. } | Refusal::WhichContainer { .. } => {
                Self::invalid_argument(text)
            }
            Refusal::NoPod(_) | Refusal::NoLogs(_) | Refusal::NoPrevious { .. } => {
                Self::failed_precondition(text)
            }
            Refusal::Busy(_) => Self::resource_exhausted(text),
            Refusal::Deadline(_) => Self::deadline_exceeded(text),
            Refusal::Stopping => Self::unavailable(text),
            Refusal::Host { .. } | Refusal::Log { .. } => Self::internal(text),
        }
    }
}

/// Names for a sentence.
pub(super) fn join<T: ToString>(names: &[T]) -> String {
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    names.join(", ")
}
