//! The phase that the facts amount to.

use super::Step;
use super::decide::Now;
use super::op::Op;
use super::phase::{CreateStep, Phase, StopStep};
use super::state::{Goal, Life, Pod, Residency, SandboxFact, State};
use crate::podspec::Role;

impl State {
    pub(super) fn derive_phase(&self, now: &Now<'_>) -> Phase {
        if let Some(unsettled) = &self.unsettled {
            return Phase::Unknown(unsettled.clone());
        }
        let goal = now.desired.goal;
        let Some(pod) = &self.pod else {
            return self.phase_without_pod(now);
        };
        let blocked = self.doing.is_none() || matches!(self.doing, Some(Op::Admit(_)));
        if pod.ending {
            if let (true, Some(failure)) = (blocked, self.failures.newest()) {
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
            _ => match self.failures.newest_but(Step::Look) {
                Some(failure) if blocked => Phase::Failed(failure.clone()),
                _ => Phase::Creating(create_step(self.doing.as_ref(), pod)),
            },
        }
    }

    fn phase_without_pod(&self, now: &Now<'_>) -> Phase {
        let failed = |state: &Self| match (&state.doing, state.failures.newest()) {
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

fn create_step(doing: Option<&Op>, pod: &Pod) -> CreateStep {
    match doing {
        Some(Op::Admit(_)) => CreateStep::Admission,
        Some(Op::Image { container } | Op::Pull { container }) => CreateStep::Image(*container),
        Some(Op::Create { container, .. } | Op::RemoveContainer { container, .. }) => {
            CreateStep::Container(*container)
        }
        Some(
            Op::Start { container, .. }
            | Op::Kill { container, .. }
            | Op::KillPredecessor { container, .. },
        ) => CreateStep::Start(*container),
        Some(Op::RunSandbox { .. } | Op::RemoveSandbox { .. }) => CreateStep::Sandbox,
        Some(Op::Record(_) | Op::Volumes { .. } | Op::Cgroup) => CreateStep::Host,
        _ => match pod.sandbox {
            SandboxFact::Up(_) => {
                let waiting = pod.with_roles().position(|(role, c)| match c.life {
                    Life::Running(_) => role == Role::Init,
                    Life::Exited { code: 0, .. } => role != Role::Init,
                    _ => true,
                });
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
