//! What belongs to a template as an object: its label and its NetworkPolicy, as upstream's controller keeps them.

use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use hearth_api::constants::label;
use hearth_api::{SandboxClaim, SandboxTemplate};
use hearth_tests::fixtures;
use hearth_tests::observe::Observed;
use hearth_tests::scene::{self, AWAY, Scene, WARM};
use hearth_tests::status::{name_hash, to_json};
use hearth_tests::wait::wait_for;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::ResourceExt;
use serde_json::{Value, json};

use crate::LIMIT;

const POLICY: &str = "tpl-network-policy";

fn policies(scene: &Scene) -> Observed<NetworkPolicy> {
    Observed::start(scene.api())
}

async fn template(scene: &Scene, spec: Value) -> Result<SandboxTemplate> {
    let template = fixtures::template("tpl", &fixtures::web_server());
    let mut object = serde_json::to_value(&template)?;
    let fields = object["spec"].as_object_mut().context("no spec")?;
    fields.extend(spec.as_object().cloned().unwrap_or_default());
    scene.create(&serde_json::from_value(object)?).await
}

/// The spec of the policy of `tpl` with these sections.
fn spec(sections: Value) -> Value {
    let mut spec = json!({
        "podSelector": {"matchLabels": {label::TEMPLATE_REF_HASH: name_hash("tpl")}},
        "policyTypes": ["Ingress", "Egress"],
    });
    if let (Some(spec), Value::Object(sections)) = (spec.as_object_mut(), sections) {
        spec.extend(sections);
    }
    spec
}

/// What upstream's controller writes for a template that says nothing.
fn closed() -> Value {
    spec(json!({
        "ingress": [{"from": [{
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "agent-sandbox-system"}},
            "podSelector": {"matchLabels": {"app": "sandbox-router"}},
        }]}],
        "egress": [{"to": [
            {"ipBlock": {"cidr": "0.0.0.0/0",
                         "except": ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16"]}},
            {"ipBlock": {"cidr": "::/0", "except": ["fc00::/7", "fe80::/10"]}},
        ]}],
    }))
}

/// Which of two states of an object is the newer one.
fn version(object: &impl ResourceExt) -> u64 {
    let version = object.resource_version().unwrap_or_default();
    version.parse().unwrap_or_default()
}

async fn until_policy_says(
    policies: &Observed<NetworkPolicy>,
    expect: &Value,
) -> Result<Arc<NetworkPolicy>> {
    policies
        .until_one(POLICY, "is as it should be", WARM, |policy| {
            let is = serde_json::to_value(&policy.spec).map_err(|error| error.to_string())?;
            if is == *expect {
                Ok(Arc::clone(policy))
            } else {
                Err(format!("its spec is {is}"))
            }
        })
        .await
}

#[test]
fn a_template_has_upstream_s_label_and_policy_whatever_anybody_does_to_them() {
    scene::run(LIMIT, async |scene| {
        let policies = policies(scene);
        let templates: Observed<SandboxTemplate> = Observed::start(scene.api());
        let template = template(scene, json!({})).await?;
        let until_labelled = async |than: u64| {
            templates
                .until_one("tpl", "has its label", WARM, |template| {
                    let labels = template.labels();
                    let is = labels.get(label::TEMPLATE_REF_HASH) == Some(&name_hash("tpl"));
                    if is && version(&**template) > than {
                        Ok(())
                    } else {
                        Err(format!("its labels are {labels:?}"))
                    }
                })
                .await
        };
        until_labelled(0).await?;
        let policy = until_policy_says(&policies, &closed()).await?;
        let owner = serde_json::to_value(policy.owner_references())?;
        let expect = json!([{
            "apiVersion": "extensions.agents.x-k8s.io/v1beta1",
            "kind": "SandboxTemplate",
            "name": "tpl",
            "uid": template.uid(),
            "controller": true,
            "blockOwnerDeletion": true,
        }]);
        ensure!(owner == expect, "its owners are {owner}");

        let no_label = json!({"metadata": {"labels": {label::TEMPLATE_REF_HASH: null}}});
        let without: SandboxTemplate = scene.patch("tpl", no_label).await?;
        until_labelled(version(&without)).await?;

        let open = json!({"spec": {
            "ingress": [{}],
            "podSelector": {"matchLabels": {"app": "other"}},
        }});
        let opened: NetworkPolicy = scene.patch(POLICY, open).await?;
        ensure!(
            opened.uid() == policy.uid(),
            "what was opened was another one"
        );
        policies
            .until_one(POLICY, "is written again", WARM, |policy| {
                if version(&**policy) > version(&opened) {
                    Ok(())
                } else {
                    Err(format!("it is {}", to_json(&policy.metadata)))
                }
            })
            .await?;
        let back = until_policy_says(&policies, &closed()).await?;
        ensure!(back.uid() == policy.uid(), "it was put back by another one");

        scene.delete::<NetworkPolicy>(POLICY).await?;
        policies
            .until_one(POLICY, "is made anew", WARM, |anew| {
                if anew.uid() == policy.uid() {
                    Err("it is still the same".to_owned())
                } else {
                    Ok(())
                }
            })
            .await?;
        until_policy_says(&policies, &closed()).await.map(drop)
    });
}

#[test]
fn rules_of_a_template_are_its_policy_s_and_are_written_once() {
    scene::run(LIMIT, async |scene| {
        let policies = policies(scene);
        template(scene, json!({})).await?;
        until_policy_says(&policies, &closed()).await?;

        let mark = scene.cluster.audit_log().mark()?;
        // The API server fills in the protocol; a section that is missing denies its direction.
        let rules = json!({"egress": [{"ports": [{"port": 443}], "to": []}]});
        let rules = json!({"spec": {"networkPolicy": rules}});
        scene.patch::<SandboxTemplate>("tpl", rules).await?;
        let own = spec(json!({"egress": [{"ports": [{"port": 443, "protocol": "TCP"}]}]}));
        until_policy_says(&policies, &own).await?;
        // What was written meanwhile went before this.
        scene
            .create(&fixtures::template("last", &fixtures::web_server()))
            .await?;
        policies
            .until_one("last-network-policy", "is there", WARM, |_| Ok(()))
            .await?;
        let writes = async || {
            let requests = scene.cluster.audit_log().since(mark);
            let mut requests = requests.map_err(|error| format!("{error:#}"))?;
            requests.retain(|request| {
                request.is_ours()
                    && request.namespace() == scene.namespace
                    && request.resource() == "networkpolicies"
                    && request.is_write()
            });
            // One patch and the creation of the last.
            if requests.iter().any(|request| request.verb == "create") {
                Ok(requests)
            } else {
                Err(format!("there are {requests:?}"))
            }
        };
        let writes = wait_for("the writes are in the audit log", WARM, writes).await?;
        ensure!(
            writes.len() == 2,
            "it was written more than once: {writes:?}"
        );

        let unmanaged = json!({"spec": {"networkPolicyManagement": "Unmanaged"}});
        scene.patch::<SandboxTemplate>("tpl", unmanaged).await?;
        policies.until_gone(POLICY, WARM).await?;
        let managed = json!({"spec": {"networkPolicyManagement": "Managed"}});
        scene.patch::<SandboxTemplate>("tpl", managed).await?;
        until_policy_says(&policies, &own).await?;

        scene.delete::<SandboxTemplate>("tpl").await?;
        policies.until_gone(POLICY, AWAY).await
    });
}

/// Waits for an Event of the template whose note holds this.
async fn until_said(
    events: &Observed<Event>,
    template: &SandboxTemplate,
    text: &str,
) -> Result<()> {
    events
        .until("an Event says what is wrong", WARM, |all| {
            let said = all.values().filter(|event| {
                let regarding = event.regarding.as_ref();
                regarding.and_then(|regarding| regarding.uid.clone()) == template.uid()
            });
            let said: Vec<_> = said.map(|event| to_json(&**event)).collect();
            let is_it = |event: &&String| {
                event.contains("\"reason\":\"ReconcilerError\"") && event.contains(text)
            };
            match said.iter().find(is_it) {
                Some(_) => Ok(()),
                None => Err(format!("there are {said:?}")),
            }
        })
        .await
}

#[test]
fn a_policy_of_somebody_else_is_left_alone() {
    scene::run(LIMIT, async |scene| {
        let policies = policies(scene);
        let events = Observed::start(scene.api());
        let object = json!({"metadata": {"name": POLICY}, "spec": {"podSelector": {}}});
        let foreign: NetworkPolicy = scene.create(&serde_json::from_value(object)?).await?;
        let template = template(scene, json!({})).await?;
        until_said(
            &events,
            &template,
            "refusing to update NetworkPolicy \\\"tpl-network-policy\\\" as it is not controlled by",
        )
        .await?;
        let now: NetworkPolicy = scene.api().get(POLICY).await?;
        ensure!(
            now.resource_version() == foreign.resource_version(),
            "it was written: {}",
            to_json(&now)
        );
        scene.delete::<NetworkPolicy>(POLICY).await?;
        until_policy_says(&policies, &closed()).await.map(drop)
    });
}

#[test]
fn rules_that_the_api_server_refuses_are_named_and_cost_the_old_ones_nothing() {
    scene::run(LIMIT, async |scene| {
        let policies = policies(scene);
        let events = Observed::start(scene.api());
        let template = template(scene, json!({})).await?;
        until_policy_says(&policies, &closed()).await?;
        let to = |cidr: &str| json!({"egress": [{"to": [{"ipBlock": {"cidr": cidr}}]}]});
        let rules = |cidr: &str| json!({"spec": {"networkPolicy": to(cidr)}});
        scene
            .patch::<SandboxTemplate>("tpl", rules("nonsense"))
            .await?;
        until_said(&events, &template, "nonsense").await?;
        until_policy_says(&policies, &closed()).await?;
        scene
            .patch::<SandboxTemplate>("tpl", rules("192.0.2.0/24"))
            .await?;
        until_policy_says(&policies, &spec(to("192.0.2.0/24")))
            .await
            .map(drop)
    });
}

#[test]
fn the_policy_that_upstream_once_made_for_each_claim_is_removed() {
    scene::run(LIMIT, async |scene| {
        let claim: SandboxClaim = scene.create(&fixtures::claim("mine", "none")).await?;
        let policy = |name: &str| {
            let object = json!({
                "metadata": {"name": name, "ownerReferences": [{
                    "apiVersion": "extensions.agents.x-k8s.io/v1beta1",
                    "kind": "SandboxClaim",
                    "name": "mine",
                    "uid": claim.uid(),
                    "controller": true,
                }]},
                "spec": {"podSelector": {}},
            });
            serde_json::from_value::<NetworkPolicy>(object)
        };
        scene.create(&policy("of-a-user")?).await?;
        scene.create(&policy("mine-network-policy")?).await?;
        let policies = scene.api::<NetworkPolicy>();
        wait_for("the policy of the claim is gone", WARM, async || {
            let there = policies.get_opt("mine-network-policy").await;
            match there.map_err(|error| error.to_string())? {
                None => Ok(()),
                Some(policy) => Err(format!("it is {}", to_json(&policy.metadata))),
            }
        })
        .await?;
        let other = policies.get_opt("of-a-user").await?;
        ensure!(other.is_some(), "one with another name was removed");
        Ok(())
    });
}
