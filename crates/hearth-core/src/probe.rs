//! The timing of probes, and what their results mean.

use std::time::Duration;

use crate::podspec::{ContainerPlan, ProbePlan};
use crate::restart::doubled;

/// Until a container has come up for the first time it is probed more often than its period says, as Kubernetes allows:
/// at once, then after this long, doubling up to the period.
const FIRST_RETRY: Duration = Duration::from_millis(20);

/// What a probe is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProbeKind {
    /// Whether the container has come up. The others wait for it.
    Startup,
    /// Whether it is still of use.
    Liveness,
    /// Whether it may be used.
    Readiness,
}

impl ProbeKind {
    const ALL: [Self; 3] = [Self::Startup, Self::Liveness, Self::Readiness];

    /// The name in messages.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Startup => "startup",
            Self::Liveness => "liveness",
            Self::Readiness => "readiness",
        }
    }

    /// The container's probe of this kind.
    #[must_use]
    pub fn plan(self, container: &ContainerPlan) -> Option<&ProbePlan> {
        match self {
            Self::Startup => container.startup.as_ref(),
            Self::Liveness => container.liveness.as_ref(),
            Self::Readiness => container.readiness.as_ref(),
        }
    }
}

/// What the probes of one run of a container have shown. Times are those of the caller's clock. The default is that of
/// a container that does not run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Probes {
    /// When the container was started.
    since: Duration,
    startup: Track,
    liveness: Track,
    readiness: Track,
}

impl Probes {
    /// The container was started. What it has no probe for is so at once.
    #[must_use]
    pub fn started(plan: &ContainerPlan, now: Duration) -> Self {
        let mut probes = Self {
            since: now,
            startup: Track::begin(plan.startup.as_ref(), now, now),
            ..Self::default()
        };
        if probes.startup.passes {
            probes.come_up(plan, now);
        }
        probes
    }

    /// The container was found running by a daemon that has just started, and is known to have been ready: it counts as
    /// ready until its probes say otherwise.
    #[must_use]
    pub fn adopted_ready(plan: &ContainerPlan, now: Duration) -> Self {
        let known = |probe: Option<&ProbePlan>| Track {
            passes: true,
            has_passed: true,
            due: probe.map(|_| now),
            ..Track::default()
        };
        Self {
            since: now,
            startup: known(None),
            liveness: known(plan.liveness.as_ref()),
            readiness: known(plan.readiness.as_ref()),
        }
    }

    fn come_up(&mut self, plan: &ContainerPlan, now: Duration) {
        self.liveness = Track {
            passes: true,
            has_passed: true,
            ..Track::begin(plan.liveness.as_ref(), self.since, now)
        };
        self.readiness = Track::begin(plan.readiness.as_ref(), self.since, now);
    }

    /// When the container was started, by the time in which it has not stood still.
    #[must_use]
    pub fn since(&self) -> Duration {
        self.since
    }

    /// Whether the container has come up.
    #[must_use]
    pub fn has_come_up(&self) -> bool {
        self.startup.passes
    }

    /// Whether the container is ready.
    #[must_use]
    pub fn ready(&self) -> bool {
        self.startup.passes && self.readiness.passes
    }

    /// The probe that says that the container must be started anew.
    #[must_use]
    pub fn given_up(&self) -> Option<ProbeKind> {
        [ProbeKind::Startup, ProbeKind::Liveness]
            .into_iter()
            .find(|kind| self.track(*kind).given_up)
    }

    /// The probes that are not under way, and when each is due.
    pub fn due(&self) -> impl Iterator<Item = (ProbeKind, Duration)> {
        ProbeKind::ALL.into_iter().filter_map(|kind| {
            let track = self.track(kind);
            let due = track.due.filter(|_| !track.under_way)?;
            Some((kind, due))
        })
    }

    /// Whether this probe is under way.
    #[must_use]
    pub fn is_under_way(&self, kind: ProbeKind) -> bool {
        self.track(kind).under_way
    }

    /// Whether any probe is under way.
    #[must_use]
    pub fn any_under_way(&self) -> bool {
        ProbeKind::ALL
            .into_iter()
            .any(|kind| self.is_under_way(kind))
    }

    /// A probe begins.
    pub fn begin(&mut self, kind: ProbeKind) {
        self.track_mut(kind).under_way = true;
    }

    /// A probe has ended.
    pub fn ended(&mut self, kind: ProbeKind, plan: &ContainerPlan, success: bool, now: Duration) {
        let Some(probe) = kind.plan(plan) else { return };
        let had_come_up = self.has_come_up();
        let track = self.track_mut(kind);
        track.under_way = false;
        track.count(success);
        match kind {
            ProbeKind::Startup => track.judge_startup(probe, success, now),
            ProbeKind::Liveness => track.judge_liveness(probe, success, now),
            ProbeKind::Readiness => track.judge_readiness(probe, success, now),
        }
        if !had_come_up && self.has_come_up() {
            self.come_up(plan, now);
        }
    }

    /// The container's time stood still for this long.
    pub fn delay(&mut self, by: Duration) {
        self.since += by;
        for kind in ProbeKind::ALL {
            let track = self.track_mut(kind);
            track.due = track.due.map(|due| due + by);
            track.first_due += by;
        }
    }

    fn track(&self, kind: ProbeKind) -> &Track {
        match kind {
            ProbeKind::Startup => &self.startup,
            ProbeKind::Liveness => &self.liveness,
            ProbeKind::Readiness => &self.readiness,
        }
    }

    fn track_mut(&mut self, kind: ProbeKind) -> &mut Track {
        match kind {
            ProbeKind::Startup => &mut self.startup,
            ProbeKind::Liveness => &mut self.liveness,
            ProbeKind::Readiness => &mut self.readiness,
        }
    }
}

/// What the probes of one kind have shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Track {
    passes: bool,
    has_passed: bool,
    given_up: bool,
    in_a_row: u32,
    last: Option<bool>,
    tries: u32,
    first_due: Duration,
    due: Option<Duration>,
    under_way: bool,
}

impl Track {
    /// The first probe comes its delay after the container's start, but not before now. Without a probe it passes.
    fn begin(plan: Option<&ProbePlan>, since: Duration, now: Duration) -> Self {
        let Some(plan) = plan else {
            return Self {
                passes: true,
                has_passed: true,
                ..Self::default()
            };
        };
        let first_due = now.max(since + seconds(plan.initial_delay_seconds));
        Self {
            first_due,
            due: Some(first_due),
            ..Self::default()
        }
    }

    fn count(&mut self, success: bool) {
        self.in_a_row = if self.last == Some(success) {
            self.in_a_row.saturating_add(1)
        } else {
            1
        };
        self.last = Some(success);
        self.tries = self.tries.saturating_add(1);
    }

    /// The plan's failures are counted as if they were a period apart, however often it was tried in between.
    fn judge_startup(&mut self, plan: &ProbePlan, success: bool, now: Duration) {
        if success {
            (self.passes, self.has_passed) = (true, true);
            self.due = None;
            return;
        }
        let patience = seconds(plan.period_seconds) * plan.failure_threshold.saturating_sub(1);
        if self.in_a_row >= plan.failure_threshold && now >= self.first_due + patience {
            self.given_up = true;
            self.due = None;
        } else {
            self.again(plan, now);
        }
    }

    fn judge_liveness(&mut self, plan: &ProbePlan, success: bool, now: Duration) {
        if !success && self.in_a_row >= plan.failure_threshold {
            self.given_up = true;
            self.due = None;
        } else {
            self.again(plan, now);
        }
    }

    fn judge_readiness(&mut self, plan: &ProbePlan, success: bool, now: Duration) {
        let threshold = if success {
            plan.success_threshold
        } else {
            plan.failure_threshold
        };
        if self.in_a_row >= threshold {
            self.passes = success;
            self.has_passed |= success;
        }
        self.again(plan, now);
    }

    fn again(&mut self, plan: &ProbePlan, now: Duration) {
        let period = seconds(plan.period_seconds);
        let wait = if self.has_passed {
            period
        } else {
            doubled(FIRST_RETRY, self.tries.saturating_sub(1), period)
        };
        self.due = Some(now + wait);
    }
}

fn seconds(count: u32) -> Duration {
    Duration::from_secs(u64::from(count))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::podspec::ProbeAction;

    const ZERO: Duration = Duration::ZERO;

    fn probe(initial: u32, period: u32, success: u32, failure: u32) -> Option<ProbePlan> {
        Some(ProbePlan {
            initial_delay_seconds: initial,
            period_seconds: period,
            success_threshold: success,
            failure_threshold: failure,
            ..ProbePlan::new(ProbeAction::Tcp { port: 1 })
        })
    }

    fn readiness(initial: u32, period: u32, success: u32, failure: u32) -> ContainerPlan {
        ContainerPlan {
            readiness: probe(initial, period, success, failure),
            ..ContainerPlan::default()
        }
    }

    fn due(probes: &Probes, wanted: ProbeKind) -> Option<Duration> {
        probes
            .due()
            .find(|(kind, _)| *kind == wanted)
            .map(|(_, at)| at)
    }

    /// Does the probe when it is due, and says when that was.
    fn next(probes: &mut Probes, plan: &ContainerPlan, kind: ProbeKind, success: bool) -> Duration {
        let at = due(probes, kind).unwrap();
        probes.begin(kind);
        assert_eq!(due(probes, kind), None, "one at a time");
        probes.ended(kind, plan, success, at);
        at
    }

    /// Probes whenever due, with these results, and returns whether the container was ready after each.
    fn ready_after(plan: &ContainerPlan, results: &[bool]) -> Vec<bool> {
        let mut probes = Probes::started(plan, ZERO);
        let ready = results.iter().map(|&success| {
            next(&mut probes, plan, ProbeKind::Readiness, success);
            probes.ready()
        });
        ready.collect()
    }

    #[test]
    fn without_probes_a_started_container_is_ready() {
        let probes = Probes::started(&ContainerPlan::default(), Duration::from_secs(5));
        assert!(probes.ready() && probes.has_come_up());
        assert_eq!(probes.due().count(), 0);
        assert!(!Probes::default().ready(), "one that does not run is not");
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
                ready_after(&readiness(0, 10, success, failure), &results),
                expect,
                "{success} {failure} {results:?}"
            );
        }
    }

    #[test]
    fn the_first_probe_waits_for_the_initial_delay() {
        for (delay, expect) in [(0, 7), (4, 11)] {
            let probes = Probes::started(&readiness(delay, 10, 1, 3), Duration::from_secs(7));
            let expect = Duration::from_secs(expect);
            assert_eq!(due(&probes, ProbeKind::Readiness), Some(expect));
        }
    }

    #[test]
    fn a_container_that_was_never_ready_is_probed_often_then_by_its_period() {
        let plan = readiness(0, 1, 1, 3);
        let mut probes = Probes::started(&plan, ZERO);
        let waits: Vec<_> = [
            false, false, false, false, false, false, false, false, true, false, true,
        ]
        .into_iter()
        .map(|success| {
            let at = next(&mut probes, &plan, ProbeKind::Readiness, success);
            (due(&probes, ProbeKind::Readiness).unwrap() - at).as_millis()
        })
        .collect();
        assert_eq!(
            waits,
            [20, 40, 80, 160, 320, 640, 1000, 1000, 1000, 1000, 1000]
        );
    }

    #[test]
    fn time_that_stood_still_does_not_count() {
        let plan = readiness(0, 10, 1, 3);
        let mut probes = Probes::started(&plan, ZERO);
        next(&mut probes, &plan, ProbeKind::Readiness, true);
        probes.delay(Duration::from_secs(100));
        assert_eq!(
            due(&probes, ProbeKind::Readiness),
            Some(Duration::from_secs(110))
        );
        assert!(probes.ready());
    }

    #[test]
    fn an_adopted_container_stays_ready_until_its_probes_say_otherwise() {
        let now = Duration::from_secs(3);
        let plan = ContainerPlan {
            startup: probe(5, 10, 1, 1),
            ..readiness(5, 10, 1, 2)
        };
        let mut probes = Probes::adopted_ready(&plan, now);
        assert!(probes.ready());
        assert_eq!(
            probes.due().collect::<Vec<_>>(),
            [(ProbeKind::Readiness, now)],
            "probed at once, and it need not come up again"
        );
        next(&mut probes, &plan, ProbeKind::Readiness, false);
        assert!(probes.ready());
        next(&mut probes, &plan, ProbeKind::Readiness, false);
        assert!(!probes.ready());
    }

    #[test]
    fn the_others_wait_until_the_container_has_come_up() {
        let plan = ContainerPlan {
            startup: probe(0, 10, 1, 3),
            liveness: probe(30, 10, 1, 3),
            readiness: probe(0, 10, 1, 3),
            ..ContainerPlan::default()
        };
        let mut probes = Probes::started(&plan, ZERO);
        assert_eq!(probes.due().count(), 1);
        next(&mut probes, &plan, ProbeKind::Startup, false);
        assert!(!probes.has_come_up());
        let up = next(&mut probes, &plan, ProbeKind::Startup, true);
        assert!(probes.has_come_up() && !probes.ready());
        assert_eq!(
            probes.due().collect::<Vec<_>>(),
            [
                (ProbeKind::Liveness, Duration::from_secs(30)),
                (ProbeKind::Readiness, up)
            ],
            "the delay counts from the container's start"
        );
        next(&mut probes, &plan, ProbeKind::Readiness, true);
        assert!(probes.ready());
    }

    #[test]
    fn a_startup_probe_has_its_periods_however_often_it_is_tried() {
        let plan = ContainerPlan {
            startup: probe(1, 10, 1, 3),
            ..ContainerPlan::default()
        };
        let mut probes = Probes::started(&plan, ZERO);
        let mut last = ZERO;
        for _ in 0..100 {
            if probes.given_up().is_some() {
                break;
            }
            last = next(&mut probes, &plan, ProbeKind::Startup, false);
        }
        assert_eq!(probes.given_up(), Some(ProbeKind::Startup));
        assert!(last >= Duration::from_secs(21) && last < Duration::from_secs(31));
        assert_eq!(probes.due().count(), 0);

        // A node that came late to its probes has not tried often enough.
        let mut late = Probes::started(&plan, ZERO);
        late.begin(ProbeKind::Startup);
        late.ended(ProbeKind::Startup, &plan, false, Duration::from_secs(60));
        assert_eq!(late.given_up(), None);
    }

    #[test]
    fn liveness_is_given_up_after_its_failures_in_a_row() {
        let plan = ContainerPlan {
            liveness: probe(0, 10, 1, 2),
            ..ContainerPlan::default()
        };
        let mut probes = Probes::started(&plan, ZERO);
        assert!(probes.ready(), "it counts as alive until it is not");
        let mut at = Vec::new();
        for success in [false, true, false, false] {
            assert_eq!(probes.given_up(), None);
            at.push(next(&mut probes, &plan, ProbeKind::Liveness, success).as_secs());
        }
        assert_eq!(at, [0, 10, 20, 30]);
        assert_eq!(probes.given_up(), Some(ProbeKind::Liveness));
    }
}
