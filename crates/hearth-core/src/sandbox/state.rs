//! Facts, wishes, operations and phases.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::look::Sighting;
use crate::ids::PodUid;
use crate::podspec::{PodPlan, Refusal};
use crate::probe::ProbeState;
use crate::restart::Restarts;

/// All that is known of one sandbox.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct State {
    /// Where it is in its life. Derived from the rest in each step.
    pub phase: Phase,
    /// This incarnation of the pod; `None` when nothing of it is left.
    pub pod: Option<Pod>,
    /// What the journal says.
    pub recorded: Option<Stage>,
    /// The operation under way.
    pub doing: Option<Op>,
    /// What must be found out before anything else is done.
    pub unsettled: Option<Unsettled>,
    /// Whether something may have changed at the runtime that was not seen yet.
    pub look_due: bool,
    /// What the runtime has of this sandbox that does not belong to the incarnation.
    pub strays: Vec<Stray>,
    /// The step that failed last, until it succeeds.
    pub failure: Option<Failure>,
    /// Whether a slot for expensive work is held.
    pub slot: bool,
    /// When to take the next step at the latest.
    pub wake: Option<Duration>,
    /// Since when the processes have been standing still.
    pub(super) frozen_since: Option<Duration>,
}

/// One incarnation of the pod.
#[derive(Clone, Debug, PartialEq)]
pub struct Pod {
    /// Its uid: known to CRI, cgroup and logs.
    pub uid: PodUid,
    /// What it was made from.
    pub plan: Arc<PodPlan>,
    /// Attempt of the CRI sandbox.
    pub attempt: u32,
    /// Directories and mounts of its volumes.
    pub volumes: Prepared,
    /// Its cgroup with its limits.
    pub cgroup: Prepared,
    /// The CRI sandbox.
    pub sandbox: SandboxFact,
    /// Addresses.
    pub ips: Vec<String>,
    /// Containers, in the order of the plan.
    pub containers: Vec<Container>,
    /// How it ended, once all containers have and none is started again.
    pub ended: Option<Ended>,
    /// Whether it is being stopped, for whatever reason.
    pub ending: bool,
    /// Whether the containers were told to stop.
    pub told_to_stop: bool,
}

impl Pod {
    /// A pod of which nothing was made yet.
    #[must_use]
    pub fn new(uid: PodUid, plan: Arc<PodPlan>) -> Self {
        let containers = vec![Container::default(); plan.containers.len()];
        Self {
            uid,
            plan,
            attempt: 0,
            volumes: Prepared::No,
            cgroup: Prepared::No,
            sandbox: SandboxFact::None,
            ips: Vec::new(),
            containers,
            ended: None,
            ending: false,
            told_to_stop: false,
        }
    }

    /// Whether each container was started at least once.
    #[must_use]
    pub fn all_started(&self) -> bool {
        self.containers.iter().all(|container| container.started)
    }

    /// Whether every container runs and is ready.
    #[must_use]
    pub fn all_ready(&self) -> bool {
        matches!(self.sandbox, SandboxFact::Up(_))
            && self.containers.iter().all(|c| matches!(c.life, Life::Running(_)) && c.probe.ready())
    }

    /// Whether any container has not ended for good.
    #[must_use]
    pub fn any_running(&self) -> bool {
        self.containers.iter().any(|container| matches!(container.life, Life::Running(_)))
    }
}

/// Whether something on the host was prepared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Prepared {
    /// No.
    #[default]
    No,
    /// It may have been, by a daemon that has ended.
    Maybe,
    /// Yes.
    Yes,
}

/// The CRI sandbox of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum SandboxFact {
    /// There is none.
    #[default]
    None,
    /// It runs.
    Up(String),
    /// It is there, stopped.
    Down(String),
}

impl SandboxFact {
    /// Its id.
    #[must_use]
    pub fn id(&self) -> Option<&str> {
        match self {
            Self::None => None,
            Self::Up(id) | Self::Down(id) => Some(id),
        }
    }
}

/// One container of a pod.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Container {
    /// Attempt; goes up with each container that is made in its place.
    pub attempt: u32,
    /// Where it is in its life.
    pub life: Life,
    /// What its probes have shown.
    pub probe: ProbeState,
    /// Whether a probe is under way.
    pub probing: bool,
    /// How often it had to be started again lately.
    pub restarts: Restarts,
    /// Not to be started again before this.
    pub not_before: Duration,
    /// Whether its image is known to be there.
    pub has_image: bool,
    /// Whether its image was looked for and must be pulled.
    pub needs_pull: bool,
    /// Whether it was started before.
    pub started: bool,
    /// Why it ended or did not start, for as long as it does not run.
    pub trouble: Option<String>,
}

/// Where a container is in its life.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Life {
    /// It does not exist.
    #[default]
    Absent,
    /// It exists and was not started.
    Created(String),
    /// It runs.
    Running(String),
    /// It has ended.
    Exited {
        /// Its id; empty when the container itself is gone.
        id: String,
        /// Its exit code.
        code: i32,
    },
}

impl Life {
    /// The id of the container, when it exists.
    #[must_use]
    pub fn id(&self) -> Option<&str> {
        match self {
            Self::Absent => None,
            Self::Created(id) | Self::Running(id) | Self::Exited { id, .. } => Some(id).map(String::as_str).filter(|id| !id.is_empty()),
        }
    }
}

/// How a pod ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// All containers ended with code 0.
    Succeeded,
    /// At least one did not.
    Failed,
}

/// How far the life of a sandbox has come, as far as a restarted daemon cannot see it for itself. Journalled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Stage {
    /// The pod is being made, or was made and has not been ready yet.
    Creating,
    /// The pod has been ready.
    Ready,
    /// The pod is being stopped; it is never used again.
    Stopping,
    /// No pod, on purpose.
    Suspended,
    /// All containers ended well, and none is started again.
    Succeeded,
    /// All containers ended, at least one badly, and none is started again.
    Failed,
}

impl From<Ended> for Stage {
    fn from(ended: Ended) -> Self {
        match ended {
            Ended::Succeeded => Self::Succeeded,
            Ended::Failed => Self::Failed,
        }
    }
}

/// What is wanted of a sandbox.
#[derive(Clone, Debug, PartialEq)]
pub struct Desired {
    /// Where it shall be.
    pub goal: Goal,
    /// What a new incarnation would be made from; `None` while the API was not heard.
    pub plan: Option<Result<Arc<PodPlan>, Arc<Refusal>>>,
    /// Whether it is a pool member that nobody has claimed.
    pub member: bool,
    /// Whether somebody needs its processes running: a bind, an exec.
    pub held: bool,
    /// Whether pods of its handler can be frozen.
    pub can_freeze: bool,
}

/// Where a sandbox shall be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goal {
    /// Nobody has said yet: it stays as it is.
    Keep,
    /// It runs.
    Run {
        /// It is frozen once it is ready, and stays so until it is held.
        freeze_when_ready: bool,
    },
    /// Its processes are kept, stopped.
    Freeze,
    /// No pod, but the sandbox stays known.
    Suspend,
    /// No pod any more: its time is over.
    Expire,
    /// Nothing is left.
    Remove,
}

impl Goal {
    /// Whether the goal leaves no pod.
    #[must_use]
    pub fn ends_pod(self) -> bool {
        matches!(self, Self::Suspend | Self::Expire | Self::Remove)
    }
}

/// Whether the pod's processes run, as the gate knows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Residency {
    /// They run.
    #[default]
    Running,
    /// They are stopped, and that was confirmed.
    Frozen,
    /// A freeze or thaw failed, and so did undoing it.
    Unclear,
}

/// What has been observed.
#[derive(Clone, Debug, PartialEq)]
pub struct Observed {
    /// Whether the processes run, now.
    pub residency: Residency,
    /// What happened.
    pub event: Event,
}

/// What happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// Time has passed, or a wish has changed.
    Tick,
    /// Something may have changed at the runtime.
    Changed,
    /// What stood in the way of the failed step may be gone: try again now.
    Retry,
    /// The operation under way has ended.
    Ended(Outcome),
    /// A probe has ended.
    Probed {
        /// Which container, by its place in the plan.
        container: usize,
        /// Attempt of the container that was probed.
        attempt: u32,
        /// Whether it succeeded.
        success: bool,
    },
}

/// How an operation ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// It was done.
    Done(Learned),
    /// It was not done.
    Failed(String),
    /// Nobody knows whether it was done.
    Unknown(String),
}

/// What an operation that was done has brought to light.
#[derive(Clone, Debug, PartialEq)]
pub enum Learned {
    /// Nothing more.
    Nothing,
    /// A slot, and a uid in case a pod is made.
    Admitted(PodUid),
    /// The CRI sandbox.
    Sandbox {
        /// Its id.
        id: String,
        /// Its addresses.
        ips: Vec<String>,
    },
    /// Whether the image is there.
    Image(bool),
    /// The container's id.
    Container(String),
    /// What the runtime has of this sandbox.
    Seen(Sighting),
}

/// Something to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Drop the operation under way, which is one that may be dropped.
    Cancel,
    /// Start an operation, and report its end as [`Event::Ended`].
    Do(Op),
    /// Probe a container, and report the result as [`Event::Probed`].
    Probe {
        /// Which one, by its place in the plan.
        container: usize,
        /// Its attempt.
        attempt: u32,
    },
    /// Give the slot back.
    ReleaseSlot,
}

/// An operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Wait for a slot for expensive work.
    Admit(Priority),
    /// Write the record with this stage.
    Record(Stage),
    /// Delete the record.
    Forget,
    /// Make the volumes.
    Volumes,
    /// Make the cgroup and write its limits.
    Cgroup,
    /// Run the CRI sandbox.
    RunSandbox {
        /// Attempt in its name.
        attempt: u32,
    },
    /// Look whether the image is there.
    Image {
        /// The container.
        container: usize,
    },
    /// Pull the image.
    Pull {
        /// The container.
        container: usize,
    },
    /// Create a container.
    Create {
        /// The container.
        container: usize,
        /// Attempt in its name.
        attempt: u32,
    },
    /// Start a container.
    Start {
        /// The container.
        container: usize,
        /// Its id.
        id: String,
    },
    /// Remove a container that has ended, to make room for the next.
    RemoveContainer {
        /// The container.
        container: usize,
        /// Its id.
        id: String,
    },
    /// Freeze the pod and confirm it.
    Freeze,
    /// Thaw the pod and confirm it.
    Thaw,
    /// Stop these containers, all at once.
    StopContainers {
        /// Their ids.
        ids: Vec<String>,
        /// How long they may take, in seconds.
        grace_seconds: u32,
    },
    /// Stop the CRI sandbox.
    StopSandbox {
        /// Its id.
        id: String,
    },
    /// Remove the CRI sandbox with its containers.
    RemoveSandbox {
        /// Its id.
        id: String,
    },
    /// Remove something that does not belong to the incarnation.
    RemoveStray(Stray),
    /// List what the runtime has of this sandbox.
    Look,
    /// Remove the volumes.
    RemoveVolumes,
    /// Remove the cgroup.
    RemoveCgroup,
}

/// Who goes first when slots are scarce.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Priority {
    /// Somebody waits for it.
    Wanted,
    /// Stock or clean-up: yields to claims.
    Background,
}

/// Something at the runtime that does not belong to the incarnation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stray {
    /// A CRI sandbox.
    Sandbox {
        /// Its id.
        id: String,
        /// The pod's uid, which names its cgroup.
        pod_uid: PodUid,
    },
    /// A container in our sandbox.
    Container {
        /// Its id.
        id: String,
    },
}

/// What must be found out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unsettled {
    /// What an earlier daemon left.
    Adoption,
    /// Whether this was done.
    Op(Op),
}

/// A step that failed.
#[derive(Clone, Debug, PartialEq)]
pub struct Failure {
    /// The step.
    pub step: Step,
    /// The container that it was about.
    pub container: Option<usize>,
    /// What went wrong.
    pub error: String,
    /// How often in a row.
    pub attempts: u32,
    /// When it is tried again.
    pub retry_at: Duration,
}

/// The kinds of operations, as names of phases, metric labels and in messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // named like the operations
pub enum Step {
    Admit,
    Record,
    Forget,
    Volumes,
    Cgroup,
    RunSandbox,
    Image,
    Pull,
    Create,
    Start,
    RemoveContainer,
    Freeze,
    Thaw,
    StopContainers,
    StopSandbox,
    RemoveSandbox,
    RemoveStray,
    Look,
    RemoveVolumes,
    RemoveCgroup,
}

impl Step {
    /// The name as a metric label, in snake case.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Admit => "admit",
            Self::Record => "record",
            Self::Forget => "forget",
            Self::Volumes => "volumes",
            Self::Cgroup => "cgroup",
            Self::RunSandbox => "run_sandbox",
            Self::Image => "image",
            Self::Pull => "pull",
            Self::Create => "create",
            Self::Start => "start",
            Self::RemoveContainer => "remove_container",
            Self::Freeze => "freeze",
            Self::Thaw => "thaw",
            Self::StopContainers => "stop_containers",
            Self::StopSandbox => "stop_sandbox",
            Self::RemoveSandbox => "remove_sandbox",
            Self::RemoveStray => "remove_stray",
            Self::Look => "look",
            Self::RemoveVolumes => "remove_volumes",
            Self::RemoveCgroup => "remove_cgroup",
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

impl Op {
    /// The kind of operation.
    #[must_use]
    pub fn step(&self) -> Step {
        match self {
            Self::Admit(_) => Step::Admit,
            Self::Record(_) => Step::Record,
            Self::Forget => Step::Forget,
            Self::Volumes => Step::Volumes,
            Self::Cgroup => Step::Cgroup,
            Self::RunSandbox { .. } => Step::RunSandbox,
            Self::Image { .. } => Step::Image,
            Self::Pull { .. } => Step::Pull,
            Self::Create { .. } => Step::Create,
            Self::Start { .. } => Step::Start,
            Self::RemoveContainer { .. } => Step::RemoveContainer,
            Self::Freeze => Step::Freeze,
            Self::Thaw => Step::Thaw,
            Self::StopContainers { .. } => Step::StopContainers,
            Self::StopSandbox { .. } => Step::StopSandbox,
            Self::RemoveSandbox { .. } => Step::RemoveSandbox,
            Self::RemoveStray(_) => Step::RemoveStray,
            Self::Look => Step::Look,
            Self::RemoveVolumes => Step::RemoveVolumes,
            Self::RemoveCgroup => Step::RemoveCgroup,
        }
    }

    /// The container that it is about.
    #[must_use]
    pub fn container(&self) -> Option<usize> {
        match self {
            Self::Image { container }
            | Self::Pull { container }
            | Self::Create { container, .. }
            | Self::Start { container, .. }
            | Self::RemoveContainer { container, .. } => Some(*container),
            _ => None,
        }
    }

    /// Whether it hangs when the pod is frozen.
    #[must_use]
    pub fn needs_live(&self) -> bool {
        matches!(
            self,
            Self::RunSandbox { .. }
                | Self::Create { .. }
                | Self::Start { .. }
                | Self::RemoveContainer { .. }
                | Self::StopContainers { .. }
                | Self::StopSandbox { .. }
                | Self::RemoveSandbox { .. }
                | Self::RemoveStray(Stray::Container { .. })
                | Self::RemoveCgroup
        )
    }

    /// Whether it is expensive, so that only so many may be under way on a node.
    #[must_use]
    pub fn needs_slot(&self) -> bool {
        matches!(
            self,
            Self::RunSandbox { .. }
                | Self::Create { .. }
                | Self::Start { .. }
                | Self::StopSandbox { .. }
                | Self::RemoveSandbox { .. }
                | Self::RemoveStray(_)
        )
    }

    /// Whether a slot that is held stays held while it is under way. Waiting for others gives it up.
    pub(super) fn keeps_slot(&self) -> bool {
        self.needs_slot() || matches!(self, Self::Record(Stage::Creating) | Self::Volumes | Self::Cgroup | Self::Image { .. })
    }

    /// Whether it may be dropped half-way: it only waits, or only reads.
    pub(super) fn may_be_dropped(&self) -> bool {
        matches!(self, Self::Admit(_) | Self::Image { .. } | Self::Pull { .. } | Self::Look)
    }
}

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
