//! `activeDeadlineSeconds`: what counts for it, and what follows when it is over.

use std::time::Duration;

use super::decide::Now;
use super::op::{Op, Step};
use super::state::{Desired, Ended, Pod, Residency, SandboxFact, State};

/// What a restarted daemon forgets of the time that counts is at most a tenth of it, and never more than this.
const FORGOTTEN_AT_MOST: Duration = Duration::from_secs(60);
/// But so short a time is not written down.
const WORTH_RECORDING: Duration = Duration::from_secs(1);

impl State {
    /// Counts the time since the last step, if it counts, and decides whether the time from now on does.
    pub(super) fn keep_active_time(
        &mut self,
        residency: Residency,
        desired: &Desired,
        now: Duration,
    ) {
        let Some(pod) = &mut self.pod else { return };
        if pod.deadline().is_none() {
            return;
        }
        if let Some(since) = pod.active.counted_at {
            pod.active.total += now.saturating_sub(since);
        }
        let counts =
            !desired.member && residency != Residency::Frozen && !pod.ending && pod.ended.is_none();
        pod.active.counted_at = counts.then_some(now);
    }

    /// Ends a pod whose time is over: its containers are told to stop, and it has failed once they were. Before that, notes
    /// from time to time how much of it is gone.
    pub(super) fn choose_for_deadline(&mut self, now: &Now<'_>) -> Option<Op> {
        let pod = self.pod.as_ref()?;
        let deadline = pod.deadline()?;
        if pod.is_overdue() {
            return self.choose_overdue(now);
        }
        let (active, recorded) = (pod.active.total, pod.active.recorded);
        let step = (deadline / 10).clamp(WORTH_RECORDING, FORGOTTEN_AT_MOST);
        let unrecorded = active.saturating_sub(recorded);
        // Before a new pod is in the journal at all, the stage there is that of the one before.
        let is_recorded = pod.recorded.is_some();
        if pod.active.counted_at.is_some() {
            self.wake_at(now.time + (deadline - active));
            if let Some(left) = step.checked_sub(unrecorded).filter(|left| !left.is_zero()) {
                self.wake_at(now.time + left);
            }
        }
        // A note is never in the way of what is tried again.
        if self.failures.newest_but(Step::Record).is_some() {
            return None;
        }
        let stage = self
            .recorded
            .filter(|_| is_recorded && unrecorded >= step)?;
        self.ready_to(Op::Record(stage), now)
    }

    fn choose_overdue(&mut self, now: &Now<'_>) -> Option<Op> {
        // Worth a try, so that a restarted daemon does not start it again; not worth waiting for.
        if let Some(stage) = self.recorded
            && !self.record_has_failed(now)
            && !self.pod.as_ref()?.is_recorded_overdue()
        {
            return self.ready_to(Op::Record(stage), now);
        }
        let pod = self.pod.as_mut()?;
        let up = matches!(pod.sandbox, SandboxFact::Up(_));
        if up && pod.any_running() && !pod.told_to_stop {
            let (ids, sidecars) = pod.running_ids();
            let grace_seconds = pod.plan.grace_seconds;
            return self.ready_to(
                Op::StopContainers {
                    ids,
                    sidecars,
                    grace_seconds,
                },
                now,
            );
        }
        pod.ended = Some(Ended::Failed);
        None
    }
}

impl Pod {
    fn deadline(&self) -> Option<Duration> {
        let seconds = self.plan.active_deadline_seconds?;
        Some(Duration::from_secs(u64::from(seconds)))
    }

    /// Whether it was active for longer than it may be.
    #[must_use]
    pub fn is_overdue(&self) -> bool {
        self.deadline()
            .is_some_and(|deadline| self.active.total >= deadline)
    }

    fn is_recorded_overdue(&self) -> bool {
        self.deadline()
            .is_some_and(|deadline| self.active.recorded >= deadline)
    }
}
