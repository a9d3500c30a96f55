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

fn kind(op: Operation, status: &Status) -> ErrorKind {
    // A status with a source was made on this side of the connection, one without came from the runtime.
    if let Some(source) = status.source() {
        return if has_cause::<TimeoutExpired>(source) {
            ErrorKind::DeadlineExceeded
        } else if has_cause::<ConnectError>(source) {
            ErrorKind::Unavailable
        } else if status.code() == Code::OutOfRange {
            ErrorKind::Other // a message over the size limit: a retry meets it again, but nothing was lost
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
    matches!(op, Operation::StartContainer | Operation::ExecSync)
        && message.contains("CONTAINER_")
        && message.contains("state")
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
