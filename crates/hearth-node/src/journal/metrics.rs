use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use hearth_telemetry::LATENCY_BUCKETS;

/// What the journal's writer counts.
#[derive(Clone, Debug)]
pub struct JournalMetrics {
    pub(super) commit: Histogram,
    pub(super) batches: Histogram,
    pub(super) failures: Counter,
}

impl Default for JournalMetrics {
    fn default() -> Self {
        Self {
            commit: Histogram::new(LATENCY_BUCKETS),
            batches: Histogram::new([1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0]),
            failures: Counter::default(),
        }
    }
}

impl JournalMetrics {
    /// Adds the metrics to `registry`.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("journal");
        registry.register_with_unit(
            "commit",
            "Time of one group commit",
            Unit::Seconds,
            self.commit.clone(),
        );
        registry.register(
            "commit_batches",
            "Batches that shared one commit",
            self.batches.clone(),
        );
        registry.register(
            "commit_failures",
            "Group commits that failed",
            self.failures.clone(),
        );
    }
}
