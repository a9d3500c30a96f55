//! What is to go wrong, and when.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use tonic::{Code, Status};

use crate::{ErrorKind, Operation};

/// When a fault strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Moment {
    Before,
    After,
}

/// A scripted fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    Fail(ErrorKind, Moment),
    Hang(Moment),
}

/// Orders for calls to come, and a count of those that were.
#[derive(Debug, Default)]
pub(super) struct Script {
    pub(super) down: bool,
    faults: HashMap<Operation, VecDeque<Fault>>,
    delays: HashMap<Operation, Duration>,
    calls: HashMap<Operation, u64>,
}

impl Script {
    pub(super) fn add(&mut self, op: Operation, fault: Fault) {
        self.faults.entry(op).or_default().push_back(fault);
    }

    pub(super) fn set_delay(&mut self, op: Operation, duration: Duration) {
        self.delays.insert(op, duration);
    }

    pub(super) fn calls(&self, op: Operation) -> u64 {
        self.calls.get(&op).copied().unwrap_or(0)
    }

    /// Counts a call and returns what was ordered for it.
    pub(super) fn begin(&mut self, op: Operation) -> (Option<Duration>, Option<Fault>) {
        *self.calls.entry(op).or_default() += 1;
        let fault = self.faults.get_mut(&op).and_then(VecDeque::pop_front);
        (
            self.delays.get(&op).copied().filter(|d| !d.is_zero()),
            fault,
        )
    }
}

/// The status by which a runtime would report a failure of this kind.
pub(super) fn status_of(kind: ErrorKind) -> Status {
    let (code, message) = match kind {
        ErrorKind::NotFound => (Code::NotFound, "not found"),
        ErrorKind::AlreadyExists => (
            Code::Unknown,
            "failed to reserve name: name \"scripted\" is reserved for \"0\"",
        ),
        ErrorKind::ImageNotFound => (
            Code::NotFound,
            "failed to resolve image \"scripted\": not found",
        ),
        ErrorKind::UnknownHandler => (Code::Unknown, "no runtime for \"scripted\" is configured"),
        ErrorKind::Invalid => (Code::InvalidArgument, "scripted: invalid argument"),
        ErrorKind::FailedPrecondition => {
            (Code::FailedPrecondition, "scripted: failed precondition")
        }
        ErrorKind::Unavailable => (Code::Unavailable, "scripted: unavailable"),
        ErrorKind::ConnectionLost => (Code::Cancelled, "scripted: the connection was lost"),
        ErrorKind::DeadlineExceeded => (
            Code::DeadlineExceeded,
            "scripted: context deadline exceeded",
        ),
        ErrorKind::Unimplemented => (Code::Unimplemented, "scripted: not implemented"),
        ErrorKind::Other => (Code::Unknown, "scripted: failed"),
    };
    Status::new(code, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::classify::classify;

    #[test]
    fn scripted_failures_are_classified_as_what_was_ordered() {
        let check = |op, kind| assert_eq!(classify(op, "x", &status_of(kind)).kind, kind, "{op}");
        for kind in [
            ErrorKind::NotFound,
            ErrorKind::AlreadyExists,
            ErrorKind::Invalid,
            ErrorKind::FailedPrecondition,
            ErrorKind::Unavailable,
            ErrorKind::ConnectionLost,
            ErrorKind::DeadlineExceeded,
            ErrorKind::Unimplemented,
            ErrorKind::Other,
        ] {
            check(Operation::StartContainer, kind);
            check(Operation::StopPodSandbox, kind);
        }
        check(Operation::CreateContainer, ErrorKind::ImageNotFound);
        check(Operation::PullImage, ErrorKind::ImageNotFound);
        check(Operation::RunPodSandbox, ErrorKind::ImageNotFound);
        check(Operation::RunPodSandbox, ErrorKind::UnknownHandler);
    }
}
