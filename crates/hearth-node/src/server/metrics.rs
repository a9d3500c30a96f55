use std::sync::Arc;

use hearth_tls::HandshakeMonitor;
use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// What the node API counts.
#[derive(Clone, Debug, Default)]
pub struct ServerMetrics {
    pub(super) sessions: Counter,
    pub(super) live: Gauge,
    pub(super) requests: Counter,
    handshakes: Arc<Mutex<Option<HandshakeMonitor>>>,
}

impl ServerMetrics {
    /// Adds the metrics to `registry`.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "sessions",
            "Sessions whose greeting was accepted",
            self.sessions.clone(),
        );
        registry.register("sessions_live", "Sessions now", self.live.clone());
        registry.register(
            "session_requests",
            "Requests received on sessions",
            self.requests.clone(),
        );
        registry.register_collector(Box::new(Handshakes(Arc::clone(&self.handshakes))));
    }

    pub(super) fn watch_handshakes(&self, monitor: HandshakeMonitor) {
        *self.handshakes.lock() = Some(monitor);
    }
}

/// The counts that the TLS listener keeps by itself.
#[derive(Debug)]
struct Handshakes(Arc<Mutex<Option<HandshakeMonitor>>>);

impl Collector for Handshakes {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let Some(counts) = self.0.lock().as_ref().map(HandshakeMonitor::counts) else {
            return Ok(());
        };
        let help = "Connections to the node API, by what became of them";
        let counter = ConstCounter::<u64>::new(0);
        let mut family =
            encoder.encode_descriptor("connections", help, None, counter.metric_type())?;
        for (result, count) in [
            ("accepted", counts.accepted),
            ("refused", counts.refused),
            ("failed", counts.failed),
            ("expired", counts.expired),
            ("displaced", counts.displaced),
        ] {
            ConstCounter::new(count).encode(family.encode_family(&[("result", result)])?)?;
        }
        Ok(())
    }
}
