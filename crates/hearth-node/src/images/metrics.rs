//! What images count.

use std::time::Duration;

use hearth_sys::disk::FileSystem;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

/// A pull takes from a tenth of a second to its deadline.
const PULL_BUCKETS: [f64; 10] = [0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 180.0, 600.0];

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

/// What images count.
#[derive(Clone, Debug)]
pub struct ImageMetrics {
    pulls: Family<Outcome, Counter>,
    times: Histogram,
    removed: Counter,
    freed: Counter,
    capacity: Gauge,
    available: Gauge,
}

impl Default for ImageMetrics {
    fn default() -> Self {
        Self {
            pulls: Family::default(),
            times: Histogram::new(PULL_BUCKETS),
            removed: Counter::default(),
            freed: Counter::default(),
            capacity: Gauge::default(),
            available: Gauge::default(),
        }
    }
}

impl ImageMetrics {
    /// Adds the metrics to `registry`.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "image_pulls",
            "Images that were asked of registries, by outcome, all credentials of a pod together",
            self.pulls.clone(),
        );
        registry.register_with_unit(
            "image_pull",
            "Time that a pull took which succeeded, without the wait for a turn",
            Unit::Seconds,
            self.times.clone(),
        );
        registry.register(
            "images_removed",
            "Images that were removed for their room",
            self.removed.clone(),
        );
        registry.register_with_unit(
            "images_removed",
            "What these images took, as the runtime says",
            Unit::Bytes,
            self.freed.clone(),
        );
        registry.register_with_unit(
            "disk_capacity",
            "Size of the disk of the root directory",
            Unit::Bytes,
            self.capacity.clone(),
        );
        registry.register_with_unit(
            "disk_available",
            "What is left of it",
            Unit::Bytes,
            self.available.clone(),
        );
    }

    pub(super) fn removed(&self, bytes: u64) {
        self.removed.inc();
        self.freed.inc_by(bytes);
    }

    pub(super) fn disk(&self, found: &FileSystem) {
        let whole = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        self.capacity.set(whole(found.capacity_bytes));
        self.available.set(whole(found.available_bytes));
    }

    /// How many images were removed, for tests.
    #[cfg(test)]
    pub(super) fn gone(&self) -> (u64, u64) {
        (self.removed.get(), self.freed.get())
    }

    pub(super) fn pulled(&self, succeeded: bool, took: Duration) {
        let outcome = if succeeded { "pulled" } else { "failed" };
        self.pulls.get_or_create(&Outcome { outcome }).inc();
        if succeeded {
            self.times.observe(took.as_secs_f64());
        }
    }
}
