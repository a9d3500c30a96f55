//! What is answered when something is not done.

use std::io;
use std::time::Duration;

use hearth_api::OperatingMode;
use hearth_core::ids::{Key, SandboxUid};
use hearth_cri::{CriError, ErrorKind};
use hearth_telemetry::ErrorChain;
use thiserror::Error;
use tokio::task::JoinError;
use tonic::Status;

use crate::pod::{GateRefused, HostError, PodView};

/// Why a request was not served. Whoever sent it is told the whole chain, and nothing is logged here.
#[derive(Debug, Error)]
pub(super) enum Refusal {
    #[error("sandbox is {name:?}: this node has none of that name or UID; {}", instead(.nearest))]
    NoSandbox { name: String, nearest: Vec<String> },
    #[error("sandbox is {name:?}: this node has more than one of that name; name it by its UID, one of {}", join(.uids))]
    Ambiguous { name: String, uids: Vec<SandboxUid> },
    #[error(
        "sandbox {0} has no pod, and so neither containers nor logs; its phase and message are in `hearthd ctl list`"
    )]
    NoPod(Key),
    #[error("sandbox {key} is suspended and has no pod; to resume it: `{}`", patch(.key, "Running"))]
    Suspended { key: Key },
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
        "sandbox {key} is to run, and a freeze that it does not know of would not last: set its spec.operatingMode to Frozen, as with `{}`", patch(.key, "Frozen")
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
    #[error(
        "{0} sessions are under way already; end some: commands, consoles, connections to ports"
    )]
    BusySessions(usize),
    #[error(
        "the daemon has only just begun: its containerd has not answered yet; list, inspect and logs are there already"
    )]
    Starting,
    #[error("the first request must say what is wanted, and within 10 s")]
    NoStart,
    #[error("a request is neither input nor a size: only the first one begins a session")]
    NotInput,
    #[error(
        "container {container} of sandbox {key} takes no input: its spec does not set stdin; leave -i out"
    )]
    NoStdin { key: Key, container: String },
    #[error(
        "container {container} of sandbox {key} has no terminal: its spec does not set tty; leave -t out"
    )]
    NoTerminal { key: Key, container: String },
    #[error("port is {0}: it must be 1 to 65535")]
    Port(u32),
    #[error(
        "connect to port {port} of sandbox {key}, which has a network stack of its own: the program must listen at the pod's address, such as 0.0.0.0, and not only at localhost"
    )]
    Connect {
        key: Key,
        port: u16,
        #[source]
        source: io::Error,
    },
    #[error("session with sandbox {key}")]
    Session {
        key: Key,
        #[source]
        source: Box<CriError>,
    },
    #[error("the pod of sandbox {0} has ended")]
    PodEnded(Key),
    #[error("the caller is gone")]
    CallerGone,
    #[error("nothing was taken for {0:?}")]
    Stalled(Duration),
    #[error("nothing was said for {:?}", super::session::IDLE)]
    Idle,
    #[error("a session lasts {0:?} at most")]
    Longest(Duration),
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
            Refusal::NoSandbox { .. } | Refusal::NoContainer { .. } => Self::not_found(text),
            Refusal::Ambiguous { .. }
            | Refusal::WhichContainer { .. }
            | Refusal::NoCommand
            | Refusal::NoStart
            | Refusal::NotInput
            | Refusal::Port(_)
            | Refusal::Seconds { .. } => Self::invalid_argument(text),
            Refusal::NoPod(_)
            | Refusal::Suspended { .. }
            | Refusal::NoStdin { .. }
            | Refusal::NoTerminal { .. }
            | Refusal::Connect { .. }
            | Refusal::NoLogs(_)
            | Refusal::NoPrevious { .. }
            | Refusal::CannotFreeze { .. }
            | Refusal::ToRun { .. }
            | Refusal::WarmMember(_)
            | Refusal::NotRunning { .. }
            | Refusal::Gate(GateRefused::NoPod(_)) => Self::failed_precondition(text),
            Refusal::Gate(GateRefused::Deadline { .. }) => Self::deadline_exceeded(text),
            Refusal::Busy(_) | Refusal::BusySessions(_) => Self::resource_exhausted(text),
            Refusal::Deadline(_) => Self::deadline_exceeded(text),
            Refusal::Stopping | Refusal::Starting => Self::unavailable(text),
            Refusal::Runtime { source, .. } | Refusal::Session { source, .. } => {
                match source.kind {
                    ErrorKind::FailedPrecondition | ErrorKind::NotFound => {
                        Self::failed_precondition(text)
                    }
                    ErrorKind::Unavailable | ErrorKind::ConnectionLost => Self::unavailable(text),
                    ErrorKind::DeadlineExceeded => Self::deadline_exceeded(text),
                    _ => Self::internal(text),
                }
            }
            Refusal::PodEnded(_) | Refusal::Stalled(_) | Refusal::Idle | Refusal::Longest(_) => {
                Self::aborted(text)
            }
            Refusal::CallerGone => Self::cancelled(text),
            Refusal::Host { .. }
            | Refusal::Thread(_)
            | Refusal::Log { .. }
            | Refusal::Gate(GateRefused::Thaw { .. }) => Self::internal(text),
        }
    }
}

impl Refusal {
    /// That a sandbox has no pod, and what to do about it.
    pub(super) fn no_pod(view: &PodView) -> Self {
        let key = view.key.clone();
        match view.operating_mode() {
            OperatingMode::Suspended => Self::Suspended { key },
            OperatingMode::Running | OperatingMode::Frozen => Self::NoPod(key),
        }
    }

    /// That the runtime has failed.
    pub(super) fn runtime(key: &Key, source: CriError) -> Self {
        Self::Runtime {
            key: key.clone(),
            source: Box::new(source),
        }
    }

    /// What a caller is told; nothing when it is gone.
    pub(super) fn for_caller(self) -> Option<Status> {
        match self {
            Self::CallerGone => None,
            refusal => Some(refusal.into()),
        }
    }
}

/// What makes a mode last.
fn patch(key: &Key, mode: &str) -> String {
    let Key { namespace, name } = key;
    format!(
        "kubectl patch sandbox {name} -n {namespace} --type merge -p '{{\"spec\":{{\"operatingMode\":\"{mode}\"}}}}'"
    )
}

/// What to name instead.
fn instead(nearest: &[String]) -> String {
    if nearest.is_empty() {
        "name one as NAMESPACE/NAME or by its UID, as `hearthd ctl list` shows them".to_owned()
    } else {
        format!("nearest to it: {}", join(nearest))
    }
}

/// Names for a sentence.
pub(super) fn join<T: ToString>(names: &[T]) -> String {
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    names.join(", ")
}
