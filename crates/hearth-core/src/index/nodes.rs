//! What nodes say: their SandboxNodes, heartbeats and streams; and which of them are lost.

use std::collections::{BTreeSet, HashSet};
use std::time::Duration;

use hearth_api::SandboxNode;

use super::node::{Endpoint, Heartbeat, Reported, node_key};
use super::{Index, Leaving, NodeRecord, SandboxOp, SandboxRecord, Task, claim_uid_of};
use crate::effects::{Effect, NodeRequest, Now};
use crate::ids::{Key, NodeName, SandboxUid};

impl Index {
    /// The node that a Sandbox is assigned to, as far as anything is known of it.
    pub(crate) fn node_of(&self, sandbox: &SandboxRecord) -> Option<&NodeRecord> {
        self.nodes.get(sandbox.node.as_ref()?)
    }

    /// A SandboxNode is as given. Returns its key and where its node API is.
    pub fn apply_node(&mut self, node: SandboxNode, now: Now) -> Option<(NodeName, Endpoint)> {
        self.now = now;
        let key = node_key(node.metadata.name.as_deref()?);
        let heartbeat = self.early_heartbeats.remove(&key);
        let record = self.nodes.entry(key.clone()).or_default();
        let is_new = !record.registered;
        let pressure = record.pressure_step();
        let changed = record.update(node);
        if is_new {
            // A node that never renews is given the same grace as one that stops.
            record.heartbeat = heartbeat.unwrap_or(Heartbeat {
                renewed: String::new(),
                seen: now.mono,
            });
            record.unsynced_since = now.mono;
        }
        let endpoint = record.endpoint.clone();
        let repressed = pressure != record.pressure_step();
        if is_new || repressed {
            self.refresh_node(&key);
        }
        if is_new {
            self.mark_node_sandboxes(&key);
        }
        if is_new || changed {
            self.mark(Task::Nodes);
            self.retry_unplaced();
        }
        Some((key, endpoint))
    }

    /// The SandboxNode is gone; what it ran counts as lost.
    pub fn delete_node(&mut self, name: &str, now: Now) {
        self.now = now;
        let key = node_key(name);
        let Some(record) = self.nodes.get_mut(&key) else {
            return;
        };
        record.registered = false;
        record.facts.alive = false;
        record.synced = false;
        let reported: Vec<_> = record.reported.keys().cloned().collect();
        self.written_off.retain(|_, node| *node != key);
        reported
            .iter()
            .for_each(|sandbox| self.clear_report(&key, sandbox));
        self.mark_node_sandboxes(&key);
        self.mark(Task::Nodes);
    }

    /// These are all the SandboxNodes that there are, by name.
    pub fn retain_nodes(&mut self, present: &HashSet<String>, now: Now) {
        let gone = |record: &&super::NodeRecord| {
            record.registered && !present.contains(&record.facts.name)
        };
        let gone: Vec<_> = self
            .nodes
            .values()
            .filter(gone)
            .map(|record| record.facts.name.clone())
            .collect();
        gone.iter().for_each(|name| self.delete_node(name, now));
    }

    /// A node's Lease shows this renewal time. Only a change counts as a sign of life.
    pub fn heartbeat(&mut self, name: &str, renewed: &str, now: Now) {
        self.now = now;
        let key = node_key(name);
        let seen = |heartbeat: &mut Heartbeat| {
            if heartbeat.renewed != renewed {
                *heartbeat = Heartbeat {
                    renewed: renewed.to_owned(),
                    seen: now.mono,
                };
            }
        };
        match self.nodes.get_mut(&key) {
            Some(record) if record.registered => {
                seen(&mut record.heartbeat);
                if !record.facts.alive {
                    self.mark(Task::Nodes);
                }
            }
            _ => seen(self.early_heartbeats.entry(key).or_default()),
        }
    }

    /// The watch of the heartbeats is broken: silence says nothing about nodes now.
    pub fn heartbeats_interrupted(&mut self, now: Now) {
        self.now = now;
        self.heartbeats_trusted = false;
    }

    /// The watch of the heartbeats is back: every age starts anew.
    pub fn heartbeats_resumed(&mut self, now: Now) {
        self.now = now;
        if !std::mem::replace(&mut self.heartbeats_trusted, true) {
            self.nodes
                .values_mut()
                .for_each(|node| node.heartbeat.seen = now.mono);
            self.mark(Task::Nodes);
        }
    }

    /// A node's stream is open, and this is all that the node holds.
    pub fn session_up(&mut self, node: &NodeName, inventory: Vec<Reported>, now: Now) {
        self.now = now;
        let Some(record) = self.nodes.get_mut(node) else {
            return;
        };
        record.synced = true;
        let mut stale: BTreeSet<SandboxUid> = record.reported.keys().cloned().collect();
        for reported in inventory {
            stale.remove(&reported.sandbox);
            self.set_report(node, reported);
        }
        stale
            .iter()
            .for_each(|sandbox| self.clear_report(node, sandbox));
        for id in self.sandboxes_on(node) {
            // The inventory settles what was open: a Retire is asked again, a Bind counts as told by the inventory.
            self.change_sandbox(id, |sandbox| {
                sandbox.aside_until = None;
                if sandbox.op == Some(SandboxOp::RetireUnknown) {
                    sandbox.op = None;
                }
            });
        }
        self.retire_written_off(node);
        self.mark_node_sandboxes(node);
        self.mark_inherited();
        self.mark(Task::Nodes);
        self.retry_unplaced();
        self.mark_volumes();
    }

    /// Gives up a member of a lost node. Its object goes without the node's leave: nobody can have bound it since.
    pub(crate) fn write_off(&mut self, id: u64) {
        let Some(record) = self.sandboxes.get(&id) else {
            return;
        };
        if let Some(node) = record.node.clone() {
            self.written_off.insert(record.uid.clone(), node);
        }
        self.doom_id(id, Leaving::Delete);
    }

    /// A node is back: what was given up of it is to go there too. It would take so much that has gone without a word for
    /// lost data.
    fn retire_written_off(&mut self, node: &NodeName) {
        let of_node = |(_, on): &(&SandboxUid, &NodeName)| *on == node;
        let members = self.written_off.iter().filter(of_node);
        let members: Vec<_> = members.map(|(sandbox, _)| sandbox.clone()).collect();
        for sandbox in members {
            self.written_off.remove(&sandbox);
            let record = self.nodes.get(node);
            let reported = record.and_then(|record| record.reported.get(&sandbox));
            if reported.is_some_and(|reported| reported.owner.is_none()) {
                self.ask(node.clone(), NodeRequest::Retire { sandbox });
            }
        }
    }

    /// A node's stream is down. What it said last is kept but no member of it can be picked.
    pub fn session_down(&mut self, node: &NodeName, now: Now) {
        self.now = now;
        let Some(record) = self.nodes.get_mut(node) else {
            return;
        };
        if std::mem::replace(&mut record.synced, false) {
            record.unsynced_since = now.mono;
            // The age of a node that was alive on its stream starts when the stream ends.
            record.heartbeat.seen = now.mono;
        }
        self.refresh_node(node);
        self.mark(Task::Nodes);
    }

    /// A node says something new of one sandbox.
    pub fn member_event(&mut self, node: &NodeName, reported: Reported, gone: bool, now: Now) {
        self.now = now;
        if gone {
            self.clear_report(node, &reported.sandbox);
        } else {
            self.set_report(node, reported);
        }
    }

    pub(crate) fn set_report(&mut self, node: &NodeName, reported: Reported) {
        let sandbox = reported.sandbox.clone();
        let owner = reported.owner.clone();
        let namespace = reported.namespace.clone();
        let Some(record) = self.nodes.get_mut(node) else {
            return;
        };
        let before = record.reported.insert(sandbox.clone(), reported);
        if let Some(previous) = before.as_ref().and_then(|before| before.owner.as_ref())
            && Some(previous) != owner.as_ref()
        {
            self.unbind(claim_uid_of(previous), node, &sandbox);
        }
        if let Some(owner) = owner {
            let uid = claim_uid_of(&owner).to_owned();
            self.binds
                .entry(uid.clone())
                .or_default()
                .insert((node.clone(), sandbox.clone()));
            if self.claim_by_uid(&uid).is_some() {
                self.mark_claim_uid(&uid);
            } else {
                self.unknown_owners
                    .entry(namespace.clone())
                    .or_default()
                    .insert(uid);
                self.confirm_claims(&namespace);
            }
        }
        self.report_changed(&sandbox);
    }

    fn clear_report(&mut self, node: &NodeName, sandbox: &SandboxUid) {
        let Some(before) = self
            .nodes
            .get_mut(node)
            .and_then(|record| record.reported.remove(sandbox))
        else {
            return;
        };
        if let Some(owner) = before.owner {
            self.unbind(claim_uid_of(&owner), node, sandbox);
        }
        self.report_changed(sandbox);
    }

    fn unbind(&mut self, claim_uid: &str, node: &NodeName, sandbox: &SandboxUid) {
        if let Some(binds) = self.binds.get_mut(claim_uid) {
            binds.remove(&(node.clone(), sandbox.clone()));
            if binds.is_empty() {
                self.binds.remove(claim_uid);
            }
        }
        self.mark_claim_uid(claim_uid);
    }

    fn report_changed(&mut self, sandbox: &SandboxUid) {
        let Some(id) = self.sandbox_by_uid(sandbox).map(|record| record.id) else {
            return;
        };
        self.change_sandbox(id, |record| {
            record.aside_until = None;
            record.heard = true;
        });
        let Some(record) = self.sandboxes.get(&id) else {
            return;
        };
        if !record.is_member() || record.leaving.is_some() || record.deleting {
            let key = record.key.clone();
            self.sandbox_changed(&key);
        }
        self.mark_pvcs_of(id);
        crate::services::pod_changed(self, id);
    }

    /// Asks for a consistent read of a namespace's claims, unless one is under way.
    pub(crate) fn confirm_claims(&mut self, namespace: &str) {
        if self.leading.is_some() && self.confirming.insert(namespace.to_owned()) {
            self.push(Effect::ConfirmClaims {
                namespace: namespace.to_owned(),
            });
        }
    }

    /// The UIDs of all claims of a namespace, read after [`Effect::ConfirmClaims`]: what binds of other claims hold is
    /// released. `None` when the read failed.
    pub fn claims_confirmed(&mut self, namespace: &str, uids: Option<&HashSet<String>>, now: Now) {
        self.now = now;
        self.confirming.remove(namespace);
        let Some(uids) = uids else {
            self.wake_nodes(now.mono + Duration::from_secs(2));
            return;
        };
        let unknown = self.unknown_owners.remove(namespace).unwrap_or_default();
        for uid in unknown {
            if uids.contains(&uid) || self.claim_by_uid(&uid).is_some() {
                continue;
            }
            for bind in self.binds_of(&uid) {
                self.release(bind.node, bind.owner, Some(bind.sandbox.clone()));
                self.doom(&bind.sandbox, Leaving::Delete);
            }
        }
    }

    /// Marks a Sandbox for deletion.
    pub(crate) fn doom(&mut self, sandbox: &SandboxUid, leaving: Leaving) {
        let Some(record) = self.sandbox_by_uid(sandbox) else {
            return;
        };
        let (id, key) = (record.id, record.key.clone());
        self.doom_id(id, leaving);
        self.mark_sandbox(&key);
    }

    pub(crate) fn doom_id(&mut self, id: u64, leaving: Leaving) {
        let key = self.change_sandbox(id, |record| {
            // What may be deleted needs no leave any more; what is going already is left alone.
            if record.leaving != Some(Leaving::Delete) {
                record.leaving = Some(leaving);
            }
            record.key.clone()
        });
        if let Some(key) = key {
            self.mark_sandbox(&key);
        }
    }

    /// Marks a Sandbox for deletion that nobody has bound. A node that can be told is told first: what goes without a
    /// word may be taken for lost data there when it is much at once.
    pub(crate) fn dismiss(&mut self, id: u64) {
        let record = self.sandboxes.get(&id);
        let node = record.and_then(|record| self.node_of(record));
        let leaving = if node.is_some_and(|node| node.registered && node.synced) {
            Leaving::Retire
        } else {
            Leaving::Delete
        };
        self.doom_id(id, leaving);
    }

    fn refresh_node(&mut self, node: &NodeName) {
        for id in self.sandboxes_on(node) {
            self.refresh(id);
        }
    }

    fn mark_node_sandboxes(&mut self, node: &NodeName) {
        let keys: Vec<Key> = self
            .sandboxes_on(node)
            .into_iter()
            .filter_map(|id| self.sandboxes.get(&id))
            .map(|record| record.key.clone())
            .collect();
        for key in keys {
            self.refresh_key(&key);
            self.sandbox_changed(&key);
        }
    }

    fn refresh_key(&mut self, key: &Key) {
        if let Some(id) = self.sandbox_id(key) {
            self.refresh(id);
        }
    }

    fn mark_inherited(&mut self) {
        let inherited = self.claims.values().filter(|claim| claim.inherited);
        let keys: Vec<_> = inherited.map(|claim| claim.key.clone()).collect();
        keys.iter().for_each(|key| self.mark_claim(key));
    }

    /// Until when an inherited claim must wait for inventories; `None` when they are in, or long enough overdue.
    pub(crate) fn inventories_due(&self) -> Option<Duration> {
        let deadline = self.leading? + self.settings.inventory_wait;
        let missing = self
            .nodes
            .values()
            .any(|node| node.registered && !node.synced && !node.lost);
        (missing && self.now.mono < deadline).then_some(deadline)
    }

    /// Looks at all heartbeats. If most nodes look lost it is more likely that we do not see, and none is acted upon.
    pub(crate) fn check_nodes(&mut self) {
        let now = self.now.mono;
        let grace = self.settings.node_grace;
        let mut silent = HashSet::new();
        let mut registered = 0;
        let mut next: Option<Duration> = None;
        for (key, node) in self.nodes.iter().filter(|(_, node)| node.registered) {
            registered += 1;
            if node.synced {
                continue;
            }
            let deadline = node.heartbeat.seen + grace;
            if self.heartbeats_trusted && now >= deadline {
                silent.insert(key.clone());
            } else {
                let look = deadline.max(now + Duration::from_secs(1));
                next = Some(next.map_or(look, |next| next.min(look)));
            }
        }
        let act = 2 * silent.len() <= registered;
        let keys: Vec<_> = self.nodes.keys().cloned().collect();
        for key in keys {
            let Some(node) = self.nodes.get_mut(&key) else {
                continue;
            };
            let alive = node.registered && !silent.contains(&key);
            let lost = silent.contains(&key) && act;
            let revived = alive && !node.facts.alive;
            let changed = node.lost != lost || node.facts.alive != alive;
            node.facts.alive = alive;
            node.lost = lost;
            if changed {
                self.refresh_node(&key);
                self.mark_node_sandboxes(&key);
            }
            if revived {
                self.retry_unplaced();
            }
        }
        let placed_on = |key: &NodeName| !self.sandboxes_on(key).is_empty();
        let forgotten: Vec<_> = self
            .nodes
            .iter()
            .filter(|(key, node)| !node.registered && !placed_on(key))
            .map(|(key, _)| key.clone())
            .collect();
        forgotten
            .iter()
            .for_each(|key| drop(self.nodes.remove(key)));
        let unconfirmed: Vec<_> = self.unknown_owners.keys().cloned().collect();
        unconfirmed
            .iter()
            .for_each(|namespace| self.confirm_claims(namespace));
        if let Some(next) = next {
            self.wake_nodes(next);
        }
    }

    fn wake_nodes(&mut self, at: Duration) {
        self.timers.wake_at(Task::Nodes, at);
    }
}
