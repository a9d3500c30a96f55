use hearth_core::binding::Refusal;
use hearth_telemetry::LATENCY_BUCKETS;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use super::BindAnswer;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Phase {
    phase: &'static str,
}

/// What the binder counts.
#[derive(Clone, Debug)]
pub struct BinderMetrics {
    outcomes: Family<Outcome, Counter>,
    phases: Family<Phase, Histogram>,
}

impl Default for BinderMetrics {
    fn default() -> Self {
        Self {
            outcomes: Family::default(),
            phases: Family::new_with_constructor(|| Histogram::new(LATENCY_BUCKETS)),
        }
    }
}

impl BinderMetrics {
    /// Adds the metrics to `registry`.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("binds", "Binds answered, by outcome", self.outcomes.clone());
        registry.register_with_unit(
            "bind_phase",
            "Time of a bind that was made, by phase; thaw and journal overlap",
            Unit::Seconds,
            self.phases.clone(),
        );
    }

    pub(super) fn observe(&self, answer: &BindAnswer) {
        let outcome = match answer {
            // The same answer again, for a key that was bound before.
            BindAnswer::Bound { phases, .. } if phases.journal.is_zero() => "bound_before",
            BindAnswer::Bound { phases, .. } => {
                let observe = |phase, time: std::time::Duration| {
                    self.phases
                        .get_or_create(&Phase { phase })
                        .observe(time.as_secs_f64());
                };
                observe("queue", phases.queue);
                observe("journal", phases.journal);
                observe("thaw", phases.thaw);
                observe("total", phases.total);
                "bound"
            }
            BindAnswer::Refused(refusal) => match refusal {
                Refusal::Released => "released",
                Refusal::NotFound => "not_found",
                Refusal::NotMember => "not_member",
                Refusal::NotReady => "not_ready",
                Refusal::Ending => "ending",
                Refusal::Taken => "taken",
                Refusal::OtherEnv => "other_env",
            },
            BindAnswer::Failed(_) => "failed",
            BindAnswer::Superseded => "superseded",
        };
        self.outcomes.get_or_create(&Outcome { outcome }).inc();
    }
}
