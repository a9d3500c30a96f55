//! The error of every CRI call.

use std::fmt;

/// A CRI call, as error context, metric label and script target of the fake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
#[allow(missing_docs)] // named like the calls themselves
pub enum Operation {
    Version,
    Status,
    RunPodSandbox,
    StopPodSandbox,
    RemovePodSandbox,
    PodSandboxStatus,
    ListPodSandboxes,
    CreateContainer,
    StartContainer,
    StopContainer,
    RemoveContainer,
    ContainerStatus,
    ListContainers,
    ExecSync,
    Exec,
    Attach,
    PortForward,
    ReopenContainerLog,
    ContainerEvents,
    ImageStatus,
    ListImages,
    PullImage,
    RemoveImage,
}

impl Operation {
    /// The name as a metric label, in snake case.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Version => "version",
            Self::Status => "status",
            Self::RunPodSandbox => "run_pod_sandbox",
            Self::StopPodSandbox => "stop_pod_sandbox",
            Self::RemovePodSandbox => "remove_pod_sandbox",
            Self::PodSandboxStatus => "pod_sandbox_status",
            Self::ListPodSandboxes => "list_pod_sandboxes",
            Self::CreateContainer => "create_container",
            Self::StartContainer => "start_container",
            Self::StopContainer => "stop_container",
            Self::RemoveContainer => "remove_container",
            Self::ContainerStatus => "container_status",
            Self::ListContainers => "list_containers",
            Self::ExecSync => "exec_sync",
            Self::Exec => "exec",
            Self::Attach => "attach",
            Self::PortForward => "port_forward",
            Self::ReopenContainerLog => "reopen_container_log",
            Self::ContainerEvents => "container_events",
            Self::ImageStatus => "image_status",
            Self::ListImages => "list_images",
            Self::PullImage => "pull_image",
            Self::RemoveImage => "remove_image",
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// What went wrong, as far as a caller can act on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The sandbox or container (not the image, see [`ErrorKind::ImageNotFound`]) does not exist.
    NotFound,
    /// The name is taken: by an object that exists, or by a call with the same name and attempt that has not ended.
    AlreadyExists,
    /// The image is not in the store, or the registry does not have it.
    ImageNotFound,
    /// No runtime is configured under the handler's name.
    UnknownHandler,
    /// The runtime refuses the request as it stands; sending it again changes nothing.
    Invalid,
    /// The object is in a state that does not allow the call, such as an exec in a container that has exited.
    FailedPrecondition,
    /// The runtime could not be reached, so that nothing was sent; or it says itself that it is not ready.
    Unavailable,
    /// The connection was lost after the request was sent.
    ConnectionLost,
    /// No answer within the deadline of the call.
    DeadlineExceeded,
    /// The runtime does not have this call.
    Unimplemented,
    /// Anything else; the source has the runtime's own words.
    Other,
}

impl ErrorKind {
    /// The kind as a metric label, in snake case.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::NotFound => "not_found",
            Self::AlreadyExists => "already_exists",
            Self::ImageNotFound => "image_not_found",
            Self::UnknownHandler => "unknown_handler",
            Self::Invalid => "invalid",
            Self::FailedPrecondition => "failed_precondition",
            Self::Unavailable => "unavailable",
            Self::ConnectionLost => "connection_lost",
            Self::DeadlineExceeded => "deadline_exceeded",
            Self::Unimplemented => "unimplemented",
            Self::Other => "other",
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotFound => "not found",
            Self::AlreadyExists => "the name is taken",
            Self::ImageNotFound => "image not found",
            Self::UnknownHandler => "no such runtime handler",
            Self::Invalid => "refused as invalid",
            Self::FailedPrecondition => "not in a state that allows it",
            Self::Unavailable => "the runtime is not available",
            Self::ConnectionLost => "the connection to the runtime was lost before the answer",
            Self::DeadlineExceeded => "no answer within the deadline",
            Self::Unimplemented => "not implemented by the runtime",
            Self::Other => "failed",
        })
    }
}

/// A failed CRI call.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{op} {target}: {kind}")]
pub struct CriError {
    /// The call.
    pub op: Operation,
    /// What it was about: an id, a name, an image reference.
    pub target: String,
    /// What a caller can act on.
    pub kind: ErrorKind,
    /// The runtime's own words.
    #[source]
    pub source: RuntimeAnswer,
}

/// The words of the runtime or of the transport, without gRPC's metadata.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message} ({code})")]
pub struct RuntimeAnswer {
    /// The gRPC code by name, such as `NotFound`.
    pub code: String,
    /// The message as it came.
    pub message: String,
}

impl CriError {
    /// Whether the call may have had its effect, or may still get it, although it failed here.
    ///
    /// Such an outcome is settled by listing, never by assuming (and never by repeating the call under the same name
    /// and attempt).
    #[must_use]
    pub fn outcome_unknown(&self) -> bool {
        matches!(
            self.kind,
            ErrorKind::DeadlineExceeded | ErrorKind::ConnectionLost
        )
    }

    /// Whether the same request may succeed later without anybody changing anything.
    ///
    /// True for an unknown outcome as well: settle that first.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self.kind {
            ErrorKind::Unavailable
            | ErrorKind::ConnectionLost
            | ErrorKind::DeadlineExceeded
            | ErrorKind::Other => true,
            ErrorKind::NotFound
            | ErrorKind::AlreadyExists
            | ErrorKind::ImageNotFound
            | ErrorKind::UnknownHandler
            | ErrorKind::Invalid
            | ErrorKind::FailedPrecondition
            | ErrorKind::Unimplemented => false,
        }
    }

    /// Whether the object of the call does not exist, which for a stop or a removal is success.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.kind == ErrorKind::NotFound
    }
}
