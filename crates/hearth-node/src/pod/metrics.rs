//! What pods count.

use std::time::Duration;

use hearth_core::sandbox::Step;
use hearth_telemetry::LATENCY_BUCKETS;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StepLabel {
    step: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FailureLabel {
    step: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KillLabel {
    by: &'static str,
}

/// How a container is killed whose place another takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kill {
    /// By the kernel, which takes milliseconds.
    Cgroup,
    /// By the runtime: of this handler the processes are not the host's.
    Handler,
    /// By the runtime: nothing was found in the cgroup.
    NotFound,
    /// By the runtime: it could not be done by the cgroup.
    Failed,
}

impl Kill {
    fn label(self) -> &'static str {
        match self {
            Self::Cgroup => "cgroup",
            Self::Handler => "runtime_handler",
            Self::NotFound => "runtime_not_found",
            Self::Failed => "runtime_failed",
        }
    }
}

/// Why a pod is frozen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FreezeReason {
    /// It is a pool's, and ready.
    Pool,
    /// Its mode says so.
    Mode,
    /// Nobody has used it for long enough.
    Idle,
}

/// Why a pod is thawed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ThawReason {
    /// It was bound.
    Bind,
    /// Something was to be done in it: an exec.
    Use,
    /// A packet came for it.
    Packet,
    /// It is to run, or to be stopped or mended.
    Wish,
}

/// Freezes and thaws that were done.
#[derive(Clone, Debug, Default)]
pub(super) struct ResidencyCounts {
    freezes: Family<ReasonLabel, Counter>,
    thaws: Family<ReasonLabel, Counter>,
}

impl ResidencyCounts {
    fn register(&self, registry: &mut Registry) {
        registry.register(
            "pod_freezes",
            "Pods that were frozen, by reason",
            self.freezes.clone(),
        );
        registry.register(
            "pod_thaws",
            "Frozen pods that were thawed, by reason",
            self.thaws.clone(),
        );
    }

    pub(super) fn froze(&self, reason: FreezeReason) {
        let reason = match reason {
            FreezeReason::Pool => "pool",
            FreezeReason::Mode => "mode",
            FreezeReason::Idle => "idle",
        };
        self.freezes.get_or_create(&ReasonLabel { reason }).inc();
    }

    pub(super) fn thawed(&self, reason: ThawReason) {
        let reason = match reason {
            ThawReason::Bind => "bind",
            ThawReason::Use => "use",
            ThawReason::Packet => "packet",
            ThawReason::Wish => "wish",
        };
        self.thaws.get_or_create(&ReasonLabel { reason }).inc();
    }
}

/// What pods count.
#[derive(Clone, Debug)]
pub struct PodMetrics {
    pub(super) residency: ResidencyCounts,
    steps: Family<StepLabel, Histogram>,
    failures: Family<FailureLabel, Counter>,
    ready: Histogram,
    exits: Counter,
    resyncs: Counter,
    missed: Counter,
    orphans: Counter,
    evictions: Counter,
    rotations: Counter,
    replaced: Histogram,
    kills: Family<KillLabel, Counter>,
    parallel: Gauge,
}

impl Default for PodMetrics {
    fn default() -> Self {
        Self {
            residency: ResidencyCounts::default(),
            steps: Family::new_with_constructor(|| Histogram::new(LATENCY_BUCKETS)),
            failures: Family::default(),
            ready: Histogram::new(LATENCY_BUCKETS),
            exits: Counter::default(),
            resyncs: Counter::default(),
            missed: Counter::default(),
            orphans: Counter::default(),
            evictions: Counter::default(),
            rotations: Counter::default(),
            replaced: Histogram::new(LATENCY_BUCKETS),
            kills: Family::default(),
            parallel: Gauge::default(),
        }
    }
}

impl PodMetrics {
    /// Adds the metrics to `registry`.
    pub fn register(&self, registry: &mut Registry) {
        self.residency.register(registry);
        registry.register_with_unit(
            "pod_step",
            "Time of a step in a pod's life that was done, by step; admit is the wait for a turn",
            Unit::Seconds,
            self.steps.clone(),
        );
        registry.register(
            "pod_step_failures",
            "Steps in a pod's life that failed, by step, and whether the outcome is known",
            self.failures.clone(),
        );
        registry.register_with_unit(
            "pod_ready",
            "Time from the start of the last container of a new pod to ready",
            Unit::Seconds,
            self.ready.clone(),
        );
        registry.register(
            "container_exits",
            "Containers that ended by themselves",
            self.exits.clone(),
        );
        registry.register(
            "pod_resyncs",
            "Comparisons of all pods with what the runtime has",
            self.resyncs.clone(),
        );
        registry.register(
            "pod_resync_findings",
            "Pods that a resync found changed without an event; above zero, events are being missed",
            self.missed.clone(),
        );
        registry.register(
            "pod_orphans_removed",
            "Pods of this instance at the runtime that no record named",
            self.orphans.clone(),
        );
        registry.register(
            "pod_evictions",
            "Pods that were ended because they took more of the disk than they may",
            self.evictions.clone(),
        );
        registry.register(
            "container_log_rotations",
            "Logs of containers that had grown too large and were begun anew",
            self.rotations.clone(),
        );
        registry.register_with_unit(
            "pod_env_replacement",
            "Time from a bind that brought variables to ready with them",
            Unit::Seconds,
            self.replaced.clone(),
        );
        registry.register(
            "pod_env_replacement_kills",
            "Containers that were killed for others to take their places, by how: all but cgroup are slow",
            self.kills.clone(),
        );
        registry.register(
            "pod_parallel_creates",
            "How many pods are made or torn down at once in the background, as the machine's state allows",
            self.parallel.clone(),
        );
    }

    pub(super) fn rotated(&self) {
        self.rotations.inc();
    }

    pub(super) fn replaced(&self, after: Duration) {
        self.replaced.observe(after.as_secs_f64());
    }

    pub(super) fn killed(&self, kill: Kill) {
        let by = kill.label();
        self.kills.get_or_create(&KillLabel { by }).inc();
    }

    pub(super) fn parallel(&self, limit: usize) {
        self.parallel.set(i64::try_from(limit).unwrap_or(i64::MAX));
    }

    pub(super) fn step(&self, step: Step, took: Duration) {
        self.steps
            .get_or_create(&StepLabel { step: step.label() })
            .observe(took.as_secs_f64());
    }

    pub(super) fn failed(&self, step: Step, known: bool) {
        let outcome = if known { "failed" } else { "unknown" };
        self.failures
            .get_or_create(&FailureLabel {
                step: step.label(),
                outcome,
            })
            .inc();
    }

    pub(super) fn became_ready(&self, after: Duration) {
        self.ready.observe(after.as_secs_f64());
    }

    pub(super) fn exits(&self, count: u64) {
        self.exits.inc_by(count);
    }

    pub(super) fn resynced(&self) {
        self.resyncs.inc();
    }

    pub(super) fn missed(&self) {
        self.missed.inc();
    }

    pub(super) fn evicted(&self) {
        self.evictions.inc();
    }

    pub(super) fn orphan(&self) {
        self.orphans.inc();
    }

    /// How many containers were killed like this, for tests.
    #[cfg(test)]
    pub(super) fn kills(&self, kill: Kill) -> u64 {
        let by = kill.label();
        self.kills.get_or_create(&KillLabel { by }).get()
    }

    /// How many resyncs found something, for tests.
    #[cfg(test)]
    pub(super) fn findings(&self) -> u64 {
        self.missed.get()
    }
}
