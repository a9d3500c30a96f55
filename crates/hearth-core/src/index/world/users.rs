//! What users do, and what others do who had better not.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::World;
use super::api::{FOREIGN, is_member, owners};
use super::kinds::{Kind, key_of};
use crate::ids::Key;
use crate::index::testing::at;

/// What the processes of a claim's sandbox do by themselves: those of claims whose names begin so, end.
pub(super) const ENDING: &str = "ends";
/// The StorageClass of volumes that nodes make.
pub(super) const CLASS: &str = "hearth-local";

/// What a claim asks for besides a sandbox.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::index) struct Wants {
    pub(in crate::index) env: bool,
    pub(in crate::index) volume: bool,
    /// Seconds from now to the end, and what becomes of it then.
    pub(in crate::index) end: Option<(u8, Policy)>,
    /// The same for the time after its processes have ended.
    pub(in crate::index) ttl: Option<(u8, Policy)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::index) enum Policy {
    Delete,
    DeleteForeground,
    Retain,
}

impl Policy {
    fn text(self) -> &'static str {
        match self {
            Self::Delete => "Delete",
            Self::DeleteForeground => "DeleteForeground",
            Self::Retain => "Retain",
        }
    }
}

/// What somebody does to an object by hand, in the middle of whatever is going on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::index) enum Hand {
    /// A member loses its owner.
    MemberOwner,
    /// A member loses the label by which dashboards tell it.
    MemberLabel,
    /// A member loses the label by which it is one.
    MemberStrays,
    /// The Sandbox of a claim loses its owner.
    ClaimedOwner,
    /// The Sandbox of a claim loses its labels, but for that of its node.
    ClaimedLabels,
    /// A Sandbox loses its annotations, but for that of the pod that it has taken over.
    SandboxAnnotations,
    /// The status of a Sandbox is emptied.
    SandboxStatus,
    /// The status of a claim is emptied.
    ClaimStatus,
    /// The status of a claim says what is not so.
    ClaimLie,
    /// The status of the pool says what is not so.
    PoolStatus,
    /// The template loses its label.
    TemplateLabel,
    /// The rules of the NetworkPolicy are taken out.
    PolicySpec,
    /// The NetworkPolicy is deleted.
    PolicyGone,
    /// A Service leads to other pods.
    ServiceSelector,
    /// A Service is deleted.
    ServiceGone,
    /// An EndpointSlice leads nowhere.
    SliceEmpty,
    /// An EndpointSlice is deleted.
    SliceGone,
}

impl Hand {
    pub(in crate::index) const ALL: [Self; 17] = [
        Self::MemberOwner,
        Self::MemberLabel,
        Self::MemberStrays,
        Self::ClaimedOwner,
        Self::ClaimedLabels,
        Self::SandboxAnnotations,
        Self::SandboxStatus,
        Self::ClaimStatus,
        Self::ClaimLie,
        Self::PoolStatus,
        Self::TemplateLabel,
        Self::PolicySpec,
        Self::PolicyGone,
        Self::ServiceSelector,
        Self::ServiceGone,
        Self::SliceEmpty,
        Self::SliceGone,
    ];
}

fn key(name: &str) -> Key {
    Key::new("n", name)
}

fn is_claimed(object: &Value) -> bool {
    owners(object).any(|owner| owner["kind"] == "SandboxClaim")
}

impl World {
    /// So many seconds from now, as it is written.
    fn in_seconds(&self, seconds: u8) -> String {
        let now: Timestamp = at(self.now / 1000 * 1000).wall;
        (now + Duration::from_secs(seconds.into())).to_string()
    }

    pub(in crate::index) fn create_claim(&mut self, name: &str, wants: Wants) {
        let mut spec = json!({"warmPoolRef": {"name": "pool"}});
        if wants.env {
            spec["env"] = json!([{"name": "X", "value": name}]);
        }
        if wants.volume {
            spec["volumeClaimTemplates"] = json!([{"metadata": {"name": "data"}, "spec": {
                "accessModes": ["ReadWriteOnce"], "storageClassName": CLASS,
                "resources": {"requests": {"storage": "1Mi"}},
            }}]);
        }
        if let Some((seconds, policy)) = wants.end {
            let end = self.in_seconds(seconds);
            spec["lifecycle"] = json!({"shutdownTime": end, "shutdownPolicy": policy.text()});
        }
        if let Some((seconds, policy)) = wants.ttl {
            spec["lifecycle"] =
                json!({"ttlSecondsAfterFinished": seconds, "shutdownPolicy": policy.text()});
        }
        let metadata = json!({"namespace": "n", "name": name});
        let object = json!({"metadata": metadata, "spec": spec});
        self.api.create(Kind::Claim, object);
    }

    /// The claim ends at another time.
    pub(in crate::index) fn end_claim(&mut self, name: &str, seconds: u8, policy: Policy) {
        let end = self.in_seconds(seconds);
        self.api.edit(Kind::Claim, &key(name), |claim| {
            claim["spec"]["lifecycle"] =
                json!({"shutdownTime": end, "shutdownPolicy": policy.text()});
        });
    }

    /// The claim adds a label to its pod, or none.
    pub(in crate::index) fn label_claim(&mut self, name: &str, label: Option<&str>) {
        self.api.edit(Kind::Claim, &key(name), |claim| {
            let spec = claim["spec"].as_object_mut().unwrap();
            match label {
                Some(label) => {
                    let metadata = json!({"labels": {label: "x"}});
                    spec.insert("additionalPodMetadata".into(), metadata);
                }
                None => drop(spec.remove("additionalPodMetadata")),
            }
        });
    }

    /// A Sandbox of a user's own.
    pub(in crate::index) fn create_box(&mut self, name: &str, service: Option<bool>) {
        let mut spec = json!({
            "podTemplate": {"spec": {"containers": [{"name": "main", "image": "i", "ports": [{"containerPort": 80}]}]}},
            "operatingMode": "Running",
        });
        if service.is_some() {
            spec["service"] = service.into();
        }
        // What is of no claim and no pool is another's: it is run, and else left alone.
        let metadata = json!({"namespace": "n", "name": name, "annotations": {FOREIGN: "box"}});
        let object = json!({"metadata": metadata, "spec": spec});
        self.api.create(Kind::Sandbox, object);
    }

    /// Sets a field of the spec of a Sandbox.
    pub(in crate::index) fn set_box(&mut self, name: &str, field: &str, value: Value) {
        self.api.edit(Kind::Sandbox, &key(name), |sandbox| {
            sandbox["spec"][field] = value;
        });
    }

    /// A Sandbox of a user's own ends.
    pub(in crate::index) fn end_box(&mut self, name: &str, seconds: u8, policy: Policy) {
        let end = self.in_seconds(seconds);
        self.api.edit(Kind::Sandbox, &key(name), |sandbox| {
            sandbox["spec"]["shutdownTime"] = end.into();
            sandbox["spec"]["shutdownPolicy"] = policy.text().into();
        });
    }

    pub(in crate::index) fn scale(&mut self, replicas: u8) {
        self.api.edit(Kind::Pool, &key("pool"), |pool| {
            pool["spec"]["replicas"] = replicas.into();
        });
    }

    pub(in crate::index) fn set_strategy(&mut self, strategy: &str) {
        self.api.edit(Kind::Pool, &key("pool"), |pool| {
            pool["spec"]["updateStrategy"] = json!({"type": strategy});
        });
    }

    pub(in crate::index) fn set_image(&mut self, image: &str) {
        self.api.edit(Kind::Template, &key("tpl"), |template| {
            template["spec"]["podTemplate"]["spec"]["containers"][0]["image"] = image.into();
        });
    }

    /// Sets a field of the template.
    pub(in crate::index) fn set_template(&mut self, field: &str, value: Value) {
        self.api.edit(Kind::Template, &key("tpl"), |template| {
            template["spec"][field] = value;
        });
    }

    /// Somebody makes an object that has a name which ours would have. It is of nobody whom we know.
    pub(in crate::index) fn create_foreign(&mut self, kind: Kind, name: &str) {
        let metadata = json!({"namespace": "n", "name": name, "annotations": {FOREIGN: "x"}});
        let spec = match kind {
            Kind::Service => json!({"clusterIP": "None", "selector": {"app": "x"}}),
            Kind::Policy => json!({"podSelector": {}}),
            Kind::Pvc => json!({
                "accessModes": ["ReadWriteOnce"], "storageClassName": "other",
                "resources": {"requests": {"storage": "1Mi"}},
            }),
            _ => panic!("nobody makes a {kind:?}"),
        };
        let object = json!({"metadata": metadata, "spec": spec});
        self.api.create(kind, object);
    }

    /// Somebody changes an object by hand: the first of those that it may be, counted from `which`.
    pub(in crate::index) fn meddle(&mut self, hand: Hand, which: u8) {
        let (kind, may_be): (Kind, fn(&Value) -> bool) = match hand {
            Hand::MemberOwner | Hand::MemberLabel | Hand::MemberStrays => {
                (Kind::Sandbox, is_member)
            }
            Hand::ClaimedOwner | Hand::ClaimedLabels => (Kind::Sandbox, is_claimed),
            Hand::SandboxAnnotations | Hand::SandboxStatus => (Kind::Sandbox, |object| {
                is_member(object) || is_claimed(object)
            }),
            Hand::ClaimStatus | Hand::ClaimLie => (Kind::Claim, |_| true),
            Hand::PoolStatus => (Kind::Pool, |_| true),
            Hand::TemplateLabel => (Kind::Template, |_| true),
            Hand::PolicySpec | Hand::PolicyGone => (Kind::Policy, is_ours),
            Hand::ServiceSelector | Hand::ServiceGone => (Kind::Service, is_ours),
            Hand::SliceEmpty | Hand::SliceGone => (Kind::Slice, is_ours),
        };
        let objects = self.api.of_kind(kind).filter(|object| may_be(object));
        let keys: Vec<Key> = objects.map(key_of).collect();
        let Some(key) = keys.get(usize::from(which) % keys.len().max(1)) else {
            return;
        };
        if matches!(hand, Hand::PolicyGone | Hand::ServiceGone | Hand::SliceGone) {
            self.api.delete(kind, key);
        } else {
            let second = at(self.now / 1000 * 1000).wall.to_string();
            self.api
                .edit(kind, key, |object| change(hand, object, &second));
        }
        // What is taken away by hand is not changed silently.
        self.check_answers();
    }
}

fn is_ours(object: &Value) -> bool {
    object["metadata"]["annotations"][FOREIGN].is_null()
}

fn change(hand: Hand, object: &mut Value, now: &str) {
    let remove = |from: &mut Value, field: &str| {
        if let Some(fields) = from.as_object_mut() {
            fields.remove(field);
        }
    };
    match hand {
        Hand::MemberOwner | Hand::ClaimedOwner => {
            remove(&mut object["metadata"], "ownerReferences");
        }
        Hand::MemberLabel => {
            remove(
                &mut object["metadata"]["labels"],
                "agents.x-k8s.io/launch-type",
            );
        }
        Hand::MemberStrays => {
            remove(
                &mut object["metadata"]["labels"],
                "agents.x-k8s.io/warm-pool-sandbox",
            );
        }
        Hand::ClaimedLabels => {
            let node = object["metadata"]["labels"]["hearth.dev/node"].clone();
            object["metadata"]["labels"] = if node.is_null() {
                json!({})
            } else {
                json!({"hearth.dev/node": node})
            };
        }
        Hand::SandboxAnnotations => {
            if let Some(all) = object["metadata"]["annotations"].as_object_mut() {
                all.retain(|name, _| name == "hearth.dev/adopts");
            }
        }
        Hand::SandboxStatus | Hand::ClaimStatus => remove(object, "status"),
        Hand::ClaimLie => {
            object["status"]["conditions"] = json!([{
                "type": "Ready", "status": "False", "reason": "Edited", "message": "by hand",
                "lastTransitionTime": now, "observedGeneration": 1,
            }]);
        }
        Hand::PoolStatus => object["status"] = json!({"replicas": 77, "readyReplicas": 7}),
        Hand::TemplateLabel => object["metadata"]["labels"] = json!({}),
        Hand::PolicySpec => object["spec"] = json!({}),
        Hand::ServiceSelector => object["spec"]["selector"] = json!({"app": "x"}),
        Hand::SliceEmpty => object["endpoints"] = json!([]),
        Hand::PolicyGone | Hand::ServiceGone | Hand::SliceGone => {}
    }
}
