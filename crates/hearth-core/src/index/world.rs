//! A cluster in memory, for tests that let everything happen in any order: an API server with its watches, nodes with
//! their journals, and the index between them. Replies get lost, watches lag, streams break, the controller restarts.

mod api;
mod node;

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use serde_json::{Value, json};

use super::testing::{at, metadata};
use super::{Index, Settings, node_key};
use crate::effects::{Effect, NodeReply, NodeRequest, Now, Outcome, Write};
use crate::ids::{Key, NodeName};
use crate::templates::PolicyRecord;
use api::Api;
use node::Node;

pub(super) use api::Kind;

pub(super) struct World {
    pub(super) index: Index,
    pub(super) api: Api,
    pub(super) nodes: BTreeMap<NodeName, Node>,
    /// Sent, not yet executed.
    writes: Vec<Write>,
    /// Sent to nodes in order.
    requests: Vec<(NodeName, NodeRequest)>,
    confirms: Vec<String>,
    pub(super) now: u64,
    lives: u64,
    /// Which Sandbox each claim UID was answered with last, to see that it does not change silently.
    answers: BTreeMap<String, String>,
}

impl World {
    pub(super) fn new(nodes: usize, replicas: i64) -> Self {
        let mut world = Self {
            index: Index::new(settings(), 1, at(0)),
            api: Api::default(),
            nodes: BTreeMap::new(),
            writes: Vec::new(),
            requests: Vec::new(),
            confirms: Vec::new(),
            now: 0,
            lives: 0,
            answers: BTreeMap::new(),
        };
        let spec = json!({
            "podTemplate": {"spec": {"containers": [{"name": "main", "image": "i"}]}},
            "envVarsInjectionPolicy": "Allowed",
        });
        world.api.create(
            Kind::Template,
            json!({"metadata": {"namespace": "n", "name": "tpl"}, "spec": spec}),
        );
        let spec = json!({"sandboxTemplateRef": {"name": "tpl"}, "replicas": replicas});
        world.api.create(
            Kind::Pool,
            json!({"metadata": {"namespace": "n", "name": "pool"}, "spec": spec}),
        );
        for number in 0..nodes {
            let name = format!("n{number}");
            world.nodes.insert(node_key(&name), Node::new(&name));
        }
        world.restart();
        world
    }

    fn clock(&self) -> Now {
        at(self.now)
    }

    /// The controller's process ends and a new one leads: some of what was on the way arrives, nobody hears of it.
    pub(super) fn restart(&mut self) {
        self.lives += 1;
        for (number, write) in std::mem::take(&mut self.writes).into_iter().enumerate() {
            if number % 2 == 0 {
                self.run(&write);
            }
        }
        self.index = Index::new(settings(), self.lives, self.clock());
        self.confirms.clear();
        self.requests.clear();
        self.api.start_watches();
        for node in self.nodes.values_mut() {
            node.connected = false;
        }
        self.list();
        let now = self.clock();
        self.index.lead(now);
        self.perform();
    }

    fn list(&mut self) {
        let now = self.clock();
        for name in self.nodes.keys().cloned().collect::<Vec<_>>() {
            self.index
                .apply_node(super::testing::node(name.as_str()), now);
        }
        for (kind, object) in self.api.all() {
            self.deliver_object(kind, object);
        }
        let present = |kind| self.api.keys(kind);
        let (claims, sandboxes, pools, templates, policies) = (
            present(Kind::Claim),
            present(Kind::Sandbox),
            present(Kind::Pool),
            present(Kind::Template),
            present(Kind::Policy),
        );
        self.index.retain_claims(&claims, now);
        self.index.retain_sandboxes(&sandboxes, now);
        self.index.retain_pools(&pools, now);
        self.index.retain_templates(&templates, now);
        self.index.retain_kept::<PolicyRecord>(&policies, now);
    }

    fn deliver_object(&mut self, kind: Kind, object: Value) {
        let now = self.clock();
        match kind {
            Kind::Claim => self
                .index
                .apply_claim(serde_json::from_value(object).unwrap(), now),
            Kind::Sandbox => self
                .index
                .apply_sandbox(serde_json::from_value(object).unwrap(), now),
            Kind::Pool => self
                .index
                .apply_pool(serde_json::from_value(object).unwrap(), now),
            Kind::Template => self
                .index
                .apply_template(serde_json::from_value(object).unwrap(), now),
            Kind::Policy => {
                let key = api::key_of(&object);
                let policy = PolicyRecord::of(serde_json::from_value(object).unwrap());
                self.index.apply_kept(&key, policy, now);
            }
        }
    }

    /// Lets the rules look at everything and sends what they want.
    fn perform(&mut self) {
        for _ in 0..100_000 {
            let now = self.clock();
            let looked = self.index.step(now);
            for effect in self.index.take_effects() {
                match effect {
                    Effect::Write(write) => self.writes.push(*write),
                    Effect::Ask { node, request } => {
                        if self.nodes.get(&node).is_some_and(|node| node.connected) {
                            self.requests.push((node, request));
                        } else {
                            self.index
                                .on_reply(&node, &request, NodeReply::NotSent, now);
                        }
                    }
                    Effect::ConfirmClaims { namespace } => self.confirms.push(namespace),
                    Effect::Supply { .. }
                    | Effect::Tokens { .. }
                    | Effect::Locate { .. }
                    | Effect::Attach { .. }
                    | Effect::Event(_)
                    | Effect::Observe(_) => {}
                }
            }
            if !looked {
                return;
            }
        }
        panic!("the rules do not come to rest");
    }

    // What may happen, one thing at a time.

    pub(super) fn advance(&mut self, by: Duration) {
        self.now += u64::try_from(by.as_millis()).unwrap();
        self.api.now = self.now;
        self.perform();
    }

    /// One watch event arrives.
    pub(super) fn deliver(&mut self, kind: Kind) -> bool {
        let Some(event) = self.api.next_event(kind) else {
            return false;
        };
        let now = self.clock();
        match event {
            api::Event::Apply(object) => self.deliver_object(kind, object),
            api::Event::Delete(key, uid) => match kind {
                Kind::Claim => self.index.delete_claim(&key, &uid, now),
                Kind::Sandbox => self.index.delete_sandbox(&key, &uid, now),
                Kind::Pool => self.index.delete_pool(&key, &uid, now),
                Kind::Template => self.index.delete_template(&key, &uid, now),
                Kind::Policy => self.index.delete_kept::<PolicyRecord>(&key, &uid, now),
            },
        }
        self.perform();
        true
    }

    /// One write is executed. `fate`: 0 not at all, 1 without a reply, else properly.
    pub(super) fn execute(&mut self, which: usize, fate: u8) -> bool {
        if self.writes.is_empty() {
            return false;
        }
        let write = self.writes.remove(which % self.writes.len());
        let outcome = match fate {
            0 => Outcome::Unavailable("lost on the way".into()),
            1 => {
                self.run(&write);
                Outcome::Unavailable("the reply was lost".into())
            }
            _ => self.run(&write),
        };
        let now = self.clock();
        self.index.on_outcome(&write.receipt, outcome, now);
        self.perform();
        true
    }

    fn run(&mut self, write: &Write) -> Outcome {
        self.check_creation(write);
        let outcome = self.api.execute(write, self.now);
        self.check_answers();
        outcome
    }

    /// One request reaches its node; without `reply` the stream breaks before the reply.
    pub(super) fn ask(&mut self, reply: bool) -> bool {
        if self.requests.is_empty() {
            return false;
        }
        let (name, request) = self.requests.remove(0);
        let node = self.nodes.get_mut(&name).unwrap();
        let answer = node.serve(&request);
        let now = self.clock();
        if reply {
            self.index.on_reply(&name, &request, answer, now);
            self.perform();
        } else {
            self.index
                .on_reply(&name, &request, NodeReply::Unknown, now);
            self.disconnect(&name);
        }
        true
    }

    pub(super) fn disconnect(&mut self, name: &NodeName) {
        let now = self.clock();
        let node = self.nodes.get_mut(name).unwrap();
        if !std::mem::replace(&mut node.connected, false) {
            return;
        }
        let (lost, kept): (Vec<_>, Vec<_>) =
            self.requests.drain(..).partition(|(node, _)| node == name);
        self.requests = kept;
        for (node, request) in lost {
            self.index
                .on_reply(&node, &request, NodeReply::Unknown, now);
        }
        self.index.session_down(name, now);
        self.perform();
    }

    pub(super) fn connect(&mut self, name: &NodeName) {
        let now = self.clock();
        let node = self.nodes.get_mut(name).unwrap();
        if std::mem::replace(&mut node.connected, true) {
            return;
        }
        node.events.clear();
        let inventory = node.inventory();
        self.index.session_up(name, inventory, now);
        self.perform();
    }

    /// A node looks at the API, brings its pods one step further and says so.
    pub(super) fn work(&mut self, name: &NodeName) {
        let node = self.nodes.get_mut(name).unwrap();
        node.look(&mut self.api);
    }

    /// One thing that a node said arrives.
    pub(super) fn hear(&mut self, name: &NodeName) -> bool {
        let node = self.nodes.get_mut(name).unwrap();
        if !node.connected {
            return false;
        }
        let Some((reported, gone)) = node.events.pop_front() else {
            return false;
        };
        let now = self.clock();
        self.index.member_event(name, reported, gone, now);
        self.perform();
        true
    }

    pub(super) fn confirm(&mut self) -> bool {
        let Some(namespace) = self.confirms.pop() else {
            return false;
        };
        let uids: HashSet<String> = self
            .api
            .all()
            .into_iter()
            .filter(|(kind, _)| *kind == Kind::Claim)
            .map(|(_, claim)| claim["metadata"]["uid"].as_str().unwrap().to_owned())
            .collect();
        let now = self.clock();
        self.index.claims_confirmed(&namespace, Some(&uids), now);
        self.perform();
        true
    }

    pub(super) fn create_claim(&mut self, name: &str, env: bool) {
        let mut object =
            json!({"metadata": metadata(name, 0), "spec": {"warmPoolRef": {"name": "pool"}}});
        if env {
            object["spec"]["env"] = json!([{"name": "X", "value": name}]);
        }
        object["metadata"].as_object_mut().unwrap().remove("uid");
        self.api.create(Kind::Claim, object);
    }

    pub(super) fn collect_garbage(&mut self) -> bool {
        self.api.collect_garbage()
    }

    /// Everything that can happen without a fault happens, until nothing is left.
    pub(super) fn quiesce(&mut self) {
        for _ in 0..2_000 {
            let names: Vec<_> = self.nodes.keys().cloned().collect();
            let mut busy = false;
            for name in &names {
                self.connect(name);
                self.work(name);
                while self.hear(name) {
                    busy = true;
                }
            }
            while self.ask(true) {
                busy = true;
            }
            while self.execute(0, 2) {
                busy = true;
            }
            for kind in Kind::ALL {
                while self.deliver(kind) {
                    busy = true;
                }
            }
            while self.confirm() {
                busy = true;
            }
            busy |= self.collect_garbage();
            self.advance(Duration::from_millis(400));
            busy |=
                !self.writes.is_empty() || !self.requests.is_empty() || !self.confirms.is_empty();
            if !busy
                && self
                    .index
                    .next_deadline()
                    .is_none_or(|next| next > Duration::from_millis(self.now + 35_000))
            {
                return;
            }
        }
        panic!(
            "the world does not come to rest: {} writes, {} requests",
            self.writes.len(),
            self.requests.len()
        );
    }

    // What must always hold.

    /// A member is made only while the pool has fewer than it asks for, those that are going included.
    fn check_creation(&self, write: &Write) {
        if write.receipt.intent != crate::effects::Intent::MemberCreate {
            return;
        }
        if self
            .api
            .get(Kind::Sandbox, write.receipt.subject.key())
            .is_some()
        {
            return;
        }
        let claimed: HashSet<_> = self.nodes.values().flat_map(Node::claimed).collect();
        let members = self
            .api
            .all()
            .into_iter()
            .filter(|(kind, object)| {
                *kind == Kind::Sandbox
                    && object["metadata"]["ownerReferences"][0]["kind"] == "SandboxWarmPool"
            })
            .filter(|(_, object)| {
                !claimed.contains(&object["metadata"]["uid"].as_str().unwrap().to_owned())
            })
            .count();
        let limit = self.api.most_replicas();
        assert!(members < limit, "{members} members of {limit} and one more");
    }

    /// Every answered claim has a Sandbox of its own, and changes it only after saying that it is missing.
    fn check_answers(&mut self) {
        let mut owners = BTreeMap::new();
        for (kind, claim) in self.api.all() {
            if kind != Kind::Claim {
                continue;
            }
            let uid = claim["metadata"]["uid"].as_str().unwrap().to_owned();
            let name = claim["status"]["sandbox"]["name"]
                .as_str()
                .unwrap_or_default()
                .to_owned();
            if name.is_empty() {
                self.answers.remove(&uid);
                continue;
            }
            let other = owners.insert(name.clone(), uid.clone());
            assert_eq!(other, None, "{name} was given to two claims");
            let before = self.answers.insert(uid.clone(), name.clone());
            assert!(
                before.as_ref().is_none_or(|before| *before == name),
                "{uid} had {before:?} and now has {name}"
            );
            let ready = claim["status"]["conditions"][0]["status"] == "True";
            let has_env = claim["spec"]["env"].is_array();
            let unready = |node: &Node| {
                node.binds().contains(&(name.clone(), uid.clone())) && !node.is_ready(&name)
            };
            assert!(
                !(ready && has_env && self.nodes.values().any(unready)),
                "{uid} is ready without its variables"
            );
        }
    }

    /// A template has its label and its policy, with the spec that was made for it.
    fn check_templates(&self) {
        for (kind, template) in self.api.all() {
            if kind != Kind::Template {
                continue;
            }
            let hash = &template["metadata"]["labels"]["agents.x-k8s.io/sandbox-template-ref-hash"];
            assert!(hash.is_string(), "{template}");
            let name = template["metadata"]["name"].as_str().unwrap();
            let policy = Key::new("n", format!("{name}-network-policy"));
            let policy = self.api.get(Kind::Policy, &policy);
            let policy = policy.expect("a template has its policy");
            let rules = policy["spec"]["ingress"].as_array().map(Vec::len);
            let owner = &policy["metadata"]["ownerReferences"][0]["uid"];
            assert_eq!(
                (owner, rules),
                (&template["metadata"]["uid"], Some(1)),
                "{policy}"
            );
        }
    }

    /// What must hold once nothing is left to happen.
    pub(super) fn check_settled(&self) {
        self.check_templates();
        let mut expected = BTreeMap::new();
        for (kind, claim) in self.api.all() {
            if kind != Kind::Claim || !claim["metadata"]["deletionTimestamp"].is_null() {
                continue;
            }
            let uid = claim["metadata"]["uid"].as_str().unwrap().to_owned();
            let ready = &claim["status"]["conditions"][0];
            let pool = self.api.get(Kind::Pool, &Key::new("n", "pool")).is_some();
            let name = claim["status"]["sandbox"]["name"]
                .as_str()
                .unwrap_or_default();
            if !pool && name.is_empty() {
                assert_eq!(ready["reason"], "WarmPoolNotFound", "{claim}");
                continue;
            }
            let of_claim = self.api.get(Kind::Sandbox, &Key::new("n", name));
            assert_eq!(ready["status"], "True", "{claim} {of_claim:?}");
            let sandbox = self
                .api
                .get(Kind::Sandbox, &Key::new("n", name))
                .expect("an answered claim has its Sandbox");
            assert_eq!(
                sandbox["metadata"]["ownerReferences"][0]["uid"],
                uid.as_str(),
                "{sandbox}"
            );
            expected.insert(name.to_owned(), uid);
        }
        for node in self.nodes.values() {
            for (name, owner) in node.binds() {
                assert_eq!(
                    expected.get(&name),
                    Some(&owner),
                    "node holds {name} for {owner}"
                );
            }
        }
        let members = self.api.members();
        let wanted = self.api.replicas();
        assert_eq!(members.len(), wanted, "{members:?}");
        if let Some(pool) = self.api.get(Kind::Pool, &Key::new("n", "pool")) {
            // Zeros are left out.
            let counted = |field: &str| pool["status"][field].as_u64().unwrap_or(0);
            let wanted = u64::try_from(wanted).unwrap();
            assert_eq!(
                (counted("replicas"), counted("readyReplicas")),
                (wanted, wanted)
            );
        }
    }
}

fn settings() -> Settings {
    Settings {
        claim_events: false,
        sandbox_events: false,
        claim_annotations: false,
        ..Settings::default()
    }
}
