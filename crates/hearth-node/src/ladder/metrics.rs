//! What the ladder counts.

use std::time::Duration;

use hearth_telemetry::LATENCY_BUCKETS;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use super::reclaim::Reclaimed;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: &'static str,
}

/// What the ladder counts.
#[derive(Clone, Debug)]
pub(crate) struct LadderMetrics {
    looks: Counter,
    wakes: Histogram,
    lost: Counter,
    reclaims: Family<OutcomeLabel, Counter>,
    reclaimed: Counter,
}

impl Default for LadderMetrics {
    fn default() -> Self {
        Self {
            looks: Counter::default(),
            wakes: Histogram::new(LATENCY_BUCKETS),
            lost: Counter::default(),
            reclaims: Family::default(),
            reclaimed: Counter::default(),
        }
    }
}

impl LadderMetrics {
    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register(
            "idle_looks",
            "Looks at what a running sandbox with rules of idleness uses",
            self.looks.clone(),
        );
        registry.register_with_unit(
            "idle_wake",
            "Time from hearing of a packet to an idle sandbox until its processes run",
            Unit::Seconds,
            self.wakes.clone(),
        );
        registry.register(
            "idle_notices_lost",
            "Times that more packets to idle sandboxes came than there was room for; the counters were read instead",
            self.lost.clone(),
        );
        registry.register(
            "reclaims",
            "Tries to give back the memory of a frozen sandbox, by outcome",
            self.reclaims.clone(),
        );
        registry.register_with_unit(
            "reclaimed",
            "Memory of frozen sandboxes that was given back",
            Unit::Bytes,
            self.reclaimed.clone(),
        );
    }

    pub(super) fn looked(&self, sandboxes: usize) {
        self.looks.inc_by(u64::try_from(sandboxes).unwrap_or(0));
    }

    pub(super) fn woken(&self, after: Duration) {
        self.wakes.observe(after.as_secs_f64());
    }

    pub(super) fn lost(&self) {
        self.lost.inc();
    }

    pub(super) fn reclaimed(&self, done: &Reclaimed) {
        let outcome = match &done.result {
            Ok(Some((before, after))) => {
                let gone = before.resident.saturating_sub(after.resident);
                self.reclaimed.inc_by(gone);
                if hearth_core::idle::reclaim::is_reclaimed(*before, *after) {
                    "done"
                } else {
                    "in_vain"
                }
            }
            Ok(None) => "thawed",
            Err(refused) => refused.label(),
        };
        self.reclaims.get_or_create(&OutcomeLabel { outcome }).inc();
    }
}
