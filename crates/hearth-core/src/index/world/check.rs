//! What must hold: at each step, and once nothing is left to happen. What is expected is worked out from what users have
//! asked for, and written out in words.

use std::collections::{BTreeMap, HashSet};

use jiff::Timestamp;
use serde_json::Value;

use super::World;
use super::api::{FOREIGN, is_deleting, is_member, owners, uid_of};
use super::kinds::{Kind, key_of};
use super::node::Node;
use super::users::ENDING;
use crate::effects::{Intent, Write};
use crate::ids::Key;
use crate::index::testing::at;

fn key(name: &str) -> Key {
    Key::new("n", name)
}

fn name_of(object: &Value) -> String {
    key_of(object).name
}

fn is_foreign(object: &Value) -> bool {
    object["metadata"]["annotations"][FOREIGN].is_string()
}

fn condition<'a>(object: &'a Value, type_: &str) -> &'a Value {
    static NONE: Value = Value::Null;
    let conditions = object["status"]["conditions"].as_array();
    let found = conditions.and_then(|all| all.iter().find(|c| c["type"] == type_));
    found.unwrap_or(&NONE)
}

fn is_owned_by(object: &Value, owner: &Value) -> bool {
    owners(object).any(|known| known["uid"] == owner["metadata"]["uid"])
}

/// What a claim is to say in the end.
#[derive(Debug, PartialEq)]
enum Expect {
    /// It has its Sandbox and can use it.
    Ready,
    /// It has its Sandbox, whose processes have ended.
    Finished,
    /// It says why it has none, or what is wrong with the one that it has.
    Refused(&'static str),
}

impl World {
    // At each step.

    /// A member is made only while the pool has fewer than it asks for, those that are going included.
    pub(super) fn check_creation(&self, write: &Write) {
        if write.receipt.intent != Intent::MemberCreate {
            return;
        }
        let key = write.receipt.subject.key();
        if self.api.get(Kind::Sandbox, key).is_some() {
            return;
        }
        let claimed: HashSet<&String> = self.nodes.values().flat_map(Node::claimed).collect();
        let members: Vec<String> = self
            .api
            .of_kind(Kind::Sandbox)
            .filter(|object| is_member(object) && !claimed.contains(&uid_of(object)))
            .map(name_of)
            .collect();
        let limit = self.api.most_replicas();
        assert!(
            members.len() < limit,
            "{members:?} of {limit}, and {}",
            key.name
        );
    }

    /// Every answered claim has a Sandbox of its own, and changes it only after saying that it is missing.
    pub(super) fn check_answers(&mut self) {
        let mut owners = BTreeMap::new();
        for claim in self.api.of_kind(Kind::Claim) {
            let uid = uid_of(claim);
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
            let ready = condition(claim, "Ready")["status"] == "True";
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

    // Once nothing is left to happen.

    pub(in crate::index) fn check_settled(&self) {
        for (_, object) in self.api.all() {
            assert!(!is_deleting(object), "it does not go: {object}");
        }
        let has = self.check_claims();
        self.check_nodes(&has);
        self.check_members();
        self.check_template();
        self.check_boxes();
        self.check_services();
        self.check_volumes();
    }

    fn pool(&self) -> Option<&Value> {
        self.api.get(Kind::Pool, &key("pool"))
    }

    fn is_over(&self, time: &Value) -> bool {
        let time = time.as_str().map(|text| text.parse::<Timestamp>().unwrap());
        time.is_some_and(|time| time <= at(self.now).wall)
    }

    /// Checks what claims say, and gives the names of the Sandboxes that they have, with their UIDs.
    fn check_claims(&self) -> BTreeMap<String, String> {
        let mut has = BTreeMap::new();
        for claim in self.api.of_kind(Kind::Claim) {
            let name = claim["status"]["sandbox"]["name"].as_str();
            let sandbox = name.and_then(|name| self.api.get(Kind::Sandbox, &key(name)));
            let ready = condition(claim, "Ready");
            let text = || format!("{claim} {sandbox:?}");
            match self.expected(claim, sandbox) {
                Expect::Ready => assert_eq!(ready["status"], "True", "{}", text()),
                Expect::Finished => assert_eq!(ready["reason"], "PodSucceeded", "{}", text()),
                Expect::Refused(reason) => {
                    assert_eq!(ready["reason"], reason, "{}", text());
                    assert_eq!(ready["status"], "False", "{}", text());
                    if reason == "ClaimExpired" {
                        assert_eq!(name, None, "{}", text());
                    }
                }
            }
            let Some(name) = name else { continue };
            let sandbox = sandbox.expect("an answered claim has its Sandbox");
            assert!(is_owned_by(sandbox, claim), "{}", text());
            has.insert(name.to_owned(), uid_of(claim));
        }
        for sandbox in self.api.of_kind(Kind::Sandbox) {
            let claims = owners(sandbox).filter(|owner| owner["kind"] == "SandboxClaim");
            for owner in claims {
                let owner = owner["uid"].as_str().unwrap();
                let known = has.get(&name_of(sandbox)).map(String::as_str);
                assert_eq!(known, Some(owner), "a second one: {sandbox}");
            }
        }
        has
    }

    fn expected(&self, claim: &Value, sandbox: Option<&Value>) -> Expect {
        let spec = &claim["spec"];
        let name = name_of(claim);
        let lifecycle = &spec["lifecycle"];
        let ends = name.starts_with(ENDING);
        let labels = &spec["additionalPodMetadata"]["labels"];
        let labels = labels.as_object();
        let finished = condition(claim, "Finished")["status"] == "True";
        let ttl_over = ends && finished && lifecycle["ttlSecondsAfterFinished"].is_u64();
        if self.is_over(&lifecycle["shutdownTime"]) || ttl_over {
            assert_eq!(lifecycle["shutdownPolicy"], "Retain", "it stays: {claim}");
            return Expect::Refused("ClaimExpired");
        }
        if labels.is_some_and(|labels| labels.keys().any(|label| !label.contains('/'))) {
            return Expect::Refused("InvalidMetadata");
        }
        let in_the_way = self.api.get(Kind::Sandbox, &key(&name));
        let in_the_way = in_the_way.is_some_and(|other| !is_owned_by(other, claim));
        match sandbox {
            None if in_the_way => return Expect::Refused("ReconcilerError"),
            None if self.pool().is_none() => return Expect::Refused("WarmPoolNotFound"),
            Some(_) if labels.is_some() && self.pool().is_none() => {
                return Expect::Refused("WarmPoolNotFound");
            }
            _ => {}
        }
        let volume = self.api.get(Kind::Pvc, &key(&format!("data-{name}")));
        if volume.is_some_and(is_foreign) && spec["volumeClaimTemplates"].is_array() {
            return Expect::Refused("ReconcilerError");
        }
        let is_contested = |sandbox: &Value| self.is_contested(sandbox);
        if sandbox.is_some_and(is_contested) {
            return Expect::Refused("ReconcilerError");
        }
        if ends {
            assert!(!lifecycle["ttlSecondsAfterFinished"].is_u64(), "{claim}");
            return Expect::Finished;
        }
        Expect::Ready
    }

    /// Whether a Sandbox asks for a Service whose name somebody else has.
    fn is_contested(&self, sandbox: &Value) -> bool {
        let service = self.api.get(Kind::Service, &key(&name_of(sandbox)));
        sandbox["spec"]["service"] == true && service.is_some_and(is_foreign)
    }

    /// Nodes hold what claims have, each Sandbox once, and nothing of what is gone.
    fn check_nodes(&self, has: &BTreeMap<String, String>) {
        let mut served = BTreeMap::new();
        for (node, of_node) in &self.nodes {
            for (name, owner) in of_node.binds() {
                assert_eq!(
                    has.get(&name),
                    Some(&owner),
                    "node holds {name} for {owner}"
                );
            }
            for (name, object) in of_node.served() {
                let sandbox = self.api.get(Kind::Sandbox, &key(&name));
                let known = sandbox.map(uid_of);
                assert_eq!(known.as_ref(), Some(&object), "{node} has a pod of {name}");
                let other = served.insert(name.clone(), node);
                assert_eq!(other, None, "{name} has two pods");
            }
        }
    }

    fn check_members(&self) {
        let members = self.api.members();
        let wanted = self.api.replicas();
        let Some(pool) = self.pool() else {
            let mut all = self.api.of_kind(Kind::Sandbox);
            let owned = all.find(|object| owners(object).any(|o| o["kind"] == "SandboxWarmPool"));
            assert_eq!(owned, None, "it goes with its pool");
            return;
        };
        assert_eq!(members.len(), wanted, "{members:?}");
        // Zeros are left out.
        let counted = |field: &str| pool["status"][field].as_u64().unwrap_or(0);
        let contested = |name: &&String| {
            let sandbox = self.api.get(Kind::Sandbox, &key(name));
            sandbox.is_some_and(|sandbox| self.is_contested(sandbox))
        };
        let contested = members.iter().filter(contested).count();
        assert_eq!(
            (counted("replicas"), counted("readyReplicas")),
            (
                u64::try_from(wanted).unwrap(),
                u64::try_from(wanted - contested).unwrap()
            ),
            "{pool}"
        );
        let generation = pool["metadata"]["generation"].clone();
        assert_eq!(pool["status"]["observedGeneration"], generation, "{pool}");
        let template = self.api.get(Kind::Template, &key("tpl")).unwrap();
        let follow = matches!(
            pool["spec"]["updateStrategy"]["type"].as_str(),
            Some("Recreate" | "RollingUpdate")
        );
        for name in members {
            let member = self.api.get(Kind::Sandbox, &key(&name)).unwrap();
            assert!(is_owned_by(member, pool), "{member}");
            let launched = &member["metadata"]["labels"]["agents.x-k8s.io/launch-type"];
            assert_eq!(*launched, "warm", "{member}");
            if follow {
                let image = |object: &Value| {
                    object["spec"]["podTemplate"]["spec"]["containers"][0]["image"].clone()
                };
                assert_eq!(image(member), image(template), "{member}");
                assert_eq!(member["spec"]["service"], template["spec"]["service"]);
            }
        }
    }

    /// A template has its label and its policy, with the spec that was made for it.
    fn check_template(&self) {
        let template = self.api.get(Kind::Template, &key("tpl")).unwrap();
        let hash = &template["metadata"]["labels"]["agents.x-k8s.io/sandbox-template-ref-hash"];
        assert!(hash.is_string(), "{template}");
        let policy = self.api.get(Kind::Policy, &key("tpl-network-policy"));
        let policy = match policy {
            Some(policy) if is_foreign(policy) => return,
            policy => policy,
        };
        if template["spec"]["networkPolicyManagement"] == "Unmanaged" {
            assert_eq!(policy, None);
            return;
        }
        let policy = policy.expect("a template has its policy");
        assert!(is_owned_by(policy, template), "{policy}");
        let rules = policy["spec"]["ingress"].as_array().map(Vec::len);
        assert_eq!(rules, Some(1), "{policy}");
        let selected = &policy["spec"]["podSelector"]["matchLabels"];
        assert_eq!(selected["agents.x-k8s.io/sandbox-template-ref-hash"], *hash);
    }

    /// Sandboxes of users' own do what is asked of them.
    fn check_boxes(&self) {
        let boxes = self.api.of_kind(Kind::Sandbox);
        for object in boxes.filter(|object| is_foreign(object)) {
            let ready = condition(object, "Ready");
            let spec = &object["spec"];
            let expect = if self.is_over(&spec["shutdownTime"]) {
                assert_eq!(spec["shutdownPolicy"], "Retain", "it stays: {object}");
                "SandboxExpired"
            } else if self.is_contested(object) {
                "ReconcilerError"
            } else if spec["operatingMode"] == "Suspended" {
                "SandboxSuspended"
            } else {
                "DependenciesReady"
            };
            assert_eq!(ready["reason"], expect, "{object}");
            // What has expired keeps what it had.
            if expect != "SandboxExpired" {
                let pod = &object["metadata"]["annotations"]["agents.x-k8s.io/pod-name"];
                let running = spec["operatingMode"] != "Suspended";
                assert_eq!(pod.is_string(), running, "{object}");
            }
        }
    }

    /// Each Sandbox has the Service that it asks for, which leads to its pod.
    fn check_services(&self) {
        for sandbox in self.api.of_kind(Kind::Sandbox) {
            let service = self.api.get(Kind::Service, &key(&name_of(sandbox)));
            let own = service.filter(|service| is_owned_by(service, sandbox));
            let expired = self.is_over(&sandbox["spec"]["shutdownTime"]);
            let asked = sandbox["spec"]["service"].as_bool().filter(|_| !expired);
            match asked {
                Some(true) if self.is_contested(sandbox) => assert_eq!(own, None),
                Some(true) => assert!(own.is_some(), "{sandbox} {service:?}"),
                Some(false) => assert_eq!(own, None, "{sandbox}"),
                None if expired => assert_eq!(own, None, "{sandbox}"),
                None => {}
            }
            let named = &sandbox["status"]["service"];
            assert_eq!(named.is_string(), own.is_some(), "{sandbox}");
            let Some(service) = own else { continue };
            let selector = service["spec"]["selector"].as_object().unwrap();
            let labels: Vec<&String> = selector.keys().collect();
            assert_eq!(labels, ["agents.x-k8s.io/sandbox-name-hash"], "{service}");
            let slices = self.api.of_kind(Kind::Slice);
            let slices = slices.filter(|slice| is_owned_by(slice, service));
            let endpoints = slices.filter_map(|slice| slice["endpoints"].as_array());
            let ready: Vec<&Value> = endpoints
                .flatten()
                .filter(|endpoint| endpoint["conditions"]["ready"] == true)
                .map(|endpoint| &endpoint["addresses"][0])
                .collect();
            let usable = condition(sandbox, "Ready")["status"] == "True";
            let expect = if usable { vec!["10.0.0.1"] } else { Vec::new() };
            assert_eq!(ready, expect, "{sandbox}");
        }
        for slice in self.api.of_kind(Kind::Slice) {
            let mut services = self.api.of_kind(Kind::Service);
            assert!(
                services.any(|service| is_owned_by(slice, service)),
                "{slice}"
            );
        }
    }

    /// What claims store is where it is expected, and of what others stored no volume is left.
    fn check_volumes(&self) {
        let volumes: HashSet<String> = self.api.names(Kind::Pv).into_iter().collect();
        let made: HashSet<String> = self
            .nodes
            .values()
            .flat_map(|node| node.directories().iter().cloned())
            .collect();
        // One that was made without anybody hearing of it, for a claim that is gone by now, is empty.
        assert!(volumes.is_subset(&made), "a volume has no directory");
        let claims = self.api.of_kind(Kind::Pvc);
        let bound: HashSet<String> = claims
            .filter(|pvc| !is_foreign(pvc))
            .map(|pvc| pvc["spec"]["volumeName"].as_str().unwrap().to_owned())
            .collect();
        assert_eq!(volumes, bound, "each volume has its claim");
    }
}
