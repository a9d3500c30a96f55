//! What to do next, given the facts.

use std::time::Duration;

use super::op::{Effect, Op, Priority, Step, Stray};
use super::state::{
    Contents, Desired, Ended, Goal, HookState, Life, Pod, Prepared, Residency, SandboxFact, Stage,
    State, Unsettled,
};
use crate::podspec::Role;
use crate::probe::ProbeKind;

/// What is known of the world beside the facts, for one decision.
#[derive(Clone, Copy)]
pub(super) struct Now<'a> {
    pub(super) residency: Residency,
    pub(super) desired: &'a Desired,
    pub(super) time: Duration,
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
        self.take_env(desired);
        let mut effects = Vec::new();
        self.wake = None;
        self.blocked = false;
        self.lacking = None;
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
            self.failures.clear();
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
    pub(super) fn ready_to(&mut self, op: Op, now: &Now<'_>) -> Option<Op> {
        if let Some(failure) = self.failures.of(&op)
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
            return Some(Op::Admit(match op {
                // Nobody waits for it.
                Op::RemovePredecessor { .. } => Priority::Background,
                _ => now.priority(),
            }));
        }
        Some(op)
    }

    pub(super) fn wake_at(&mut self, at: Duration) {
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
                Some(Ok(_)) => {
                    if let Some(why) = &now.desired.no_room {
                        self.lacking = Some(format!("no pod is begun on this node: {why}"));
                        return None;
                    }
                    self.contents(now)?;
                    Some(Op::Admit(now.priority()))
                }
                Some(Err(_)) => None,
                None => {
                    self.contents(now);
                    None
                }
            },
        }
    }

    /// Stops the pod, step by step, until nothing is left of it.
    fn choose_end(&mut self, now: &Now<'_>) -> Option<Op> {
        let pod = self.pod.as_ref()?;
        // Worth a try, so that a restarted daemon does not use the pod; not worth waiting for.
        if pod.recorded.is_some()
            && self.recorded != Some(Stage::Stopping)
            && !self.record_has_failed(now)
        {
            return self.ready_to(Op::Record(Stage::Stopping), now);
        }
        if let Some(id) = pod.sandbox.id() {
            let id = id.to_owned();
            if matches!(pod.sandbox, SandboxFact::Down(_)) {
                return self.ready_to(Op::RemoveSandbox { id }, now);
            }
            let polite = !pod.told_to_stop && pod.any_running();
            let stop = if polite {
                let (ids, sidecars) = pod.running_ids();
                Op::StopContainers {
                    ids,
                    sidecars,
                    grace_seconds: pod.plan.grace_seconds,
                }
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

    /// Whether the journal could not be written when that was tried a moment ago.
    pub(super) fn record_has_failed(&self, now: &Now<'_>) -> bool {
        self.failures.holds_up(Step::Record, now.time)
    }

    /// Makes the pod, keeps it running, freezes and thaws it.
    fn choose_life(&mut self, now: &Now<'_>) -> Option<Op> {
        self.notice_end();
        let pod = self.pod.as_ref()?;
        if let Some(ended) = pod.ended {
            return self.choose_after_end(ended, now);
        }
        if let Some(op) = self.choose_for_deadline(now) {
            return Some(op);
        }
        let pod = self.pod.as_ref()?;
        if let Some(ended) = pod.ended {
            return self.choose_after_end(ended, now);
        }
        if pod.is_overdue() {
            return None;
        }
        let up = matches!(pod.sandbox, SandboxFact::Up(_));
        let may_make = match now.desired.goal {
            Goal::Run { .. } => true,
            // What ends in a frozen pod is made anew when it is thawed.
            Goal::Freeze => !(up && pod.all_started() && now.residency == Residency::Frozen),
            // Without a word from the API, what was running before is kept running, and what was being made anew for the
            // variables of a bind is finished.
            _ => self.recorded == Some(Stage::Ready) || pod.env.is_some(),
        };
        if may_make && let Some(making) = self.choose_making(now) {
            return Some(making);
        }
        self.choose_residency(now)
            .or_else(|| self.choose_predecessor(now))
    }

    /// Whether all containers have ended for good.
    fn notice_end(&mut self) {
        let Some(pod) = &mut self.pod else { return };
        if pod.ended.is_some() || pod.containers.is_empty() {
            return;
        }
        pod.ended = pod.end();
    }

    fn choose_after_end(&mut self, ended: Ended, now: &Now<'_>) -> Option<Op> {
        if self.recorded != Some(ended.into())
            && let Some(record) = self.ready_to(Op::Record(ended.into()), now)
        {
            return Some(record);
        }
        let pod = self.pod.as_ref()?;
        let evicted = pod.evicted.is_some();
        match &pod.sandbox {
            // Gives back address and memory.
            SandboxFact::Up(id) => {
                let id = id.clone();
                self.ready_to(Op::StopSandbox { id }, now)
            }
            // Exited containers stay for those who want to know why, unless it was for the room that they take.
            SandboxFact::Down(id) if evicted => {
                let id = id.clone();
                self.ready_to(Op::RemoveSandbox { id }, now)
            }
            SandboxFact::None if evicted && pod.volumes != Prepared::No => {
                let next = self.leftover().unwrap_or(Op::RemoveVolumes);
                self.ready_to(next, now)
            }
            _ => None,
        }
    }

    /// What the pod is to be made from; nothing, and the reason noted, while some of it is lacking.
    fn contents(&mut self, now: &Now<'_>) -> Option<u64> {
        match &now.desired.contents {
            Contents::Known(contents) => Some(*contents),
            Contents::Lacking(what) => {
                self.lacking = Some(what.clone());
                None
            }
        }
    }

    /// Brings files up to date that changed since the volumes were made. What is lacking now was there then.
    fn choose_refresh(&mut self, now: &Now<'_>) -> Option<Op> {
        let pod = self.pod.as_ref()?;
        let Contents::Known(contents) = now.desired.contents else {
            return None;
        };
        if pod.contents == Some(contents) || !pod.plan.has_files() {
            return None;
        }
        self.ready_to(Op::Volumes { contents }, now)
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
            SandboxFact::None if volumes != Prepared::Yes => {
                let contents = self.contents(now)?;
                self.ready_to(Op::Volumes { contents }, now)
            }
            SandboxFact::None if cgroup != Prepared::Yes => self.ready_to(Op::Cgroup, now),
            SandboxFact::None => self.ready_to(Op::RunSandbox { attempt }, now),
            SandboxFact::Up(_) => self
                .choose_refresh(now)
                .or_else(|| self.choose_container(now)),
        }
    }

    /// Makes the containers in their order; later, whichever has to be made anew.
    fn choose_container(&mut self, now: &Now<'_>) -> Option<Op> {
        for index in 0..self.pod.as_ref()?.containers.len() {
            let over = self.pod.as_ref()?.initialised;
            if over && self.pod.as_ref()?.role(index) == Role::Init {
                continue;
            }
            if let Some(op) = self.choose_for_container(index, now) {
                return Some(op);
            }
            let pod = self.pod.as_ref()?;
            let container = pod.containers.get(index)?;
            let passed = match pod.role(index) {
                Role::Init => matches!(container.life, Life::Exited { code: 0, .. }),
                Role::Sidecar => over || (container.is_up() && container.probes.has_come_up()),
                Role::Main => container.started && !container.is_coming_up(),
            };
            if !passed {
                return None;
            }
        }
        None
    }

    fn choose_for_container(&mut self, index: usize, now: &Now<'_>) -> Option<Op> {
        let outdated = self.pod.as_ref()?.is_outdated(index);
        // It has been ready as what it was, not as what it becomes: a restarted daemon must not take that for granted. Worth
        // a try; not worth waiting for.
        if outdated && self.recorded == Some(Stage::Ready) && !self.record_has_failed(now) {
            return self.ready_to(Op::Record(Stage::Creating), now);
        }
        let outdated = outdated && !self.pod.as_mut()?.set_aside(index);
        let pod = self.pod.as_ref()?;
        let policy = pod.plan.restart_policy_of(index);
        let reads_configs = pod.plan.containers.get(index)?.reads_configs();
        let with_env = pod.env.is_some();
        let container = pod.containers.get(index)?;
        let (not_before, attempt) = (container.not_before, container.attempt);
        let (has_image, needs_pull) = (container.has_image, container.needs_pull);
        let image_in_doubt = container.image_in_doubt;
        if let Some(id) = container.living_predecessor()
            && container.life != Life::Absent
        {
            let id = id.to_owned();
            return self.ready_to(
                Op::KillPredecessor {
                    container: index,
                    id,
                },
                now,
            );
        }
        match container.life.clone() {
            Life::Created(id) | Life::Running(id) | Life::Exited { id, .. } if outdated => self
                .ready_to(
                    Op::RemoveContainer {
                        container: index,
                        id,
                    },
                    now,
                ),
            Life::Running(id) if container.doomed.as_ref().is_some_and(|doom| !doom.told) => {
                let grace_seconds = pod.grace_of(index);
                self.ready_to(
                    Op::Kill {
                        container: index,
                        id,
                        grace_seconds,
                    },
                    now,
                )
            }
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
            Life::Absent => {
                if reads_configs {
                    self.contents(now)?;
                }
                let create = self.ready_to(
                    Op::Create {
                        container: index,
                        attempt,
                        with_env,
                    },
                    now,
                )?;
                if image_in_doubt {
                    return self.ready_to(Op::Image { container: index }, now);
                }
                Some(create)
            }
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
        let started = pod.all_started() && pod.any_running() && pod.initialised;
        let ready = pod.all_ready();
        let probing = pod
            .containers
            .iter()
            .any(|c| c.is_coming_up() || c.probes.any_under_way());
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
            Residency::Running if wanted => {
                let freeze = self.ready_to(Op::Freeze, now)?;
                // It is wanted still, only not during a probe: how often it has failed is not forgotten for that.
                self.blocked |= probing && self.failures.of(&freeze).is_some();
                Some(freeze).filter(|_| !probing)
            }
            Residency::Frozen if !wanted => self.ready_to(Op::Thaw, now),
            _ => None,
        }
    }

    /// Starts the probes and hooks that are due. None while the processes stand still, or are about to.
    fn probe(&mut self, now: &Now<'_>, effects: &mut Vec<Effect>) {
        let still = now.residency != Residency::Running
            || matches!(self.doing, Some(Op::Freeze | Op::Thaw));
        let mut wake = None;
        if let Some(pod) = &mut self.pod
            && !still
            && !pod.ending
            && pod.ended.is_none()
            && !pod.is_overdue()
        {
            for (index, container) in pod.containers.iter_mut().enumerate() {
                if container.doomed.is_some() || !matches!(container.life, Life::Running(_)) {
                    continue;
                }
                if container.hook == HookState::Due {
                    container.hook = HookState::UnderWay;
                    effects.push(Effect::PostStart {
                        container: index,
                        attempt: container.attempt,
                    });
                }
                let all: Vec<_> = container.probes.due().collect();
                for (kind, due) in all {
                    if due > now.time {
                        wake = Some(wake.map_or(due, |wake: Duration| wake.min(due)));
                        continue;
                    }
                    container.probes.begin(kind);
                    effects.push(Effect::Probe {
                        container: index,
                        attempt: container.attempt,
                        kind,
                    });
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
    pub fn is_probing(&self, container: usize, attempt: u32, kind: ProbeKind) -> bool {
        let container = self
            .pod
            .as_ref()
            .and_then(|pod| pod.containers.get(container));
        container.is_some_and(|c| c.attempt == attempt && c.probes.is_under_way(kind))
    }

    /// Whether what follows the start of this container, in this attempt, is still of interest.
    #[must_use]
    pub fn is_hooking(&self, container: usize, attempt: u32) -> bool {
        let pod = self.pod.as_ref().filter(|pod| !pod.ending);
        let container = pod.and_then(|pod| pod.containers.get(container));
        container.is_some_and(|c| c.attempt == attempt && c.hook == HookState::UnderWay)
    }

    /// Whether all containers are ready and nothing is in doubt.
    #[must_use]
    pub fn ready(&self) -> bool {
        self.pod.as_ref().is_some_and(|pod| {
            !pod.ending
                && pod.ended.is_none()
                && !pod.is_overdue()
                && self.unsettled != Some(Unsettled::Adoption)
                && pod.all_ready()
        })
    }
}

impl Pod {
    /// How it ended, if it has: all ordinary containers have for good, or an init container that must not fail did.
    fn end(&self) -> Option<Ended> {
        let lost = self.sandbox_lost();
        let mut failed = false;
        for (index, (role, container)) in self.with_roles().enumerate() {
            let policy = self.plan.restart_policy_of(index);
            let over = match &container.life {
                _ if self.is_outdated(index) => None,
                Life::Exited { code, .. } if !crate::restart::restarts(policy, *code) => {
                    Some(*code)
                }
                _ => None,
            };
            match (role, over) {
                (Role::Init, Some(code)) if code != 0 => return Some(Ended::Failed),
                (Role::Init | Role::Sidecar, _) => {}
                (Role::Main, Some(code)) => failed |= code != 0,
                // With the sandbox gone under it, a container that is never started again has failed.
                (Role::Main, None) if lost => failed = true,
                (Role::Main, None) => return None,
            }
        }
        Some(if failed {
            Ended::Failed
        } else {
            Ended::Succeeded
        })
    }

    /// The ids of what runs: first what is stopped at once, then the sidecars, the last one first.
    pub(super) fn running_ids(&self) -> (Vec<String>, Vec<String>) {
        let ids = |sidecars: bool| {
            self.with_roles()
                .filter(move |(role, _)| (*role == Role::Sidecar) == sidecars)
                .filter_map(|(_, container)| match &container.life {
                    Life::Running(id) => Some(id.clone()),
                    _ => None,
                })
        };
        (ids(false).collect(), ids(true).rev().collect())
    }

    /// How long a container that is started anew may take to end, in seconds.
    fn grace_of(&self, index: usize) -> u32 {
        let own = || {
            let container = self.containers.get(index)?;
            let plan = self.plan.containers.get(index)?;
            container.probes.given_up()?.plan(plan)?.grace_seconds
        };
        own().unwrap_or(self.plan.grace_seconds)
    }

    /// Whether the sandbox went away under containers that had been started and are never started again.
    fn sandbox_lost(&self) -> bool {
        !matches!(self.sandbox, SandboxFact::Up(_))
            && self.plan.restart_policy == crate::podspec::RestartPolicy::Never
            && self.containers.iter().any(|container| container.started)
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
