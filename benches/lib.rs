//! A cluster of any size in the controller's index, without a cluster: what the benches of the hot paths work on.

use std::time::Duration;

use hearth_api::constants::{EXTENSIONS_API_VERSION, SANDBOX_API_VERSION, annotation, label};
use hearth_api::{Sandbox, SandboxClaim};
use hearth_core::effects::{Effect, NodeReply, NodeRequest, Now};
use hearth_core::ids::{Key, NodeName, SandboxUid};
use hearth_core::index::{Index, Phase, Reported, Settings};
use hearth_core::names::name_hash;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

const NAMESPACE: &str = "bench";
const POOL: &str = "pool";
const POOL_UID: &str = "pool-uid";
const TEMPLATE: &str = "template";
const CREATED: &str = "2026-01-01T00:00:00Z";

/// One pool that is whole, on nodes that have all reported, under a controller that leads.
#[derive(Debug)]
pub struct Scene {
    index: Index,
    now: Now,
    nodes: usize,
    version: u64,
    claims: u64,
}

/// A Bind that the index wants done.
#[derive(Debug)]
pub struct Bind {
    claim: Key,
    claim_uid: String,
    node: NodeName,
    request: NodeRequest,
}

impl Scene {
    /// A pool of `members` ready members, spread evenly over `nodes`.
    ///
    /// # Panics
    /// When the index does not come to rest with every member ready: then it is not the scene that was asked for.
    #[must_use]
    pub fn new(members: usize, nodes: usize) -> Self {
        let now = Now {
            wall: CREATED.parse().expect("a valid time"),
            mono: Duration::from_secs(1_000),
        };
        let index = Index::new(Settings::default(), 1, now);
        let mut scene = Self {
            index,
            now,
            nodes,
            version: 0,
            claims: 0,
        };
        scene.index.apply_template(object(template()), now);
        scene.index.apply_pool(object(pool(members)), now);
        (0..nodes)
            .for_each(|number| drop(scene.index.apply_node(object(node(number, members)), now)));
        (0..members).for_each(|number| {
            let member = scene.member(number);
            scene.apply_member(member);
        });
        for node in 0..nodes {
            let inventory = (node..members)
                .step_by(nodes)
                .map(|number| reported(number, Phase::Frozen))
                .collect();
            scene.index.session_up(&node_name(node), inventory, now);
        }
        scene.index.lead(now);
        let effects = scene.settle();
        let only_status = effects
            .iter()
            .all(|effect| !matches!(effect, Effect::Ask { .. }));
        assert!(
            only_status,
            "a pool that is whole asks nothing of its nodes: {effects:?}"
        );
        let probe = scene.claim();
        let bind = scene.answer(probe).expect("a ready member for a claim");
        scene.take_back(&bind);
        scene
    }

    /// A claim that the index has not seen.
    #[must_use]
    pub fn claim(&mut self) -> SandboxClaim {
        self.claims += 1;
        let number = self.claims;
        self.version += 1;
        object(json!({
            "apiVersion": EXTENSIONS_API_VERSION,
            "kind": "SandboxClaim",
            "metadata": {
                "namespace": NAMESPACE,
                "name": format!("claim-{number}"),
                "uid": format!("claim-uid-{number}"),
                "resourceVersion": self.version.to_string(),
                "generation": 1,
                "creationTimestamp": CREATED,
            },
            "spec": {"warmPoolRef": {"name": POOL}},
        }))
    }

    /// What happens from a claim's watch event to its Bind. This is the part of the controller that a claim waits for.
    pub fn answer(&mut self, claim: SandboxClaim) -> Option<Bind> {
        let key = Key::new(NAMESPACE, claim.metadata.name.clone().unwrap_or_default());
        let claim_uid = claim.metadata.uid.clone().unwrap_or_default();
        self.index.apply_claim(claim, self.now);
        loop {
            if !self.index.step(self.now) {
                return None;
            }
            let bind = self
                .index
                .take_effects()
                .into_iter()
                .find_map(|effect| match effect {
                    Effect::Ask {
                        node,
                        request: request @ NodeRequest::Bind { .. },
                    } => Some((node, request)),
                    _ => None,
                });
            if let Some((node, request)) = bind {
                return Some(Bind {
                    claim: key,
                    claim_uid,
                    node,
                    request,
                });
            }
        }
    }

    /// Puts all back as it was before the claim.
    pub fn take_back(&mut self, bind: &Bind) {
        self.index
            .on_reply(&bind.node, &bind.request, NodeReply::NotSent, self.now);
        self.index
            .delete_claim(&bind.claim, &bind.claim_uid, self.now);
        // A later claim must not find this member set aside for having failed.
        self.now.mono += Duration::from_secs(3_600);
        self.now.wall += jiff::SignedDuration::from_hours(1);
        self.settle();
    }

    /// Member `number` as a watch brings it, newer than anything before.
    #[must_use]
    pub fn member(&mut self, number: usize) -> Sandbox {
        self.version += 1;
        object(json!({
            "apiVersion": SANDBOX_API_VERSION,
            "kind": "Sandbox",
            "metadata": {
                "namespace": NAMESPACE,
                "name": member_name(number),
                "uid": member_uid(number),
                "resourceVersion": self.version.to_string(),
                "generation": 1,
                "creationTimestamp": CREATED,
                "labels": {
                    label::WARM_POOL: name_hash(POOL),
                    label::TEMPLATE_REF_HASH: name_hash(TEMPLATE),
                    label::LAUNCH_TYPE: "warm",
                    label::CREATED_BY: "controller",
                    label::NODE: node_name(number % self.nodes).0,
                },
                "annotations": {annotation::TEMPLATE_REF: TEMPLATE},
                "ownerReferences": [{
                    "apiVersion": EXTENSIONS_API_VERSION,
                    "kind": "SandboxWarmPool",
                    "name": POOL,
                    "uid": POOL_UID,
                    "controller": true,
                }],
            },
            "spec": {"podTemplate": {"spec": pod_spec()}},
            "status": {
                "conditions": [{
                    "type": "Ready",
                    "status": "True",
                    "reason": "DependenciesReady",
                    "message": "Pod is Ready",
                    "lastTransitionTime": CREATED,
                }],
                "podIPs": ["10.88.0.2"],
            },
        }))
    }

    /// A watch event of a member, and all that follows from it.
    pub fn apply_member(&mut self, member: Sandbox) {
        self.index.apply_sandbox(member, self.now);
    }

    /// A node says how far one of its members is.
    pub fn report(&mut self, number: usize, phase: Phase) {
        let node = node_name(number % self.nodes);
        self.index
            .member_event(&node, reported(number, phase), false, self.now);
    }

    /// Looks at all that waits to be looked at, and returns what is to be done.
    pub fn settle(&mut self) -> Vec<Effect> {
        while self.index.step(self.now) {}
        self.index.take_effects()
    }
}

fn object<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("the scene's objects have the shape of their types")
}

fn pod_spec() -> Value {
    json!({
        "containers": [{
            "name": "main",
            "image": "localhost/sandbox:1",
            "command": ["/bin/server"],
            "ports": [{"containerPort": 8888}],
            "env": [{"name": "HOME", "value": "/home/user"}],
            "resources": {"limits": {"cpu": "500m", "memory": "256Mi"}},
            "readinessProbe": {"httpGet": {"path": "/", "port": 8888}},
        }],
        "terminationGracePeriodSeconds": 5,
    })
}

fn template() -> Value {
    json!({
        "apiVersion": EXTENSIONS_API_VERSION,
        "kind": "SandboxTemplate",
        "metadata": {"namespace": NAMESPACE, "name": TEMPLATE, "uid": "template-uid", "resourceVersion": "1"},
        "spec": {"podTemplate": {"spec": pod_spec()}},
    })
}

fn pool(replicas: usize) -> Value {
    json!({
        "apiVersion": EXTENSIONS_API_VERSION,
        "kind": "SandboxWarmPool",
        "metadata": {
            "namespace": NAMESPACE, "name": POOL, "uid": POOL_UID, "resourceVersion": "1", "generation": 1,
            "creationTimestamp": CREATED,
        },
        "spec": {"replicas": replicas, "sandboxTemplateRef": {"name": TEMPLATE}},
    })
}

fn node(number: usize, members: usize) -> Value {
    json!({
        "apiVersion": "hearth.dev/v1alpha1",
        "kind": "SandboxNode",
        "metadata": {"name": node_name(number).0, "resourceVersion": "1"},
        "spec": {},
        "status": {
            "endpoint": "127.0.0.1:10270",
            "capacity": {"sandboxes": members * 2, "milliCpu": 1_000_000_000, "memoryBytes": 1_000_000_000_000_000_u64},
            "handlers": [{"name": "runc", "freezeMethod": "cgroup-v2"}],
            "conditions": [{
                "type": "Ready", "status": "True", "reason": "Ready", "message": "", "lastTransitionTime": CREATED,
            }],
        },
    })
}

fn reported(number: usize, phase: Phase) -> Reported {
    Reported {
        sandbox: SandboxUid(member_uid(number)),
        namespace: NAMESPACE.to_owned(),
        name: member_name(number),
        phase,
        pod_ips: vec!["10.88.0.2".to_owned()],
        owner: None,
        asks_suspension: false,
    }
}

fn node_name(number: usize) -> NodeName {
    NodeName(format!("node-{number}"))
}

fn member_name(number: usize) -> String {
    format!("pool-{number:06}")
}

fn member_uid(number: usize) -> String {
    format!("00000000-0000-4000-8000-{number:012}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_that_is_taken_back_leaves_the_scene_as_it_was() {
        let mut scene = Scene::new(10, 2);
        for _ in 0..20 {
            let claim = scene.claim();
            let bind = scene.answer(claim).unwrap();
            scene.take_back(&bind);
        }
    }

    #[test]
    fn a_member_that_is_not_ready_cannot_be_had() {
        let mut scene = Scene::new(1, 1);
        scene.report(0, Phase::NotReady);
        scene.settle();
        let claim = scene.claim();
        assert!(scene.answer(claim).is_none());
    }
}
