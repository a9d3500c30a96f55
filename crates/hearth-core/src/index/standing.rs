//! Keeping the sets and sums over Sandboxes true whenever one changes.

use std::time::Duration;

use super::members::{Class, Standing};
use super::sandbox::{Leaving, SandboxRecord};
use super::{Index, NodeRecord};
use crate::ids::NodeName;
use crate::placement::Amounts;
use hearth_api::OperatingMode;
use jiff::SignedDuration;

impl Index {
    /// Adds a record to all sets, under a new id.
    pub(crate) fn insert_sandbox(&mut self, mut record: SandboxRecord) -> u64 {
        let id = self.next_sequence();
        record.id = id;
        self.by_key.insert(record.key.clone(), id);
        self.sandboxes.insert(id, record);
        self.link(id);
        id
    }

    /// Changes a record and brings the sets up to date.
    pub(crate) fn change_sandbox<T>(
        &mut self,
        id: u64,
        change: impl FnOnce(&mut SandboxRecord) -> T,
    ) -> Option<T> {
        self.sandboxes.get(&id)?;
        self.unlink(id);
        let result = self.sandboxes.get_mut(&id).map(change);
        self.link(id);
        result
    }

    /// Takes a record out of all sets.
    pub(crate) fn remove_sandbox(&mut self, id: u64) -> Option<SandboxRecord> {
        self.sandboxes.get(&id)?;
        self.unlink(id);
        let record = self.sandboxes.remove(&id)?;
        self.by_key.remove(&record.key);
        self.unplaced.remove(&id);
        self.census.remove(id);
        if let Some(uid) = self.membership.get(&id).cloned() {
            self.leave_pool(id, &uid);
        }
        self.recharge(id, None);
        self.resupply(id);
        self.relocate(id);
        self.recount(id);
        Some(record)
    }

    fn link(&mut self, id: u64) {
        let Some(record) = self.sandboxes.get(&id) else {
            return;
        };
        if record.exists() {
            self.by_uid.insert(record.uid.clone(), id);
        }
        if let Some(uid) = record.claim_uid() {
            self.by_claim.entry(uid.to_owned()).or_default().insert(id);
        }
        if let Some(node) = &record.node {
            self.by_node.entry(node.clone()).or_default().insert(id);
        }
        self.link_orphan(id);
        self.refresh(id);
    }

    /// Undoes [`Self::link`], except for the pool's set: a member keeps its standing while its class stays.
    fn unlink(&mut self, id: u64) {
        let Some(record) = self.sandboxes.get(&id) else {
            return;
        };
        self.by_uid.remove(&record.uid);
        if let Some(uid) = record.claim_uid()
            && let Some(ids) = self.by_claim.get_mut(uid)
        {
            ids.remove(&id);
            if ids.is_empty() {
                self.by_claim.remove(uid);
            }
        }
        if let Some(node) = &record.node
            && let Some(ids) = self.by_node.get_mut(node)
        {
            ids.remove(&id);
            if ids.is_empty() {
                self.by_node.remove(node);
            }
        }
        self.unlink_orphan(id);
    }

    /// Puts a Sandbox where it belongs in its pool's sets and in its node's sum.
    pub(crate) fn refresh(&mut self, id: u64) {
        let Some(record) = self.sandboxes.get(&id) else {
            return;
        };
        let class = self.class(record);
        let node = self.node_of(record);
        let pressure = node.map_or(0, NodeRecord::pressure_step);
        let standing = Standing {
            class,
            since: self.since(record, class),
            created: record.created,
            node: record.node.clone(),
            pressure,
        };
        let charge = self.charge(record);
        let pool = record.pool_uid().map(str::to_owned);
        self.recharge(id, charge);
        self.resupply(id);
        self.relocate(id);
        self.recount(id);
        let previous = self.membership.get(&id).cloned();
        if previous != pool
            && let Some(uid) = previous
        {
            self.leave_pool(id, &uid);
        }
        let Some(uid) = pool else { return };
        self.membership.insert(id, uid.clone());
        if self.members_mut(&uid).set(id, standing) {
            self.mark_pool_uid(&uid);
            if class == Class::Ready {
                self.wake_hungry(&uid);
            }
        }
    }

    /// Since when a member is what it is by now, should it not have been before. Waiting to get ready begins when it was
    /// made, or got unready, so that a controller that starts anew does not prolong it; or when it got a node.
    fn since(&self, record: &SandboxRecord, class: Class) -> SignedDuration {
        let signed = |mono: Duration| SignedDuration::try_from(mono).unwrap_or(SignedDuration::MAX);
        let now = signed(self.now.mono);
        let members = record.pool_uid().and_then(|uid| self.members.get(uid));
        let before = members.and_then(|members| members.class_of(record.id));
        let was_ready = before.is_some_and(Class::is_ready);
        if was_ready || !matches!(class, Class::Starting | Class::Failed) {
            return now;
        }
        if record.node_seen > record.first_seen {
            return signed(record.node_seen);
        }
        let unready = record.ready.filter(|ready| !ready.is_true);
        let unready = unready.map_or(i64::MIN, |ready| ready.since.as_second());
        let began = record.created.max(unready);
        let age = self.now.wall.as_second().saturating_sub(began).max(0);
        now.saturating_sub(SignedDuration::from_secs(age))
    }

    fn leave_pool(&mut self, id: u64, uid: &str) {
        self.membership.remove(&id);
        if let Some(members) = self.members.get_mut(uid) {
            members.remove(id);
            if members.is_empty() {
                self.members.remove(uid);
            }
        }
        crate::pool::forget_refusal(self, id, uid);
        self.mark_pool_uid(uid);
    }

    /// What a Sandbox takes on its node: nothing while it is suspended.
    fn charge(&self, record: &SandboxRecord) -> Option<(NodeName, Amounts)> {
        let node = record.node.clone().or_else(|| record.intended.clone())?;
        (record.mode != OperatingMode::Suspended).then(|| (node, self.takes(&record.spec.shape)))
    }

    fn recharge(&mut self, id: u64, charge: Option<(NodeName, Amounts)>) {
        let known = self.charges.get(&id);
        let takes = known.map(|(node, amounts, _)| (node, *amounts));
        let takes_the_same = takes == charge.as_ref().map(|(node, amounts)| (node, *amounts));
        let is_the_same = match (known, self.sandboxes.get(&id)) {
            (Some((_, _, kind)), Some(record)) => {
                self.kinds.is_of(*kind, &record.pod_labels, &record.spec)
            }
            _ => true,
        };
        if takes_the_same && is_the_same {
            return;
        }
        if let Some((node, amounts, kind)) = self.charges.remove(&id) {
            self.kinds.remove(kind, &node);
            if let Some(node) = self.nodes.get_mut(&node) {
                node.placed.subtract(amounts);
                if !takes_the_same {
                    self.retry_some_unplaced();
                }
            }
        }
        if let Some((node, amounts)) = charge
            && let Some(record) = self.sandboxes.get(&id)
        {
            let namespace = &record.key.namespace;
            let kind = self
                .kinds
                .add(namespace, &record.pod_labels, &record.spec, &node);
            self.nodes
                .entry(node.clone())
                .or_default()
                .placed
                .add(amounts);
            self.charges.insert(id, (node, amounts, kind));
        }
    }

    /// Room has become free: looks again at some of what found no node, in turns, and at pools that could not grow.
    pub(crate) fn retry_some_unplaced(&mut self) {
        const AT_ONCE: usize = 64;
        let after = self.unplaced.range(self.unplaced_cursor + 1..);
        let ids: Vec<_> = after
            .chain(self.unplaced.range(..=self.unplaced_cursor))
            .take(AT_ONCE)
            .copied()
            .collect();
        self.unplaced_cursor = ids.last().copied().unwrap_or(0);
        self.mark_sandboxes(ids);
        self.mark_unplaceable_pools();
    }

    /// Nodes have changed: looks again at all that found no node.
    pub(crate) fn retry_unplaced(&mut self) {
        self.mark_sandboxes(self.unplaced.iter().copied().collect());
        self.mark_unplaceable_pools();
    }

    fn mark_sandboxes(&mut self, ids: Vec<u64>) {
        for id in ids {
            if let Some(key) = self.sandboxes.get(&id).map(|sandbox| sandbox.key.clone()) {
                self.mark_sandbox(&key);
            }
        }
    }

    fn mark_unplaceable_pools(&mut self) {
        let pools: Vec<_> = self
            .pools
            .values()
            .filter(|pool| pool.unplaceable.is_some())
            .map(|pool| pool.key.clone())
            .collect();
        pools.iter().for_each(|key| self.mark_pool(key));
    }

    /// A member became ready: the claims that can have one look again, oldest first.
    fn wake_hungry(&mut self, pool_uid: &str) {
        let Some(pool) = self.pool_by_uid(pool_uid) else {
            return;
        };
        let Some(hungry) = self.hungry.get(&pool.key) else {
            return;
        };
        let ready = self
            .members
            .get(pool_uid)
            .map_or(0, super::Members::pickable);
        let keys: Vec<_> = hungry.iter().take(ready).cloned().collect();
        keys.iter().for_each(|key| self.mark_claim(key));
    }

    /// All Sandboxes of a node.
    pub(crate) fn sandboxes_on(&self, node: &NodeName) -> Vec<u64> {
        self.by_node
            .get(node)
            .map(|ids| ids.iter().copied().collect())
            .unwrap_or_default()
    }

    /// How far a Sandbox is, as far as its pool is concerned.
    pub(crate) fn class(&self, record: &SandboxRecord) -> Class {
        if record.deleting || record.leaving == Some(Leaving::Delete) {
            return Class::Leaving;
        }
        if !record.exists() {
            return Class::Creating;
        }
        let Some(node_key) = &record.node else {
            return match crate::legacy::pods(self, record) {
                Some(_) => Class::Foreign,
                None => Class::Unplaced,
            };
        };
        let node = self.nodes.get(node_key);
        let reported = node.and_then(|node| node.reported.get(&record.uid));
        if reported.is_some_and(|reported| reported.owner.is_some()) {
            return Class::Taken;
        }
        // A lost node gives no leave to go either: what waits for it is given up with the others.
        let Some(node) = node.filter(|node| node.registered && !node.lost) else {
            return Class::Lost;
        };
        if record.leaving.is_some() {
            return Class::Leaving;
        }
        if record.reserved.is_some() {
            return Class::Reserved;
        }
        let settled_phase = reported.map(|reported| reported.phase);
        match settled_phase {
            Some(phase) if phase.is_ready() && crate::services::is_missing(self, record) => {
                Class::Starting
            }
            Some(phase) if phase.is_ready() && !node.synced => Class::Away,
            Some(phase)
                if phase.is_ready()
                    && record
                        .aside_until
                        .is_none_or(|until| until <= self.now.mono) =>
            {
                if record.outdated {
                    Class::Outdated
                } else {
                    Class::Ready
                }
            }
            // After a restart of ours the stream has said nothing yet, but the status has.
            None if !node.synced && record.ready.is_some_and(|ready| ready.is_true) => Class::Away,
            Some(super::Phase::Failed) => Class::Failed,
            None if node.synced => Class::Unheard,
            _ => Class::Starting,
        }
    }
}
