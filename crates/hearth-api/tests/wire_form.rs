//! Objects in the form in which the API server hands them out when upstream's controllers wrote them: what is read
//! into our types comes out again as it was, nothing lost and nothing added.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

use hearth_api::{Sandbox, SandboxClaim, SandboxTemplate, SandboxWarmPool};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

fn check<T: DeserializeOwned + Serialize>(object: &Value) {
    let read: T = serde_json::from_value(object.clone()).unwrap();
    assert_eq!(serde_json::to_value(read).unwrap(), *object);
}

fn condition(type_: &str, status: &str, reason: &str, message: &str) -> Value {
    json!({
        "type": type_, "status": status, "reason": reason, "message": message,
        "observedGeneration": 1, "lastTransitionTime": "2026-03-01T10:00:00Z"
    })
}

#[test]
fn a_sandbox_with_all_that_upstream_knows() {
    check::<Sandbox>(&json!({
        "apiVersion": "agents.x-k8s.io/v1beta1",
        "kind": "Sandbox",
        "metadata": {
            "name": "one", "namespace": "team", "uid": "u-1", "resourceVersion": "7", "generation": 1,
            "creationTimestamp": "2026-03-01T09:59:59Z",
            "labels": {"agents.x-k8s.io/launch-type": "cold"},
            "annotations": {"agents.x-k8s.io/pod-name": "one"},
            "ownerReferences": [{
                "apiVersion": "extensions.agents.x-k8s.io/v1beta1", "kind": "SandboxClaim", "name": "one",
                "uid": "u-0", "controller": true, "blockOwnerDeletion": true
            }]
        },
        "spec": {
            "operatingMode": "Suspended",
            "podTemplate": {
                "metadata": {"labels": {"app": "demo"}, "annotations": {"note": "x"}},
                "spec": {
                    "containers": [{
                        "name": "main", "image": "localhost/img:1", "resources": {},
                        "ports": [{"containerPort": 8888, "protocol": "TCP"}]
                    }],
                    "aFieldOfALaterRelease": {"kept": true}
                }
            },
            "service": true,
            "shutdownPolicy": "Delete",
            "shutdownTime": "2026-03-02T00:00:00Z",
            "volumeClaimTemplates": [{
                "metadata": {"name": "data", "labels": {"l": "v"}},
                "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}}
            }]
        },
        "status": {
            "conditions": [
                condition("Suspended", "True", "PodTerminated", "Pod has been terminated. Sandbox is suspended"),
                condition("PodScheduled", "True", "PodScheduled", ""),
            ],
            "nodeName": "n", "podIPs": ["10.0.0.7"], "selector": "agents.x-k8s.io/sandbox-name-hash=01234567",
            "service": "one", "serviceFQDN": "one.team.svc.cluster.local"
        }
    }));
}

#[test]
fn claims_refused_and_served() {
    check::<SandboxClaim>(&json!({
        "apiVersion": "extensions.agents.x-k8s.io/v1beta1",
        "kind": "SandboxClaim",
        "metadata": {"name": "a", "namespace": "team"},
        "spec": {"warmPoolRef": {"name": "nope"}},
        "status": {
            "conditions": [condition("Ready", "False", "WarmPoolNotFound", "SandboxWarmPool \"nope\" not found")],
            "sandbox": {}
        }
    }));
    check::<SandboxClaim>(&json!({
        "apiVersion": "extensions.agents.x-k8s.io/v1beta1",
        "kind": "SandboxClaim",
        "metadata": {"name": "b", "namespace": "team"},
        "spec": {
            "warmPoolRef": {"name": "pool"},
            "lifecycle": {
                "shutdownPolicy": "DeleteForeground", "shutdownTime": "2026-03-02T00:00:00Z",
                "ttlSecondsAfterFinished": 0
            },
            "additionalPodMetadata": {"labels": {"team": "a"}, "annotations": {"n": "1"}},
            "env": [{"name": "A", "value": ""}, {"name": "B", "value": "2", "containerName": "main"}],
            "volumeClaimTemplates": [{"metadata": {"name": "d"}, "spec": {"storageClassName": "manual"}}]
        },
        "status": {
            "conditions": [condition("Ready", "True", "DependenciesReady", "Pod is Ready")],
            "sandbox": {"name": "pool-x", "podIPs": ["10.0.0.8", "fd00::8"]}
        }
    }));
}

#[test]
fn a_template_and_its_pool() {
    check::<SandboxTemplate>(&json!({
        "apiVersion": "extensions.agents.x-k8s.io/v1beta1",
        "kind": "SandboxTemplate",
        "metadata": {"name": "t", "namespace": "team"},
        "spec": {
            "podTemplate": {"spec": {"containers": [{"name": "main", "image": "i"}]}},
            "networkPolicyManagement": "Unmanaged",
            "envVarsInjectionPolicy": "Overrides",
            "volumeClaimTemplatesPolicy": "Allowed",
            "networkPolicy": {
                "ingress": [{"ports": [{"port": "http", "protocol": "TCP"}]}],
                "egress": [{"to": [{"ipBlock": {"cidr": "0.0.0.0/0", "except": ["10.0.0.0/8"]}}]}]
            }
        }
    }));
    check::<SandboxWarmPool>(&json!({
        "apiVersion": "extensions.agents.x-k8s.io/v1beta1",
        "kind": "SandboxWarmPool",
        "metadata": {"name": "p", "namespace": "team"},
        "spec": {"replicas": 0, "sandboxTemplateRef": {"name": "t"}, "updateStrategy": {"type": "Recreate"}},
        "status": {"observedGeneration": 2, "readyReplicas": 2, "replicas": 3, "selector": "a=b"}
    }));
    for limit in [json!(3), json!("25%")] {
        let rolling = json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": limit}});
        check::<SandboxWarmPool>(&json!({
            "apiVersion": "extensions.agents.x-k8s.io/v1beta1",
            "kind": "SandboxWarmPool",
            "metadata": {"name": "p", "namespace": "team"},
            "spec": {"sandboxTemplateRef": {"name": "t"}, "updateStrategy": rolling}
        }));
    }
}

/// As upstream: what resets a count is `null` in the patch.
#[test]
fn an_empty_pool_has_no_counts() {
    let pool = json!({
        "apiVersion": "extensions.agents.x-k8s.io/v1beta1",
        "kind": "SandboxWarmPool",
        "metadata": {"name": "p"},
        "spec": {"sandboxTemplateRef": {"name": "t"}},
        "status": {"selector": "a=b"}
    });
    let read: SandboxWarmPool = serde_json::from_value(pool).unwrap();
    let written = serde_json::to_value(read).unwrap();
    assert_eq!(written["status"], json!({"selector": "a=b"}));
    assert_eq!(
        written["spec"],
        json!({"sandboxTemplateRef": {"name": "t"}})
    );
}

/// Objects that a user wrote in short: absent fields read as what the API server would default them to.
#[test]
fn absent_fields_read_as_their_defaults() {
    let sandbox: Sandbox = serde_json::from_value(json!({
        "metadata": {}, "spec": {"podTemplate": {"spec": {"containers": []}}}
    }))
    .unwrap();
    assert_eq!(
        sandbox.spec.operating_mode,
        hearth_api::OperatingMode::Running
    );
    assert_eq!(
        sandbox.spec.shutdown_policy,
        hearth_api::ShutdownPolicy::Retain
    );
    assert!(
        sandbox.spec.service.is_none()
            && sandbox.spec.idle.is_none()
            && sandbox.spec.recreate.is_none()
    );

    let claim: SandboxClaim = serde_json::from_value(json!({
        "metadata": {}, "spec": {"warmPoolRef": {"name": "p"}, "lifecycle": {}}
    }))
    .unwrap();
    assert_eq!(
        claim.spec.lifecycle.unwrap().shutdown_policy,
        hearth_api::ClaimShutdownPolicy::Retain
    );
}
