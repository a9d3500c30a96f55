//! What to do next, given the facts.

use std::time::Duration;

use super::op::{Effect, Op, Priority, Step, Stray};
use super::phase::{CreateStep, Phase, StopStep};
use super::state::{
    Desired, Ended, Goal, Life, Pod, Prepared, Residency, SandboxFact, Stage, State, Unsettled,
};

/// What is known of the world beside the facts, for one decision.
#[derive(Clone, Copy)]
struct Now<'a> {
    residency: Residency,
    desired: &'a Desired,
    time: Duration,
}

impl Now<'_> {
    /// Creations for stock and all clean-up yield to claims.
    fn priority(&self) -> Priority {
        let stock = self.desired.member && !self.desired.held;
        match self.desired.goal {
            Goal::Remove | Goal::Expire => Priority::Background,
            _ if stock => Priority::Background,
            _ => Priority::Wanted,
        }
    }
}

impl State {
    /// Decides, and derives the phase.
    pub(super) fn act(
        &mut self,
        residency: Residency,
        desired: &Desired,
        time: Duration,
    ) -> Vec<Effect> {
        let now = Now {
            residency,
            desired,
            time,
        };
        let mut effects = Vec::new();
        self.wake = None;
        self.blocked = false;
        if self.doing.as_ref().is_none_or(Op::may_be_dropped) {
            let before = self.doing.take();
            let choice = self.choose(&now);
            if before == choice {
                self.doing = before;
            } else {
                // What happens from now on may be missed by it.
                self.look_due &= choice != Some(Op::Look);
                effects.extend(before.map(|_| Effect::Cancel));
                self.doing.clone_from(&choice);
                effects.extend(choice.map(Effect::Do));
            }
        }
        if self.doing.is_none() && !self.blocked {
            // What failed is not wanted any more.
            self.failure = None;
        }
        if self.slot && !self.doing.as_ref().is_some_and(Op::keeps_slot) {
            self.slot = false;
            effects.push(Effect::ReleaseSlot);
        }
        self.probe(&now, &mut effects);
        self.phase = self.derive_phase(&now);
        effects
    }

    /// The next operation, if anything can be done now.
    fn choose(&mut self, now: &Now<'_>) -> Option<Op> {
        if self.unsettled.is_some() {
            return self.ready_to(Op::Look, now);
        }
        if now.residency == Residency::Unclear {
            return self.ready_to(Op::Thaw, now);
        }
        let ending = self.pod.as_ref().is_some_and(|pod| pod.ending);
        if self.look_due && !ending {
            // What cannot be seen now must not hold up what is known.
            if let Some(look) = self.ready_to(Op::Look, now) {
                return Some(look);
            }
        }
        if let Some(stray) = self.strays.first().cloned()
            && let Some(removal) = self.ready_to(Op::RemoveStray(stray), now)
        {
            return Some(removal);
        }
        if now.desired.goal.ends_pod()
            && let Some(pod) = &mut self.pod
        {
            pod.ending = true;
        }
        match &self.pod {
            Some(pod) if pod.ending => self.choose_end(now),
            Some(_) => self.choose_life(now),
            None => self.choose_without_pod(now),
        }
    }

    /// The operation, or what must come before it; nothing while its last failure is too fresh.
    fn ready_to(&mut self, op: Op, now: &Now<'_>) -> Option<Op> {
        if let Some(failure) = &self.failure
            && failure.is_of(&op)
            && now.time < failure.retry_at
        {
            let at = failure.retry_at;
            self.blocked = true;
            self.wake_at(at);
            return None;
        }
        if op.needs_live() && now.residency != Residency::Running {
            return self.ready_to(Op::Thaw, now);
        }
        if op.needs_slot() && !self.slot {
            return Some(Op::Admit(now.priority()));
        }
        Some(op)
    }

    fn wake_at(&mut self, at: Duration) {
        self.wake = Some(self.wake.map_or(at, |wake| wake.min(at)));
    }

    /// What must be seen to before the host's side of a pod goes: a sandbox that was thought never to come may have come
    /// after all, into this very cgroup.
    fn leftover(&self) -> Option<Op> {
        if self.look_due {
            Some(Op::Look)
        } else {
            self.strays.first().cloned().map(Op::RemoveStray)
        }
    }

    fn choose_without_pod(&mut self, now: &Now<'_>) -> Option<Op> {
        match now.desired.goal {
            Goal::Remove => {
                let last = self
                    .leftover()
                    .or_else(|| self.recorded.map(|_| Op::Forget))?;
                self.ready_to(last, now)
            }
            Goal::Suspend | Goal::Expire | Goal::Keep => match self.recorded {
                None | Some(Stage::Suspended) => None,
                Some(_) => self.ready_to(Op::Record(Stage::Suspended), now),
            },
            Goal::Run { .. } | Goal::Freeze => match &now.desired.plan {
                Some(Ok(_)) => Some(Op::Admit(now.priority())),
                Some(Err(_)) | None => None,
            },
        }
    }

    /// Stops the pod, step by step, until nothing is left of it.
    fn choose_end(&mut self, now: &Now<'_>) -> Option<Op> {
        let pod = self.pod.as_ref()?;
        // Worth a try, so that a restarted daemon does not use the pod; not worth waiting for.
        let tried = self
            .failure
            .as_ref()
            .is_some_and(|failure| failure.step == Step::Record);
        if pod.recorded.is_some() && self.recorded != Some(Stage::Stopping) && !tried {
            return self.ready_to(Op::Record(Stage::Stopping), now);
        }
        if let Some(id) = pod.sandbox.id() {
            let id = id.to_owned();
            if matches!(pod.sandbox, SandboxFact::Down(_)) {
                return self.ready_to(Op::RemoveSandbox { id }, now);
            }
            let running = pod
                .containers
                .iter()
                .filter(|c| matches!(c.life, Life::Running(_)));
            let ids: Vec<String> = running
                .filter_map(|c| c.life.id())
                .map(str::to_owned)
                .collect();
            let grace_seconds = pod.plan.grace_seconds;
            let polite = !pod.told_to_stop && !ids.is_empty();
            let stop = if polite {
                Op::StopContainers { ids, grace_seconds }
            } else {
                Op::StopSandbox { id }
            };
            return self.ready_to(stop, now);
        }
        let (volumes, cgroup) = (pod.volumes, pod.cgroup);
        if let Some(first) = self.leftover() {
            return self.ready_to(first, now);
        }
        if volumes != Prepared::No {
            return self.ready_to(Op::RemoveVolumes, now);
        }
        if cgroup != Prepared::No {
            return self.ready_to(Op::RemoveCgroup, now);
        }
        self.pod = None;
        self.choose_without_pod(now)
    }

    /// Makes the pod, keeps it running, freezes and thaws it.
    fn choose_life(&mut self, now: &Now<'_>) -> Option<Op> {
        self.notice_end();
        let pod = self.pod.as_ref()?;
        if let Some(ended) = pod.ended {
            return self.choose_after_end(ended, now);
        }
        let up = matches!(pod.sandbox, SandboxFact::Up(_));
        let may_make = match now.desired.goal {
            Goal::Run { .. } => true,
            // What ends in a frozen pod is made anew when it is thawed.
            Goal::Freeze => !(up && pod.all_started() && now.residency == Residency::Frozen),
            // Without a word from the API, what was running before is kept running.
            _ => self.recorded == Some(Stage::Ready),
        };
        if may_make && let Some(making) = self.choose_making(now) {
            return Some(making);
        }
        self.choose_residency(now)
    }

    /// Whether all containers have ended for good.
    fn notice_end(&mut self) {
        let Some(pod) = &mut self.pod else { return };
        if pod.ended.is_some() || pod.containers.is_empty() {
            return;
        }
        let policy = pod.plan.restart_policy;
        let lost = pod.sandbox_lost();
        let mut failed = false;
        for container in &pod.containers {
            match &container.life {
                Life::Exited { code, .. } if !crate::restart::restarts(policy, *code) => {
                    failed |= *code != 0
                }
                // With the sandbox gone under it, a container that is never started again has failed.
                _ if lost => failed = true,
                _ => return,
            }
        }
        pod.ended = Some(if failed {
            Ended::Failed
        } else {
            Ended::Succeeded
        });
    }

    fn choose_after_end(&mut self, ended: Ended, now: &Now<'_>) -> Option<Op> {
        if self.recorded != Some(ended.into())
            && let Some(record) = self.ready_to(Op::Record(ended.into()), now)
        {
            return Some(record);
        }
        // Gives back address and memory. Exited containers stay for those who want to know why.
        match &self.pod.as_ref()?.sandbox {
            SandboxFact::Up(id) => {
                let id = id.clone();
                self.ready_to(Op::StopSandbox { id }, now)
            }
            _ => None,
        }
    }

    fn choose_making(&mut self, now: &Now<'_>) -> Option<Op> {
        let pod = self.pod.as_ref()?;
        let (volumes, cgroup, attempt) = (pod.volumes, pod.cgroup, pod.attempt);
        match pod.sandbox.clone() {
            SandboxFact::Down(id) => self.ready_to(Op::RemoveSandbox { id }, now),
            SandboxFact::None if pod.recorded != Some(attempt) => {
                let stage = self
                    .recorded
                    .filter(|_| pod.recorded.is_some())
                    .unwrap_or(Stage::Creating);
                self.ready_to(Op::Record(stage), now)
            }
            SandboxFact::None if volumes != Prepared::Yes => self.ready_to(Op::Volumes, now),
            SandboxFact::None if cgroup != Prepared::Yes => self.ready_to(Op::Cgroup, now),
            SandboxFact::None => self.ready_to(Op::RunSandbox { attempt }, now),
            SandboxFact::Up(_) => self.choose_container(now),
        }
    }

    /// Makes the containers in their order; later, whichever has to be made anew.
    fn choose_container(&mut self, now: &Now<'_>) -> Option<Op> {
        for index in 0..self.pod.as_ref()?.containers.len() {
            if let Some(op) = self.choose_for_container(index, now) {
                return Some(op);
            }
            let container = self.pod.as_ref()?.containers.get(index)?;
            if !container.started && !matches!(container.life, Life::Running(_)) {
                return None;
            }
        }
        None
    }

    fn choose_for_container(&mut self, index: usize, now: &Now<'_>) -> Option<Op> {
        let pod = self.pod.as_ref()?;
        let policy = pod.plan.restart_policy;
        let container = pod.containers.get(index)?;
        let (not_before, attempt) = (container.not_before, container.attempt);
        let (has_image, needs_pull) = (container.has_image, container.needs_pull);
        match container.life.clone() {
            Life::Running(_) => None,
            Life::Exited { code, .. } if !crate::restart::restarts(policy, code) => None,
            Life::Absent | Life::Exited { .. } if now.time < not_before => {
                self.wake_at(not_before);
                None
            }
            Life::Exited { id, .. } => self.ready_to(
                Op::RemoveContainer {
                    container: index,
                    id,
                },
                now,
            ),
            Life::Absent if needs_pull => self.ready_to(Op::Pull { container: index }, now),
            Life::Absent if !has_image => self.ready_to(Op::Image { container: index }, now),
            Life::Absent => self.ready_to(
                Op::Create {
                    container: index,
                    attempt,
                },
                now,
            ),
            Life::Created(id) => self.ready_to(
                Op::Start {
                    container: index,
                    id,
                },
                now,
            ),
        }
    }

    /// Freezes and thaws as wanted, and notes that the pod has been ready.
    fn choose_residency(&mut self, now: &Now<'_>) -> Option<Op> {
        let pod = self.pod.as_ref()?;
        let (started, ready) = (pod.all_started() && pod.any_running(), pod.all_ready());
        let probing = pod.containers.iter().any(|container| container.probing);
        if ready
            && self.recorded == Some(Stage::Creating)
            && let Some(record) = self.ready_to(Op::Record(Stage::Ready), now)
        {
            return Some(record);
        }
        let wanted = now.desired.can_freeze
            && !now.desired.held
            && match now.desired.goal {
                Goal::Freeze => started,
                Goal::Run { freeze_when_ready } => freeze_when_ready && ready,
                _ => now.residency == Residency::Frozen,
            };
        match now.residency {
            Residency::Running if wanted && !probing => self.ready_to(Op::Freeze, now),
            Residency::Frozen if !wanted => self.ready_to(Op::Thaw, now),
            _ => None,
        }
    }

    /// Starts the probes that are due. None while the processes stand still, or are about to.
    fn probe(&mut self, now: &Now<'_>, effects: &mut Vec<Effect>) {
        let still = now.residency != Residency::Running
            || matches!(self.doing, Some(Op::Freeze | Op::Thaw));
        let mut wake = None;
        if let Some(pod) = &mut self.pod
            && !still
            && !pod.ending
            && pod.ended.is_none()
        {
            for (index, container) in pod.containers.iter_mut().enumerate() {
                let Some(due) = container.probe.due() else {
                    continue;
                };
                if container.probing || !matches!(container.life, Life::Running(_)) {
                    continue;
                }
                if due <= now.time {
                    container.probing = true;
                    effects.push(Effect::Probe {
                        container: index,
                        attempt: container.attempt,
                    });
                } else {
                    wake = Some(wake.map_or(due, |wake: Duration| wake.min(due)));
                }
            }
        }
        if let Some(at) = wake {
            self.wake_at(at);
        }
    }

    /// Whether the result of a probe of this container, in this attempt, is still of interest. A probe that is not is
    /// dropped.
    #[must_use]
    pub fn is_probing(&self, container: usize, attempt: u32) -> bool {
        let container = self
            .pod
            .as_ref()
            .and_then(|pod| pod.containers.get(container));
        container.is_some_and(|container| container.probing && container.attempt == attempt)
    }

    /// Whether all containers are ready and nothing is in doubt.
    #[must_use]
    pub fn ready(&self) -> bool {
        self.pod.as_ref().is_some_and(|pod| {
            !pod.ending
                && pod.ended.is_none()
                && self.unsettled != Some(Unsettled::Adoption)
                && pod.all_ready()
        })
    }

    fn derive_phase(&self, now: &Now<'_>) -> Phase {
        if let Some(unsettled) = &self.unsettled {
            return Phase::Unknown(unsettled.clone());
        }
        let goal = now.desired.goal;
        let Some(pod) = &self.pod else {
            return self.phase_without_pod(now);
        };
        let blocked = self.doing.is_none() || matches!(self.doing, Some(Op::Admit(_)));
        if pod.ending {
            if let (true, Some(failure)) = (blocked, &self.failure) {
                return Phase::Failed(failure.clone());
            }
            let step = stop_step(self.doing.as_ref(), pod);
            let stays = matches!(goal, Goal::Suspend | Goal::Expire | Goal::Keep);
            return if stays {
                Phase::Suspending(step)
            } else {
                Phase::Stopping(step)
            };
        }
        if let Some(ended) = pod.ended {
            return Phase::Finished(ended);
        }
        match self.doing {
            Some(Op::Freeze) => return Phase::Freezing,
            Some(Op::Thaw) => return Phase::Thawing,
            _ => {}
        }
        match now.residency {
            Residency::Unclear => Phase::Thawing,
            residency if self.ready() => Phase::Ready(residency),
            residency if pod.all_started() => Phase::Starting(residency),
            _ => match &self.failure {
                Some(failure) if blocked && failure.step != Step::Look => {
                    Phase::Failed(failure.clone())
                }
                _ => Phase::Creating(create_step(self.doing.as_ref(), pod)),
            },
        }
    }

    fn phase_without_pod(&self, now: &Now<'_>) -> Phase {
        let failed = |state: &Self| match (&state.doing, &state.failure) {
            (None, Some(failure)) => Some(Phase::Failed(failure.clone())),
            _ => None,
        };
        match now.desired.goal {
            Goal::Remove
                if self.recorded.is_none() && self.doing.is_none() && self.strays.is_empty() =>
            {
                Phase::Gone
            }
            Goal::Remove => failed(self).unwrap_or(Phase::Stopping(StopStep::Forget)),
            Goal::Suspend => Phase::Suspended,
            Goal::Expire => Phase::Expired,
            Goal::Keep if self.recorded.is_some() => Phase::Suspended,
            Goal::Keep => Phase::Absent,
            Goal::Run { .. } | Goal::Freeze => match &now.desired.plan {
                Some(Err(_)) => Phase::Refused,
                _ => Phase::Creating(CreateStep::Admission),
            },
        }
    }
}

impl Pod {
    /// Whether the sandbox went away under containers that had been started and are never started again.
    fn sandbox_lost(&self) -> bool {
        !matches!(self.sandbox, SandboxFact::Up(_))
            && self.plan.restart_policy == crate::podspec::RestartPolicy::Never
            && self.containers.iter().any(|container| container.started)
    }
}

fn create_step(doing: Option<&Op>, pod: &Pod) -> CreateStep {
    match doing {
        Some(Op::Admit(_)) => CreateStep::Admission,
        Some(Op::Image { container } | Op::Pull { container }) => CreateStep::Image(*container),
        Some(Op::Create { container, .. } | Op::RemoveContainer { container, .. }) => {
            CreateStep::Container(*container)
        }
        Some(Op::Start { container, .. }) => CreateStep::Start(*container),
        Some(Op::RunSandbox { .. } | Op::RemoveSandbox { .. }) => CreateStep::Sandbox,
        Some(Op::Record(_) | Op::Volumes | Op::Cgroup) => CreateStep::Host,
        _ => match pod.sandbox {
            SandboxFact::Up(_) => {
                let waiting = pod
                    .containers
                    .iter()
                    .position(|c| !matches!(c.life, Life::Running(_)));
                CreateStep::Container(waiting.unwrap_or(0))
            }
            _ => CreateStep::Sandbox,
        },
    }
}

fn stop_step(doing: Option<&Op>, pod: &Pod) -> StopStep {
    match doing {
        Some(Op::Record(_)) => StopStep::Record,
        Some(Op::Thaw) => StopStep::Thaw,
        Some(Op::StopContainers { .. }) => StopStep::Containers,
        Some(Op::RemoveVolumes | Op::RemoveCgroup) => StopStep::Host,
        Some(Op::Forget) => StopStep::Forget,
        Some(Op::StopSandbox { .. } | Op::RemoveSandbox { .. } | Op::Admit(_)) => StopStep::Sandbox,
        _ if pod.sandbox == SandboxFact::None => StopStep::Host,
        _ if pod.told_to_stop => StopStep::Sandbox,
        _ => StopStep::Containers,
    }
}

impl Stray {
    /// What it is, for messages.
    #[must_use]
    pub fn id(&self) -> &str {
        match self {
            Self::Sandbox { id, .. } | Self::Container { id } => id,
        }
    }
}
