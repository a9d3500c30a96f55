//! What the local API answers when it does not do something.

use std::time::Duration;

use hearth_core::ids::{Key, SandboxUid};
use hearth_cri::CriError;
use hearth_telemetry::ErrorChain;
use thiserror::Error;
use tokio::task::JoinError;
use tonic::Status;

use crate::pod::{GateRefused, HostError};

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
    #[error("sandbox {key} cannot be frozen: this node does not freeze pods of handler {handler}")]
    CannotFreeze { key: Key, handler: String },
    #[error(
        "sandbox {key} is to run, and a freeze that it does not know of would not last: set its spec.operatingMode to Frozen, as with `{}`", patch(.key)
    )]
    ToRun { key: Key },
    #[error(
        "sandbox {0} is a member of a pool that does not keep its members frozen: set the pool's spec.warmth to Frozen"
    )]
    WarmMember(Key),
    #[error(
        "container {container} of sandbox {key} does not run; `hearthd ctl inspect {key}` says why"
    )]
    NotRunning { key: Key, container: String },
    #[error("command is empty: give the program to run, and its arguments")]
    NoCommand,
    #[error("{field} is {value}: it must be 1 to 86400")]
    Seconds { field: &'static str, value: u32 },
    #[error(transparent)]
    Gate(GateRefused),
    #[error("sandbox {key}")]
    Runtime {
        key: Key,
        #[source]
        source: Box<CriError>,
    },
    #[error("the look at the cgroups was abandoned")]
    Thread(#[source] JoinError),
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
            Refusal::Ambiguous { .. }
            | Refusal::WhichContainer { .. }
            | Refusal::NoCommand
            | Refusal::Seconds { .. } => Self::invalid_argument(text),
            Refusal::NoPod(_)
            | Refusal::NoLogs(_)
            | Refusal::NoPrevious { .. }
            | Refusal::CannotFreeze { .. }
            | Refusal::ToRun { .. }
            | Refusal::WarmMember(_)
            | Refusal::NotRunning { .. }
            | Refusal::Gate(GateRefused::NoPod(_)) => Self::failed_precondition(text),
            Refusal::Gate(GateRefused::Deadline { .. }) => Self::deadline_exceeded(text),
            Refusal::Busy(_) => Self::resource_exhausted(text),
            Refusal::Deadline(_) => Self::deadline_exceeded(text),
            Refusal::Stopping => Self::unavailable(text),
            Refusal::Host { .. }
            | Refusal::Thread(_)
            | Refusal::Log { .. }
            | Refusal::Runtime { .. }
            | Refusal::Gate(GateRefused::Thaw { .. }) => Self::internal(text),
        }
    }
}

/// What makes a freeze last.
fn patch(key: &Key) -> String {
    let Key { namespace, name } = key;
    format!(
        "kubectl patch sandbox {name} -n {namespace} --type merge -p '{{\"spec\":{{\"operatingMode\":\"Frozen\"}}}}'"
    )
}

/// Names for a sentence.
pub(super) fn join<T: ToString>(names: &[T]) -> String {
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    names.join(", ")
}
