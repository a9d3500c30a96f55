//! The controller's picture of the cluster, and the bookkeeping of what is under way.
//!
//! Watches and node streams feed it through `apply_*`, `delete_*` and the methods about nodes; replies and outcomes
//! come back through [`Index::on_reply`] and [`Index::on_outcome`]. Each of these marks what must be looked at again.
//! [`Index::step`] looks at one thing: it asks the rules ([`crate::claim`], [`crate::pool`], [`crate::assignment`])
//! and collects their effects. No IO, no clock; whoever drives it does the effects.

mod alike;
mod bound;
mod census;
mod claim;
mod members;
mod namespaces;
mod node;
mod nodes;
mod objects;
mod orphans;
mod outcomes;
mod pool;
mod ready;
mod sandbox;
mod settings;
pub(crate) mod spec;
mod spread;
mod standing;
mod supply;
mod volumes;
mod watched;
mod work;
mod writes;

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod world;

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

pub use census::Sort;
pub use claim::{Bind, ClaimRecord, Stage, claim_uid_of};
pub use members::Class;
pub use node::{Endpoint, NodeRecord, Phase, Reported, node_key};
pub use pool::PoolRecord;
pub use sandbox::SandboxRecord;
pub use settings::Settings;
pub(crate) use volumes::PodStanding;
pub use watched::{Kept, Versioned, Watched};
pub use work::Task;

pub(crate) use census::created_by;
pub(crate) use claim::{Notes, env_mark_of, generation_of};
pub(crate) use members::Members;
pub(crate) use outcomes::WATCH_LAG;
pub(crate) use sandbox::{Detail, Leaving, Owner, Retry, SandboxOp, version_of};

use crate::effects::{
    Body, Effect, Intent, Lane, NodeRequest, Now, Observation, Receipt, Subject, Write,
};
use crate::hashed::{HashMap, HashSet};
use crate::ids::{Key, NodeName, OwnerKey, SandboxUid};
use crate::legacy::PodRecord;
use crate::placement::{self, Newcomer, NodeFacts, RuntimeClass, Shape, Unplaceable};
use crate::pool::Template;
use crate::services::{ServiceRecord, SliceRecord};
use crate::templates::PolicyRecord;
use crate::timers::Timers;

/// The picture. See the module's documentation.
#[derive(Debug)]
pub struct Index {
    pub(crate) settings: Settings,
    pub(crate) now: Now,
    /// Since when this controller leads.
    pub(crate) leading: Option<Duration>,

    pub(crate) sandboxes: HashMap<u64, SandboxRecord>,
    by_key: HashMap<Key, u64>,
    by_uid: HashMap<SandboxUid, u64>,
    by_node: HashMap<NodeName, BTreeSet<u64>>,
    /// By UID of the claim that controls them.
    by_claim: HashMap<String, BTreeSet<u64>>,
    /// By UID of the pool that controls them.
    members: HashMap<String, Members>,
    /// Sandboxes that were a pool's and have no controller.
    orphans: orphans::Orphans,
    /// Which pool's set a Sandbox is in.
    membership: HashMap<u64, String>,
    /// Sandboxes that placement has no node for.
    pub(crate) unplaced: BTreeSet<u64>,
    /// Where the last look at them stopped.
    unplaced_cursor: u64,
    census: census::Census,
    spread: spread::Spread,
    supplies: supply::Supplies,
    pub(crate) volumes: volumes::Volumes,
    pub(crate) writes: writes::Writes,
    pub(crate) attachments: crate::attachments::Attachments,
    pub(crate) refused_services: crate::services::Refused,
    /// What each sandbox takes on which node, and of which kind it is there.
    charges: HashMap<u64, (NodeName, placement::Amounts, alike::Kind)>,
    kinds: alike::Kinds,
    pod_labels: alike::LabelCache,

    pub(crate) claims: HashMap<Key, ClaimRecord>,
    claim_keys: HashMap<String, Key>,
    /// Claims by the Sandbox that their status names.
    claim_of_sandbox: HashMap<Key, Key>,
    /// Claims without a Sandbox, by pool.
    waiting: HashMap<Key, pool::Waiting>,
    /// Of these, the ones that wait for a member to get ready.
    hungry: HashMap<Key, pool::Waiting>,
    /// When a claim last arrived or moved.
    pub(crate) last_claim_activity: Option<Duration>,
    /// Until when claims with variables are waited for whose members are being made anew, at the latest.
    pub(crate) replacing_until: Option<Duration>,

    pub(crate) pools: HashMap<Key, PoolRecord>,
    pool_keys: HashMap<String, Key>,
    pub(crate) templates: HashMap<Key, Arc<Template>>,
    /// What keeps the NetworkPolicies of templates from being as they should, as it was said last.
    pub(crate) template_troubles: HashMap<Key, String>,
    namespaces: namespaces::Namespaces,
    runtime_classes: HashMap<String, RuntimeClass>,

    services: watched::Watched<ServiceRecord>,
    /// Those of ours.
    slices: watched::Watched<SliceRecord>,
    policies: watched::Watched<PolicyRecord>,
    /// Those with the label of a Sandbox.
    pods: watched::Watched<PodRecord>,
    pub(crate) old_pods: crate::legacy::Owners,

    pub(crate) nodes: HashMap<NodeName, NodeRecord>,
    /// Heartbeats of nodes whose SandboxNode has not been seen.
    early_heartbeats: HashMap<NodeName, node::Heartbeat>,
    /// Which nodes hold binds of which claim UID.
    binds: HashMap<String, BTreeSet<(NodeName, SandboxUid)>>,
    /// Claim UIDs in binds that no watch has shown, by namespace.
    pub(crate) unknown_owners: HashMap<String, HashSet<String>>,
    /// Namespaces whose claims are being read.
    confirming: HashSet<String>,
    /// Members that were given up while their node was lost.
    written_off: HashMap<SandboxUid, NodeName>,
    /// Releases under way.
    releasing: HashSet<(NodeName, OwnerKey)>,
    heartbeats_trusted: bool,

    work: work::Work,
    timers: Timers<Task>,
    effects: Vec<Effect>,
    sequence: u64,
    pub(crate) suffixes: crate::pool::Suffixes,
}

impl Index {
    /// An empty picture. `seed` makes the names of new members unpredictable.
    #[must_use]
    pub fn new(settings: Settings, seed: u64, now: Now) -> Self {
        Self {
            settings,
            now,
            leading: None,
            sandboxes: HashMap::default(),
            by_key: HashMap::default(),
            by_uid: HashMap::default(),
            by_node: HashMap::default(),
            by_claim: HashMap::default(),
            members: HashMap::default(),
            orphans: orphans::Orphans::default(),
            membership: HashMap::default(),
            unplaced: BTreeSet::new(),
            unplaced_cursor: 0,
            census: census::Census::default(),
            spread: spread::Spread::default(),
            supplies: supply::Supplies::default(),
            volumes: volumes::Volumes::default(),
            writes: writes::Writes::default(),
            attachments: crate::attachments::Attachments::default(),
            refused_services: crate::services::Refused::default(),
            charges: HashMap::default(),
            kinds: alike::Kinds::default(),
            pod_labels: alike::LabelCache::default(),
            claims: HashMap::default(),
            claim_keys: HashMap::default(),
            claim_of_sandbox: HashMap::default(),
            waiting: HashMap::default(),
            hungry: HashMap::default(),
            last_claim_activity: None,
            replacing_until: None,
            pools: HashMap::default(),
            pool_keys: HashMap::default(),
            templates: HashMap::default(),
            template_troubles: HashMap::default(),
            namespaces: namespaces::Namespaces::default(),
            runtime_classes: HashMap::default(),
            services: watched::Watched::default(),
            slices: watched::Watched::default(),
            policies: watched::Watched::default(),
            pods: watched::Watched::default(),
            old_pods: crate::legacy::Owners::default(),
            nodes: HashMap::default(),
            early_heartbeats: HashMap::default(),
            binds: HashMap::default(),
            unknown_owners: HashMap::default(),
            confirming: HashSet::default(),
            written_off: HashMap::default(),
            releasing: HashSet::default(),
            heartbeats_trusted: true,
            work: work::Work::default(),
            timers: Timers::default(),
            effects: Vec::new(),
            sequence: 0,
            suffixes: crate::pool::Suffixes::new(seed),
        }
    }

    /// Starts acting. What was pending before is inherited: it is not bound until the nodes have reported.
    pub fn lead(&mut self, now: Now) {
        self.now = now;
        self.leading = Some(now.mono);
        let unsettled = |claim: &ClaimRecord| {
            let sandbox = Key::new(claim.key.namespace.clone(), claim.sandbox.clone());
            !claim.is_answered() || !self.by_key.contains_key(&sandbox)
        };
        let inherited: Vec<_> = self
            .claims
            .values()
            .filter(|c| unsettled(c))
            .map(|c| c.key.clone())
            .collect();
        for key in inherited {
            if let Some(claim) = self.claims.get_mut(&key) {
                claim.inherited = true;
            }
        }
        self.catch_up_with_namespaces();
        self.mark_all();
        self.supply_all();
        self.locate_all();
        crate::attachments::tell_all(self);
        self.timers
            .wake_at(Task::Nodes, now.mono + self.settings.inventory_wait);
    }

    /// Whether this controller leads.
    #[must_use]
    pub fn is_leading(&self) -> bool {
        self.leading.is_some()
    }

    /// Looks at one thing that waits to be looked at. False when nothing waits.
    pub fn step(&mut self, now: Now) -> bool {
        self.now = now;
        while let Some(task) = self.timers.pop_due(now.mono) {
            self.rewake(&task);
            self.mark(task);
        }
        if self.leading.is_none() {
            return false;
        }
        let Some(task) = self.work.pop() else {
            return false;
        };
        match task {
            Task::Object(Subject::Claim(key)) => crate::claim::reconcile(self, &key),
            Task::Object(Subject::Sandbox(key)) => crate::assignment::reconcile(self, &key),
            Task::Object(Subject::Pool(key)) => crate::pool::reconcile(self, &key),
            Task::Object(Subject::VolumeClaim(key)) => crate::volumes::reconcile_pvc(self, &key),
            Task::Object(Subject::Volume(key)) => crate::volumes::reconcile_pv(self, &key.name),
            Task::Object(Subject::Service(key)) => crate::services::reconcile(self, &key),
            Task::Object(Subject::EndpointSlice(key)) => {
                crate::services::reconcile_slice(self, &key);
            }
            Task::Object(Subject::Template(key)) => crate::templates::reconcile(self, &key),
            Task::Object(Subject::NetworkPolicy(key)) => {
                crate::templates::reconcile_policy(self, &key);
            }
            Task::Object(Subject::Pod(key)) => crate::legacy::reconcile(self, &key),
            Task::Nodes => self.check_nodes(),
            Task::Limits => self.work_out_limits(),
        }
        true
    }

    /// When [`Self::step`] should be called again even if nothing happens.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Duration> {
        self.timers.next()
    }

    /// Takes the effects collected since the last call.
    pub fn take_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    /// How many things wait to be looked at.
    #[must_use]
    pub fn queue_depth(&self) -> usize {
        self.work.len()
    }

    /// Whether [`Self::take_census`] has something new.
    #[must_use]
    pub fn has_new_census(&self) -> bool {
        self.census.has_changed()
    }

    /// How many Sandboxes there are of each sort, if that has changed since the last call.
    pub fn take_census(&mut self) -> Option<Vec<(Sort, u64)>> {
        self.census.take()
    }

    /// The member that the next claim of a pool gets.
    #[must_use]
    pub fn pick(&self, pool: &Key) -> Option<&SandboxUid> {
        let pool = self.pools.get(pool)?;
        let id = self.members_of(&pool.uid)?.pick()?;
        self.sandboxes.get(&id).map(|sandbox| &sandbox.uid)
    }

    // What the rules use.

    pub(crate) fn mark(&mut self, task: Task) {
        if self.leading.is_some() {
            self.work.add(task);
        }
    }

    pub(crate) fn mark_claim(&mut self, key: &Key) {
        if self.claims.contains_key(key) {
            self.mark(Task::Object(Subject::Claim(key.clone())));
        }
    }

    pub(crate) fn mark_claim_uid(&mut self, uid: &str) {
        if let Some(key) = self.claim_keys.get(uid).cloned() {
            self.mark_claim(&key);
        }
    }

    pub(crate) fn mark_sandbox(&mut self, key: &Key) {
        self.mark(Task::Object(Subject::Sandbox(key.clone())));
    }

    pub(crate) fn mark_pool(&mut self, key: &Key) {
        if self.pools.contains_key(key) {
            self.mark(Task::Object(Subject::Pool(key.clone())));
        }
    }

    pub(crate) fn mark_pool_uid(&mut self, uid: &str) {
        if let Some(key) = self.pool_keys.get(uid).cloned() {
            self.mark_pool(&key);
        }
    }

    fn mark_all(&mut self) {
        self.work.clear();
        let claims: Vec<_> = self.claims.keys().cloned().collect();
        let sandboxes: Vec<_> = self
            .sandboxes
            .values()
            .map(|sandbox| sandbox.key.clone())
            .collect();
        let pools: Vec<_> = self.pools.keys().cloned().collect();
        self.mark(Task::Nodes);
        claims.iter().for_each(|key| self.mark_claim(key));
        sandboxes.iter().for_each(|key| self.mark_sandbox(key));
        pools.iter().for_each(|key| self.mark_pool(key));
        self.mark_volumes();
        let services = self.services.keys().into_iter().map(Subject::Service);
        let slices = self.slices.keys().into_iter().map(Subject::EndpointSlice);
        let templates = self.templates.keys().cloned().map(Subject::Template);
        let policies = self.policies.keys().into_iter().map(Subject::NetworkPolicy);
        let pods = self.pods.keys().into_iter().map(Subject::Pod);
        let others = services.chain(slices).chain(templates);
        let others: Vec<_> = others.chain(policies).chain(pods).collect();
        others
            .into_iter()
            .for_each(|subject| self.mark(Task::Object(subject)));
    }

    pub(crate) fn wake(&mut self, subject: Subject, at: Duration) {
        self.timers.wake_at(Task::Object(subject), at);
    }

    pub(crate) fn push(&mut self, effect: Effect) {
        self.effects.push(effect);
    }

    /// Writes a Sandbox that is there: until that came out, nothing else is done about it.
    pub(crate) fn write_sandbox(&mut self, id: u64, intent: Intent, lane: Lane, body: Body) {
        let Some(record) = self.sandboxes.get(&id) else {
            return;
        };
        let (subject, uid) = (Subject::Sandbox(record.key.clone()), record.uid.0.clone());
        self.change_sandbox(id, |record| record.op = Some(SandboxOp::Writing));
        self.write(subject, &uid, intent, lane, body);
    }

    pub(crate) fn write(
        &mut self,
        subject: Subject,
        uid: &str,
        intent: Intent,
        lane: Lane,
        body: Body,
    ) {
        let receipt = Receipt {
            subject,
            uid: uid.to_owned(),
            intent,
        };
        self.effects.push(Effect::Write(Box::new(Write {
            receipt,
            lane,
            body,
        })));
    }

    pub(crate) fn ask(&mut self, node: NodeName, request: NodeRequest) {
        self.effects.push(Effect::Ask { node, request });
    }

    pub(crate) fn observe(&mut self, observation: Observation) {
        self.effects.push(Effect::Observe(Box::new(observation)));
    }

    pub(crate) fn next_sequence(&mut self) -> u64 {
        self.sequence += 1;
        self.sequence
    }

    pub(crate) fn sandbox(&self, key: &Key) -> Option<&SandboxRecord> {
        self.by_key.get(key).and_then(|id| self.sandboxes.get(id))
    }

    pub(crate) fn sandbox_id(&self, key: &Key) -> Option<u64> {
        self.by_key.get(key).copied()
    }

    pub(crate) fn sandbox_by_uid(&self, uid: &SandboxUid) -> Option<&SandboxRecord> {
        self.by_uid.get(uid).and_then(|id| self.sandboxes.get(id))
    }

    /// The Sandboxes that the claim with this UID controls.
    pub(crate) fn sandboxes_of_claim(&self, uid: &str) -> Vec<u64> {
        self.by_claim
            .get(uid)
            .map(|ids| ids.iter().copied().collect())
            .unwrap_or_default()
    }

    pub(crate) fn claim_by_uid(&self, uid: &str) -> Option<&ClaimRecord> {
        self.claim_keys
            .get(uid)
            .and_then(|key| self.claims.get(key))
    }

    pub(crate) fn pool_by_uid(&self, uid: &str) -> Option<&PoolRecord> {
        self.pool_keys.get(uid).and_then(|key| self.pools.get(key))
    }

    pub(crate) fn template_of(&self, pool: &PoolRecord) -> Option<Arc<Template>> {
        self.templates.get(&pool.template_key()).cloned()
    }

    pub(crate) fn members_of(&self, pool_uid: &str) -> Option<&Members> {
        self.members.get(pool_uid)
    }

    /// How many claims that wait for a member of the pool came before `claim`.
    pub(crate) fn hungry_ahead_of(&self, claim: &ClaimRecord) -> usize {
        let hungry = self.hungry.get(&claim.pool_key());
        hungry.map_or(0, |hungry| hungry.ahead_of(claim.sequence))
    }

    /// Wakes the claim when a member of its pool gets ready.
    pub(crate) fn join_hungry(&mut self, key: &Key) {
        let Some(claim) = self.claims.get(key) else {
            return;
        };
        let (pool, sequence) = (claim.pool_key(), claim.sequence);
        self.hungry
            .entry(pool)
            .or_default()
            .insert(sequence, key.clone());
    }

    /// Undoes [`Self::join_hungry`].
    pub(crate) fn leave_hungry(&mut self, pool: &Key, sequence: u64) {
        if let Some(hungry) = self.hungry.get_mut(pool) {
            hungry.remove(sequence);
            if hungry.is_empty() {
                self.hungry.remove(pool);
            }
        }
    }

    /// The binds that nodes hold for the claim with this UID.
    pub(crate) fn binds_of(&self, claim_uid: &str) -> Vec<Bind> {
        let Some(binds) = self.binds.get(claim_uid) else {
            return Vec::new();
        };
        binds
            .iter()
            .filter_map(|(node, sandbox)| {
                let reported = self.nodes.get(node)?.reported.get(sandbox)?;
                Some(Bind {
                    node: node.clone(),
                    owner: reported.owner.clone()?,
                    sandbox: sandbox.clone(),
                    pod_ips: reported.pod_ips.clone(),
                    phase: reported.phase,
                })
            })
            .collect()
    }

    /// Chooses a node.
    pub(crate) fn place(&self, newcomer: Newcomer<'_>) -> Result<NodeName, Unplaceable> {
        let nodes = self
            .nodes
            .iter()
            .filter(|(_, node)| node.registered)
            .map(|(key, node)| (key, &node.facts, node.used()));
        let (shape, handler) = self.demand(newcomer.shape)?;
        let newcomer = Newcomer {
            shape: &shape,
            ..newcomer
        };
        let placed = self.neighbours_of(newcomer.shape, None);
        placement::place(newcomer, handler, self.settings.strategy, nodes, &placed)
            .map(|facts: &NodeFacts| node_key(&facts.name))
    }

    /// All that is placed, as far as it matters to a shape. `own`, if it is placed itself, is not its own neighbour.
    pub(crate) fn neighbours_of(
        &self,
        shape: &Shape,
        own: Option<u64>,
    ) -> Vec<placement::Alike<'_>> {
        if shape.neighbours.is_none() && !self.kinds.any_wary() {
            return Vec::new();
        }
        if !self.kinds.suffice_for(shape.neighbours.as_deref()) {
            return self.each_neighbour(own);
        }
        let own = own.and_then(|id| self.charges.get(&id));
        self.kinds.placed(own.map(|(node, _, kind)| (*kind, node)))
    }

    /// The same, each sandbox for itself.
    fn each_neighbour(&self, own: Option<u64>) -> Vec<placement::Alike<'_>> {
        let others = self.charges.iter().filter(|(id, _)| Some(**id) != own);
        others
            .filter_map(|(id, (node, _, _))| {
                let record = self.sandboxes.get(id)?;
                Some(placement::Alike {
                    namespace: &record.key.namespace,
                    labels: &record.pod_labels,
                    neighbours: record.spec.shape.neighbours.as_deref(),
                    on: Cow::Owned([(node.clone(), 1)].into()),
                })
            })
            .collect()
    }

    /// What a Sandbox of this shape takes with what its RuntimeClass adds.
    pub(crate) fn takes(&self, shape: &Shape) -> placement::Amounts {
        match self.runtime_classes.get(&shape.runtime_class) {
            Some(class) => class.takes(shape),
            None => placement::Amounts::of(shape),
        }
    }

    /// What a shape asks of a node with what its RuntimeClass adds, and the CRI handler.
    pub(crate) fn demand<'a>(
        &'a self,
        shape: &'a Shape,
    ) -> Result<(Cow<'a, Shape>, &'a str), Unplaceable> {
        let name = &shape.runtime_class;
        let class = match self.runtime_classes.get(name) {
            None if name.is_empty() => None,
            None => {
                return Err(Unplaceable {
                    no_class: Some(name.clone()),
                    ..Unplaceable::default()
                });
            }
            known => known,
        };
        let handler = class.map_or(placement::DEFAULT_HANDLER, |class| &class.handler);
        let shape = class.map_or(Cow::Borrowed(shape), |class| class.shape(shape));
        Ok((shape, handler))
    }

    /// Chooses a node for a sandbox of a template.
    pub(crate) fn place_one_of(
        &self,
        namespace: &str,
        template: &Template,
    ) -> Result<NodeName, Unplaceable> {
        self.place(Newcomer {
            shape: &template.spec.shape,
            namespace,
            labels: &template.pod_metadata.labels,
        })
    }

    /// Releases what a node holds for an owner, unless that is under way.
    pub(crate) fn release(&mut self, node: NodeName, owner: OwnerKey, sandbox: Option<SandboxUid>) {
        if self.releasing.insert((node.clone(), owner.clone())) {
            self.ask(node, NodeRequest::Release { owner, sandbox });
        }
    }
}
