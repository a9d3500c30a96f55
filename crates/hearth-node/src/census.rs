//! How many sandboxes there are, counted when somebody asks.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use hearth_api::Tier;
use hearth_core::idle::reclaim::Held;
use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};

use crate::pod::{PodManager, PodPhase, PodView};

/// Counts the sandboxes of pod managers that come later than the registry: one, or one for each fake node.
#[derive(Clone, Debug, Default)]
pub(crate) struct Census {
    pods: Arc<Mutex<Vec<PodManager>>>,
}

/// What sandboxes are told apart by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Group {
    phase: &'static str,
    tier: &'static str,
    member: bool,
}

impl Census {
    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register_collector(Box::new(self.clone()));
    }

    pub(crate) fn of(&self, pods: PodManager) {
        self.pods.lock().push(pods);
    }

    /// Lets go of them: what pods hold, the journal first of all, ends only when nobody holds them.
    pub(crate) fn forget(&self) {
        self.pods.lock().clear();
    }
}

impl Collector for Census {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let nodes = self.pods.lock().clone();
        if nodes.is_empty() {
            return Ok(());
        }
        let mut groups: BTreeMap<Group, i64> = BTreeMap::new();
        let mut memory: BTreeMap<&'static str, Held> = BTreeMap::new();
        for pods in &nodes {
            for view in pods.views() {
                *groups.entry(group(&view)).or_default() += 1;
                // Two small files of the kernel's for each; a pod that is just going has none.
                let held = view.pod_uid.as_ref().map(|pod| pods.held_memory(pod));
                if let Some(Ok(held)) = held {
                    let sum = memory.entry(tier(&view)).or_default();
                    sum.resident += held.resident;
                    sum.swapped += held.swapped;
                }
            }
        }
        let help = "Sandboxes by phase, tier, and whether they are unclaimed members of a pool";
        let kind = ConstGauge::new(0_i64).metric_type();
        let mut family = encoder.encode_descriptor("sandboxes", help, None, kind)?;
        for (group, count) in groups {
            let member = if group.member { "true" } else { "false" };
            let labels = [
                ("phase", group.phase),
                ("tier", group.tier),
                ("member", member),
            ];
            ConstGauge::new(count).encode(family.encode_family(&labels)?)?;
        }
        let help = "Memory that the pods of sandboxes hold, by tier, and by where it is";
        let unit = Some(&Unit::Bytes);
        let mut family = encoder.encode_descriptor("sandbox_memory", help, unit, kind)?;
        for (tier, held) in memory {
            for (place, bytes) in [("memory", held.resident), ("swap", held.swapped)] {
                let labels = [("tier", tier), ("place", place)];
                let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
                ConstGauge::new(bytes).encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}

fn group(view: &PodView) -> Group {
    let phase = match view.phase {
        PodPhase::Pending => "pending",
        PodPhase::NotReady => "not_ready",
        PodPhase::Ready => "ready",
        PodPhase::Stopping => "stopping",
        PodPhase::Stopped => "stopped",
        PodPhase::Failed => "failed",
        PodPhase::Unknown => "unknown",
        PodPhase::Finished => "finished",
    };
    Group {
        phase,
        tier: tier(view),
        member: view.member,
    }
}

fn tier(view: &PodView) -> &'static str {
    match view.tier {
        Some(Tier::Running) => "running",
        Some(Tier::Frozen) => "frozen",
        Some(Tier::Reclaimed) => "reclaimed",
        None => "none",
    }
}
