//! A cluster in memory, for tests that let everything happen in any order: an API server with its watches, nodes with
//! their journals, and the index between them. Replies get lost, watches lag, streams break, the controller restarts.

mod api;
mod check;
mod kinds;
mod node;
mod outline;
mod users;
mod valid;

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::time::Duration;

use serde_json::{Value, json};

use super::testing::at;
use super::{Index, Settings, node_key};
use crate::effects::{
    Effect, Intent, NodeReply, NodeRequest, Now, Outcome, Receipt, Subject, Write,
};
use crate::ids::NodeName;
use crate::volumes::{Class, PROVISIONER};
use api::Api;
use node::{Node, Shelf};

pub(super) use kinds::Kind;
pub(super) use users::{Hand, Policy, Wants};

/// How long nothing may happen before the world counts as at rest. Longer than any wait for the clock, which is cut to a
/// minute, and than members may take to get ready.
const REST: Duration = Duration::from_secs(150);

/// How far a watch lags at most. The rules take what the API server calls there, and no watch shows for
/// [`WATCH_LAG`](super::outcomes::WATCH_LAG), for gone since: a watch that shows nothing for longer is one that begins anew.
const MOST_LAG: Duration = Duration::from_secs(20);

/// The most writes that may follow each other at one moment of a run; many times more than any has to.
const MOST_AT_ONCE: usize = 1_000;

/// How a write comes out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// As it should.
    Done,
    /// It is done, and the watches may be faster than the answer.
    Late,
    /// It never arrives, and the controller is told so.
    Lost,
    /// It is done, and the reply never arrives.
    Unanswered,
    /// 409: somebody else was faster.
    Conflict,
}

/// What goes wrong in a run in which all else goes as it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The next write has this fate.
    Write(Fate),
    /// The controller starts anew, and what it has sent arrives or does not.
    Restart { arrives: bool },
    /// All watches begin anew.
    Relist,
}

pub(super) struct World {
    pub(super) index: Index,
    pub(super) api: Api,
    pub(super) nodes: BTreeMap<NodeName, Node>,
    /// Sent, not yet executed.
    writes: Vec<Write>,
    /// Executed, not yet answered.
    late: VecDeque<(Receipt, Outcome)>,
    /// Sent to nodes in order.
    requests: Vec<(NodeName, NodeRequest)>,
    confirms: Vec<String>,
    /// What nodes are told of Sandboxes.
    shelves: BTreeMap<NodeName, Shelf>,
    pub(super) now: u64,
    lives: u64,
    /// Which Sandbox each claim UID was answered with last, to see that it does not change silently.
    answers: BTreeMap<String, String>,
    /// What goes wrong after so many writes.
    pub(super) fault: Option<(usize, Fault)>,
    /// Writes that were done or tried.
    pub(super) written: usize,
    /// Of each claim UID, the writes before its answer.
    efforts: BTreeMap<String, usize>,
}

impl World {
    pub(super) fn new(nodes: usize, replicas: i64) -> Self {
        let mut world = Self {
            index: Index::new(settings(), 1, at(0)),
            api: Api::default(),
            nodes: BTreeMap::new(),
            writes: Vec::new(),
            late: VecDeque::new(),
            requests: Vec::new(),
            confirms: Vec::new(),
            shelves: BTreeMap::new(),
            now: 0,
            lives: 0,
            answers: BTreeMap::new(),
            fault: None,
            written: 0,
            efforts: BTreeMap::new(),
        };
        let spec = json!({
            "podTemplate": {"spec": {"containers": [{"name": "main", "image": "i", "ports": [{"containerPort": 80}]}]}},
            "envVarsInjectionPolicy": "Allowed",
            "volumeClaimTemplatesPolicy": "Allowed",
        });
        world.api.create(
            Kind::Template,
            json!({"metadata": {"namespace": "n", "name": "tpl"}, "spec": spec}),
        );
        let spec = json!({
            "sandboxTemplateRef": {"name": "tpl"}, "replicas": replicas, "readinessGracePeriodSeconds": 60,
        });
        world.api.create(
            Kind::Pool,
            json!({"metadata": {"namespace": "n", "name": "pool"}, "spec": spec}),
        );
        for number in 0..nodes {
            let name = format!("n{number}");
            world.nodes.insert(node_key(&name), Node::new(&name));
        }
        world.restart(|_| false);
        world
    }

    fn clock(&self) -> Now {
        at(self.now)
    }

    /// The controller's process ends and a new one leads: some of what was on the way arrives, nobody hears of it.
    pub(super) fn restart(&mut self, arrives: impl Fn(usize) -> bool) {
        self.lives += 1;
        for (number, write) in std::mem::take(&mut self.writes).into_iter().enumerate() {
            if arrives(number) {
                self.run(&write);
            }
        }
        self.index = Index::new(settings(), self.lives, self.clock());
        self.late.clear();
        self.confirms.clear();
        self.requests.clear();
        self.shelves.clear();
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
        let class = Class {
            provisioner: PROVISIONER.to_owned(),
            waits: true,
            reclaim: "Delete".to_owned(),
            ..Class::default()
        };
        self.index
            .apply_storage_class(users::CLASS.to_owned(), class, now);
        for name in self.nodes.keys().cloned().collect::<Vec<_>>() {
            self.index
                .apply_node(super::testing::node(name.as_str()), now);
        }
        for kind in Kind::ALL {
            self.list_kind(kind);
        }
    }

    fn list_kind(&mut self, kind: Kind) {
        let now = self.clock();
        let objects: Vec<Value> = self.api.of_kind(kind).cloned().collect();
        for object in objects {
            kind.apply(&mut self.index, object, now);
        }
        kind.retain(&mut self.index, &self.api.keys(kind), now);
    }

    /// The watch of a kind begins anew: what has happened since is seen only by what there is.
    pub(super) fn relist(&mut self, kind: Kind) {
        self.api.start_watch(kind);
        self.list_kind(kind);
        self.perform();
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
                    Effect::Attach {
                        node,
                        sandbox,
                        attachment,
                    } => {
                        let shelf = self.shelves.entry(node).or_default();
                        match attachment {
                            Some(attachment) => drop(shelf.insert(sandbox.0, attachment)),
                            None => drop(shelf.remove(&sandbox.0)),
                        }
                    }
                    Effect::Supply { .. }
                    | Effect::Tokens { .. }
                    | Effect::Locate { .. }
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
        let now = self.clock();
        for (name, node) in &self.nodes {
            if !node.cut_off {
                self.index
                    .heartbeat(name.as_str(), &self.now.to_string(), now);
            }
        }
        self.perform();
        let most_lag = u64::try_from(MOST_LAG.as_millis()).unwrap();
        for kind in Kind::ALL {
            while self.api.lags(kind, most_lag) && self.deliver(kind) {}
        }
    }

    /// One watch event arrives.
    pub(super) fn deliver(&mut self, kind: Kind) -> bool {
        let Some(event) = self.api.next_event(kind) else {
            return false;
        };
        let now = self.clock();
        match event {
            api::Event::Apply(object) => kind.apply(&mut self.index, object, now),
            api::Event::Delete(key, uid) => kind.delete(&mut self.index, &key, &uid, now),
        }
        self.perform();
        true
    }

    /// One write comes out.
    pub(super) fn execute(&mut self, which: usize, fate: Fate) -> bool {
        if self.writes.is_empty() {
            return false;
        }
        let write = self.writes.remove(which % self.writes.len());
        self.written += 1;
        self.count_effort(&write);
        let lost = |text: &str| Outcome::Unavailable(text.to_owned());
        let outcome = match fate {
            Fate::Done | Fate::Late => self.run(&write),
            Fate::Lost => lost("lost on the way"),
            Fate::Unanswered => {
                self.run(&write);
                lost("the reply was lost")
            }
            Fate::Conflict => {
                let subject = &write.receipt.subject;
                self.api.touch(Kind::of(subject), subject.key());
                Outcome::Conflict
            }
        };
        self.late.push_back((write.receipt, outcome));
        if fate != Fate::Late {
            while self.answer() {}
        }
        true
    }

    /// One answer to a write arrives.
    pub(super) fn answer(&mut self) -> bool {
        let Some((receipt, outcome)) = self.late.pop_front() else {
            return false;
        };
        let now = self.clock();
        self.index.on_outcome(&receipt, outcome, now);
        self.perform();
        true
    }

    fn run(&mut self, write: &Write) -> Outcome {
        self.check_creation(write);
        let outcome = self.api.execute(write);
        self.check_answers();
        outcome
    }

    /// Counts a write that is made for a claim which has no answer yet.
    fn count_effort(&mut self, write: &Write) {
        let receipt = &write.receipt;
        let uid = match (&receipt.subject, receipt.intent) {
            (Subject::Claim(_), _) | (_, Intent::ColdCreate) => receipt.uid.clone(),
            (Subject::Sandbox(key), _) => {
                let sandbox = self.api.get(Kind::Sandbox, key);
                let owner = sandbox.and_then(|sandbox| {
                    api::owners(sandbox).find(|owner| owner["kind"] == "SandboxClaim")
                });
                let Some(owner) = owner else { return };
                owner["uid"].as_str().unwrap().to_owned()
            }
            _ => return,
        };
        let mut claims = self.api.of_kind(Kind::Claim);
        let answered = claims
            .find(|claim| api::uid_of(claim) == uid)
            .is_some_and(|claim| claim["status"]["conditions"][0]["status"] == "True");
        if !answered && !self.answers.contains_key(&uid) {
            *self.efforts.entry(uid).or_default() += 1;
        }
    }

    /// The most writes that any claim took before it had its answer.
    pub(super) fn most_effort(&self) -> usize {
        self.efforts.values().copied().max().unwrap_or(0)
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
        if node.cut_off || std::mem::replace(&mut node.connected, true) {
            return;
        }
        node.events.clear();
        let inventory = node.inventory();
        self.index.session_up(name, inventory, now);
        self.perform();
    }

    /// The node and the network part: its Lease runs out. Or they come together again.
    pub(super) fn cut_off(&mut self, name: &NodeName, cut_off: bool) {
        self.disconnect(name);
        self.nodes.get_mut(name).unwrap().cut_off = cut_off;
    }

    /// A node looks at the API, brings its pods one step further and says so.
    pub(super) fn work(&mut self, name: &NodeName) -> bool {
        let none = Shelf::new();
        let shelf = self.shelves.get(name).unwrap_or(&none);
        let node = self.nodes.get_mut(name).unwrap();
        node.look(&mut self.api, shelf)
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
        let uids: HashSet<String> = self.api.of_kind(Kind::Claim).map(api::uid_of).collect();
        let now = self.clock();
        self.index.claims_confirmed(&namespace, Some(&uids), now);
        self.perform();
        true
    }

    /// What other controllers of the cluster do.
    pub(super) fn collect(&mut self) -> bool {
        self.api.tidy_up()
    }

    /// The fault that is due now, if any.
    fn take_fault(&mut self) -> Option<Fault> {
        let (after, fault) = self.fault?;
        let waits = matches!(fault, Fault::Write(_)) && self.writes.is_empty();
        if self.written < after || waits {
            return None;
        }
        self.fault = None;
        Some(fault)
    }

    /// The next write, with what is to go wrong.
    fn execute_next(&mut self) -> bool {
        let fate = match self.take_fault() {
            None => Fate::Done,
            Some(Fault::Write(fate)) => fate,
            Some(Fault::Restart { arrives }) => {
                self.restart(|_| arrives);
                return true;
            }
            Some(Fault::Relist) => {
                Kind::ALL.into_iter().for_each(|kind| self.relist(kind));
                return true;
            }
        };
        self.execute(0, fate)
    }

    /// All that can happen without a fault and without time happens once.
    fn stir(&mut self) -> bool {
        let names: Vec<_> = self.nodes.keys().cloned().collect();
        let mut busy = false;
        for name in &names {
            self.connect(name);
            busy |= self.work(name);
            while self.hear(name) {
                busy = true;
            }
        }
        while self.ask(true) {
            busy = true;
        }
        // Rules that answer each of their writes by another would go on for ever.
        for done in 0.. {
            assert!(
                done < MOST_AT_ONCE,
                "one write follows the other: {:?}",
                self.writes
            );
            if !self.execute_next() {
                break;
            }
            busy = true;
        }
        for kind in Kind::ALL {
            while self.deliver(kind) {
                busy = true;
            }
        }
        while self.answer() {
            busy = true;
        }
        while self.confirm() {
            busy = true;
        }
        busy | self.collect()
    }

    /// Everything that can happen without a fault happens, until nothing is left.
    pub(super) fn quiesce(&mut self) {
        self.rest(REST);
    }

    /// The same, until nothing has happened for so long.
    pub(super) fn rest(&mut self, rest: Duration) {
        let names: Vec<_> = self.nodes.keys().cloned().collect();
        for name in &names {
            if self.nodes[name].cut_off {
                self.cut_off(name, false);
            }
        }
        let mut calm_since = self.now;
        for _ in 0..3_000 {
            if self.stir() {
                calm_since = self.now;
                // What is done at once takes a moment all the same.
                self.advance(Duration::from_millis(1));
                continue;
            }
            let calm = Duration::from_millis(self.now - calm_since);
            let now = Duration::from_millis(self.now);
            match self.index.next_deadline() {
                Some(next) if calm < rest => {
                    let left = next.saturating_sub(now);
                    // Not in one leap: whatever else is due is due meanwhile.
                    let step = left.clamp(Duration::from_millis(1), Duration::from_secs(30));
                    self.advance(step);
                }
                _ => return,
            }
        }
        panic!(
            "the world does not come to rest: {} writes, {} requests",
            self.writes.len(),
            self.requests.len()
        );
    }

    /// All happens that is left to happen, and all times that users have set come.
    pub(super) fn end(&mut self) {
        self.quiesce();
        self.advance(Duration::from_secs(300));
        self.quiesce();
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
