//! A Sandbox's Service while anything happens in any order: users change their minds, others make and delete Services,
//! replies get lost, watches lag, the controller starts anew.

use std::collections::{BTreeMap, HashSet, VecDeque};

use proptest::prelude::*;

use super::*;
use crate::index::testing::{merge, operate};

/// One thing that may happen.
#[derive(Clone, Debug)]
enum Step {
    /// `spec.service` is set.
    Ask(Option<bool>),
    /// The pod gets other addresses.
    Pod(u8),
    /// Somebody makes a Service of the name.
    MakeService(u8),
    /// Somebody changes it.
    Disturb,
    DeleteService,
    DeleteSlices,
    /// The watches show what there is.
    Deliver,
    /// The oldest write is done and answered, done and not answered, or not done.
    Execute(u8),
    Advance(u16),
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let asked = prop_oneof![Just(None), Just(Some(true)), Just(Some(false))];
    prop_oneof![
        4 => asked.prop_map(Step::Ask),
        3 => (0..4u8).prop_map(Step::Pod),
        2 => (0..3u8).prop_map(Step::MakeService),
        1 => Just(Step::Disturb),
        2 => Just(Step::DeleteService),
        1 => Just(Step::DeleteSlices),
        8 => Just(Step::Deliver),
        12 => (0..8u8).prop_map(Step::Execute),
        2 => (0..3000u16).prop_map(Step::Advance),
        1 => Just(Step::Restart),
    ]
}

struct Cluster {
    index: Index,
    sandbox: Value,
    service: Option<Value>,
    slices: BTreeMap<String, Value>,
    writes: VecDeque<Write>,
    /// What the node was told last.
    told: Option<Attachment>,
    version: u64,
    now: u64,
}

impl Cluster {
    fn new() -> Self {
        let mut cluster = Self {
            index: leader(),
            sandbox: sandbox(None, 1),
            service: None,
            slices: BTreeMap::new(),
            writes: VecDeque::new(),
            told: None,
            version: 1,
            now: 0,
        };
        cluster.restart();
        cluster
    }

    fn clock(&self) -> Now {
        at(self.now)
    }

    /// A newer state of an object.
    fn newer(&mut self, mut object: Value) -> Value {
        self.version += 1;
        object["metadata"]["resourceVersion"] = self.version.to_string().into();
        object
    }

    fn made(&mut self, mut object: Value) -> Value {
        object["metadata"]["uid"] = format!("u{}", self.version).into();
        self.newer(object)
    }

    fn restart(&mut self) {
        // Some of what was on the way arrives, and nobody hears of it.
        for (number, write) in std::mem::take(&mut self.writes).iter().enumerate() {
            if number % 2 == 0 {
                self.run(write);
            }
        }
        self.index = Index::new(crate::index::Settings::default(), 1, self.clock());
        self.index.apply_node(node("n1"), self.clock());
        self.told = None;
        self.deliver();
        self.index.lead(self.clock());
        self.work();
    }

    fn deliver(&mut self) {
        self.collect_garbage();
        let now = self.clock();
        let sandbox = serde_json::from_value(self.sandbox.clone()).unwrap();
        self.index.apply_sandbox(sandbox, now);
        let mut services = HashSet::new();
        if let Some(service) = self.service.clone() {
            let record = ServiceRecord::of(serde_json::from_value(service).unwrap());
            self.index.apply_kept(&key("svc"), record, now);
            services.insert(key("svc"));
        }
        self.index.retain_kept::<ServiceRecord>(&services, now);
        for (name, slice) in &self.slices {
            let record = SliceRecord::of(serde_json::from_value(slice.clone()).unwrap());
            self.index.apply_kept(&key(name), record, now);
        }
        let slices = self.slices.keys().map(|name| key(name)).collect();
        self.index.retain_kept::<SliceRecord>(&slices, now);
    }

    fn collect_garbage(&mut self) {
        let service = self.service.as_ref();
        let service = service.map(|service| service["metadata"]["uid"].clone());
        let owner = |slice: &Value| slice["metadata"]["ownerReferences"][0]["uid"].clone();
        self.slices.retain(|_, slice| Some(owner(slice)) == service);
    }

    /// Looks at all that waits to be looked at.
    fn work(&mut self) {
        let now = self.clock();
        self.index.heartbeat("n1", &self.now.to_string(), now);
        for effect in settle(&mut self.index, now) {
            match effect {
                Effect::Attach { attachment, .. } => self.told = attachment,
                // The status of the Sandbox is the test's.
                Effect::Write(write)
                    if matches!(
                        write.receipt.subject,
                        Subject::Service(_) | Subject::EndpointSlice(_)
                    ) =>
                {
                    self.writes.push_back(*write);
                }
                _ => {}
            }
        }
    }

    fn execute(&mut self, fate: u8) {
        let Some(write) = self.writes.pop_front() else {
            return;
        };
        let lost = || Outcome::Unavailable("lost".to_owned());
        let outcome = match fate {
            0 => lost(),
            1 => {
                self.run(&write);
                lost()
            }
            _ => self.run(&write),
        };
        self.index.on_outcome(&write.receipt, outcome, self.clock());
        self.work();
    }

    fn run(&mut self, write: &Write) -> Outcome {
        let name = write.receipt.subject.key().name.clone();
        let is_service = matches!(write.receipt.subject, Subject::Service(_));
        let known = if is_service {
            self.service.clone()
        } else {
            self.slices.get(&name).cloned()
        };
        let object = match (known, &write.body) {
            (None, Body::Create(object)) => self.made(object.clone()),
            (Some(_), Body::Create(_)) => return Outcome::Exists,
            (None, _) => return Outcome::NotFound,
            (Some(known), _) if known["metadata"]["uid"] != write.receipt.uid => {
                return Outcome::Conflict;
            }
            (Some(mut known), body) => {
                let owner = &known["metadata"]["ownerReferences"][0]["name"];
                assert_ne!(owner, "boss", "somebody else's is written: {write:?}");
                match body {
                    Body::Merge(patch) => merge(&mut known, patch),
                    Body::Operations(operations) => {
                        if !operate(&mut known, operations) {
                            return Outcome::Conflict;
                        }
                    }
                    Body::Delete { .. } => {
                        if is_service {
                            self.service = None;
                        } else {
                            self.slices.remove(&name);
                        }
                        return Outcome::Done(None);
                    }
                    Body::Create(_) | Body::MergeStatus(_) => panic!("{write:?}"),
                }
                self.newer(known)
            }
        };
        let written = if is_service {
            let kept = serde_json::from_value(object.clone()).unwrap();
            self.service = Some(object);
            Object::Service(key(&name), ServiceRecord::of(kept))
        } else {
            let kept = serde_json::from_value(object.clone()).unwrap();
            self.slices.insert(name.clone(), object);
            Object::EndpointSlice(key(&name), SliceRecord::of(kept))
        };
        Outcome::Done(Some(Box::new(written)))
    }

    fn take(&mut self, step: &Step) {
        match *step {
            Step::Ask(asked) => {
                let mut object = self.sandbox.clone();
                object["spec"]["service"] = asked.into();
                object["metadata"]["generation"] = self.version.into();
                self.sandbox = self.newer(object);
            }
            Step::Pod(which) => {
                let mut object = self.sandbox.clone();
                object["status"]["podIPs"] = match which {
                    0 => json!([]),
                    1 => json!(["10.0.0.1"]),
                    2 => json!(["10.0.0.2", "fd00::2"]),
                    _ => json!(["fd00::3"]),
                };
                self.sandbox = self.newer(object);
            }
            Step::MakeService(kind) if self.service.is_none() => {
                let object = match kind {
                    0 => foreign(),
                    1 => unowned(&json!({})),
                    _ => unowned(&json!({"agents.x-k8s.io/adoptable": "true"})),
                };
                self.service = Some(self.made(object));
            }
            Step::MakeService(_) => {}
            Step::Disturb => {
                if let Some(mut object) = self.service.clone() {
                    object["spec"]["selector"] = json!({"app": "other"});
                    object["spec"]["ports"] = json!([{"name": "a", "port": 1}]);
                    self.service = Some(self.newer(object));
                }
            }
            Step::DeleteService => self.service = None,
            Step::DeleteSlices => self.slices.clear(),
            Step::Deliver => {
                self.deliver();
                self.work();
            }
            Step::Execute(fate) => self.execute(fate),
            Step::Advance(ms) => {
                self.now += u64::from(ms);
                self.work();
            }
            Step::Restart => self.restart(),
        }
    }

    /// Nothing happens any more, and all that is tried works.
    fn quiesce(&mut self) {
        for _ in 0..8 {
            self.take(&Step::Deliver);
            while !self.writes.is_empty() {
                self.execute(7);
            }
            // Longer than anything waits before it is tried again.
            self.now += 31_000;
            self.work();
        }
        assert!(self.writes.is_empty(), "{:?}", self.writes);
    }

    fn check_settled(&self) {
        let asked = self.sandbox["spec"]["service"].as_bool();
        let service = self.service.as_ref();
        let owner =
            |service: &&Value| service["metadata"]["ownerReferences"][0]["uid"] == "uid-svc";
        let own = service.filter(owner);
        match (service, own, asked) {
            (None, _, Some(true)) => panic!("there is no Service"),
            (_, Some(own), Some(false)) => panic!("there is {own}"),
            (_, Some(own), Some(true)) => assert_eq!(own["spec"], golden()["spec"]),
            (_, Some(own), None) => {
                assert_eq!(own["spec"]["selector"], golden()["spec"]["selector"])
            }
            (Some(other), None, Some(true)) => {
                let adoptable = &other["metadata"]["labels"]["agents.x-k8s.io/adoptable"];
                assert!(adoptable.is_null(), "it is not adopted: {other}");
            }
            _ => {}
        }
        let expect = match (own, asked) {
            (Some(_), _) => super::there(),
            (None, Some(true)) => ServiceFact::Missing,
            (None, _) => ServiceFact::Absent,
        };
        let told = self.told.as_ref();
        let told = told.map_or(ServiceFact::Absent, |told| told.service.clone());
        assert_eq!(told, expect);
        self.check_slices(own);
    }

    fn check_slices(&self, own: Option<&Value>) {
        let mut found: Vec<Value> = Vec::new();
        for slice in self.slices.values() {
            let own = own.unwrap_or_else(|| panic!("there is {slice}"));
            let owner = &slice["metadata"]["ownerReferences"][0]["uid"];
            assert_eq!(*owner, own["metadata"]["uid"]);
            let endpoints = slice["endpoints"].as_array().unwrap();
            let addresses = endpoints.iter().map(|endpoint| &endpoint["addresses"]);
            let addresses = addresses.flat_map(|addresses| addresses.as_array().unwrap());
            found.extend(addresses.cloned());
        }
        if own.is_some() {
            assert_eq!(Value::from(found), self.sandbox["status"]["podIPs"]);
        }
    }
}

proptest! {
    #[test]
    fn any_order_of_events_ends_with_the_service_that_is_asked_for(
        steps in proptest::collection::vec(step(), 1..60),
    ) {
        let mut cluster = Cluster::new();
        for step in &steps {
            cluster.take(step);
        }
        cluster.quiesce();
        cluster.check_settled();
    }
}
