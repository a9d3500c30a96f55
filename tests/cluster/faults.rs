//! Things that go wrong around a claim: nothing hangs, nothing is lost, nothing stays behind.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use hearth_api::constants::{
    CONTROLLER_NAMESPACE, LEADER_LEASE, annotation, condition, label, reason,
};
use hearth_api::{Sandbox, SandboxClaim, SandboxWarmPool};
use hearth_tests::fixtures;
use hearth_tests::process::comm;
use hearth_tests::scene::{self, AWAY, COLD, Scene, WARM};
use hearth_tests::status::{self, Claimed, answered, find_condition, pod_uid};
use hearth_tests::wait::wait_for;
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::DeleteParams;
use kube::{Api, ResourceExt as _};
use serde_json::json;

use crate::LIMIT;

#[test]
fn a_claim_that_is_deleted_while_it_binds_leaves_nothing_behind() {
    scene::run(LIMIT, async |scene| {
        // Fewer than what a node would take for lost data, should each of them get as far as a sandbox of its own.
        const ROUNDS: u64 = 15;
        scene.stocked_pool("pool", 4).await?;
        for round in 0..ROUNDS {
            let claim = scene.create(&fixtures::claim("fleeting", "pool")).await?;
            // From "before anybody has seen it" to "answered": a claim takes about ten milliseconds.
            tokio::time::sleep(Duration::from_micros(1200 * round)).await;
            let uid = claim.uid().context("the claim has no uid")?;
            scene.delete_uid::<SandboxClaim>("fleeting", &uid).await?;
            scene.claims.until_gone("fleeting", WARM).await?;
        }
        scene
            .sandboxes
            .until("no Sandbox belongs to a claim", AWAY, |all| {
                let is_member =
                    |sandbox: &&Arc<Sandbox>| sandbox.labels().contains_key(label::WARM_POOL);
                match all.values().find(|sandbox| !is_member(sandbox)) {
                    None => Ok(()),
                    Some(sandbox) => {
                        Err(format!("{} has {:?}", sandbox.name_any(), sandbox.labels()))
                    }
                }
            })
            .await?;
        // A sandbox that had been bound is never a member again, not even an unlucky one: all members are frozen, so
        // none has been left awake; and the next claims get them.
        let members = scene.until_stocked("pool", 4).await?;
        for member in &members {
            ensure!(
                scene.is_frozen(&pod_uid(member)?).await?,
                "{} is not frozen",
                member.name_any()
            );
        }
        scene.until_node_agrees(AWAY).await?;
        let claimed = scene.claim("fleeting", "pool", WARM).await?;
        scene.check_answers(&claimed).await
    });
}

#[test]
fn claims_that_others_write_to_while_they_bind_are_answered_all_the_same() {
    scene::run(LIMIT, async |scene| {
        const CLAIMS: usize = 6;
        scene.stocked_pool("pool", CLAIMS).await?;
        let mut sandboxes = BTreeSet::new();
        for number in 0..CLAIMS {
            let name = format!("busy-{number}");
            scene.create(&fixtures::claim(&name, "pool")).await?;
            let (hammered, claimed) =
                tokio::join!(hammer(scene, &name), scene.until_answered(&name, WARM));
            hammered?;
            let claimed = claimed?;
            scene.check_answers(&claimed).await?;
            ensure!(
                sandboxes.insert(claimed.sandbox.clone()),
                "{} was given twice",
                claimed.sandbox
            );
        }
        check_no_claim_changed_its_sandbox(scene)?;
        scene.until_stocked("pool", CLAIMS).await?;
        scene.until_node_agrees(AWAY).await
    });
}

#[test]
fn claims_wait_for_a_node_daemon_that_is_away_and_running_sandboxes_do_not_notice() {
    scene::run(Duration::from_secs(120), async |scene| {
        scene.stocked_pool("pool", 3).await?;
        let kept = scene.claim("kept", "pool", WARM).await?;
        let dropped = scene.claim("dropped", "pool", WARM).await?;
        scene.until_stocked("pool", 3).await?;
        let processes = main_processes(scene, &kept)?;

        let down = scene.cluster.hearthd().hold_down().await?;
        scene.check_answers(&kept).await?;
        scene.create(&fixtures::claim("early", "pool")).await?;
        scene.delete::<SandboxClaim>("dropped").await?;
        let early = scene.until_answered("early", Duration::from_secs(4)).await;
        ensure!(
            early.is_err(),
            "a claim was answered without a node: {early:?}"
        );
        scene.check_answers(&kept).await?;
        drop(down);

        scene.cluster.hearthd().wait_well().await?;
        let early = scene.until_answered("early", COLD).await?;
        scene.check_answers(&early).await?;
        scene.sandboxes.until_gone(&dropped.sandbox, AWAY).await?;
        ensure!(
            main_processes(scene, &kept)? == processes,
            "the sandbox that was claimed before has other processes"
        );
        scene.check_answers(&kept).await?;
        check_no_claim_changed_its_sandbox(scene)?;
        scene.until_stocked("pool", 3).await?;
        scene.until_node_agrees(AWAY).await
    });
}

#[test]
fn an_api_server_that_is_killed_costs_nobody_anything() {
    scene::run(Duration::from_secs(120), async |scene| {
        scene.stocked_pool("pool", 3).await?;
        let kept = scene.claim("kept", "pool", WARM).await?;
        let processes = main_processes(scene, &kept)?;
        let ours = [scene.cluster.hearthd(), scene.cluster.controller()];
        let restarts = [ours[0].restarts()?, ours[1].restarts()?];

        scene.cluster.api_server().kill().await?;
        scene.check_answers(&kept).await?;
        scene.cluster.api_server().wait_well().await?;

        // As soon as it takes a claim again.
        wait_for("a claim can be created", COLD, async || {
            scene
                .create(&fixtures::claim("after", "pool"))
                .await
                .map(drop)
                .map_err(|error| format!("{error:#}"))
        })
        .await?;
        let after = scene.until_answered("after", COLD).await?;
        scene.check_answers(&after).await?;
        scene.until_stocked("pool", 3).await?;
        scene.until_node_agrees(AWAY).await?;
        ensure!(
            main_processes(scene, &kept)? == processes,
            "the sandbox that was claimed before has other processes"
        );
        ensure!(
            [ours[0].restarts()?, ours[1].restarts()?] == restarts,
            "a program of ours has ended"
        );
        check_no_claim_changed_its_sandbox(scene)
    });
}

#[test]
fn a_leader_lease_that_is_deleted_is_taken_again() {
    scene::run(LIMIT, async |scene| {
        scene.stocked_pool("pool", 2).await?;
        let leases: Api<Lease> = Api::namespaced(scene.client.clone(), CONTROLLER_NAMESPACE);
        leases
            .delete(LEADER_LEASE, &DeleteParams::default())
            .await
            .context("cannot delete the Lease")?;
        let claimed = scene.claim("mine", "pool", COLD).await?;
        scene.check_answers(&claimed).await?;
        wait_for("somebody leads", COLD, async || {
            let lease = leases
                .get_opt(LEADER_LEASE)
                .await
                .map_err(|error| error.to_string())?;
            let lease = lease.ok_or("there is no Lease")?;
            match lease.annotations().get(annotation::LEADER_FINGERPRINT) {
                Some(_) => Ok(()),
                None => Err("nobody has put a fingerprint on it".to_owned()),
            }
        })
        .await?;
        let later = scene.claim("later", "pool", COLD).await?;
        scene.check_answers(&later).await
    });
}

#[test]
fn a_node_label_that_was_edited_by_hand_does_no_lasting_harm() {
    scene::run(LIMIT, async |scene| {
        scene.stocked_pool("pool", 3).await?;
        let claimed = scene.claim("mine", "pool", WARM).await?;
        let members = scene.until_stocked("pool", 3).await?;
        let label =
            |value: serde_json::Value| json!({"metadata": {"labels": {label::NODE: value}}});
        scene
            .patch::<Sandbox>(&members[0].name_any(), label(json!("elsewhere")))
            .await?;
        scene
            .patch::<Sandbox>(&members[1].name_any(), label(json!(null)))
            .await?;
        // By whatever way, all is well again in the end: with other members, or with the label back in its place.
        wait_for("the pool is whole and on this node", COLD, async || {
            let members = scene
                .until_stocked("pool", 3)
                .await
                .map_err(|error| format!("{error:#}"))?;
            let node = scene.cluster.node_name();
            match members
                .iter()
                .find(|member| member.labels().get(label::NODE).map(String::as_str) != Some(node))
            {
                None => Ok(()),
                Some(member) => Err(format!("{} has {:?}", member.name_any(), member.labels())),
            }
        })
        .await?;
        scene.until_node_agrees(AWAY).await?;
        scene.check_answers(&claimed).await?;
        for name in ["a", "b", "c"] {
            let claimed = scene.claim(name, "pool", COLD).await?;
            scene.check_answers(&claimed).await?;
        }
        Ok(())
    });
}

#[test]
fn a_pool_that_is_deleted_takes_its_members_but_no_claimed_sandbox() {
    scene::run(LIMIT, async |scene| {
        scene.stocked_pool("pool", 3).await?;
        let claimed = scene.claim("mine", "pool", WARM).await?;
        let processes = main_processes(scene, &claimed)?;
        scene.delete::<SandboxWarmPool>("pool").await?;
        scene.create(&fixtures::claim("late", "pool")).await?;
        scene
            .claims
            .until_one("late", "is told that there is no pool", WARM, |claim| {
                says(claim, "False", reason::WARM_POOL_NOT_FOUND)
            })
            .await?;
        scene
            .sandboxes
            .until("only the claimed Sandbox is left", AWAY, |all| {
                if all.keys().eq([&claimed.sandbox]) {
                    Ok(())
                } else {
                    Err(format!("there are {:?}", all.keys()))
                }
            })
            .await?;
        scene.until_node_agrees(AWAY).await?;
        scene.check_answers(&claimed).await?;
        ensure!(
            main_processes(scene, &claimed)? == processes,
            "its processes are others"
        );

        scene.create(&fixtures::pool("pool", "pool", 1)).await?;
        let late = scene.until_answered("late", COLD).await?;
        scene.check_answers(&late).await?;
        check_no_claim_changed_its_sandbox(scene)
    });
}

#[test]
fn a_pool_that_is_deleted_right_after_a_claim_leaves_the_claim_its_sandbox() {
    scene::run(LIMIT, async |scene| {
        for round in 0..3 {
            scene
                .create(&fixtures::template("pool", &fixtures::web_server()))
                .await
                .ok();
            scene.create(&fixtures::pool("pool", "pool", 2)).await?;
            scene.until_stocked("pool", 2).await?;
            let name = format!("mine-{round}");
            let claimed = scene.claim(&name, "pool", WARM).await?;
            // Adoption trails the answer: garbage collection of the pool's members races it.
            scene.delete::<SandboxWarmPool>("pool").await?;
            let processes = main_processes(scene, &claimed)?;
            scene.pools.until_gone("pool", AWAY).await?;
            until_owned(scene, &claimed).await?;
            scene.until_ready(&claimed.sandbox, COLD).await?;
            scene.check_answers(&claimed).await?;
            ensure!(
                main_processes(scene, &claimed)? == processes,
                "its processes are others"
            );
        }
        check_no_claim_changed_its_sandbox(scene)
    });
}

#[test]
fn a_claim_whose_sandbox_was_deleted_says_so_before_it_gets_another() {
    scene::run(LIMIT, async |scene| {
        scene.stocked_pool("pool", 2).await?;
        let before = scene.claim("mine", "pool", WARM).await?;
        until_owned(scene, &before).await?;
        let sandbox = scene
            .sandboxes
            .now()
            .get(&before.sandbox)
            .cloned()
            .context("no Sandbox")?;
        scene.delete::<Sandbox>(&before.sandbox).await?;
        let after = scene
            .claims
            .until_one(
                "mine",
                "is answered with a Sandbox that is there",
                COLD,
                |claim| {
                    let claimed = answered(claim)?;
                    match scene.sandboxes.now().get(&claimed.sandbox) {
                        None => Err(format!("{} is not there", claimed.sandbox)),
                        Some(now) if now.uid() == sandbox.uid() => {
                            Err("it is the deleted one".to_owned())
                        }
                        Some(_) => Ok(claimed),
                    }
                },
            )
            .await?;
        until_owned(scene, &after).await?;
        scene.check_answers(&after).await?;
        if after.sandbox != before.sandbox {
            check_loss_was_told(scene, &before, &after)?;
        }
        scene.until_stocked("pool", 2).await?;
        scene.until_node_agrees(AWAY).await
    });
}

#[test]
fn a_member_that_dies_while_it_is_frozen_is_not_handed_out_dead() {
    scene::run(LIMIT, async |scene| {
        scene.stocked_pool("pool", 1).await?;
        let members = scene.until_stocked("pool", 1).await?;
        let uid = pod_uid(&members[0])?;
        let processes = scene.cgroups.main_processes(&uid)?;
        let server = processes
            .iter()
            .find(|process| comm(process.pid) == "httpd");
        server
            .context("no httpd runs in the member")?
            .kill()
            .await?;
        wait_for("a live member is ready", COLD, async || {
            let members = status::members(&scene.sandboxes.now(), "pool");
            let live = members.iter().any(|member| {
                let uid = pod_uid(member).unwrap_or_default();
                let now = scene.cgroups.main_processes(&uid).unwrap_or_default();
                now.len() == processes.len() && now != processes && status::ready(member).is_ok()
            });
            if live {
                Ok(())
            } else {
                Err(format!("none of {} is", members.len()))
            }
        })
        .await?;
        let claimed = scene.claim("mine", "pool", COLD).await?;
        scene.check_answers(&claimed).await
    });
}

#[test]
fn a_pool_follows_its_replicas_up_and_down() {
    scene::run(LIMIT, async |scene| {
        scene.stocked_pool("pool", 3).await?;
        for replicas in [1, 4, 0, 2] {
            scene
                .patch::<SandboxWarmPool>("pool", json!({"spec": {"replicas": replicas}}))
                .await?;
            scene.until_stocked("pool", replicas).await?;
        }
        scene.until_node_agrees(AWAY).await
    });
}

/// Patches the claim's annotations as fast as it goes, while it is bound.
async fn hammer(scene: &Scene, name: &str) -> Result<()> {
    for number in 0..20 {
        let patch =
            json!({"metadata": {"annotations": {"example.com/number": number.to_string()}}});
        scene.patch::<SandboxClaim>(name, patch).await?;
    }
    Ok(())
}

fn main_processes(
    scene: &Scene,
    claimed: &Claimed,
) -> Result<BTreeSet<hearth_tests::process::ProcessId>> {
    let sandbox = scene
        .sandboxes
        .now()
        .get(&claimed.sandbox)
        .cloned()
        .context("the Sandbox is not there")?;
    let processes = scene.cgroups.main_processes(&pod_uid(&sandbox)?)?;
    ensure!(
        !processes.is_empty(),
        "the sandbox {} has no processes",
        claimed.sandbox
    );
    Ok(processes)
}

async fn until_owned(scene: &Scene, claimed: &Claimed) -> Result<()> {
    scene
        .sandboxes
        .until_one(&claimed.sandbox, "belongs to its claim", WARM, |sandbox| {
            let owners = sandbox.owner_references();
            let owned = owners.len() == 1 && owners[0].uid == claimed.uid;
            if owned && sandbox.metadata.deletion_timestamp.is_none() {
                Ok(())
            } else {
                Err(format!("{owners:?}"))
            }
        })
        .await
}

fn says(claim: &SandboxClaim, status: &str, reason: &str) -> Result<(), String> {
    let conditions = claim
        .status
        .as_ref()
        .map_or(&[][..], |status| &status.conditions);
    match find_condition(conditions, condition::READY) {
        Some(found) if found.status == status && found.reason == reason => Ok(()),
        other => Err(format!("Ready is {other:?}")),
    }
}

/// Between two sandboxes a claim must have been seen without one.
fn check_loss_was_told(scene: &Scene, before: &Claimed, after: &Claimed) -> Result<()> {
    let history = scene.claims.history();
    let told = history
        .iter()
        .any(|change| says(&change.object, "False", reason::SANDBOX_MISSING).is_ok());
    ensure!(
        told,
        "the claim went silently from {} to {}",
        before.sandbox,
        after.sandbox
    );
    Ok(())
}

/// No claim ever went from one sandbox to another.
pub(crate) fn check_no_claim_changed_its_sandbox(scene: &Scene) -> Result<()> {
    let mut given = std::collections::BTreeMap::<String, Claimed>::new();
    for change in scene.claims.history() {
        let Ok(claimed) = answered(&change.object) else {
            continue;
        };
        let first = given
            .entry(claimed.uid.clone())
            .or_insert_with(|| claimed.clone());
        ensure!(
            first.sandbox == claimed.sandbox,
            "claim {}: {} became {}",
            claimed.name,
            first.sandbox,
            claimed.sandbox
        );
    }
    let sandboxes: BTreeSet<_> = given.values().map(|claimed| &claimed.sandbox).collect();
    ensure!(
        sandboxes.len() == given.len(),
        "two claims got the same sandbox: {given:?}"
    );
    Ok(())
}
