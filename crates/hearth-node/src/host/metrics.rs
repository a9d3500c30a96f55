//! What is counted about containerd.

use hearth_telemetry::LATENCY_BUCKETS;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

/// What is counted about containerd.
#[derive(Clone, Debug)]
pub struct ContainerdMetrics {
    pub(super) up: Gauge,
    pub(super) ends: Counter,
    pub(super) ready: Histogram,
}

impl Default for ContainerdMetrics {
    fn default() -> Self {
        Self {
            up: Gauge::default(),
            ends: Counter::default(),
            ready: Histogram::new(LATENCY_BUCKETS),
        }
    }
}

impl ContainerdMetrics {
    /// Adds the metrics to `registry`.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("containerd");
        registry.register("up", "Whether containerd answers", self.up.clone());
        registry.register(
            "ends",
            "Times containerd ended, or could not be started",
            self.ends.clone(),
        );
        registry.register_with_unit(
            "ready",
            "From looking for containerd, or starting it, until it answers",
            Unit::Seconds,
            self.ready.clone(),
        );
    }
}
