//! What the runtime has of a sandbox, and what follows from it.

use std::time::Duration;

use super::op::{Op, Stray};
use super::state::{
    HookState, Life, Pod, Predecessor, Residency, SandboxFact, Stage, State, Unsettled,
};
use crate::ids::PodUid;
use crate::podspec::{RestartPolicy, Role};
use crate::probe::Probes;

/// Exit code of a container of which nothing is known but that it is gone: as if it had been killed.
const KILLED: i32 = 137;

/// What the runtime has under a Sandbox's uid.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sighting {
    /// CRI sandboxes.
    pub sandboxes: Vec<SeenSandbox>,
    /// Containers in them.
    pub containers: Vec<SeenContainer>,
}

/// A CRI sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenSandbox {
    /// Its id.
    pub id: String,
    /// The pod's uid.
    pub pod_uid: PodUid,
    /// Attempt in its name.
    pub attempt: u32,
    /// Whether it runs.
    pub ready: bool,
    /// Its addresses, if they were asked for.
    pub ips: Vec<String>,
}

/// A container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenContainer {
    /// Its id.
    pub id: String,
    /// The sandbox it is in.
    pub sandbox_id: String,
    /// Name in the plan.
    pub name: String,
    /// Attempt in its name.
    pub attempt: u32,
    /// Whether it was made with the variables of a bind.
    pub with_env: bool,
    /// Where it is in its life.
    pub life: SeenLife,
}

/// Where a container is in its life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SeenLife {
    /// It was not started.
    Created,
    /// It runs.
    Running,
    /// It has ended.
    Exited {
        /// Its exit code.
        code: i32,
        /// How long it had run.
        ran_for: Duration,
        /// What the runtime says of the end: a reason, a message; may be empty.
        reason: String,
    },
    /// The runtime does not know itself.
    Unknown,
}

impl State {
    /// Takes over what the runtime has, and sets aside what does not belong.
    pub(super) fn see(&mut self, seen: &Sighting, residency: Residency, now: Duration) {
        let settled = self.unsettled.take();
        self.strays.clear();
        let Some(mut pod) = self.pod.take() else {
            self.strays.extend(seen.sandboxes.iter().map(stray_sandbox));
            return;
        };
        let current = seen
            .sandboxes
            .iter()
            .filter(|sandbox| sandbox.pod_uid == pod.uid && sandbox.attempt >= pod.attempt)
            .max_by_key(|sandbox| sandbox.attempt);
        let others = seen
            .sandboxes
            .iter()
            .filter(|sandbox| Some(*sandbox) != current);
        self.strays.extend(others.map(stray_sandbox));
        // An earlier daemon may have asked for one as well.
        let tried = matches!(
            settled,
            Some(Unsettled::Adoption | Unsettled::Op(Op::RunSandbox { .. }))
        );
        see_sandbox(&mut pod, current, tried);
        let has_been_ready =
            settled == Some(Unsettled::Adoption) && self.recorded == Some(Stage::Ready);
        let inside: Vec<&SeenContainer> = match pod.sandbox.id() {
            Some(id) => seen
                .containers
                .iter()
                .filter(|container| container.sandbox_id == id)
                .collect(),
            None => Vec::new(),
        };
        for index in 0..pod.containers.len() {
            let tried = matches!(&settled, Some(Unsettled::Op(Op::Create { container, .. })) if *container == index);
            let found = newest(&pod, index, &inside);
            see_container(&mut pod, index, found, tried, has_been_ready, now);
            see_predecessor(&mut pod, index, &inside);
        }
        let known = |container: &&&SeenContainer| {
            let id = Some(container.id.as_str());
            pod.containers.iter().any(|ours| {
                let predecessor = ours.predecessor.as_ref();
                ours.life.id() == id || predecessor.map(|one| one.id.as_str()) == id
            })
        };
        let leftover = inside.iter().filter(|container| !known(container));
        self.strays
            .extend(leftover.map(|container| Stray::Container {
                id: container.id.clone(),
            }));
        // A clock that stood still when this daemon came stands still from now on.
        if residency == Residency::Frozen {
            self.frozen_since.get_or_insert(now);
        }
        self.pod = Some(pod);
    }
}

fn stray_sandbox(sandbox: &SeenSandbox) -> Stray {
    Stray::Sandbox {
        id: sandbox.id.clone(),
        pod_uid: sandbox.pod_uid.clone(),
    }
}

fn see_sandbox(pod: &mut Pod, current: Option<&SeenSandbox>, tried: bool) {
    // What init containers did in another sandbox is gone with it.
    pod.initialised &= current.is_some_and(|seen| pod.sandbox.id() == Some(&seen.id));
    match current {
        Some(sandbox) => {
            pod.attempt = sandbox.attempt;
            pod.sandbox = if sandbox.ready {
                SandboxFact::Up(sandbox.id.clone())
            } else {
                SandboxFact::Down(sandbox.id.clone())
            };
            if !sandbox.ips.is_empty() {
                pod.ips.clone_from(&sandbox.ips);
            }
        }
        None => {
            // Under the attempt that was tried, one may still turn up.
            if tried || pod.sandbox != SandboxFact::None {
                pod.attempt += 1;
            }
            pod.sandbox = SandboxFact::None;
        }
    }
}

/// The container of the newest attempt under this name.
fn newest<'a>(pod: &Pod, index: usize, inside: &[&'a SeenContainer]) -> Option<&'a SeenContainer> {
    let (name, attempt) = (
        &pod.plan.containers.get(index)?.name,
        pod.containers.get(index)?.attempt,
    );
    inside
        .iter()
        .filter(|container| container.name == *name && container.attempt >= attempt)
        .max_by_key(|container| container.attempt)
        .copied()
}

/// What ran before the variables of a bind came. One that was never started is no more than a leftover.
fn see_predecessor(pod: &mut Pod, index: usize, inside: &[&SeenContainer]) {
    let plans = std::sync::Arc::clone(&pod.plan);
    let Some((container, plan)) = pod
        .containers
        .get_mut(index)
        .zip(plans.containers.get(index))
    else {
        return;
    };
    let older = |seen: &&&SeenContainer| {
        seen.name == plan.name
            && seen.attempt < container.attempt
            && !seen.with_env
            && seen.life != SeenLife::Created
    };
    let seen = inside.iter().filter(older).max_by_key(|seen| seen.attempt);
    // The runtime may not have heard yet of the end of what was killed.
    let known = container.predecessor.as_ref();
    let has_ended = |id: &str| known.is_some_and(|known| known.ended && known.id == id);
    container.predecessor = seen.map(|seen| Predecessor {
        id: seen.id.clone(),
        ended: matches!(seen.life, SeenLife::Exited { .. }) || has_ended(&seen.id),
    });
}

fn see_container(
    pod: &mut Pod,
    index: usize,
    found: Option<&SeenContainer>,
    tried: bool,
    has_been_ready: bool,
    now: Duration,
) {
    let plans = std::sync::Arc::clone(&pod.plan);
    let policy = plans.restart_policy_of(index);
    let Some((container, plan)) = pod
        .containers
        .get_mut(index)
        .zip(plans.containers.get(index))
    else {
        return;
    };
    pod.initialised |= found.is_some() && plan.role == Role::Main;
    let Some(found) = found else {
        match &container.life {
            Life::Running(_) => container.ended(
                policy,
                String::new(),
                KILLED,
                Duration::ZERO,
                "it is gone",
                now,
            ),
            Life::Created(_) => container.make_anew(),
            // Nothing says that it did its work in this sandbox.
            Life::Exited { .. } if plan.role == Role::Init && !pod.initialised => {
                container.make_anew();
            }
            // What has ended and is not started again needs no container any more.
            Life::Exited { code, .. } => {
                container.life = Life::Exited {
                    id: String::new(),
                    code: *code,
                }
            }
            Life::Absent if tried => container.attempt += 1,
            Life::Absent => {}
        }
        return;
    };
    container.attempt = found.attempt;
    container.with_env = found.with_env;
    match &found.life {
        SeenLife::Created => container.life = Life::Created(found.id.clone()),
        SeenLife::Running => {
            if container.life != Life::Running(found.id.clone()) {
                container.life = Life::Running(found.id.clone());
                container.probes = if has_been_ready {
                    Probes::adopted_ready(plan, now)
                } else {
                    Probes::started(plan, now)
                };
                // Whether its hook was done is not known; kubelet does not do it again either.
                container.hook = HookState::Done;
            }
            // It was stopped, and runs all the same.
            if let Some(doom) = &mut container.doomed {
                doom.told = false;
            }
            container.started = true;
            container.trouble = None;
        }
        SeenLife::Exited {
            code,
            ran_for,
            reason,
        } => {
            let known = matches!(&container.life, Life::Exited { id, .. } if *id == found.id);
            if !known {
                container.ended(policy, found.id.clone(), *code, *ran_for, reason, now);
            }
        }
        SeenLife::Unknown => {
            container.ended(
                policy,
                found.id.clone(),
                KILLED,
                Duration::ZERO,
                "its state is unknown",
                now,
            );
        }
    }
}

impl super::state::Container {
    /// It has ended.
    pub(super) fn ended(
        &mut self,
        policy: RestartPolicy,
        id: String,
        code: i32,
        ran_for: Duration,
        reason: &str,
        now: Duration,
    ) {
        let (restarts, delay) = self.restarts.after_exit(ran_for);
        if crate::restart::restarts(policy, code) {
            self.restarts = restarts;
            self.not_before = now + delay;
        }
        let doomed = self.doomed.take();
        let reason = match doomed.as_ref().map_or(reason, |doom| &doom.why) {
            "" => String::new(),
            reason => format!(": {reason}"),
        };
        self.trouble = Some(format!("ended with code {code}{reason}"));
        self.life = Life::Exited { id, code };
        self.started = true;
        self.has_image = false;
        self.probes = Probes::default();
        self.hook = HookState::Due;
    }

    /// What there was of it does not count: the next one has the next attempt.
    pub(super) fn make_anew(&mut self) {
        self.life = Life::Absent;
        self.attempt += 1;
        self.has_image = false;
        self.probes = Probes::default();
        self.hook = HookState::Due;
        self.doomed = None;
    }
}
