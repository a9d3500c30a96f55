//! How long each call may take.

use std::time::Duration;

/// The longest a call may take, by kind of call. Past it the call fails with
/// [`DeadlineExceeded`](crate::ErrorKind::DeadlineExceeded) and its outcome is unknown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deadlines {
    /// Connecting to the socket; part of the deadline of the call that connects.
    pub connect: Duration,
    /// Calls that only look: version, status, one sandbox, container or image.
    pub look: Duration,
    /// Calls that list.
    pub list: Duration,
    /// Running a pod sandbox, its network included.
    pub run_sandbox: Duration,
    /// Stopping or removing a pod sandbox, removing a container or an image.
    pub remove: Duration,
    /// Creating a container.
    pub create: Duration,
    /// Starting a container.
    pub start: Duration,
    /// What stopping a container may take beyond its grace period, and a command beyond its timeout.
    pub margin: Duration,
    /// Pulling an image.
    pub pull: Duration,
}

impl Default for Deadlines {
    /// Generous for a busy node: a deadline is there to end a call that hangs, not to notice one that is slow.
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            look: Duration::from_secs(10),
            list: Duration::from_secs(30),
            run_sandbox: Duration::from_secs(120),
            remove: Duration::from_secs(60),
            create: Duration::from_secs(60),
            start: Duration::from_secs(60),
            margin: Duration::from_secs(20),
            pull: Duration::from_secs(600),
        }
    }
}

impl Deadlines {
    /// The same deadline for every call, for tests.
    #[must_use]
    pub fn uniform(limit: Duration) -> Self {
        Self {
            connect: limit,
            look: limit,
            list: limit,
            run_sandbox: limit,
            remove: limit,
            create: limit,
            start: limit,
            margin: limit,
            pull: limit,
        }
    }
}
