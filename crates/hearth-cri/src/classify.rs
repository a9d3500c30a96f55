//! From a gRPC status to a [`CriError`]. The only place that knows how runtimes word their failures.

use std::error::Error;

use tonic::{Code, ConnectError, Status, TimeoutExpired};

use crate::{CriError, ErrorKind, Operation, RuntimeAnswer};

/// Turns the status of a failed call into the error that callers act on.
pub(crate) fn classify(op: Operation, target: &str, status: &Status) -> CriError {
    CriError {
        op,
        target: target.to_owned(),
        kind: kind(op, status),
        source: RuntimeAnswer {
            code: format!("{:?}", status.code()),
            message: status.message().to_owned(),
        },
    }
}

/// The error of a call whose deadline passed on this side.
pub(crate) fn deadline(op: Operation, target: &str, limit: std::time::Duration) -> CriError {
    CriError {
        op,
        target: target.to_owned(),
        kind: ErrorKind::DeadlineExceeded,
        source: RuntimeAnswer {
            code: "DeadlineExceeded".to_owned(),
            message: format!("gave up after {limit:?}"),
        },
    }
}

/// The error of an answer that lacks what it must have.
pub(crate) fn incomplete(op: Operation, target: &str, field: &str) -> CriError {
    CriError {
        op,
        target: target.to_owned(),
        kind: ErrorKind::Other,
        source: RuntimeAnswer {
            code: "Ok".to_owned(),
            message: format!("the answer has no {field}"),
        },
    }
}

/// The error of a session whose connection ended before the session did, or never began.
pub(crate) fn session_lost(op: Operation, target: &str, why: &str) -> CriError {
    CriError {
        op,
        target: target.to_owned(),
        kind: ErrorKind::ConnectionLost,
        source: RuntimeAnswer {
            code: "Unavailable".to_owned(),
            message: why.to_owned(),
        },
    }
}

/// The error of a session that the runtime has ended with these words: they are all that it says.
pub(crate) fn session_failed(op: Operation, target: &str, words: &str) -> CriError {
    classify(op, target, &Status::unknown(words))
}

fn kind(op: Operation, status: &Status) -> ErrorKind {
    // A status with a source was made on this side of the connection, one without came from the runtime.
    if let Some(source) = status.source() {
        return if has_cause::<TimeoutExpired>(source) {
            ErrorKind::DeadlineExceeded
        } else if has_cause::<ConnectError>(source) {
            ErrorKind::Unavailable
        } else {
            ErrorKind::ConnectionLost
        };
    }
    let message = status.message();
    // containerd gives these failures no code of their own, only words.
    if message.contains("is reserved for") {
        return ErrorKind::AlreadyExists;
    }
    if op == Operation::RunPodSandbox && message.contains("no runtime for") {
        return ErrorKind::UnknownHandler;
    }
    match status.code() {
        Code::NotFound => missing(op, message),
        Code::AlreadyExists => ErrorKind::AlreadyExists,
        Code::Unavailable => ErrorKind::Unavailable,
        Code::DeadlineExceeded => ErrorKind::DeadlineExceeded,
        // We cancel no call whose answer we still read: the runtime gave up on its own account.
        Code::Cancelled => ErrorKind::ConnectionLost,
        Code::InvalidArgument | Code::OutOfRange => ErrorKind::Invalid,
        Code::FailedPrecondition => ErrorKind::FailedPrecondition,
        Code::Unimplemented => ErrorKind::Unimplemented,
        _ if wrong_state(op, message) => ErrorKind::FailedPrecondition,
        _ => ErrorKind::Other,
    }
}

/// What "not found" is about: calls that create something also look up an image.
fn missing(op: Operation, message: &str) -> ErrorKind {
    match op {
        Operation::PullImage | Operation::ImageStatus | Operation::RemoveImage => {
            ErrorKind::ImageNotFound
        }
        Operation::CreateContainer | Operation::RunPodSandbox if message.contains("image") => {
            ErrorKind::ImageNotFound
        }
        Operation::RunPodSandbox => ErrorKind::Other,
        _ => ErrorKind::NotFound,
    }
}

fn wrong_state(op: Operation, message: &str) -> bool {
    match op {
        Operation::StartContainer | Operation::ExecSync | Operation::Exec | Operation::Attach => {
            message.contains("CONTAINER_") && message.contains("state")
        }
        // Nobody listens there.
        Operation::PortForward => message.contains("failed to connect to localhost"),
        _ => false,
    }
}

fn has_cause<E: Error + 'static>(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if error.is::<E>() {
            return true;
        }
        next = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn check(op: Operation, code: Code, message: &str, expected: ErrorKind) {
        let error = classify(op, "x", &Status::new(code, message));
        assert_eq!(error.kind, expected, "{op}: {message}");
    }

    #[test]
    fn words_of_containerd() {
        use Operation::{
            ContainerStatus, CreateContainer, ExecSync, PullImage, RunPodSandbox, StartContainer,
        };
        check(
            RunPodSandbox,
            Code::FailedPrecondition,
            "failed to reserve sandbox name \"a_ns_uid_0\": name \"a_ns_uid_0\" is reserved for \"5f\"",
            ErrorKind::AlreadyExists,
        );
        check(
            RunPodSandbox,
            Code::Unknown,
            "unable to get OCI runtime for sandbox \"5f\": no runtime for \"runsc\" is configured",
            ErrorKind::UnknownHandler,
        );
        check(
            RunPodSandbox,
            Code::NotFound,
            "failed to get sandbox image \"localhost/pause:dev\": not found",
            ErrorKind::ImageNotFound,
        );
        check(
            RunPodSandbox,
            Code::NotFound,
            "no such file",
            ErrorKind::Other,
        );
        check(
            CreateContainer,
            Code::NotFound,
            "failed to resolve image \"a\": not found",
            ErrorKind::ImageNotFound,
        );
        check(
            CreateContainer,
            Code::NotFound,
            "failed to find sandbox id \"5f\": not found",
            ErrorKind::NotFound,
        );
        check(
            ContainerStatus,
            Code::NotFound,
            "an error occurred when try to find container",
            ErrorKind::NotFound,
        );
        check(
            PullImage,
            Code::NotFound,
            "failed to resolve reference \"a\": not found",
            ErrorKind::ImageNotFound,
        );
        check(
            ExecSync,
            Code::Unknown,
            "container is in CONTAINER_EXITED state",
            ErrorKind::FailedPrecondition,
        );
        check(
            StartContainer,
            Code::Unknown,
            "container is in CONTAINER_RUNNING state",
            ErrorKind::FailedPrecondition,
        );
        check(
            StartContainer,
            Code::Unknown,
            "runc create failed: exec: no such file",
            ErrorKind::Other,
        );
        check(
            ExecSync,
            Code::DeadlineExceeded,
            "timeout 1s exceeded",
            ErrorKind::DeadlineExceeded,
        );
        check(
            RunPodSandbox,
            Code::Unavailable,
            "server is not initialized yet",
            ErrorKind::Unavailable,
        );
    }

    #[test]
    fn what_this_side_saw() {
        let check = |source: Arc<dyn Error + Send + Sync>, expected| {
            let mut status = Status::new(Code::Unknown, "transport error");
            status.set_source(source);
            assert_eq!(
                classify(Operation::RunPodSandbox, "x", &status).kind,
                expected
            );
        };
        let refused = || std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        check(
            Arc::new(ConnectError(refused().into())),
            ErrorKind::Unavailable,
        );
        check(Arc::new(TimeoutExpired(())), ErrorKind::DeadlineExceeded);
        check(Arc::new(refused()), ErrorKind::ConnectionLost);
    }
}
