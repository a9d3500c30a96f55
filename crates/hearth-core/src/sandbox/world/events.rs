//! What may happen to a sandbox and its node.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{Ending, World, WorldSandbox};
use crate::binding::BoundEnv;
use crate::podspec::{Role, Variable};
use crate::sandbox::*;

impl World {
    /// A pod that is ready is bound, with a variable for this container.
    pub(in crate::sandbox) fn bind(&mut self, container: usize) {
        if self.state.ready() {
            self.bind_anyway(container);
        }
    }

    /// The same whatever the pod is like.
    pub(in crate::sandbox) fn bind_anyway(&mut self, container: usize) {
        let Some(pod) = self.state.pod.as_ref() else {
            return;
        };
        let plan = &self.plan.containers[container % self.plan.containers.len()];
        let variable = Variable {
            container: plan.name.clone(),
            name: "X".into(),
            value: "1".into(),
        };
        self.bound.get_or_insert_with(|| {
            Arc::new(BoundEnv {
                pod: pod.uid.clone(),
                variables: vec![variable],
            })
        });
        self.desired.member = false;
        if self.residency == Residency::Frozen {
            self.residency = Residency::Running;
        }
        self.tick();
    }

    /// Attempts of a container that was made with the variables of the bind, and of all that there were of it.
    pub(in crate::sandbox) fn made(&self, container: usize) -> Vec<(u32, bool)> {
        let made = self.log.iter().filter_map(|op| match op {
            Op::Create {
                container: made,
                attempt,
                with_env,
            } if *made == container => Some((*attempt, *with_env)),
            _ => None,
        });
        made.collect()
    }

    /// How many containers there are beside one of each name in each sandbox.
    pub(in crate::sandbox) fn leftovers(&self) -> usize {
        let named = self.containers.iter().map(|c| (&c.sandbox_id, &c.name));
        self.containers.len() - named.collect::<BTreeSet<_>>().len()
    }

    pub(in crate::sandbox) fn probed(&mut self, success: bool) {
        if let Some((container, attempt, kind)) = self.probing.pop() {
            self.happen(Event::Probed {
                container,
                attempt,
                kind,
                success,
            });
        }
    }

    pub(in crate::sandbox) fn hooked(&mut self, success: bool) {
        if let Some((container, attempt)) = self.hooks.pop() {
            self.happen(Event::Hooked {
                container,
                attempt,
                error: (!success).then(|| "no".to_owned()),
            });
        }
    }

    /// An init container that runs does its work, if there is one.
    pub(in crate::sandbox) fn init_ends(&mut self) -> bool {
        let is_init = |name: &str| {
            let plan = self.plan.containers.iter().find(|plan| plan.name == name);
            plan.is_some_and(|plan| plan.role == Role::Init)
        };
        let running = self
            .containers
            .iter()
            .find(|c| c.life == SeenLife::Running && is_init(&c.name));
        let Some(id) = running.map(|container| container.id.clone()) else {
            return false;
        };
        assert_eq!(self.residency, Residency::Running, "frozen before it began");
        self.exit(&id, 0);
        self.happen(Event::Changed);
        true
    }

    /// A running container ends by itself.
    pub(in crate::sandbox) fn container_exits(&mut self, nth: usize, code: i32) {
        let running: Vec<String> = self
            .containers
            .iter()
            .filter(|c| c.life == SeenLife::Running)
            .map(|c| c.id.clone())
            .collect();
        if let Some(id) = running.get(nth % running.len().max(1)) {
            let id = id.clone();
            self.exit(&id, code);
            self.happen(Event::Changed);
        }
    }

    /// The sandbox's own process is killed.
    pub(in crate::sandbox) fn sandbox_dies(&mut self) {
        if let Some(id) = self.sandboxes.first().map(|sandbox| sandbox.id.clone()) {
            self.stop_sandbox(&id);
            self.happen(Event::Changed);
        }
    }

    /// What came too late comes now.
    pub(in crate::sandbox) fn late_effects(&mut self) {
        for op in std::mem::take(&mut self.late) {
            match &op {
                Op::RunSandbox { attempt } => {
                    // Under whose name it was asked for, if that is still there to be had.
                    let name = self
                        .doubtful
                        .iter()
                        .find(|(_, tried)| tried == attempt)
                        .cloned();
                    if let Some((pod_uid, attempt)) =
                        name.filter(|(uid, _)| self.is_journalled(uid))
                    {
                        self.serial += 1;
                        let id = format!("id{}", self.serial);
                        self.sandboxes.push(WorldSandbox {
                            id,
                            pod_uid,
                            attempt,
                            up: true,
                        });
                    }
                }
                Op::Start { id, .. } => self.change(id, |container| {
                    if container.life == SeenLife::Created {
                        container.life = SeenLife::Running;
                        container.started = true;
                    }
                }),
                Op::StopSandbox { id } => self.stop_sandbox(id),
                Op::KillPredecessor { id, .. } => self.exit(id, 137),
                _ => {}
            }
        }
        self.happen(Event::Changed);
    }

    /// The daemon is killed and started again: only the journal, the runtime and the kernel remember.
    pub(in crate::sandbox) fn restart(&mut self) {
        self.doing = None;
        self.failed.clear();
        self.probing.clear();
        self.hooks.clear();
        self.slot = false;
        self.desired.held = false;
        self.state = match &self.journal {
            Some((stage, pod)) => State::adopted(*stage, pod.clone()),
            None => State::default(),
        };
        // A journal that could not be written does not hold up a stop; then the pod is used again.
        if !matches!(self.journal, Some((Stage::Stopping, _))) {
            self.stopped.clear();
        }
        if self.residency == Residency::Unclear {
            self.residency = Residency::Running;
        }
        self.tick();
    }

    /// Lets everything go well until nothing happens any more.
    pub(in crate::sandbox) fn settle(&mut self) {
        self.late_effects();
        for _ in 0..400 {
            if self.doing.is_some() {
                self.end(Ending::Good);
            } else if !self.hooks.is_empty() {
                self.hooked(true);
            } else if !self.probing.is_empty() {
                self.probed(true);
            } else if self.init_ends() {
            } else if let Some(wake) = self.state.wake.filter(|_| !self.is_at_rest()) {
                self.now = self.now.max(wake);
                self.tick();
            } else {
                return;
            }
        }
        panic!("does not settle: {:?}", self.state);
    }

    /// Whether nothing but the next probe of what is ready already is waited for.
    fn is_at_rest(&self) -> bool {
        let keep = self.desired.goal == Goal::Keep;
        let at_rest = |(index, container): (usize, &Container)| match container.life {
            Life::Running(_) => container.is_up() && container.probes.ready(),
            Life::Exited { code, .. } => {
                keep || !crate::restart::restarts(self.plan.restart_policy_of(index), code)
            }
            Life::Absent | Life::Created(_) => keep,
        };
        self.state.failures.is_empty()
            && self
                .state
                .pod
                .as_ref()
                .is_some_and(|pod| pod.containers.iter().enumerate().all(at_rest))
    }
}
