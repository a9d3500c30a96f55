//! A node: its pods, its journal, its stream, by the rules of the node API; and what it writes of them, by the rules of
//! the status.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use hearth_api::{OperatingMode, SandboxStatus, Tier, Time};
use jiff::Timestamp;
use serde_json::Value;

use super::api::{Api, is_deleting, owners, uid_of};
use super::kinds::{Kind, key_of};
use crate::attachments::Attachment;
use crate::effects::{NodeReply, NodeRequest, Refusal};
use crate::ids::{Key, OwnerKey, PodUid};
use crate::index::testing::at;
use crate::index::{Phase, Reported, claim_uid_of};
use crate::status::{self, Facts, PodFacts, PodPhase, ServiceFact};

/// What nodes were told of Sandboxes, by UID.
pub(super) type Shelf = BTreeMap<String, Attachment>;

pub(in crate::index) struct Node {
    name: String,
    pods: BTreeMap<String, Pod>,
    tombstones: BTreeSet<OwnerKey>,
    /// Released or retired: never again under this UID.
    disposed: BTreeSet<String>,
    claimed: BTreeSet<String>,
    /// Directories of volumes.
    directories: BTreeSet<String>,
    pub(super) connected: bool,
    /// Nothing reaches it, and nothing is heard of it.
    pub(super) cut_off: bool,
    pub(super) events: VecDeque<(Reported, bool)>,
    /// What there was at the last look, if nothing has come of it: objects, what it was told, its stream, and the time if
    /// that matters.
    looked_at: Option<(u64, Shelf, bool, u64)>,
}

#[derive(Clone)]
struct Pod {
    key: Key,
    /// UID of the object that it serves now; differs from its own after an adoption of the object.
    object: String,
    member: bool,
    phase: Phase,
    /// Its processes have ended well.
    ended: bool,
    owner: Option<OwnerKey>,
}

/// What an object asks for.
struct Wish<'a> {
    object: &'a Value,
    mode: OperatingMode,
    expired: bool,
    member: bool,
    /// Its processes end by themselves.
    ends: bool,
}

impl<'a> Wish<'a> {
    fn of(object: &'a Value, api: &Api) -> Self {
        let spec = &object["spec"];
        let mode = match spec["operatingMode"].as_str() {
            Some("Suspended") => OperatingMode::Suspended,
            _ => OperatingMode::Running,
        };
        let end = spec["shutdownTime"].as_str();
        let end = end.map(|text| text.parse::<Timestamp>().unwrap());
        let claim = owners(object).find(|owner| owner["kind"] == "SandboxClaim");
        let claim = claim.map(|owner| owner["name"].as_str().unwrap());
        Self {
            object,
            mode,
            expired: end.is_some_and(|end| end <= at(api.now).wall),
            member: object["metadata"]["labels"]["agents.x-k8s.io/warm-pool-sandbox"].is_string(),
            ends: claim.is_some_and(|claim| claim.starts_with(super::users::ENDING)),
        }
    }

    /// Whether there is to be a pod.
    fn is_live(&self) -> bool {
        self.mode == OperatingMode::Running && !self.expired
    }
}

impl Node {
    pub(super) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            pods: BTreeMap::new(),
            tombstones: BTreeSet::new(),
            disposed: BTreeSet::new(),
            claimed: BTreeSet::new(),
            directories: BTreeSet::new(),
            connected: false,
            cut_off: false,
            events: VecDeque::new(),
            looked_at: None,
        }
    }

    fn reported(uid: &str, pod: &Pod) -> Reported {
        Reported {
            sandbox: uid.into(),
            namespace: pod.key.namespace.clone(),
            name: pod.key.name.clone(),
            phase: pod.phase,
            pod_ips: addresses(pod.phase),
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

    /// Of each pod the Sandbox's name and the UID of its object.
    pub(super) fn served(&self) -> Vec<(String, String)> {
        let pods = self.pods.values();
        pods.map(|pod| (pod.key.name.clone(), pod.object.clone()))
            .collect()
    }

    /// Of each pod the Sandbox's name, the claim UID that has it, and how far it is.
    pub(super) fn outline(&self) -> Vec<String> {
        let line = |pod: &Pod| {
            let owner = pod.owner.as_ref().map(claim_uid_of);
            format!("{} {owner:?} {:?}", pod.key.name, pod.phase)
        };
        self.pods.values().map(line).collect()
    }

    pub(super) fn directories(&self) -> &BTreeSet<String> {
        &self.directories
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
        self.looked_at = None;
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
            NodeRequest::MakeVolume { volume, .. } => {
                self.directories.insert(volume.clone());
                NodeReply::VolumeMade {
                    path: format!("/volumes/{volume}"),
                }
            }
            NodeRequest::WipeVolume { volume } => {
                self.directories.remove(volume);
                NodeReply::VolumeWiped
            }
        }
    }

    fn bind(&mut self, owner: &OwnerKey, sandbox: &str, with_env: bool) -> NodeReply {
        let refused = |refusal| NodeReply::Refused(refusal, String::new());
        let bound = |uid: &str, phase: Phase| NodeReply::Bound {
            sandbox: uid.into(),
            pod_ips: addresses(phase),
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

    /// Brings every pod one step further and writes what changed. Says whether anything did.
    pub(super) fn look(&mut self, api: &mut Api, shelf: &Shelf) -> bool {
        if self.cut_off {
            return false;
        }
        let ends = |object: &Value| object["spec"]["shutdownTime"].is_string();
        let time = if api.of_kind(Kind::Sandbox).any(ends) {
            api.now
        } else {
            0
        };
        let at = (api.version(), shelf.clone(), self.connected, time);
        if self.looked_at.as_ref() == Some(&at) {
            return false;
        }
        let busy = self.look_closely(api, shelf);
        self.looked_at = (!busy).then_some(at);
        busy
    }

    fn look_closely(&mut self, api: &mut Api, shelf: &Shelf) -> bool {
        let is_mine =
            |object: &&Value| object["metadata"]["labels"]["hearth.dev/node"] == self.name.as_str();
        let mine: Vec<Value> = api
            .of_kind(Kind::Sandbox)
            .filter(is_mine)
            .cloned()
            .collect();
        let mut seen = BTreeSet::new();
        let mut busy = false;
        for object in &mine {
            let uid = uid_of(object);
            let adopts = object["metadata"]["annotations"]["hearth.dev/adopts"].as_str();
            let own = adopts
                .filter(|old| self.pods.contains_key(*old))
                .unwrap_or(&uid)
                .to_owned();
            if is_deleting(object) {
                continue;
            }
            seen.insert(own.clone());
            if !self.disposed.contains(&own) {
                let wish = Wish::of(object, api);
                busy |= self.advance(&own, &uid, &wish);
                busy |= self.write_status(&own, &wish, api, shelf);
            }
        }
        let leaving: BTreeSet<String> = mine
            .iter()
            .filter(|object| is_deleting(object))
            .map(uid_of)
            .collect();
        // What is being deleted is torn down whoever has it; what has no object any more, unless it has an owner.
        let gone: Vec<_> = self
            .pods
            .iter()
            .filter(|(uid, pod)| {
                let unseen = !seen.contains(*uid) && pod.owner.is_none();
                unseen || leaving.contains(&pod.object)
            })
            .map(|(uid, _)| uid.clone())
            .collect();
        gone.iter().for_each(|uid| self.drop_pod(uid));
        busy || !gone.is_empty()
    }

    fn advance(&mut self, own: &str, uid: &str, wish: &Wish<'_>) -> bool {
        let pod = self.pods.entry(own.to_owned()).or_insert_with(|| Pod {
            key: key_of(wish.object),
            object: uid.to_owned(),
            member: wish.member,
            phase: Phase::Unknown,
            ended: false,
            owner: None,
        });
        uid.clone_into(&mut pod.object);
        pod.member = wish.member;
        let before = pod.phase;
        pod.phase = match before {
            Phase::Unknown if wish.is_live() => Phase::Pending,
            Phase::Unknown => Phase::Suspended,
            Phase::Suspended if wish.is_live() => Phase::Pending,
            Phase::Suspended => Phase::Suspended,
            Phase::Stopping => Phase::Suspended,
            _ if !wish.is_live() => Phase::Stopping,
            Phase::Pending => Phase::NotReady,
            Phase::NotReady if pod.member && pod.owner.is_none() => Phase::Frozen,
            Phase::NotReady if pod.ended => Phase::NotReady,
            Phase::NotReady => Phase::Running,
            Phase::Running if wish.ends && !pod.member => Phase::NotReady,
            other => other,
        };
        if pod.phase == Phase::Pending {
            pod.ended = false;
        } else if before == Phase::Running && pod.phase == Phase::NotReady {
            pod.ended = true;
        }
        let changed = pod.phase != before;
        if changed {
            self.say(own);
        }
        changed
    }

    fn write_status(&self, own: &str, wish: &Wish<'_>, api: &mut Api, shelf: &Shelf) -> bool {
        let Some(pod) = self.pods.get(own) else {
            return false;
        };
        let metadata = &wish.object["metadata"];
        let told = shelf.get(&pod.object).filter(|_| self.connected);
        let service = match told {
            Some(told) => told.service.clone(),
            // A node that has a stream knows all that there is to know.
            None if self.connected => ServiceFact::Absent,
            None => ServiceFact::NotAsked,
        };
        let facts = Facts {
            generation: metadata["generation"].as_i64(),
            mode: wish.mode,
            expired: wish.expired,
            certain: true,
            pod: pod_facts(own, pod),
            node_name: self.name.clone(),
            service,
            fault: told.and_then(|told| told.fault.clone()),
            ..Facts::default()
        };
        let previous: SandboxStatus =
            serde_json::from_value::<Option<SandboxStatus>>(wish.object["status"].clone())
                .unwrap()
                .unwrap_or_default();
        // The API server counts in seconds.
        let now = Time(at(api.now / 1000 * 1000).wall);
        let wanted = status::status(&previous, &pod.key.name, &facts, &now);
        if wanted == previous {
            return false;
        }
        api.report(&pod.key, serde_json::to_value(wanted).unwrap());
        true
    }
}

fn addresses(phase: Phase) -> Vec<String> {
    match phase {
        Phase::Unknown | Phase::Pending | Phase::Suspended => Vec::new(),
        _ => vec!["10.0.0.1".into()],
    }
}

fn pod_facts(uid: &str, pod: &Pod) -> Option<PodFacts> {
    let phase = match pod.phase {
        Phase::Unknown | Phase::Suspended => return None,
        Phase::Pending => PodPhase::Pending,
        _ if pod.ended => PodPhase::Succeeded,
        _ => PodPhase::Running,
    };
    Some(PodFacts {
        uid: PodUid(uid.to_owned()),
        phase,
        ready: pod.phase.is_ready(),
        ips: addresses(pod.phase),
        tier: Some(if pod.phase == Phase::Frozen {
            Tier::Frozen
        } else {
            Tier::Running
        }),
    })
}
