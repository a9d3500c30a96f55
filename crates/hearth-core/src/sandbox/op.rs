//! What happens, what is done about it, and how it went.

use std::fmt;

use super::look::Sighting;
use super::state::Stage;
use crate::ids::PodUid;
use crate::probe::ProbeKind;

/// What happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// Time has passed, or a wish has changed.
    Tick,
    /// Something may have changed at the runtime.
    Changed,
    /// What stood in the way of the steps that failed may be gone: they are tried again now, but for freezes and thaws.
    Retry,
    /// The operation under way has ended.
    Ended(Outcome),
    /// The pod takes more of its node than it may: it ends, and is not started again.
    Evict {
        /// Which incarnation.
        pod: PodUid,
        /// What it exceeds, in words for the user.
        why: String,
    },
    /// A probe has ended.
    Probed {
        /// Which container, by its place in the plan.
        container: usize,
        /// Attempt of the container that was probed.
        attempt: u32,
        /// Which of its probes.
        kind: ProbeKind,
        /// Whether it succeeded.
        success: bool,
    },
    /// What is done after a container's start has ended.
    Hooked {
        /// Which container, by its place in the plan.
        container: usize,
        /// Its attempt.
        attempt: u32,
        /// What went wrong, if anything.
        error: Option<String>,
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
    /// A slot, and what a pod is to have in case one is made.
    Admitted(NewPod),
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

/// What is the node's to give to a new incarnation of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewPod {
    /// Its uid.
    pub uid: PodUid,
    /// The node's id of its root, if it has a user namespace of its own.
    pub first_id: Option<u32>,
}

/// Something to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Drop the operation under way, which is one that may be dropped.
    Cancel,
    /// Start an operation, and report its end as [`Event::Ended`].
    Do(Op),
    /// Probe a container, and report the result as [`Event::Probed`], unless [`State::is_probing`] says that it is of
    /// no interest any more.
    Probe {
        /// Which one, by its place in the plan.
        container: usize,
        /// Its attempt.
        attempt: u32,
        /// Which of its probes.
        kind: ProbeKind,
    },
    /// Do what the plan has for the moment after a container's start, and report the end as [`Event::Hooked`], unless
    /// [`State::is_hooking`] says that it is of no interest any more.
    PostStart {
        /// Which container, by its place in the plan.
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
    /// Make the volumes, or bring their files up to date.
    Volumes {
        /// See [`Contents::Known`](super::Contents::Known).
        contents: u64,
    },
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
        /// Whether it has the variables of the bind.
        with_env: bool,
    },
    /// Start a container.
    Start {
        /// The container.
        container: usize,
        /// Its id.
        id: String,
    },
    /// Stop a container that is to be started anew.
    Kill {
        /// The container.
        container: usize,
        /// Its id.
        id: String,
        /// How long it may take, in seconds.
        grace_seconds: u32,
    },
    /// Remove a container, to make room for the next: one that has ended, or one that runs and that nobody has used.
    RemoveContainer {
        /// The container.
        container: usize,
        /// Its id.
        id: String,
    },
    /// Kill a container at once that another takes the place of: nobody has used it.
    KillPredecessor {
        /// The container.
        container: usize,
        /// The id of the one that is killed.
        id: String,
    },
    /// Remove such a container, after its end.
    RemovePredecessor {
        /// The container.
        container: usize,
        /// The id of the one that is removed.
        id: String,
    },
    /// Freeze the pod and confirm it.
    Freeze,
    /// Thaw the pod and confirm it.
    Thaw,
    /// Stop these containers, all at once, and the sidecars one by one after them.
    StopContainers {
        /// Their ids.
        ids: Vec<String>,
        /// The ids of the sidecars, in the order in which they are stopped.
        sidecars: Vec<String>,
        /// How long all of it may take, in seconds.
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
    Kill,
    RemoveContainer,
    KillPredecessor,
    RemovePredecessor,
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
            Self::Kill => "kill",
            Self::RemoveContainer => "remove_container",
            Self::KillPredecessor => "kill_predecessor",
            Self::RemovePredecessor => "remove_predecessor",
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
            Self::Volumes { .. } => Step::Volumes,
            Self::Cgroup => Step::Cgroup,
            Self::RunSandbox { .. } => Step::RunSandbox,
            Self::Image { .. } => Step::Image,
            Self::Pull { .. } => Step::Pull,
            Self::Create { .. } => Step::Create,
            Self::Start { .. } => Step::Start,
            Self::Kill { .. } => Step::Kill,
            Self::RemoveContainer { .. } => Step::RemoveContainer,
            Self::KillPredecessor { .. } => Step::KillPredecessor,
            Self::RemovePredecessor { .. } => Step::RemovePredecessor,
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
            | Self::Kill { container, .. }
            | Self::RemoveContainer { container, .. }
            | Self::KillPredecessor { container, .. }
            | Self::RemovePredecessor { container, .. } => Some(*container),
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
                | Self::Kill { .. }
                | Self::RemoveContainer { .. }
                | Self::KillPredecessor { .. }
                | Self::RemovePredecessor { .. }
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
                | Self::RemovePredecessor { .. }
                | Self::RemoveStray(_)
        )
    }

    /// Whether a slot that is held stays held while it is under way. Waiting for others gives it up.
    pub(super) fn keeps_slot(&self) -> bool {
        self.needs_slot()
            || matches!(
                self,
                Self::Record(Stage::Creating)
                    | Self::Volumes { .. }
                    | Self::Cgroup
                    | Self::Image { .. }
                    // Between two steps that need it.
                    | Self::KillPredecessor { .. }
            )
    }

    /// Whether it may be dropped half-way: it only waits, or only reads.
    pub(super) fn may_be_dropped(&self) -> bool {
        matches!(
            self,
            Self::Admit(_) | Self::Image { .. } | Self::Pull { .. }
        )
    }
}
