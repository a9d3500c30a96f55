use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    result: &'static str,
}

/// What the reporter counts.
#[derive(Clone, Debug, Default)]
pub struct ReporterMetrics {
    writes: Family<Labels, Counter>,
    pub(super) waiting: Gauge,
}

impl ReporterMetrics {
    /// Adds the metrics to `registry`.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "status_writes",
            "Writes of Sandbox status, by result",
            self.writes.clone(),
        );
        registry.register(
            "status_waiting",
            "Sandboxes whose status waits to be written",
            self.waiting.clone(),
        );
    }

    pub(super) fn count(&self, result: &'static str) {
        self.writes.get_or_create(&Labels { result }).inc();
    }
}

#[cfg(test)]
impl ReporterMetrics {
    pub(super) fn counted(&self, result: &'static str) -> u64 {
        self.writes.get_or_create(&Labels { result }).get()
    }
}
