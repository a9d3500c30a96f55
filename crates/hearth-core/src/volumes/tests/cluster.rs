//! An API server with the PV controller and the garbage collector, nodes that make and wipe directories, and the index
//! between them.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde_json::{Value, json};

use crate::effects::{
    Body, Effect, NodeReply, NodeRequest, Object, Outcome, Place, Subject, Write,
};
use crate::ids::{Key, NodeName};
use crate::index::testing::{at, merge, node, operate};
use crate::index::{Index, Phase, Reported, Settings, node_key};
use crate::volumes::{Class, Pv, Pvc};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Sandbox,
    Pvc,
    Pv,
    Class,
}

pub(super) struct Cluster {
    index: Index,
    objects: BTreeMap<(Kind, String), Value>,
    version: u64,
    ms: u64,
    nodes: Vec<String>,
    reports: BTreeMap<String, Reported>,
    directories: BTreeSet<String>,
    told: HashMap<(NodeName, String), Place>,
    refusal: Option<String>,
    rejection: Option<String>,
    events: Vec<&'static str>,
}

impl Cluster {
    pub(super) fn new(nodes: &[&str]) -> Self {
        let mut cluster = Self {
            index: Index::new(Settings::default(), 1, at(0)),
            objects: BTreeMap::new(),
            version: 0,
            ms: 0,
            nodes: Vec::new(),
            reports: BTreeMap::new(),
            directories: BTreeSet::new(),
            told: HashMap::new(),
            refusal: None,
            rejection: None,
            events: Vec::new(),
        };
        cluster.index.lead(at(0));
        for name in nodes {
            cluster.add_node(name);
        }
        cluster
    }

    pub(super) fn add_node(&mut self, name: &str) {
        self.nodes.push(name.to_owned());
        self.connect(name);
    }

    fn connect(&mut self, name: &str) {
        let now = at(self.ms);
        let mut object = node(name);
        object.metadata.labels =
            Some([("kubernetes.io/hostname".to_owned(), name.to_owned())].into());
        self.index.apply_node(object, now);
        let of = |(_, reported): (&String, &Reported)| reported.clone();
        let inventory = self.reports.iter().map(of).collect();
        self.index.session_up(&node_key(name), inventory, now);
    }

    pub(super) fn disconnect(&mut self, name: &str) {
        self.index.session_down(&node_key(name), at(self.ms));
    }

    pub(super) fn lose_node(&mut self, name: &str) {
        self.nodes.retain(|known| known != name);
        self.index.delete_node(name, at(self.ms));
    }

    /// The controller's process ends and a new one leads.
    pub(super) fn restart(&mut self) {
        let now = at(self.ms);
        self.index = Index::new(Settings::default(), 1, now);
        self.told.clear();
        for ((kind, _), object) in self.objects.clone() {
            self.show(kind, &object);
        }
        self.index.lead(now);
        for name in self.nodes.clone() {
            self.connect(&name);
        }
    }

    pub(super) fn class(&mut self, name: &str, provisioner: &str, waits: bool) {
        self.class_with(name, provisioner, waits, "Delete");
    }

    pub(super) fn class_with(&mut self, name: &str, provisioner: &str, waits: bool, reclaim: &str) {
        let mode = if waits {
            "WaitForFirstConsumer"
        } else {
            "Immediate"
        };
        self.create(
            Kind::Class,
            json!({"metadata": {"name": name}, "provisioner": provisioner, "volumeBindingMode": mode, "reclaimPolicy": reclaim}),
        );
    }

    pub(super) fn pv(&mut self, name: &str, spec: Value) {
        self.create(
            Kind::Pv,
            json!({"metadata": {"name": name}, "spec": spec, "status": {"phase": "Available"}}),
        );
    }

    pub(super) fn local_pv(&mut self, name: &str, class: &str, size: &str, node: &str) {
        let on = json!([{"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}]);
        self.pv(name, json!({
            "capacity": {"storage": size}, "accessModes": ["ReadWriteOnce"], "storageClassName": class,
            "local": {"path": format!("/disks/{name}")},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": on}]}},
        }));
    }

    pub(super) fn sandbox(&mut self, name: &str, templates: Value, volumes: Value) -> String {
        let pod = json!({"containers": [{"name": "main", "image": "i"}], "volumes": volumes});
        self.create(
            Kind::Sandbox,
            json!({"metadata": {"namespace": "n", "name": name}, "spec": {
                "podTemplate": {"spec": pod}, "volumeClaimTemplates": templates,
            }}),
        )
    }

    pub(super) fn create(&mut self, kind: Kind, mut object: Value) -> String {
        self.version += 1;
        let uid = format!("u{}", self.version);
        object["metadata"]["uid"] = uid.clone().into();
        object["metadata"]["generation"] = 1.into();
        object["metadata"]["creationTimestamp"] = "2027-01-15T08:00:00Z".into();
        self.store(kind, object);
        uid
    }

    fn store(&mut self, kind: Kind, mut object: Value) -> Value {
        self.version += 1;
        let meta = &mut object["metadata"];
        meta["resourceVersion"] = self.version.to_string().into();
        let name = meta["name"].as_str().unwrap().to_owned();
        let held = meta["finalizers"]
            .as_array()
            .is_some_and(|all| !all.is_empty());
        if meta["deletionTimestamp"].is_string() && !held {
            self.objects.remove(&(kind, name));
            self.show_gone(kind, &object);
        } else {
            self.objects.insert((kind, name), object.clone());
            self.show(kind, &object);
        }
        object
    }

    fn show(&mut self, kind: Kind, object: &Value) {
        let (now, object) = (at(self.ms), object.clone());
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        match kind {
            Kind::Sandbox => self
                .index
                .apply_sandbox(serde_json::from_value(object).unwrap(), now),
            Kind::Pvc => {
                let pvc = Pvc::of(serde_json::from_value(object).unwrap());
                self.index.apply_pvc(Key::new("n", name), pvc, now);
            }
            Kind::Pv => {
                let pv = Pv::of(serde_json::from_value(object).unwrap());
                self.index.apply_pv(pv, now);
            }
            Kind::Class => {
                let class = Class::of(serde_json::from_value(object).unwrap());
                self.index.apply_storage_class(name, class, now);
            }
        }
    }

    fn show_gone(&mut self, kind: Kind, object: &Value) {
        let now = at(self.ms);
        let text = |field: &str| object["metadata"][field].as_str().unwrap().to_owned();
        let (name, uid) = (text("name"), text("uid"));
        match kind {
            Kind::Sandbox => self.index.delete_sandbox(&Key::new("n", name), &uid, now),
            Kind::Pvc => self.index.delete_pvc(&Key::new("n", name), &uid, now),
            Kind::Pv => self.index.delete_pv(&name, &uid, now),
            Kind::Class => self.index.delete_storage_class(&name, now),
        }
    }

    pub(super) fn delete(&mut self, kind: Kind, name: &str) {
        let mut object = self.get(kind, name).clone();
        object["metadata"]["deletionTimestamp"] = "2027-01-15T09:00:00Z".into();
        self.store(kind, object);
    }

    pub(super) fn get(&self, kind: Kind, name: &str) -> &Value {
        self.objects
            .get(&(kind, name.to_owned()))
            .unwrap_or_else(|| panic!("there is no {kind:?} {name}"))
    }

    pub(super) fn exists(&self, kind: Kind, name: &str) -> bool {
        self.objects.contains_key(&(kind, name.to_owned()))
    }

    pub(super) fn count(&self, kind: Kind) -> usize {
        self.objects.keys().filter(|(of, _)| *of == kind).count()
    }

    pub(super) fn node_of(&self, sandbox: &str) -> Value {
        self.get(Kind::Sandbox, sandbox)["metadata"]["labels"]["hearth.dev/node"].clone()
    }

    pub(super) fn condition(&self, sandbox: &str, type_: &str) -> (String, String, String) {
        let sandbox = self.get(Kind::Sandbox, sandbox);
        let conditions = sandbox["status"]["conditions"].as_array();
        let condition = conditions.and_then(|all| all.iter().find(|c| c["type"] == type_));
        let condition = condition.unwrap_or_else(|| panic!("no condition {type_}: {sandbox}"));
        let text = |field: &str| condition[field].as_str().unwrap().to_owned();
        (text("status"), text("reason"), text("message"))
    }

    /// Why a Sandbox has no node.
    pub(super) fn unschedulable(&self, sandbox: &str) -> String {
        let (status, reason, message) = self.condition(sandbox, "PodScheduled");
        assert_eq!(
            (status.as_str(), reason.as_str()),
            ("False", "Unschedulable")
        );
        message
    }

    pub(super) fn told(&self, node: &str, claim: &str) -> Place {
        let told = self.told.get(&(node_key(node), claim.to_owned()));
        told.cloned().unwrap_or(Place::NotWanted)
    }

    pub(super) fn directories(&self) -> &BTreeSet<String> {
        &self.directories
    }

    pub(super) fn refuse_volumes(&mut self, why: &str) {
        self.refusal = Some(why.to_owned());
    }

    pub(super) fn accept_volumes(&mut self) {
        self.refusal = None;
    }

    pub(super) fn reject_claims(&mut self, why: Option<&str>) {
        self.rejection = why.map(str::to_owned);
    }

    pub(super) fn events(&self) -> &[&'static str] {
        &self.events
    }

    pub(super) fn set_mode(&mut self, sandbox: &str, mode: &str) {
        let mut object = self.get(Kind::Sandbox, sandbox).clone();
        object["spec"]["operatingMode"] = mode.into();
        self.store(Kind::Sandbox, object);
    }

    /// The node writes that the pod is gone.
    pub(super) fn say_suspended(&mut self, sandbox: &str) {
        let mut object = self.get(Kind::Sandbox, sandbox).clone();
        object["status"]["conditions"] = json!([{
            "type": "Suspended", "status": "True", "reason": "PodTerminated", "message": "m",
            "lastTransitionTime": "2027-01-15T08:00:01Z",
        }]);
        self.store(Kind::Sandbox, object);
    }

    fn reported(&self, sandbox: &str, phase: Phase) -> (NodeName, Reported) {
        let object = self.get(Kind::Sandbox, sandbox);
        let node = object["metadata"]["labels"]["hearth.dev/node"].as_str();
        let reported = Reported {
            sandbox: object["metadata"]["uid"].as_str().unwrap().into(),
            namespace: "n".into(),
            name: sandbox.into(),
            phase,
            pod_ips: Vec::new(),
            owner: None,
            asks_suspension: false,
        };
        (node_key(node.expect("it has a node")), reported)
    }

    /// The node says how far the pod is.
    pub(super) fn report(&mut self, sandbox: &str, phase: Phase) {
        let (node, reported) = self.reported(sandbox, phase);
        self.reports.insert(sandbox.to_owned(), reported.clone());
        self.index.member_event(&node, reported, false, at(self.ms));
    }

    /// The node says that nothing is left of it.
    pub(super) fn gone(&mut self, sandbox: &str) {
        let (node, reported) = self.reported(sandbox, Phase::Stopping);
        self.reports.remove(sandbox);
        self.index.member_event(&node, reported, true, at(self.ms));
    }

    /// Time passes, and whatever happens in it.
    pub(super) fn pass(&mut self, ms: u64) {
        for _ in 0..ms.div_ceil(500) {
            self.ms += 500;
            self.settle();
        }
    }

    /// All happens that can happen now.
    pub(super) fn settle(&mut self) {
        for _ in 0..10_000 {
            let looked = self.act(usize::MAX) > 0;
            if !looked && !self.control() {
                return;
            }
        }
        panic!("it does not come to rest");
    }

    /// One write happens, or what the others do.
    pub(super) fn step_once(&mut self) {
        if self.act(1) == 0 {
            self.control();
        }
    }

    /// Looks at all that waits and does the effects, of which `limit` writes and requests; returns how many there were.
    fn act(&mut self, limit: usize) -> usize {
        let mut done = 0;
        loop {
            let looked = self.index.step(at(self.ms));
            for effect in self.index.take_effects() {
                match effect {
                    Effect::Write(write) if done < limit => {
                        done += 1;
                        let outcome = self.execute(&write);
                        self.index.on_outcome(&write.receipt, outcome, at(self.ms));
                    }
                    Effect::Ask { node, request } if done < limit => {
                        done += 1;
                        let reply = self.serve(&request);
                        self.index.on_reply(&node, &request, reply, at(self.ms));
                    }
                    Effect::Locate { node, claim, place } => {
                        self.told.insert((node, claim.name), place);
                    }
                    Effect::Event(note) => self.events.push(note.reason),
                    _ => {}
                }
            }
            if !looked || done >= limit {
                return done;
            }
        }
    }

    fn serve(&mut self, request: &NodeRequest) -> NodeReply {
        match request {
            NodeRequest::MakeVolume { volume, .. } => match &self.refusal {
                Some(why) => NodeReply::VolumeFailed(why.clone()),
                None => {
                    self.directories.insert(volume.clone());
                    NodeReply::VolumeMade {
                        path: format!("/volumes/{volume}"),
                    }
                }
            },
            NodeRequest::WipeVolume { volume } => {
                self.directories.remove(volume);
                NodeReply::VolumeWiped
            }
            other => panic!("{other:?}"),
        }
    }

    fn execute(&mut self, write: &Write) -> Outcome {
        let (kind, name) = match &write.receipt.subject {
            Subject::Sandbox(key) => (Kind::Sandbox, key.name.clone()),
            Subject::VolumeClaim(key) => (Kind::Pvc, key.name.clone()),
            Subject::Volume(key) => (Kind::Pv, key.name.clone()),
            other => panic!("{other:?}"),
        };
        if let Body::Create(object) = &write.body {
            if let (Kind::Pvc, Some(why)) = (kind, &self.rejection) {
                return Outcome::Rejected(why.clone());
            }
            if self.exists(kind, &name) {
                return Outcome::Exists;
            }
            let mut object = object.clone();
            if kind == Kind::Pv {
                object["status"] = json!({"phase": "Pending"});
            }
            self.create(kind, object);
            return Self::done(kind, self.get(kind, &name).clone());
        }
        if !self.exists(kind, &name) {
            return Outcome::NotFound;
        }
        let current = self.get(kind, &name).clone();
        match &write.body {
            Body::Delete { .. } => {
                assert_eq!(current["metadata"]["uid"], write.receipt.uid.as_str());
                self.delete(kind, &name);
                Outcome::Done(None)
            }
            Body::Merge(patch) | Body::MergeStatus(patch) => {
                let wanted = &patch["metadata"]["resourceVersion"];
                if !wanted.is_null() && *wanted != current["metadata"]["resourceVersion"] {
                    return Outcome::Conflict;
                }
                let mut object = current;
                merge(&mut object, patch);
                Self::done(kind, self.store(kind, object))
            }
            Body::Operations(operations) => {
                let mut object = current;
                if operate(&mut object, operations) {
                    Self::done(kind, self.store(kind, object))
                } else {
                    Outcome::Rejected("the server rejected our request".to_owned())
                }
            }
            Body::Create(_) => unreachable!("handled before"),
        }
    }

    fn done(kind: Kind, object: Value) -> Outcome {
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        Outcome::Done(Some(Box::new(match kind {
            Kind::Sandbox => Object::Sandbox(serde_json::from_value(object).unwrap()),
            Kind::Pvc => Object::VolumeClaim(
                Key::new("n", name),
                Pvc::of(serde_json::from_value(object).unwrap()),
            ),
            Kind::Pv => Object::Volume(Pv::of(serde_json::from_value(object).unwrap())),
            Kind::Class => return Outcome::Done(None),
        })))
    }

    /// The PV controller and the garbage collector take one step; false when there is nothing to do.
    fn control(&mut self) -> bool {
        for ((kind, name), object) in self.objects.clone() {
            match kind {
                Kind::Pv if self.control_volume(&name, &object) => return true,
                Kind::Pvc if self.collect(&name, &object) => return true,
                _ => {}
            }
        }
        false
    }

    fn control_volume(&mut self, name: &str, pv: &Value) -> bool {
        let claim = &pv["spec"]["claimRef"];
        let Some(claim_name) = claim["name"].as_str() else {
            return false;
        };
        let phase = pv["status"]["phase"].as_str().unwrap_or_default();
        let pvc = self
            .objects
            .get(&(Kind::Pvc, claim_name.to_owned()))
            .cloned();
        let pvc = pvc.filter(|pvc| pvc["metadata"]["uid"] == claim["uid"]);
        let wanted = if pvc.is_some() { "Bound" } else { "Released" };
        if phase == wanted {
            return false;
        }
        if let Some(mut pvc) = pvc {
            pvc["spec"]["volumeName"] = name.into();
            pvc["status"] = json!({"phase": "Bound"});
            self.store(Kind::Pvc, pvc);
        }
        let mut pv = pv.clone();
        pv["status"] = json!({"phase": wanted});
        self.store(Kind::Pv, pv);
        true
    }

    fn collect(&mut self, name: &str, pvc: &Value) -> bool {
        let Some(owner) = pvc["metadata"]["ownerReferences"][0]["uid"].as_str() else {
            return false;
        };
        let mut others = self.objects.values();
        let there = owner == "u-x" || others.any(|other| other["metadata"]["uid"] == owner);
        if there || pvc["metadata"]["deletionTimestamp"].is_string() {
            return false;
        }
        self.delete(Kind::Pvc, name);
        true
    }
}
