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
use super::op::Op;
use super::state::{Container, Desired, HookState, Life, Pod, Predecessor, Residency, State};
use crate::podspec::Role;

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

    /// Removes what was replaced, when nothing else is to be done or tried again. Nothing is thawed for it: what has ended
    /// does no harm until the pod runs again or goes.
    pub(super) fn choose_predecessor(&mut self, now: &Now<'_>) -> Option<Op> {
        let pod = self.pod.as_ref()?;
        if self.blocked || now.residency != Residency::Running || pod.is_about_to_be_ready(now.time)
        {
            return None;
        }
        let (container, id) = pod.ended_predecessor()?;
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

    /// Whether a hook or probe under way, or about to begin, may be the last before it is ready.
    fn is_about_to_be_ready(&self, now: Duration) -> bool {
        let may_tell = |container: &Container| {
            matches!(container.life, Life::Running(_))
                && container.doomed.is_none()
                && (container.hook != HookState::Done
                    || container.probes.any_under_way()
                    || container.probes.due().any(|(_, due)| due <= now))
        };
        !self.all_ready() && self.containers.iter().any(may_tell)
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
