//! Sandboxes through their modes, and their ends.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use hearth_api::constants::{annotation, condition, label, message, reason};
use hearth_api::{OperatingMode, Sandbox, SandboxClaim, ShutdownPolicy, Tier};
use hearth_tests::fixtures::{self, PORT};
use hearth_tests::http;
use hearth_tests::scene::{self, AWAY, COLD, Scene, WARM};
use hearth_tests::status::{find_condition, pod_uid};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::ResourceExt as _;
use serde_json::json;

use crate::LIMIT;
use crate::claims::{condition as written, running_conditions, without_times};

#[test]
fn a_sandbox_without_claim_or_pool_runs_and_goes() {
    scene::run(LIMIT, async |scene| {
        scene
            .create(&fixtures::sandbox("bare", &fixtures::web_server()))
            .await?;
        let sandbox = scene.until_ready("bare", COLD).await?;
        let status = serde_json::to_value(&sandbox.status)?;
        let conditions = without_times(&status["conditions"]);
        ensure!(
            conditions == running_conditions(1),
            "conditions are {conditions:#}"
        );
        check_answers(&sandbox).await?;
        ensure!(!scene.is_frozen(&pod_uid(&sandbox)?).await?, "it is frozen");
        scene.delete::<Sandbox>("bare").await?;
        scene.sandboxes.until_gone("bare", AWAY).await?;
        scene.until_no_pods(AWAY).await
    });
}

#[test]
pub(crate) fn suspending_ends_the_pod_and_resuming_starts_another_of_the_same_name() {
    scene::run(LIMIT, async |scene| {
        scene
            .create(&fixtures::sandbox("nap", &fixtures::web_server()))
            .await?;
        let before = scene.until_ready("nap", COLD).await?;

        set_mode(scene, "nap", OperatingMode::Suspended).await?;
        let text = scene
            .until_condition("nap", "Suspended", "True", reason::POD_TERMINATED, AWAY)
            .await?;
        ensure!(text == message::POD_TERMINATED, "{text}");
        let suspended = now(scene, "nap")?;
        let status = serde_json::to_value(&suspended.status)?;
        let conditions = without_times(&status["conditions"]);
        let expect = json!([
            written(
                "Ready",
                "False",
                "SandboxSuspended",
                "Sandbox is suspended",
                2
            ),
            written(
                "Suspended",
                "True",
                "PodTerminated",
                "Pod has been terminated. Sandbox is suspended",
                2
            ),
        ]);
        ensure!(conditions == expect, "conditions are {conditions:#}");
        ensure!(
            status.get("podIPs").is_none() && status.get("nodeName").is_none(),
            "{status:#}"
        );
        scene.until_no_pods(AWAY).await?;
        until_pod_is_named(scene, "nap", None).await?;

        set_mode(scene, "nap", OperatingMode::Running).await?;
        let after = scene.until_ready("nap", COLD).await?;
        until_pod_is_named(scene, "nap", Some("nap")).await?;
        ensure!(
            pod_uid(&before)? != pod_uid(&after)?,
            "the pod is still the one from before"
        );
        check_answers(&after).await
    });
}

#[test]
fn freezing_stops_the_very_same_processes_and_thawing_wakes_them() {
    scene::run(LIMIT, async |scene| {
        scene
            .create(&fixtures::sandbox("ice", &fixtures::web_server()))
            .await?;
        let before = scene.until_ready("ice", COLD).await?;
        let uid = pod_uid(&before)?;
        let processes = scene.cgroups.main_processes(&uid)?;

        set_mode(scene, "ice", OperatingMode::Frozen).await?;
        let text = scene
            .until_condition("ice", "Suspended", "True", reason::FROZEN, WARM)
            .await?;
        ensure!(text == message::POD_FROZEN, "{text}");
        // Whoever reads the condition can rely on it.
        ensure!(scene.is_frozen(&uid).await?, "the kernel says frozen 0");
        let frozen = now(scene, "ice")?;
        let ready = ready_condition(&frozen)?;
        ensure!(
            (ready.0.as_str(), ready.1.as_str()) == ("False", reason::SANDBOX_SUSPENDED),
            "Ready is {ready:?}"
        );
        let tier = frozen
            .status
            .as_ref()
            .and_then(|status| status.node.as_ref()?.tier);
        ensure!(tier == Some(Tier::Frozen), "the tier is {tier:?}");

        set_mode(scene, "ice", OperatingMode::Running).await?;
        let after = scene.until_ready("ice", WARM).await?;
        ensure!(!scene.is_frozen(&uid).await?, "the kernel says frozen 1");
        ensure!(pod_uid(&after)? == uid, "the pod is another one");
        ensure!(
            scene.cgroups.main_processes(&uid)? == processes,
            "the processes are others"
        );
        check_answers(&after).await
    });
}

#[test]
pub(crate) fn a_frozen_sandbox_can_be_suspended_and_a_frozen_one_deleted() {
    scene::run(LIMIT, async |scene| {
        for name in ["doze", "gone"] {
            scene
                .create(&fixtures::sandbox(name, &fixtures::web_server()))
                .await?;
        }
        for name in ["doze", "gone"] {
            scene.until_ready(name, COLD).await?;
            set_mode(scene, name, OperatingMode::Frozen).await?;
            scene
                .until_condition(name, "Suspended", "True", reason::FROZEN, WARM)
                .await?;
        }
        set_mode(scene, "doze", OperatingMode::Suspended).await?;
        scene
            .until_condition("doze", "Suspended", "True", reason::POD_TERMINATED, AWAY)
            .await?;
        scene.delete::<Sandbox>("gone").await?;
        scene.sandboxes.until_gone("gone", AWAY).await?;
        scene.until_no_pods(AWAY).await
    });
}

#[test]
fn a_claimed_sandbox_can_be_suspended_and_resumed_by_its_user() {
    scene::run(LIMIT, async |scene| {
        scene.stocked_pool("pool", 1).await?;
        let claimed = scene.claim("mine", "pool", WARM).await?;
        set_mode(scene, &claimed.sandbox, OperatingMode::Suspended).await?;
        scene
            .until_condition(
                &claimed.sandbox,
                "Suspended",
                "True",
                reason::POD_TERMINATED,
                AWAY,
            )
            .await?;
        until_claim_says(scene, "mine", "False", reason::SANDBOX_SUSPENDED).await?;
        set_mode(scene, &claimed.sandbox, OperatingMode::Running).await?;
        scene.until_ready(&claimed.sandbox, COLD).await?;
        let again = scene.until_answered("mine", COLD).await?;
        ensure!(
            again.sandbox == claimed.sandbox,
            "the claim has another sandbox"
        );
        scene.check_answers(&again).await
    });
}

#[test]
fn a_sandbox_past_its_time_stays_without_pod_or_goes_as_its_policy_says() {
    scene::run(LIMIT, async |scene| {
        for (name, policy) in [
            ("kept", ShutdownPolicy::Retain),
            ("dropped", ShutdownPolicy::Delete),
        ] {
            let mut sandbox = fixtures::sandbox(name, &fixtures::web_server());
            sandbox.spec.shutdown_policy = policy;
            scene.create(&sandbox).await?;
        }
        for name in ["kept", "dropped"] {
            scene.until_ready(name, COLD).await?;
            scene
                .patch::<Sandbox>(name, json!({"spec": {"shutdownTime": in_seconds(2)}}))
                .await?;
        }
        let text = scene
            .until_condition("kept", "Ready", "False", reason::SANDBOX_EXPIRED, WARM)
            .await?;
        ensure!(text == message::SANDBOX_EXPIRED, "{text}");
        scene.sandboxes.until_gone("dropped", AWAY).await?;
        scene.until_no_pods(AWAY).await?;
        scene
            .sandboxes
            .until_one("kept", "is stripped to its conditions", WARM, |sandbox| {
                let status =
                    serde_json::to_value(&sandbox.status).map_err(|error| error.to_string())?;
                let conditions = without_times(&status["conditions"]);
                let expect = json!([
                    written("Ready", "False", "SandboxExpired", "Sandbox has expired", 2),
                    written(
                        "Suspended",
                        "False",
                        "NotSuspended",
                        "Sandbox is not suspended",
                        1
                    ),
                ]);
                let fields: Vec<_> = status
                    .as_object()
                    .into_iter()
                    .flat_map(|status| status.keys())
                    .collect();
                let bare = ["podIPs", "nodeName", "selector"]
                    .iter()
                    .all(|field| status.get(*field).is_none());
                // Upstream leaves the generation of Suspended at what it was; ours may have seen the newer one.
                let same = |value: &serde_json::Value| {
                    value[0] == expect[0]
                        && value[1]["reason"] == expect[1]["reason"]
                        && value.as_array().map(Vec::len) == Some(2)
                };
                if bare && same(&conditions) {
                    Ok(())
                } else {
                    Err(format!("it has {fields:?} and {conditions:#}"))
                }
            })
            .await?;
        until_pod_is_named(scene, "kept", Some("kept")).await?;

        // One whose end is put off runs again.
        scene
            .patch::<Sandbox>("kept", json!({"spec": {"shutdownTime": in_seconds(3600)}}))
            .await?;
        let again = scene.until_ready("kept", COLD).await?;
        check_answers(&again).await
    });
}

#[test]
fn a_suspended_sandbox_expires_with_and_without_a_node() {
    scene::run(LIMIT, async |scene| {
        scene
            .create(&fixtures::sandbox("slept", &fixtures::web_server()))
            .await?;
        scene.until_ready("slept", COLD).await?;
        set_mode(scene, "slept", OperatingMode::Suspended).await?;
        // What is created suspended is not placed.
        let mut never = fixtures::sandbox("never", &fixtures::web_server());
        never.spec.operating_mode = OperatingMode::Suspended;
        scene.create(&never).await?;
        for name in ["slept", "never"] {
            scene
                .until_condition(name, "Suspended", "True", reason::POD_TERMINATED, AWAY)
                .await?;
            scene
                .patch::<Sandbox>(name, json!({"spec": {"shutdownTime": in_seconds(1)}}))
                .await?;
        }
        for name in ["slept", "never"] {
            scene
                .until_condition(name, "Ready", "False", reason::SANDBOX_EXPIRED, WARM)
                .await?;
            scene
                .sandboxes
                .until_one(name, "has nothing but its conditions", WARM, |sandbox| {
                    let status =
                        serde_json::to_value(&sandbox.status).map_err(|error| error.to_string())?;
                    let conditions = status["conditions"].as_array();
                    let reasons: Vec<_> = conditions
                        .into_iter()
                        .flatten()
                        .map(|condition| condition["reason"].clone())
                        .collect();
                    let expect = [reason::POD_TERMINATED, reason::SANDBOX_EXPIRED];
                    let bare = status.as_object().is_some_and(|status| status.len() == 1);
                    if bare && expect.iter().all(|reason| reasons.contains(&json!(reason))) {
                        Ok(())
                    } else {
                        Err(format!("it has {status:#}"))
                    }
                })
                .await?;
        }
        Ok(())
    });
}

#[test]
fn a_sandbox_of_a_node_that_is_not_there_says_so_and_expires_all_the_same() {
    scene::run(LIMIT, async |scene| {
        let mut sandbox = fixtures::sandbox("away", &fixtures::web_server());
        let labels = sandbox.labels_mut();
        labels.insert(label::NODE.to_owned(), "elsewhere".to_owned());
        scene.create(&sandbox).await?;
        scene
            .until_condition("away", "Ready", "Unknown", reason::NODE_LOST, WARM)
            .await?;
        let scheduled = reason::POD_SCHEDULING_UNKNOWN;
        let text = scene
            .until_condition("away", "PodScheduled", "Unknown", scheduled, WARM)
            .await?;
        ensure!(text == message::POD_SCHEDULING_UNKNOWN, "{text}");
        scene
            .patch::<Sandbox>("away", json!({"spec": {"shutdownTime": in_seconds(1)}}))
            .await?;
        scene
            .until_condition("away", "Ready", "False", reason::SANDBOX_EXPIRED, WARM)
            .await?;
        let expired = now(scene, "away")?;
        let status = serde_json::to_value(&expired.status)?;
        let types: Vec<_> = without_times(&status["conditions"])
            .as_array()
            .into_iter()
            .flatten()
            .map(|condition| condition["type"].clone())
            .collect();
        ensure!(types == [json!("Ready"), json!("Suspended")], "{status:#}");
        Ok(())
    });
}

#[test]
fn a_claim_past_its_time_gives_its_sandbox_back_and_stays_or_goes_as_its_policy_says() {
    scene::run(LIMIT, async |scene| {
        scene.stocked_pool("pool", 2).await?;
        let kept = scene.claim("kept", "pool", WARM).await?;
        let dropped = scene.claim("dropped", "pool", WARM).await?;
        for (name, policy) in [("kept", "Retain"), ("dropped", "Delete")] {
            let lifecycle = json!({"shutdownTime": in_seconds(2), "shutdownPolicy": policy});
            scene
                .patch::<SandboxClaim>(name, json!({"spec": {"lifecycle": lifecycle}}))
                .await?;
        }
        scene.claims.until_gone("dropped", AWAY).await?;
        scene.sandboxes.until_gone(&dropped.sandbox, AWAY).await?;
        scene.sandboxes.until_gone(&kept.sandbox, AWAY).await?;
        scene
            .claims
            .until_one("kept", "has expired", WARM, |claim| {
                let mut status =
                    serde_json::to_value(&claim.status).map_err(|error| error.to_string())?;
                status["conditions"] = without_times(&status["conditions"]);
                let text = "Claim expired. Sandbox cleanup initiated.";
                let expired = json!([written("Ready", "False", reason::CLAIM_EXPIRED, text, 2)]);
                let no_sandbox = status["sandbox"]
                    .as_object()
                    .is_none_or(serde_json::Map::is_empty);
                if status["conditions"] == expired && no_sandbox {
                    Ok(())
                } else {
                    Err(format!("it says {status:#}"))
                }
            })
            .await
    });
}

#[test]
fn a_claim_whose_sandbox_finished_ends_after_its_time_to_live() {
    scene::run(LIMIT, async |scene| {
        scene
            .create(&fixtures::template(
                "short",
                &fixtures::script("Never", "sleep 2"),
            ))
            .await?;
        scene.create(&fixtures::pool("short", "short", 0)).await?;
        let mut claim = fixtures::claim("job", "short");
        claim.spec.lifecycle = serde_json::from_value(json!({"ttlSecondsAfterFinished": 2}))?;
        scene.create(&claim).await?;
        scene
            .claims
            .until_one("job", "is Finished", COLD, |claim| {
                let conditions = claim
                    .status
                    .as_ref()
                    .map_or(&[][..], |status| &status.conditions);
                match find_condition(conditions, condition::FINISHED) {
                    Some(found)
                        if found.status == "True" && found.reason == reason::POD_SUCCEEDED =>
                    {
                        Ok(())
                    }
                    other => Err(format!("Finished is {other:?}")),
                }
            })
            .await?;
        until_claim_says(scene, "job", "False", reason::CLAIM_EXPIRED).await?;
        scene.sandboxes.until_gone("job", AWAY).await
    });
}

/// What the claim's Ready condition says.
async fn until_claim_says(scene: &Scene, name: &str, status: &str, reason: &str) -> Result<()> {
    scene
        .claims
        .until_one(
            name,
            &format!("has Ready={status} {reason}"),
            WARM,
            |claim| {
                let conditions = claim
                    .status
                    .as_ref()
                    .map_or(&[][..], |status| &status.conditions);
                match find_condition(conditions, condition::READY) {
                    Some(found) if found.status == status && found.reason == reason => Ok(()),
                    other => Err(format!("it is {other:?}")),
                }
            },
        )
        .await
}

pub(crate) async fn set_mode(scene: &Scene, name: &str, mode: OperatingMode) -> Result<()> {
    scene
        .patch::<Sandbox>(name, json!({"spec": {"operatingMode": mode}}))
        .await
        .map(drop)
}

/// Waits until the Sandbox names this pod, or none.
async fn until_pod_is_named(scene: &Scene, name: &str, expect: Option<&str>) -> Result<()> {
    scene
        .sandboxes
        .until_one(
            name,
            &format!("names {expect:?} as its pod"),
            WARM,
            |sandbox| {
                let named = sandbox.annotations().get(annotation::POD_NAME);
                let named = named.map(String::as_str);
                if named == expect {
                    Ok(())
                } else {
                    Err(format!("it names {named:?}"))
                }
            },
        )
        .await
}

fn now(scene: &Scene, name: &str) -> Result<std::sync::Arc<Sandbox>> {
    scene
        .sandboxes
        .now()
        .get(name)
        .cloned()
        .with_context(|| format!("the Sandbox {name} is not there"))
}

fn ready_condition(sandbox: &Sandbox) -> Result<(String, String)> {
    let conditions = sandbox
        .status
        .as_ref()
        .map_or(&[][..], |status| &status.conditions);
    let ready =
        find_condition(conditions, condition::READY).context("it has no condition Ready")?;
    Ok((ready.status.clone(), ready.reason.clone()))
}

/// A time that the API server takes.
pub(crate) fn in_seconds(seconds: i64) -> String {
    let at = Timestamp::now() + SignedDuration::from_secs(seconds);
    format!("{at:.0}")
}

pub(crate) async fn check_answers(sandbox: &Sandbox) -> Result<()> {
    let name = sandbox.name_any();
    let ip = sandbox
        .status
        .as_ref()
        .and_then(|status| status.pod_ips.first())
        .context("it has no address")?;
    let answer = http::get(ip, PORT, "/", Duration::from_secs(10)).await?;
    ensure!(answer.trim() == name, "{ip} is {answer}, not {name}");
    Ok(())
}
