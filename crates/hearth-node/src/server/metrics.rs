use std::sync::Arc;

use hearth_tls::{HandshakeCounts, HandshakeMonitor};
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
    /// One, or one for each fake node.
    handshakes: Arc<Mutex<Vec<HandshakeMonitor>>>,
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
        self.handshakes.lock().push(monitor);
    }
}

/// The counts that the TLS listener keeps by itself.
#[derive(Debug)]
struct Handshakes(Arc<Mutex<Vec<HandshakeMonitor>>>);

impl Collector for Handshakes {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let counts: Vec<_> = self.0.lock().iter().map(HandshakeMonitor::counts).collect();
        if counts.is_empty() {
            return Ok(());
        }
        let sum = |of: fn(&HandshakeCounts) -> u64| counts.iter().map(of).sum::<u64>();
        let help = "Connections to the node API, by what became of them";
        let counter = ConstCounter::<u64>::new(0);
        let mut family =
            encoder.encode_descriptor("connections", help, None, counter.metric_type())?;
        for (result, count) in [
            ("accepted", sum(|counts| counts.accepted)),
            ("refused", sum(|counts| counts.refused)),
            ("failed", sum(|counts| counts.failed)),
            ("expired", sum(|counts| counts.expired)),
            ("displaced", sum(|counts| counts.displaced)),
        ] {
            ConstCounter::new(count).encode(family.encode_family(&[("result", result)])?)?;
        }
        Ok(())
    }
}
