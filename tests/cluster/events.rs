//! Events of Sandboxes: what a user who asks `kubectl describe` is told, and what nobody needs to hear.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use hearth_api::Sandbox;
use hearth_tests::fixtures;
use hearth_tests::observe::{Objects, Observed};
use hearth_tests::scene::{self, AWAY, COLD, WARM};
use k8s_openapi::api::events::v1::Event;
use kube::ResourceExt as _;
use serde_json::json;

use crate::LIMIT;
use crate::lifecycle::in_seconds;

/// Type, reason and note of each Event of this Sandbox.
fn told(all: &Objects<Event>, sandbox: &Sandbox) -> BTreeSet<(String, String, String)> {
    let of_it = all.values().filter(|event| {
        let regarding = event.regarding.as_ref();
        regarding.and_then(|regarding| regarding.uid.clone()) == sandbox.uid()
    });
    of_it
        .map(|event| {
            let text = |field: &Option<String>| field.clone().unwrap_or_default();
            (text(&event.type_), text(&event.reason), text(&event.note))
        })
        .collect()
}

/// Waits until there is an Event of this type and reason, and gives its note.
async fn until_told(
    events: &Observed<Event>,
    sandbox: &Sandbox,
    type_: &str,
    reason: &str,
) -> Result<String> {
    events
        .until(reason, WARM, |all| {
            let told = told(all, sandbox);
            let found = told
                .iter()
                .find(|(is_type, is, _)| is_type == type_ && is == reason);
            match found {
                Some((_, _, note)) => Ok(note.clone()),
                None => Err(format!("of {} there is {told:?}", sandbox.name_any())),
            }
        })
        .await
}

#[test]
fn the_life_of_a_sandbox_is_told() {
    scene::run(LIMIT, async |scene| {
        let events = Observed::start(scene.api());
        let sandbox = scene
            .create(&fixtures::sandbox("life", &fixtures::web_server()))
            .await?;
        scene.until_ready("life", COLD).await?;
        let note = until_told(&events, &sandbox, "Normal", "SandboxPodCreated").await?;
        ensure!(note == "Created Pod \"life\"", "{note}");
        until_told(&events, &sandbox, "Normal", "SandboxReady").await?;

        let suspend = json!({"spec": {"operatingMode": "Suspended"}});
        scene.patch::<Sandbox>("life", suspend).await?;
        scene
            .until_condition("life", "Suspended", "True", "PodTerminated", AWAY)
            .await?;
        until_told(&events, &sandbox, "Normal", "SandboxSuspended").await?;

        let end = json!({"spec": {"shutdownTime": in_seconds(1)}});
        scene.patch::<Sandbox>("life", end).await?;
        scene
            .until_condition("life", "Ready", "False", "SandboxExpired", WARM)
            .await?;
        until_told(&events, &sandbox, "Normal", "SandboxExpired")
            .await
            .map(drop)
    });
}

#[test]
fn the_end_of_a_pod_is_told_and_how_it_was() {
    scene::run(LIMIT, async |scene| {
        let events = Observed::start(scene.api());
        for (script, type_, reason) in [
            ("exit 0", "Normal", "PodSucceeded"),
            ("exit 1", "Warning", "PodFailed"),
        ] {
            let name = reason.to_lowercase();
            let pod = fixtures::script("Never", script);
            let sandbox = scene.create(&fixtures::sandbox(&name, &pod)).await?;
            scene
                .until_condition(&name, "Finished", "True", reason, COLD)
                .await?;
            until_told(&events, &sandbox, type_, reason).await?;
        }
        Ok(())
    });
}

#[test]
fn a_pod_that_cannot_be_made_is_told_with_the_reason() {
    scene::run(LIMIT, async |scene| {
        let events = Observed::start(scene.api());
        let mut pod = fixtures::web_server();
        pod["containers"][0]["lifecycle"] = json!({"postStart": {
            "httpGet": {"host": "elsewhere.example", "port": 80},
        }});
        let sandbox = scene.create(&fixtures::sandbox("bad", &pod)).await?;
        let said = scene
            .until_condition("bad", "Ready", "False", "InvalidConfiguration", COLD)
            .await?;
        let note = until_told(&events, &sandbox, "Warning", "SandboxPodCreateFailed").await?;
        ensure!(note == said, "{note}\nbut the condition says {said}");
        Ok(())
    });
}

#[test]
fn members_are_filled_and_claimed_without_a_word() {
    scene::run(LIMIT, async |scene| {
        let events: Observed<Event> = Observed::start(scene.api());
        scene.stocked_pool("pool", 2).await?;
        scene.claim("mine", "pool", WARM).await?;
        scene.until_stocked("pool", 2).await?;
        // Events are written in their order, so those of what was before this would be there.
        let last = scene
            .create(&fixtures::sandbox("last", &fixtures::web_server()))
            .await?;
        until_told(&events, &last, "Normal", "SandboxReady").await?;
        let all = events.now();
        let members = scene.sandboxes.now();
        for member in members.values().filter(|member| member.uid() != last.uid()) {
            let told = told(&all, member);
            ensure!(told.is_empty(), "of {}: {told:?}", member.name_any());
        }
        Ok(())
    });
}
