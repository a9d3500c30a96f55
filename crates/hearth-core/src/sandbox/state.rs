//! Facts, wishes, operations and phases.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::failures::Failures;
use super::op::{Event, Op, Stray};
use super::phase::Phase;
use crate::binding::BoundEnv;
use crate::ids::PodUid;
use crate::podspec::{PodPlan, Refusal, Role};
use crate::probe::Probes;
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
    /// The steps that failed, each until it succeeds.
    pub failures: Failures,
    /// Whether a slot for expensive work is held.
    pub slot: bool,
    /// When to take the next step at the latest.
    pub wake: Option<Duration>,
    /// What must be there before the next step and is not: a ConfigMap, a Secret.
    pub lacking: Option<String>,
    /// Since when the processes have been standing still.
    pub(super) frozen_since: Option<Duration>,
    /// Whether something is wanted now that failed, and is not tried again yet.
    pub(super) blocked: bool,
}

/// One incarnation of the pod.
#[derive(Clone, Debug, PartialEq)]
pub struct Pod {
    /// Its uid: known to CRI, cgroup and logs.
    pub uid: PodUid,
    /// What it was made from.
    pub plan: Arc<PodPlan>,
    /// The variables that came with its bind, once they are in the plan. Containers that were made before are made anew.
    pub env: Option<Arc<BoundEnv>>,
    /// The node's id of its root, if it has a user namespace of its own.
    pub first_id: Option<u32>,
    /// Attempt of the CRI sandbox.
    pub attempt: u32,
    /// Directories and mounts of its volumes.
    pub volumes: Prepared,
    /// What the files of its volumes were made from; `None` while that is not known.
    pub contents: Option<u64>,
    /// Its cgroup with its limits.
    pub cgroup: Prepared,
    /// The CRI sandbox.
    pub sandbox: SandboxFact,
    /// Addresses.
    pub ips: Vec<String>,
    /// Containers, in the order of the plan.
    pub containers: Vec<Container>,
    /// Whether the init containers of this CRI sandbox are over: an ordinary container was made after them.
    pub initialised: bool,
    /// How it ended, once all containers have and none is started again.
    pub ended: Option<Ended>,
    /// Why its node ended it, if that is how it ended. Nothing is kept of one that took too much but what it said.
    pub evicted: Option<String>,
    /// How long it has been active, as far as it has a deadline for that.
    pub active: ActiveTime,
    /// Whether it is being stopped, for whatever reason.
    pub ending: bool,
    /// Whether the containers were told to stop.
    pub told_to_stop: bool,
    /// The attempt in the journal's record, once that names this incarnation. No attempt is used before it is recorded,
    /// because a restarted daemon must not use it again: the name may still be taken.
    pub recorded: Option<u32>,
}

impl Pod {
    /// A pod of which nothing was made yet.
    #[must_use]
    pub fn new(uid: PodUid, plan: Arc<PodPlan>) -> Self {
        let containers = vec![Container::default(); plan.containers.len()];
        Self {
            uid,
            plan,
            env: None,
            first_id: None,
            attempt: 0,
            volumes: Prepared::No,
            contents: None,
            cgroup: Prepared::No,
            sandbox: SandboxFact::None,
            ips: Vec::new(),
            containers,
            initialised: false,
            ended: None,
            evicted: None,
            active: ActiveTime::default(),
            ending: false,
            told_to_stop: false,
            recorded: None,
        }
    }

    /// Whether each container was started at least once.
    #[must_use]
    pub fn all_started(&self) -> bool {
        self.containers.iter().all(|container| container.started)
    }

    /// Whether every container but the init containers runs and is ready.
    #[must_use]
    pub fn all_ready(&self) -> bool {
        matches!(self.sandbox, SandboxFact::Up(_))
            && self
                .with_roles()
                .filter(|(role, _)| *role != Role::Init)
                .all(|(_, c)| c.is_up() && c.probes.ready())
            && !self.is_half_replaced()
    }

    /// The containers, and what each is to the pod.
    pub(crate) fn with_roles(&self) -> impl DoubleEndedIterator<Item = (Role, &Container)> {
        let plans = self.plan.containers.iter().zip(&self.containers);
        plans.map(|(plan, container)| (plan.role, container))
    }

    /// What a container is to the pod.
    pub(super) fn role(&self, container: usize) -> Role {
        let plan = self.plan.containers.get(container);
        plan.map(|plan| plan.role).unwrap_or_default()
    }

    /// Whether any container has not ended for good.
    #[must_use]
    pub fn any_running(&self) -> bool {
        self.containers
            .iter()
            .any(|container| matches!(container.life, Life::Running(_)))
    }
}

/// How long a pod has been active: claimed, or never anybody's stock, and with its processes running.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ActiveTime {
    /// In all, up to the last step.
    pub total: Duration,
    /// How much of it the journal knows of.
    pub recorded: Duration,
    /// When it was counted last; `None` while it does not count.
    pub(super) counted_at: Option<Duration>,
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
    pub probes: Probes,
    /// Whether what follows its start was done.
    pub hook: HookState,
    /// Why it is to be started anew although it runs.
    pub doomed: Option<Doom>,
    /// Whether it was made with the variables of the bind.
    pub with_env: bool,
    /// The one that it takes the place of, until that is removed.
    pub predecessor: Option<Predecessor>,
    /// How often it had to be started again lately.
    pub restarts: Restarts,
    /// Not to be started again before this.
    pub not_before: Duration,
    /// Whether its image is known to be there.
    pub has_image: bool,
    /// Whether its image was looked for and must be pulled.
    pub needs_pull: bool,
    /// Whether the container could not be made, perhaps because its image has gone: it is looked for again before the next
    /// try.
    pub image_in_doubt: bool,
    /// Whether it was started before.
    pub started: bool,
    /// Why it ended or did not start, for as long as it does not run.
    pub trouble: Option<String>,
}

impl Container {
    /// Whether it runs, and what follows its start was done.
    #[must_use]
    pub fn is_up(&self) -> bool {
        matches!(self.life, Life::Running(_)) && self.hook == HookState::Done
    }

    /// Whether it runs, and what follows its start was not done yet.
    #[must_use]
    pub fn is_coming_up(&self) -> bool {
        matches!(self.life, Life::Running(_)) && self.hook != HookState::Done
    }
}

/// A container that ran before the variables of a bind came that are for it. It never runs beside the one that takes its
/// place, and is removed when there is time for that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Predecessor {
    /// Its id.
    pub id: String,
    /// Whether it is known to have no process any more.
    pub ended: bool,
}

/// Why a container that runs is to be started anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Doom {
    /// The reason, to follow the exit code in a message.
    pub why: String,
    /// Whether it was stopped, and its end has only not been seen yet.
    pub told: bool,
}

impl Doom {
    /// To be stopped for this reason.
    #[must_use]
    pub fn new(why: String) -> Self {
        Self { why, told: false }
    }
}

/// How far that is what follows a container's start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HookState {
    /// It did not begin.
    #[default]
    Due,
    /// It is under way.
    UnderWay,
    /// It was done, or there is nothing to do.
    Done,
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
            Self::Created(id) | Self::Running(id) | Self::Exited { id, .. } => {
                Some(id.as_str()).filter(|id| !id.is_empty())
            }
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
    /// The pod is being made, or was made and has not been ready yet; or some of it is made anew for the variables of a
    /// bind.
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
    /// The ConfigMaps and Secrets that the pod reads: of the one there is, or of the one that would be made.
    pub contents: Contents,
    /// The variables that came with the bind, if they are for the pod there is, or the one that would be made.
    pub env: Option<Arc<BoundEnv>>,
    /// Whether it is a pool member that nobody has claimed.
    pub member: bool,
    /// Whether somebody needs its processes running: a bind, an exec.
    pub held: bool,
    /// Whether pods of its handler can be frozen.
    pub can_freeze: bool,
    /// Why no pod is to be begun on this node now. What there is goes on.
    pub no_room: Option<String>,
}

/// The ConfigMaps and Secrets that a pod reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Contents {
    /// All that it needs is there. The number differs when any of it does.
    Known(u64),
    /// What is lacking, in words for the user: nothing is made from the rest.
    Lacking(String),
}

impl Default for Contents {
    /// Of a pod that reads none.
    fn default() -> Self {
        Self::Known(0)
    }
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

/// What must be found out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unsettled {
    /// What an earlier daemon left.
    Adoption,
    /// Whether this was done.
    Op(Op),
}
