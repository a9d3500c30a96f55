//! Where a sandbox is in its life.

use super::failures::Failure;
use super::state::{Ended, Residency, Unsettled};

/// Where a sandbox is in its life.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Phase {
    /// There is nothing, and nothing is wanted yet.
    #[default]
    Absent,
    /// No pod can be made of it.
    Refused,
    /// A pod is being made, or a container of it made anew before all were started once.
    Creating(CreateStep),
    /// All containers were started, not all are ready.
    Starting(Residency),
    /// All containers are ready.
    Ready(Residency),
    /// The pod is being frozen.
    Freezing,
    /// The pod is being thawed.
    Thawing,
    /// The pod is being stopped; the sandbox stays known.
    Suspending(StopStep),
    /// No pod, on purpose.
    Suspended,
    /// No pod: the sandbox's time is over.
    Expired,
    /// The pod is being stopped; nothing will be left.
    Stopping(StopStep),
    /// Nothing is left.
    Gone,
    /// It is being found out what is there.
    Unknown(Unsettled),
    /// A step failed and is tried again later.
    Failed(Failure),
    /// All containers have ended, and none is started again.
    Finished(Ended),
}

/// How far the making of a pod has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CreateStep {
    /// Waiting for its turn.
    Admission,
    /// Record, volumes and cgroup.
    Host,
    /// The CRI sandbox with its network.
    Sandbox,
    /// The image of a container.
    Image(usize),
    /// A container.
    Container(usize),
    /// The start of a container.
    Start(usize),
}

/// How far the stopping of a pod has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopStep {
    /// Noting that it must never be used again.
    Record,
    /// Thawing, so that the processes hear that they are to stop.
    Thaw,
    /// The containers.
    Containers,
    /// The CRI sandbox.
    Sandbox,
    /// Volumes and cgroup.
    Host,
    /// The record.
    Forget,
}
