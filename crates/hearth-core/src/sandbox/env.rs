//! The variables of a claim, in a pod that was made before it was claimed.
//!
//! A container has its environment from its creation on. So those that the variables are for are made anew in the same
//! CRI sandbox: the one there is goes at once, without hook or grace period, because nobody has used it yet. Init
//! containers have done their work and are not run again.
//!
//! To remove a container takes the runtime as long as to start one, and somebody waits. So one that runs is only set
//! aside: the next is created beside it, under the next attempt, and started once the processes of the first were killed.
//! What is left of the first is removed when nothing else is to be done for the pod.

use std::sync::Arc;
use std::time::Duration;

use super::decide::Now;
use super::op::{Op, Step};
use super::state::{Container, Desired, HookState, Life, Pod, Predecessor, Residency, State};
use crate::podspec::Role;

/// A container that has run for so long without getting ready is not waited for with the removal of what was replaced.
const PATIENCE: Duration = Duration::from_secs(10);
/// What has failed so often in a row is tried so seldom that there is time for the removal between two tries.
const PATIENT_TRIES: u32 = 5;

impl State {
    /// Takes the variables of a bind into the plan of the pod that they are for. Of one that has ended nothing is made anew.
    pub(super) fn take_env(&mut self, desired: &Desired) {
        let (Some(env), Some(pod)) = (&desired.env, &mut self.pod) else {
            return;
        };
        if pod.env.is_none() && !pod.ending && pod.ended.is_none() {
            pod.plan = Arc::new(pod.plan.with_variables(&env.variables));
            pod.env = Some(Arc::clone(env));
        }
    }

    /// Removes what was replaced, when nothing else is to be done or tried again soon, and nothing may be about to make the
    /// pod ready. Nothing is thawed for it: what has ended does no harm until the pod runs again or goes.
    pub(super) fn choose_predecessor(&mut self, now: &Now<'_>) -> Option<Op> {
        let pod = self.pod.as_ref()?;
        let (container, id) = pod.ended_predecessor()?;
        let awaited = pod.is_awaited_until(now.time);
        let other = self.failures.newest_but(Step::RemovePredecessor);
        let failures = other.map_or(0, |failure| failure.attempts);
        if now.residency != Residency::Running || (self.blocked && failures < PATIENT_TRIES) {
            return None;
        }
        if let Some(until) = awaited {
            self.wake_at(until);
            return None;
        }
        self.ready_to(Op::RemovePredecessor { container, id }, now)
    }
}

impl Pod {
    /// Whether this container was made before the variables came that are for it.
    pub(super) fn is_outdated(&self, container: usize) -> bool {
        let there = |life: &Life| *life != Life::Absent;
        let Some((plan, container)) = self
            .plan
            .containers
            .get(container)
            .zip(self.containers.get(container))
        else {
            return false;
        };
        plan.role != Role::Init
            && !container.with_env
            && there(&container.life)
            && self.env.as_ref().is_some_and(|env| env.is_for(&plan.name))
    }

    /// Whether any container is still without the variables that are for it.
    #[must_use]
    pub fn is_half_replaced(&self) -> bool {
        (0..self.containers.len()).any(|container| self.is_outdated(container))
            || self
                .containers
                .iter()
                .any(|container| container.living_predecessor().is_some())
    }

    /// Makes room for the next container beside one that runs. `false` for one that does not: it may yet begin to, late, or
    /// is cheap to remove.
    pub(super) fn set_aside(&mut self, container: usize) -> bool {
        let Some(container) = self.containers.get_mut(container) else {
            return false;
        };
        let (Life::Running(id), None) = (&container.life, &container.predecessor) else {
            return false;
        };
        let id = id.clone();
        // It was there a moment ago.
        let has_image = container.has_image;
        container.make_anew();
        container.has_image = has_image;
        container.predecessor = Some(Predecessor { id, ended: false });
        true
    }

    /// A container that was replaced and has ended.
    fn ended_predecessor(&self) -> Option<(usize, String)> {
        let mut containers = self.containers.iter().enumerate();
        containers.find_map(|(index, container)| {
            let ended = container.predecessor.as_ref().filter(|one| one.ended)?;
            Some((index, ended.id.clone()))
        })
    }

    /// Until when the removal waits for a hook or probe under way, or about to begin, that may be the last before it is
    /// ready: one that never is shall not keep for ever what was replaced.
    fn is_awaited_until(&self, now: Duration) -> Option<Duration> {
        if self.all_ready() {
            return None;
        }
        let may_tell = |container: &Container| {
            matches!(container.life, Life::Running(_))
                && container.doomed.is_none()
                && (container.hook != HookState::Done
                    || container.probes.any_under_way()
                    || container.probes.due().any(|(_, due)| due <= now))
        };
        let awaited = self
            .containers
            .iter()
            .filter(|container| may_tell(container));
        let until = awaited.map(|container| container.probes.since() + PATIENCE);
        until.max().filter(|until| *until > now)
    }
}

impl Container {
    /// The id of the one that it takes the place of, while that may have a process.
    #[must_use]
    pub fn living_predecessor(&self) -> Option<&str> {
        let predecessor = self.predecessor.as_ref().filter(|one| !one.ended)?;
        Some(&predecessor.id)
    }
}
