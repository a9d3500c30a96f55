//! Pools: what drives their size, how they follow their template, and what becomes of members that have got lost.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use hearth_api::constants::{annotation, label};
use hearth_api::{Sandbox, SandboxTemplate, SandboxWarmPool};
use hearth_tests::fixtures;
use hearth_tests::scene::{self, AWAY, COLD, Scene, WARM};
use hearth_tests::status::name_hash;
use hearth_tests::wait::wait_for;
use k8s_openapi::api::events::v1::Event;
use kube::api::{ApiResource, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt as _};
use serde_json::{Value, json};

use crate::LIMIT;

#[test]
fn an_autoscaler_can_drive_a_pool() {
    scene::run(LIMIT, async |scene| {
        scene.stocked_pool("pool", 1).await?;
        let pools = scene.api::<SandboxWarmPool>();
        let scale = async |replicas: i32| {
            let patch = Patch::Merge(json!({"spec": {"replicas": replicas}}));
            let params = PatchParams::default();
            let scaled = pools.patch_scale("pool", &params, &patch).await;
            scaled.context("cannot scale the pool")
        };
        scale(2).await?;
        scene.until_stocked("pool", 2).await?;
        let seen = pools.get_scale("pool").await?.status.unwrap_or_default();
        let selector = format!("{}={}", label::WARM_POOL, name_hash("pool"));
        ensure!(
            seen.replicas == 2 && seen.selector.as_deref() == Some(selector.as_str()),
            "the scale says {seen:?}"
        );

        scale(0).await?;
        wait_for("the counts of an empty pool are absent", AWAY, async || {
            let status = status_as_written(scene, "pool")
                .await
                .map_err(|error| format!("{error:#}"))?;
            let absent = |field: &str| status.get(field).is_none();
            if absent("replicas") && absent("readyReplicas") && status["observedGeneration"] == 3 {
                Ok(())
            } else {
                Err(format!("the status is {status}"))
            }
        })
        .await?;
        let seen = pools.get_scale("pool").await?.status.unwrap_or_default();
        ensure!(seen.replicas == 0, "the scale says {seen:?}");
        Ok(())
    });
}

/// The status as the API server has it: a typed one has its zeros back.
async fn status_as_written(scene: &Scene, pool: &str) -> Result<Value> {
    let kind = ApiResource::erase::<SandboxWarmPool>(&());
    let pools: Api<DynamicObject> =
        Api::namespaced_with(scene.client.clone(), &scene.namespace, &kind);
    let pool = pools.get(pool).await?;
    Ok(pool.data["status"].clone())
}

#[test]
fn what_a_pool_cannot_keep_to_is_refused() {
    scene::run(LIMIT, async |scene| {
        for (strategy, said) in [
            (
                json!({"type": "Recreate", "rollingUpdate": {"maxUnavailable": 1}}),
                "updateStrategy.rollingUpdate is only for the type RollingUpdate",
            ),
            (
                json!({"rollingUpdate": {}}),
                "updateStrategy.rollingUpdate is only for the type RollingUpdate",
            ),
            (
                json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0}}),
                "should be greater than or equal to 1",
            ),
            (
                json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "0%"}}),
                "should match",
            ),
            (json!({"type": "Sometimes"}), "Unsupported value"),
        ] {
            let error = create(scene, &strategy).await.err();
            let error = error.with_context(|| format!("{strategy} is taken"))?;
            let text = format!("{error:#}");
            ensure!(text.contains(said), "of {strategy}: {text}");
        }
        Ok(())
    });
}

/// Creates a pool with a strategy that the types may not know.
async fn create(scene: &Scene, strategy: &Value) -> Result<()> {
    let kind = ApiResource::erase::<SandboxWarmPool>(&());
    let pools: Api<DynamicObject> =
        Api::namespaced_with(scene.client.clone(), &scene.namespace, &kind);
    let spec = json!({"sandboxTemplateRef": {"name": "t"}, "updateStrategy": strategy});
    let pool = DynamicObject::new("pool", &kind).data(json!({"spec": spec}));
    pools.create(&PostParams::default(), &pool).await?;
    Ok(())
}

#[test]
fn members_follow_their_template_as_the_strategy_says() {
    scene::run(2 * LIMIT, async |scene| {
        scene.stocked_pool("pool", 2).await?;
        let first = names(scene);

        change_template(scene, "1").await?;
        change_pool(scene, json!({"type": "OnReplenish"})).await?;
        scene
            .pools
            .until_one("pool", "has been looked at", WARM, observed)
            .await?;
        ensure!(names(scene) == first, "OnReplenish: {:?}", names(scene));

        let rolling = json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1}});
        change_pool(scene, rolling).await?;
        // Objects, not conditions: the controller hears from the node that a member is ready before its status says so.
        let mut least = usize::MAX;
        scene
            .sandboxes
            .until("a rolling update has replaced all", 2 * COLD, |all| {
                let ready = all.values().filter(|sandbox| is_ready(sandbox)).count();
                least = least.min(all.len());
                let old: Vec<_> = all.keys().filter(|name| first.contains(*name)).collect();
                if old.is_empty() && ready == 2 {
                    Ok(())
                } else {
                    Err(format!("there are {old:?}, and {ready} are ready"))
                }
            })
            .await?;
        ensure!(least >= 1, "there was a time without any");

        let second = names(scene);
        change_pool(scene, json!({"type": "Recreate", "rollingUpdate": null})).await?;
        change_template(scene, "2").await?;
        scene
            .sandboxes
            .until("no member is left as it was", AWAY, |all| {
                let old: Vec<_> = all.keys().filter(|name| second.contains(*name)).collect();
                if old.is_empty() {
                    Ok(())
                } else {
                    Err(format!("there are {old:?}"))
                }
            })
            .await?;
        scene.until_stocked("pool", 2).await?;
        let claimed = scene.claim("mine", "pool", WARM).await?;
        scene.check_answers(&claimed).await
    });
}

async fn change_template(scene: &Scene, version: &str) -> Result<()> {
    let mut pod = fixtures::web_server();
    pod["containers"][0]["env"] = json!([{"name": "VERSION", "value": version}]);
    let template = fixtures::template("pool", &pod);
    let spec = serde_json::to_value(&template.spec)?;
    let patched = scene.patch::<SandboxTemplate>("pool", json!({"spec": spec}));
    patched.await.map(drop)
}

async fn change_pool(scene: &Scene, strategy: Value) -> Result<()> {
    let patch = json!({"spec": {"updateStrategy": strategy}});
    scene
        .patch::<SandboxWarmPool>("pool", patch)
        .await
        .map(drop)
}

fn observed(pool: &Arc<SandboxWarmPool>) -> Result<(), String> {
    let status = pool.status.as_ref();
    let seen = status.and_then(|status| status.observed_generation);
    if seen.is_some() && seen == pool.metadata.generation {
        Ok(())
    } else {
        Err(format!("it was at {seen:?}"))
    }
}

fn names(scene: &Scene) -> BTreeSet<String> {
    scene.sandboxes.now().keys().cloned().collect()
}

fn is_ready(sandbox: &Sandbox) -> bool {
    let conditions = sandbox.status.iter().flat_map(|status| &status.conditions);
    let mut ready = conditions.filter(|condition| condition.type_ == "Ready");
    sandbox.metadata.deletion_timestamp.is_none()
        && ready.any(|condition| condition.status == "True")
}

#[test]
fn a_pool_takes_back_what_has_lost_its_owner_or_has_it_go() {
    scene::run(LIMIT, async |scene| {
        scene.stocked_pool("pool", 1).await?;
        let member = scene.until_stocked("pool", 1).await?;
        let member = member.first().context("the pool is empty")?;
        let (name, uid) = (member.name_any(), member.metadata.uid.clone());

        let orphaned = json!({"metadata": {
            "ownerReferences": null,
            "labels": {label::LAUNCH_TYPE: null},
            "annotations": {annotation::WARMTH: null},
        }});
        scene.patch::<Sandbox>(&name, orphaned).await?;
        scene
            .sandboxes
            .until_one(&name, "is the pool's again", WARM, |sandbox| {
                let owners = sandbox.owner_references();
                let is_pools = matches!(owners, [owner] if owner.controller == Some(true)
                    && owner.kind == "SandboxWarmPool" && owner.name == "pool");
                let warm = sandbox.labels().get(label::LAUNCH_TYPE);
                if is_pools && warm.is_some_and(|launch| launch == "warm") {
                    Ok(())
                } else {
                    Err(format!("it has {owners:?} and {warm:?}"))
                }
            })
            .await?;
        let members = scene.until_stocked("pool", 1).await?;
        ensure!(
            members.iter().all(|member| member.metadata.uid == uid),
            "it is another one"
        );

        let foreign = json!({"metadata": {
            "ownerReferences": null,
            "labels": {label::TEMPLATE_REF_HASH: "00000000"},
        }});
        scene.patch::<Sandbox>(&name, foreign).await?;
        scene.sandboxes.until_gone(&name, AWAY).await?;
        scene.until_stocked("pool", 1).await.map(drop)
    });
}

#[test]
fn a_pool_that_no_node_can_take_says_so_after_the_grace_period_and_when_that_is_over() {
    scene::run(LIMIT, async |scene| {
        let mut pod = fixtures::web_server();
        pod["nodeSelector"] = json!({"example.com/none": "such"});
        scene.create(&fixtures::template("pool", &pod)).await?;
        let mut pool = fixtures::pool("pool", "pool", 1);
        // The shortest that there is.
        pool.spec.readiness_grace_period_seconds = Some(30);
        let pool = scene.create(&pool).await?;
        let uid = pool.uid().context("the pool has no UID")?;
        let held = "1/1 sandboxes are unschedulable past the 30s readiness grace period; holding them instead of \
                    replacing (replacements would be equally unschedulable)";
        until_said(scene, &uid, "WarmPoolNotProgressing", held).await?;

        // Without members there is nothing to place.
        scene
            .patch::<SandboxWarmPool>("pool", json!({"spec": {"replicas": 0}}))
            .await?;
        let again = "Warm pool is progressing again";
        until_said(scene, &uid, "WarmPoolProgressing", again).await
    });
}

/// Waits for an Event of the pool with this reason, whose text begins so.
async fn until_said(scene: &Scene, uid: &str, reason: &str, text: &str) -> Result<()> {
    let events = scene.api::<Event>();
    let what = format!("an Event {reason}");
    wait_for(&what, COLD + Duration::from_secs(15), async || {
        let all = events.list(&ListParams::default()).await;
        let all = all.map_err(|error| error.to_string())?.items;
        let regards = |event: &&Event| {
            let regarding = event.regarding.as_ref();
            regarding.is_some_and(|object| object.uid.as_deref() == Some(uid))
        };
        let said = all.iter().filter(regards);
        let said: Vec<_> = said
            .map(|event| {
                let reason = event.reason.as_deref().unwrap_or_default();
                let action = event.action.as_deref().unwrap_or_default();
                let note = event.note.as_deref().unwrap_or_default();
                (reason, action, note)
            })
            .collect();
        let mut fitting = said.iter().filter(|(found, _, _)| *found == reason);
        if fitting.any(|(_, action, note)| *action == "Reconciling" && note.starts_with(text)) {
            Ok(())
        } else {
            Err(format!("there are {said:?}"))
        }
    })
    .await
}
