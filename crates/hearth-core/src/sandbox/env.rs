//! The variables of a claim, in a pod that was made before it was claimed.
//!
//! A container has its environment from its creation on. So those that the variables are for are made anew in the same
//! CRI sandbox: the one there is goes at once, without hook or grace period, because nobody has used it yet. Init
//! containers have done their work and are not run again.

use std::sync::Arc;

use super::state::{Desired, Life, Pod, State};
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
    }
}
