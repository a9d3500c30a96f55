//! A node: its pods, its journal, its stream, by the rules of the node API.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde_json::{Value, json};

use super::api::{Api, Kind, key_of};
use crate::effects::{NodeReply, NodeRequest, Refusal};
use crate::ids::{Key, OwnerKey};
use crate::index::testing::merge;
use crate::index::{Phase, Reported, claim_uid_of};

pub(in crate::index) struct Node {
    name: String,
    pods: BTreeMap<String, Pod>,
    tombstones: BTreeSet<OwnerKey>,
    /// Released or retired: never again under this UID.
    disposed: BTreeSet<String>,
    claimed: BTreeSet<String>,
    pub(super) connected: bool,
    pub(super) events: VecDeque<(Reported, bool)>,
}

#[derive(Clone)]
struct Pod {
    key: Key,
    /// UID of the object that it serves now; differs from its own after an adoption of the object.
    object: String,
    member: bool,
    phase: Phase,
    owner: Option<OwnerKey>,
}

impl Node {
    pub(super) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            pods: BTreeMap::new(),
            tombstones: BTreeSet::new(),
            disposed: BTreeSet::new(),
            claimed: BTreeSet::new(),
            connected: false,
            events: VecDeque::new(),
        }
    }

    fn reported(uid: &str, pod: &Pod) -> Reported {
        Reported {
            sandbox: uid.into(),
            namespace: pod.key.namespace.clone(),
            name: pod.key.name.clone(),
            phase: pod.phase,
            pod_ips: vec!["10.0.0.1".into()],
            owner: pod.owner.clone(),
            asks_suspension: false,
        }
    }

    pub(super) fn inventory(&self) -> Vec<Reported> {
        self.pods
            .iter()
            .map(|(uid, pod)| Self::reported(uid, pod))
            .collect()
    }

    /// UIDs that have or had an owner: no members any more.
    pub(super) fn claimed(&self) -> &BTreeSet<String> {
        &self.claimed
    }

    /// Sandbox names and the claim UIDs that have them.
    pub(super) fn binds(&self) -> Vec<(String, String)> {
        let bound = self
            .pods
            .values()
            .filter_map(|pod| Some((pod.key.name.clone(), pod.owner.clone()?)));
        bound
            .map(|(name, owner)| (name, claim_uid_of(&owner).to_owned()))
            .collect()
    }

    /// Whether the bound pod of this name is ready.
    pub(super) fn is_ready(&self, name: &str) -> bool {
        let bound = |pod: &&Pod| pod.key.name == name && pod.owner.is_some();
        self.pods
            .values()
            .find(bound)
            .is_some_and(|pod| pod.phase.is_ready())
    }

    fn say(&mut self, uid: &str) {
        if let Some(pod) = self.pods.get(uid) {
            self.events.push_back((Self::reported(uid, pod), false));
        }
    }

    fn drop_pod(&mut self, uid: &str) {
        if let Some(pod) = self.pods.remove(uid) {
            let mut reported = Self::reported(uid, &pod);
            reported.owner = None;
            self.events.push_back((reported, true));
        }
    }

    pub(super) fn serve(&mut self, request: &NodeRequest) -> NodeReply {
        match request {
            NodeRequest::Bind {
                owner,
                sandbox,
                env,
            } => self.bind(owner, sandbox.as_str(), !env.is_empty()),
            NodeRequest::Release { owner, sandbox } => {
                let held = self
                    .pods
                    .iter()
                    .find(|(_, pod)| pod.owner.as_ref() == Some(owner))
                    .map(|(uid, _)| uid.clone());
                let expected = sandbox
                    .as_ref()
                    .is_none_or(|sandbox| held.as_deref().is_none_or(|h| h == sandbox.as_str()));
                if !expected {
                    return NodeReply::Released(None);
                }
                self.tombstones.insert(owner.clone());
                if let Some(uid) = &held {
                    self.disposed.insert(uid.clone());
                    self.drop_pod(uid);
                }
                NodeReply::Released(held.map(Into::into))
            }
            NodeRequest::Retire { sandbox } => {
                if self
                    .pods
                    .get(sandbox.as_str())
                    .is_some_and(|pod| pod.owner.is_some())
                {
                    return NodeReply::RetireRefused;
                }
                self.disposed.insert(sandbox.0.clone());
                self.drop_pod(sandbox.as_str());
                NodeReply::Retired
            }
            NodeRequest::MakeVolume { .. } | NodeRequest::WipeVolume { .. } => {
                unreachable!("nothing here has volumes")
            }
        }
    }

    fn bind(&mut self, owner: &OwnerKey, sandbox: &str, with_env: bool) -> NodeReply {
        let refused = |refusal| NodeReply::Refused(refusal, String::new());
        let bound = |uid: &str, phase: Phase| NodeReply::Bound {
            sandbox: uid.into(),
            pod_ips: vec!["10.0.0.1".into()],
            ready: phase.is_ready(),
        };
        if self.tombstones.contains(owner) {
            return refused(Refusal::Released);
        }
        if let Some((uid, pod)) = self
            .pods
            .iter()
            .find(|(_, pod)| pod.owner.as_ref() == Some(owner))
        {
            return bound(uid, pod.phase);
        }
        if self.disposed.contains(sandbox) {
            return refused(Refusal::Retired);
        }
        let Some(pod) = self.pods.get_mut(sandbox) else {
            return refused(Refusal::NotFound);
        };
        if pod.owner.is_some() {
            return refused(Refusal::Taken);
        }
        if !pod.member || !pod.phase.is_ready() {
            return refused(Refusal::NotReady);
        }
        pod.owner = Some(owner.clone());
        pod.phase = if with_env {
            Phase::NotReady
        } else {
            Phase::Running
        };
        let phase = pod.phase;
        self.claimed.insert(sandbox.to_owned());
        self.say(sandbox);
        bound(sandbox, phase)
    }

    /// Brings every pod one step further and writes what changed.
    pub(super) fn look(&mut self, api: &mut Api) {
        let mine: Vec<Value> = api
            .all()
            .into_iter()
            .filter(|(kind, object)| {
                *kind == Kind::Sandbox
                    && object["metadata"]["labels"]["hearth.dev/node"] == self.name.as_str()
            })
            .map(|(_, object)| object)
            .collect();
        let mut seen = BTreeSet::new();
        for object in &mine {
            let uid = object["metadata"]["uid"].as_str().unwrap();
            let adopts = object["metadata"]["annotations"]["hearth.dev/adopts"].as_str();
            let own = adopts
                .filter(|old| self.pods.contains_key(*old))
                .unwrap_or(uid)
                .to_owned();
            seen.insert(own.clone());
            self.advance(&own, uid, object, api);
        }
        // What has no object any more is torn down, unless it has an owner.
        let gone: Vec<_> = self
            .pods
            .iter()
            .filter(|(uid, pod)| !seen.contains(*uid) && pod.owner.is_none())
            .map(|(uid, _)| uid.clone())
            .collect();
        gone.iter().for_each(|uid| self.drop_pod(uid));
    }

    fn advance(&mut self, own: &str, uid: &str, object: &Value, api: &mut Api) {
        if self.disposed.contains(own) {
            return;
        }
        let member = object["metadata"]["labels"]["agents.x-k8s.io/warm-pool-sandbox"].is_string();
        let pod = self.pods.entry(own.to_owned()).or_insert_with(|| Pod {
            key: key_of(object),
            object: uid.to_owned(),
            member,
            phase: Phase::Unknown,
            owner: None,
        });
        uid.clone_into(&mut pod.object);
        let before = pod.phase;
        pod.phase = match before {
            Phase::Unknown => Phase::Pending,
            Phase::Pending => Phase::NotReady,
            Phase::NotReady if pod.member && pod.owner.is_none() => Phase::Frozen,
            Phase::NotReady => Phase::Running,
            other => other,
        };
        let (changed, ready, key) = (pod.phase != before, pod.phase.is_ready(), pod.key.clone());
        pod.member = member;
        if changed {
            self.say(own);
        }
        let generation = &object["metadata"]["generation"];
        let said = &object["status"]["conditions"][0];
        let says_ready = said["status"] == "True" && said["observedGeneration"] == *generation;
        if ready && !says_ready {
            let status = json!({"podIPs": ["10.0.0.1"], "conditions": [{
                "type": "Ready", "status": "True", "reason": "DependenciesReady", "message": "Pod is Ready",
                "lastTransitionTime": "2027-01-15T08:00:01Z", "observedGeneration": generation,
            }]});
            api.edit(Kind::Sandbox, &key, |object| {
                merge(object, &json!({"status": status}))
            });
        }
    }
}
