use hearth_telemetry::LATENCY_BUCKETS;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

/// What the runtime host counts.
#[derive(Clone, Debug)]
pub struct RuntimeMetrics {
    pub(super) starts: Counter,
    pub(super) failures: Counter,
    pub(super) ready: Histogram,
}

impl Default for RuntimeMetrics {
    fn default() -> Self {
        Self {
            starts: Counter::default(),
            failures: Counter::default(),
            ready: Histogram::new(LATENCY_BUCKETS),
        }
    }
}

impl RuntimeMetrics {
    /// Adds the metrics to `registry`.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("containerd");
        registry.register(
            "starts",
            "Times containerd was started",
            self.starts.clone(),
        );
        registry.register(
            "failures",
            "Times containerd ended or could not be started",
            self.failures.clone(),
        );
        registry.register_with_unit(
            "ready",
            "From looking for containerd until it served",
            Unit::Seconds,
            self.ready.clone(),
        );
    }
}
