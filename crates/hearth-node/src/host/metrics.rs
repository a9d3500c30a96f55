//! What is counted about containerd and the runtimes.

use hearth_api::HandlerStatus;
use hearth_telemetry::LATENCY_BUCKETS;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
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

/// A handler, and how its pods are frozen: empty when they are not.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HandlerLabels {
    handler: String,
    method: String,
}

/// How the pods of each handler are frozen.
#[derive(Clone, Debug, Default)]
pub struct HandlerMetrics {
    can_freeze: Family<HandlerLabels, Gauge>,
}

impl HandlerMetrics {
    /// Adds the metrics to `registry`.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "handler_can_freeze",
            "Whether pods of a runtime handler can be frozen, as probed, and by which method",
            self.can_freeze.clone(),
        );
    }

    /// Shows what the probes have found.
    pub fn set(&self, handlers: &[HandlerStatus]) {
        for status in handlers {
            let labels = HandlerLabels {
                handler: status.name.clone(),
                method: status.freeze_method.clone(),
            };
            let can = i64::from(!status.freeze_method.is_empty());
            self.can_freeze.get_or_create(&labels).set(can);
        }
    }
}
