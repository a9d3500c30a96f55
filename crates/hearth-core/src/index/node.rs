//! What the index keeps of a node: its SandboxNode, its heartbeat, and what its stream says.

use std::time::Duration;

use hearth_api::SandboxNode;
use hearth_api::constants::condition;

use crate::conditions::is_true;
use crate::hashed::HashMap;
use crate::ids::{NodeName, OwnerKey, SandboxUid};
use crate::placement::{Amounts, NodeFacts};

/// How far a sandbox is, as its node's stream says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Being created or started.
    Pending,
    /// Started, not ready.
    NotReady,
    /// Ready, processes running.
    Running,
    /// Ready, processes frozen.
    Frozen,
    /// No pod, by request.
    Suspended,
    /// Being stopped.
    Stopping,
    /// Failed.
    Failed,
    /// An operation's outcome is not known.
    Unknown,
}

impl Phase {
    /// Whether a claim can have it.
    #[must_use]
    pub fn is_ready(self) -> bool {
        matches!(self, Self::Running | Self::Frozen)
    }
}

/// One sandbox, as its node's stream says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reported {
    /// UID of the Sandbox.
    pub sandbox: SandboxUid,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// How far it is.
    pub phase: Phase,
    /// Addresses of its pod.
    pub pod_ips: Vec<String>,
    /// Who has it; `None` when nobody.
    pub owner: Option<OwnerKey>,
    /// Whether it was idle for so long that the node asks for its suspension.
    pub asks_suspension: bool,
}

/// Where the node API is and who answers there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// `host:port`.
    pub address: String,
    /// SHA-256 of the certificate, lower-case hex.
    pub fingerprint: String,
}

/// A heartbeat, aged by our own monotonic clock from the renewal that we saw.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Heartbeat {
    /// `spec.renewTime` as text: only compared.
    pub(crate) renewed: String,
    pub(crate) seen: Duration,
}

/// What the index keeps of a node.
#[derive(Clone, Debug, Default)]
pub struct NodeRecord {
    pub(crate) facts: NodeFacts,
    pub(crate) endpoint: Endpoint,
    /// Whether its SandboxNode is there. Sessions and sandboxes may outlive it.
    pub(crate) registered: bool,
    pub(crate) heartbeat: Heartbeat,
    /// Whether its stream is open and its inventory has come.
    pub(crate) synced: bool,
    /// Since when it is not.
    pub(crate) unsynced_since: Duration,
    /// Silent for too long; acted upon.
    pub(crate) lost: bool,
    /// What its stream says. Kept, but not trusted, while the stream is down.
    pub(crate) reported: HashMap<SandboxUid, Reported>,
    /// What is placed there, reported or not.
    pub(crate) placed: Amounts,
    /// What the node says that its pods hold: those too that are being torn down, or whose objects are gone.
    pub(crate) held: Amounts,
}

impl NodeRecord {
    /// Takes over what the object says. Returns whether placement may come out differently.
    pub(crate) fn update(&mut self, node: SandboxNode) -> bool {
        let SandboxNode {
            metadata,
            spec,
            status,
        } = node;
        let status = status.unwrap_or_default();
        let percent = status.pressure.values().copied().fold(0.0, f64::max);
        let facts = NodeFacts {
            name: metadata.name.unwrap_or_default(),
            labels: metadata.labels.unwrap_or_default(),
            taints: spec.taints,
            unschedulable: spec.unschedulable,
            ready: is_true(&status.conditions, condition::READY),
            disk_pressure: is_true(&status.conditions, condition::DISK_PRESSURE),
            alive: self.facts.alive,
            handlers: status
                .handlers
                .into_iter()
                .map(|handler| handler.name)
                .collect(),
            images: status.images.into_iter().collect(),
            capacity: Amounts {
                sandboxes: i64::from(status.capacity.sandboxes),
                milli_cpu: status.capacity.milli_cpu,
                memory_bytes: status.capacity.memory_bytes,
                storage_bytes: status.capacity.storage_bytes,
            },
            pressure_percent: whole_percent(percent),
        };
        self.registered = true;
        self.endpoint = Endpoint {
            address: status.endpoint,
            fingerprint: status.fingerprint,
        };
        let held = Amounts {
            sandboxes: i64::from(status.usage.sandboxes),
            milli_cpu: status.usage.milli_cpu,
            memory_bytes: status.usage.memory_bytes,
            storage_bytes: status.usage.storage_bytes,
        };
        let freed = held.sandboxes < self.held.sandboxes
            || held.milli_cpu < self.held.milli_cpu
            || held.memory_bytes < self.held.memory_bytes
            || held.storage_bytes < self.held.storage_bytes;
        let changed = facts != self.facts || freed;
        self.facts = facts;
        self.held = held;
        changed
    }

    /// What there is no room for besides: what is placed may not be there yet, and what is there may not be placed any
    /// more.
    pub(crate) fn used(&self) -> Amounts {
        Amounts {
            sandboxes: self.placed.sandboxes.max(self.held.sandboxes),
            milli_cpu: self.placed.milli_cpu.max(self.held.milli_cpu),
            memory_bytes: self.placed.memory_bytes.max(self.held.memory_bytes),
            storage_bytes: self.placed.storage_bytes.max(self.held.storage_bytes),
        }
    }

    /// [`Self::used`], were it not for what is placed of this size.
    pub(crate) fn used_without(&self, own: Amounts) -> Amounts {
        let mut placed = self.placed;
        placed.subtract(own);
        let node = Self {
            placed,
            held: self.held,
            ..Self::default()
        };
        node.used()
    }

    /// Whether it never comes back: its object is gone, or an operator says so.
    pub(crate) fn is_gone_for_good(&self) -> bool {
        let taints = &self.facts.taints;
        !self.registered
            || taints
                .iter()
                .any(|taint| taint.key == "node.kubernetes.io/out-of-service")
    }

    /// How much pressure counts when members are picked: four steps, so that noise does not reorder nodes.
    pub(crate) fn pressure_step(&self) -> u8 {
        match self.facts.pressure_percent {
            0..=19 => 0,
            20..=39 => 1,
            40..=69 => 2,
            _ => 3,
        }
    }

    pub(crate) fn reported(&self, sandbox: &SandboxUid) -> Option<&Reported> {
        if self.synced {
            self.reported.get(sandbox)
        } else {
            None
        }
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "clamped to 0..=100 before"
)]
fn whole_percent(percent: f64) -> u32 {
    if percent.is_nan() {
        0
    } else {
        percent.clamp(0.0, 100.0).round() as u32
    }
}

/// The key of a node in the index: the value of the label `hearth.dev/node`.
#[must_use]
pub fn node_key(node_name: &str) -> NodeName {
    NodeName(crate::names::node_label_value(node_name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(held: i32) -> SandboxNode {
        let mut node = crate::index::testing::node("n1");
        if let Some(status) = &mut node.status {
            status.usage.sandboxes = held;
        }
        node
    }

    #[test]
    fn a_pod_without_an_object_takes_its_room_until_the_node_has_let_it_go() {
        let mut record = NodeRecord::default();
        record.update(node(0));
        record.placed.sandboxes = 3;
        let check = |record: &mut NodeRecord, held, again, used| {
            assert_eq!(record.update(node(held)), again, "held {held}");
            assert_eq!(record.used().sandboxes, used, "held {held}");
        };
        check(&mut record, 1, false, 3);
        check(&mut record, 60, false, 60);
        check(&mut record, 60, false, 60);
        check(&mut record, 2, true, 3);
    }
}
