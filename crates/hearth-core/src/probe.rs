//! The timing of a readiness probe.

use std::time::Duration;

use crate::podspec::ProbePlan;
use crate::restart::doubled;

/// Until a container is ready for the first time it is probed more often than its period says, as Kubernetes allows:
/// at once, then after this long, doubling up to the period.
const FIRST_RETRY: Duration = Duration::from_millis(20);

/// What the probes of one run of a container have shown. Times are those of the caller's clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProbeState {
    ready: bool,
    been_ready: bool,
    in_a_row: u32,
    last: Option<bool>,
    tries: u32,
    due: Option<Duration>,
}

impl ProbeState {
    /// The container was started. Without a probe it is ready at once.
    #[must_use]
    pub fn started(plan: Option<&ProbePlan>, now: Duration) -> Self {
        match plan {
            None => Self {
                ready: true,
                been_ready: true,
                ..Self::default()
            },
            Some(plan) => Self {
                due: Some(now + seconds(plan.initial_delay_seconds)),
                ..Self::default()
            },
        }
    }

    /// The container was found running by a daemon that has just started, and is known to have been ready: it counts as
    /// ready until its probes say otherwise.
    #[must_use]
    pub fn adopted_ready(plan: Option<&ProbePlan>, now: Duration) -> Self {
        Self {
            ready: true,
            been_ready: true,
            due: plan.map(|_| now),
            ..Self::default()
        }
    }

    /// Whether the container is ready.
    #[must_use]
    pub fn ready(&self) -> bool {
        self.ready
    }

    /// When to probe next; `None` without a probe.
    #[must_use]
    pub fn due(&self) -> Option<Duration> {
        self.due
    }

    /// A probe has ended.
    #[must_use]
    pub fn probed(mut self, plan: &ProbePlan, success: bool, now: Duration) -> Self {
        self.in_a_row = if self.last == Some(success) {
            self.in_a_row.saturating_add(1)
        } else {
            1
        };
        self.last = Some(success);
        let threshold = if success {
            plan.success_threshold
        } else {
            plan.failure_threshold
        };
        if self.in_a_row >= threshold {
            self.ready = success;
            self.been_ready |= success;
        }
        let period = seconds(plan.period_seconds);
        let wait = if self.been_ready {
            period
        } else {
            doubled(FIRST_RETRY, self.tries, period)
        };
        self.tries = self.tries.saturating_add(1);
        self.due = Some(now + wait);
        self
    }

    /// The container's time stood still for this long.
    #[must_use]
    pub fn delayed(mut self, by: Duration) -> Self {
        self.due = self.due.map(|due| due + by);
        self
    }
}

fn seconds(count: u32) -> Duration {
    Duration::from_secs(u64::from(count))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::podspec::ProbeAction;

    fn plan(initial: u32, period: u32, success: u32, failure: u32) -> ProbePlan {
        ProbePlan {
            action: ProbeAction::Tcp { port: 1 },
            initial_delay_seconds: initial,
            timeout_seconds: 1,
            period_seconds: period,
            success_threshold: success,
            failure_threshold: failure,
        }
    }

    /// Probes whenever due, with these results, and returns whether the container was ready after each.
    fn ready_after(plan: &ProbePlan, results: &[bool]) -> Vec<bool> {
        let mut state = ProbeState::started(Some(plan), Duration::ZERO);
        results
            .iter()
            .map(|&success| {
                state = state.probed(plan, success, state.due().unwrap());
                state.ready()
            })
            .collect()
    }

    #[test]
    fn without_a_probe_a_started_container_is_ready() {
        let state = ProbeState::started(None, Duration::from_secs(5));
        assert!(state.ready());
        assert_eq!(state.due(), None);
    }

    #[test]
    fn thresholds_count_results_in_a_row() {
        let (t, f) = (true, false);
        for (success, failure, results, expect) in [
            (1, 3, vec![t], vec![t]),
            (1, 3, vec![f, t], vec![f, t]),
            (2, 3, vec![t, f, t, t], vec![f, f, f, t]),
            (
                1,
                3,
                vec![t, f, f, t, f, f, f, t],
                vec![t, t, t, t, t, t, f, t],
            ),
            (1, 1, vec![t, f, t], vec![t, f, t]),
        ] {
            assert_eq!(
                ready_after(&plan(0, 10, success, failure), &results),
                expect,
                "{success} {failure} {results:?}"
            );
        }
    }

    #[test]
    fn the_first_probe_waits_for_the_initial_delay() {
        assert_eq!(
            ProbeState::started(Some(&plan(0, 10, 1, 3)), Duration::from_secs(7)).due(),
            Some(Duration::from_secs(7))
        );
        assert_eq!(
            ProbeState::started(Some(&plan(4, 10, 1, 3)), Duration::from_secs(7)).due(),
            Some(Duration::from_secs(11))
        );
    }

    #[test]
    fn a_container_that_was_never_ready_is_probed_often_then_by_its_period() {
        let plan = plan(0, 1, 1, 3);
        let mut state = ProbeState::started(Some(&plan), Duration::ZERO);
        let mut waits = Vec::new();
        for success in [
            false, false, false, false, false, false, false, false, true, false, true,
        ] {
            let now = state.due().unwrap();
            state = state.probed(&plan, success, now);
            waits.push((state.due().unwrap() - now).as_millis());
        }
        assert_eq!(
            waits,
            [20, 40, 80, 160, 320, 640, 1000, 1000, 1000, 1000, 1000]
        );
    }

    #[test]
    fn time_that_stood_still_does_not_count() {
        let plan = plan(0, 10, 1, 3);
        let state = ProbeState::started(Some(&plan), Duration::ZERO).probed(
            &plan,
            true,
            Duration::from_secs(1),
        );
        assert_eq!(
            state.delayed(Duration::from_secs(100)).due(),
            Some(Duration::from_secs(111))
        );
        assert!(state.delayed(Duration::from_secs(100)).ready());
    }

    #[test]
    fn an_adopted_container_stays_ready_until_its_probes_say_otherwise() {
        let plan = plan(5, 10, 1, 2);
        let state = ProbeState::adopted_ready(Some(&plan), Duration::from_secs(3));
        assert!(state.ready());
        assert_eq!(state.due(), Some(Duration::from_secs(3)), "probed at once");
        let state = state.probed(&plan, false, Duration::from_secs(3));
        assert!(state.ready());
        assert!(!state.probed(&plan, false, Duration::from_secs(13)).ready());
    }
}
