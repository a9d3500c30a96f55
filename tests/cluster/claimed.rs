//! Claims that have their sandbox: what is noted and told of them, and what a later edit does.

use std::sync::Arc;

use anyhow::{Result, ensure};
use hearth_api::constants::{annotation, condition, label, reason};
use hearth_api::{Sandbox, SandboxClaim, SandboxWarmPool};
use hearth_tests::fixtures;
use hearth_tests::scene::{self, AWAY, COLD, Scene, WARM};
use hearth_tests::status::find_condition;
use hearth_tests::wait::wait_for;
use k8s_openapi::api::events::v1::Event;
use kube::ResourceExt as _;
use kube::api::ListParams;
use serde_json::{Value, json};

use crate::LIMIT;

/// A time that has passed.
const PAST: &str = "2020-01-01T00:00:00Z";

#[test]
fn what_becomes_of_a_claim_is_told_in_events() {
    scene::run(LIMIT, async |scene| {
        scene.stocked_pool("pool", 1).await?;
        scene.create(&fixtures::pool("empty", "pool", 0)).await?;
        let warm = scene.claim("warm", "pool", WARM).await?;
        let note = format!("Adopted warm pool Sandbox \"{}\"", warm.sandbox);
        until_event(scene, "warm", "SandboxAdopted", "Adoption", &note).await?;
        scene.claim("cold", "empty", COLD).await?;
        let note = "Created Sandbox \"cold\"";
        until_event(scene, "cold", "SandboxProvisioned", "Provisioning", note).await?;

        let lifecycle = json!({"shutdownTime": PAST, "shutdownPolicy": "Delete"});
        let ends = json!({"spec": {"lifecycle": lifecycle}});
        scene.patch::<SandboxClaim>("cold", ends).await?;
        let note = "Claim expired";
        until_event(scene, "cold", "ClaimExpired", "Claim Expired", note).await?;
        let note = "Deleting Claim (ShutdownPolicy=Delete)";
        until_event(scene, "cold", "ClaimExpired", "Deleting", note).await?;
        scene.claims.until_gone("cold", AWAY).await
    });
}

#[test]
fn claims_are_annotated_with_what_observers_ask_for() {
    scene::run(LIMIT, async |scene| {
        scene.stocked_pool("pool", 1).await?;
        scene.create(&fixtures::pool("empty", "pool", 0)).await?;
        scene.create(&fixtures::claim("refused", "nope")).await?;
        scene.claim("warm", "pool", WARM).await?;
        scene.claim("cold", "empty", COLD).await?;
        let observed = annotation::CONTROLLER_FIRST_OBSERVED_AT;
        let ready = annotation::CLAIM_FIRST_READY_AT;
        let of_member = annotation::SANDBOX_NAME;
        for (name, expected) in [
            ("refused", vec![observed]),
            ("warm", vec![ready, observed, of_member]),
            ("cold", vec![ready, observed]),
        ] {
            scene
                .claims
                .until_one(name, &format!("has {expected:?}"), WARM, |claim| {
                    let keys: Vec<&str> = claim.annotations().keys().map(String::as_str).collect();
                    if keys == expected {
                        Ok(())
                    } else {
                        Err(format!("it has {keys:?}"))
                    }
                })
                .await?;
        }
        Ok(())
    });
}

#[test]
fn a_claim_that_asks_for_what_it_may_not_have_keeps_its_sandbox() {
    scene::run(LIMIT, async |scene| {
        scene.stocked_pool("pool", 1).await?;
        let claimed = scene.claim("mine", "pool", WARM).await?;
        let with = |metadata: Value| json!({"spec": {"additionalPodMetadata": metadata}});
        let evil = with(json!({"labels": {"evil": "x"}}));
        scene.patch::<SandboxClaim>("mine", evil).await?;
        until_claim_says(scene, "mine", reason::INVALID_METADATA, "\"evil\"").await?;
        scene.check_answers(&claimed).await?;
        scene
            .patch::<SandboxClaim>("mine", with(Value::Null))
            .await?;
        let again = scene.until_answered("mine", WARM).await?;
        ensure!(again.sandbox == claimed.sandbox, "it has {again:?}");

        let team = with(json!({"labels": {"sandbox.users.io/team": "a"}}));
        scene.patch::<SandboxClaim>("mine", team).await?;
        let follows = |sandbox: &Arc<Sandbox>| {
            let labels = &sandbox.spec.pod_template.metadata.labels;
            match labels.get("sandbox.users.io/team") {
                Some(_) => Ok(()),
                None => Err(format!("it has {labels:?}")),
            }
        };
        let what = "follows its claim";
        scene
            .sandboxes
            .until_one(&claimed.sandbox, what, WARM, follows)
            .await?;
        scene.delete::<SandboxWarmPool>("pool").await?;
        let text = "SandboxWarmPool \"pool\" not found";
        until_claim_says(scene, "mine", reason::WARM_POOL_NOT_FOUND, text).await?;
        scene.check_answers(&claimed).await?;
        scene.create(&fixtures::pool("pool", "pool", 0)).await?;
        let again = scene.until_answered("mine", WARM).await?;
        ensure!(again.sandbox == claimed.sandbox, "it has {again:?}");
        scene.check_answers(&claimed).await
    });
}

#[test]
fn a_claim_says_that_its_sandbox_has_expired_without_it() {
    scene::run(LIMIT, async |scene| {
        scene.stocked_pool("pool", 1).await?;
        let claimed = scene.claim("mine", "pool", WARM).await?;
        let ends = json!({"spec": {"shutdownTime": PAST, "shutdownPolicy": "Retain"}});
        scene.patch::<Sandbox>(&claimed.sandbox, ends).await?;
        let text = "Underlying Sandbox resource has expired independently of the Claim.";
        until_claim_says(scene, "mine", reason::SANDBOX_EXPIRED, text).await
    });
}

/// As a controller leaves it that ends between making the Sandbox the claim's and saying so in the claim's status.
#[test]
fn a_claim_that_has_a_sandbox_already_is_answered_with_it() {
    scene::run(LIMIT, async |scene| {
        let claim = scene.create(&fixtures::claim("mine", "nope")).await?;
        let text = "SandboxWarmPool \"nope\" not found";
        until_claim_says(scene, "mine", reason::WARM_POOL_NOT_FOUND, text).await?;
        let mut sandbox = fixtures::sandbox("given", &fixtures::web_server());
        sandbox.metadata.owner_references = serde_json::from_value(json!([{
            "apiVersion": "extensions.agents.x-k8s.io/v1beta1",
            "kind": "SandboxClaim",
            "name": "mine",
            "uid": claim.uid(),
            "controller": true,
            "blockOwnerDeletion": true,
        }]))?;
        scene.create(&sandbox).await?;
        let claimed = scene.until_answered("mine", COLD).await?;
        ensure!(claimed.sandbox == "given", "it has {claimed:?}");
        scene.check_answers(&claimed).await?;
        let is_marked = |sandbox: &Arc<Sandbox>| match sandbox.labels().get(label::LAUNCH_TYPE) {
            Some(launch_type) if launch_type == "warm" => Ok(()),
            other => Err(format!("its launch type is {other:?}")),
        };
        let what = "has a launch type";
        scene
            .sandboxes
            .until_one("given", what, WARM, is_marked)
            .await
    });
}

/// Waits until the claim's Ready condition is False with this reason and has this text in it.
async fn until_claim_says(scene: &Scene, name: &str, reason: &str, text: &str) -> Result<()> {
    let says = |claim: &Arc<SandboxClaim>| {
        let status = claim.status.as_ref();
        let conditions = status.map_or(&[][..], |status| &status.conditions);
        match find_condition(conditions, condition::READY) {
            Some(found)
                if found.status == "False"
                    && found.reason == reason
                    && found.message.contains(text) =>
            {
                Ok(())
            }
            other => Err(format!("it is {other:?}")),
        }
    };
    let what = format!("has Ready=False {reason}");
    scene.claims.until_one(name, &what, WARM, says).await
}

/// Waits until there is this Event about the claim.
async fn until_event(
    scene: &Scene,
    claim: &str,
    reason: &str,
    action: &str,
    note: &str,
) -> Result<()> {
    let what = format!("there is an Event {reason} about {claim}");
    wait_for(&what, WARM, async || {
        let events = scene.api::<Event>().list(&ListParams::default()).await;
        let events = events.map_err(|error| error.to_string())?;
        let of_claim = events.items.iter().filter(|event| {
            let regarding = event.regarding.as_ref();
            regarding.is_some_and(|object| object.name.as_deref() == Some(claim))
        });
        let told: Vec<_> = of_claim
            .map(|event| {
                [
                    &event.type_,
                    &event.reason,
                    &event.action,
                    &event.note,
                    &event.reporting_controller,
                ]
                .map(|field| field.as_deref().unwrap_or_default())
            })
            .collect();
        let expected = ["Normal", reason, action, note, "sandboxclaim-controller"];
        if told.contains(&expected) {
            Ok(())
        } else {
            Err(format!("there are {told:?}"))
        }
    })
    .await
}
