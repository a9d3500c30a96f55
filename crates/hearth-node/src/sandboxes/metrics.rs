//! How many people are in the sandboxes.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabel {
    kind: &'static str,
}

/// The sessions that are open, through all doors.
#[derive(Clone, Debug, Default)]
pub struct SessionMetrics {
    open: Family<KindLabel, Gauge>,
}

/// A session that counts for as long as this lives.
#[derive(Debug)]
pub(super) struct OpenSession(Gauge);

impl SessionMetrics {
    /// Adds the metrics to `registry`.
    pub fn register(&self, registry: &mut Registry) {
        // Not `sessions`: those of controllers have that name.
        registry.register(
            "sandbox_sessions",
            "Sessions in sandboxes now, by kind",
            self.open.clone(),
        );
    }

    /// Counts one more.
    pub(super) fn open(&self, kind: &'static str) -> OpenSession {
        let gauge = self.open.get_or_create_owned(&KindLabel { kind });
        gauge.inc();
        OpenSession(gauge)
    }

    #[cfg(test)]
    pub(super) fn now(&self, kind: &'static str) -> i64 {
        self.open.get_or_create_owned(&KindLabel { kind }).get()
    }
}

impl Drop for OpenSession {
    fn drop(&mut self) {
        self.0.dec();
    }
}
