use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;

/// What the watch of Sandboxes counts.
#[derive(Clone, Debug, Default)]
pub struct AssignmentMetrics {
    pub(super) watch_errors: Counter,
    pub(super) invalid: Counter,
    pub(super) torn_down: Counter,
}

impl AssignmentMetrics {
    /// Adds the metrics to `registry`.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "watch_errors",
            "Interruptions of the watch of Sandboxes",
            self.watch_errors.clone(),
        );
        registry.register(
            "invalid_sandboxes",
            "Sandboxes seen that could not be read",
            self.invalid.clone(),
        );
        registry.register(
            "absence_teardowns",
            "Sandboxes torn down because their object was gone without being released or retired",
            self.torn_down.clone(),
        );
    }
}
