//! Killing hearthd, the controller and containerd again and again while claims come in.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use hearth_api::constants::{CONTROLLER_NAMESPACE, LEADER_LEASE};
use hearth_api::{Sandbox, SandboxClaim, SandboxWarmPool};
use hearth_tests::fixtures;
use hearth_tests::process::ProcessId;
use hearth_tests::scene::{self, AWAY, Scene};
use hearth_tests::status::{Claimed, answered, members, pod_uid, ready};
use hearth_tests::wait::wait_for;
use k8s_openapi::api::coordination::v1::Lease;
use kube::{Api, ResourceExt as _};
use parking_lot::Mutex;
use serde_json::json;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;

use crate::faults::check_no_claim_changed_its_sandbox;

/// Kills of each component unless `HEARTH_KILLS` says otherwise.
const KILLS: usize = 2;
/// Claims a second unless `HEARTH_CLAIM_RATE` says otherwise.
const RATE: f64 = 2.5;
/// One claim of so many is given back after `HOLD`, the others when the killing is over: their sandboxes live through it,
/// and two cores have time for the replacements, which they would not have for as many ends at five claims a second.
const SHORT: usize = 4;
/// How long a claim is held that is given back soon.
const HOLD: Duration = Duration::from_secs(3);
/// Members of the pool for each round of kills: as many claims come meanwhile at five a second, and two cores do not make
/// new ones as fast.
const MEMBERS_PER_KILL: usize = 60;
/// Members that there must be before the next kill, so that claims meet it in their usual course.
const STOCK: usize = 15;
/// How long an answer may take while everything is being killed.
const ANSWER: Duration = Duration::from_secs(120);
/// How long it may take until somebody leads again. The cluster's supervisor gives the next controller the name of the
/// dead one, so that it need not wait for the Lease's 15 seconds.
const SUCCESSION: Duration = Duration::from_secs(30);
/// How long it may take until the claims that piled up are answered and the pool has members again.
const CATCHING_UP: Duration = Duration::from_secs(90);

/// How long it may take until the sandboxes of one kill's time are taken down, when all are given back at the end.
const TIDYING: Duration = Duration::from_secs(30);

/// What the pods were started with when they were first seen ready, by pod uid.
type FirstSeen = Mutex<BTreeMap<String, BTreeSet<ProcessId>>>;

#[test]
fn kills_lose_no_sandbox_and_answer_every_claim_exactly_once() {
    let kills = kills();
    let rounds = u32::try_from(kills).unwrap_or(u32::MAX);
    let limit = Duration::from_secs(240) + Duration::from_secs(60) * rounds;
    scene::run(limit, async |scene| {
        let first_seen = FirstSeen::default();
        let members = (MEMBERS_PER_KILL * kills).max(4 * STOCK);
        scene.stocked_pool("pool", members).await?;
        note_ready_pods(scene, &first_seen);

        let done = CancellationToken::new();
        let killing = async {
            // However it ends: whoever serves would wait for ever.
            let _done = done.clone().drop_guard();
            kill_all(scene, kills).await
        };
        let (killed, served) = tokio::join!(killing, serve(scene, &done, &first_seen));
        killed.context("while killing")?;
        let latencies = served?;

        scene.until_stocked("pool", members).await?;
        check_all_members(scene, &first_seen)?;
        check_no_claim_changed_its_sandbox(scene)?;
        scene.until_node_agrees(AWAY + TIDYING * rounds).await?;
        report(kills, latencies);
        // So many are not gone in the time that a test has for its end.
        scene
            .patch::<SandboxWarmPool>("pool", json!({"spec": {"replicas": 0}}))
            .await?;
        scene.until_no_pods(AWAY + TIDYING * rounds).await?;
        Ok(())
    });
}

fn rate() -> f64 {
    let asked = std::env::var("HEARTH_CLAIM_RATE").ok();
    asked.and_then(|rate| rate.parse().ok()).unwrap_or(RATE)
}

fn kills() -> usize {
    std::env::var("HEARTH_KILLS")
        .ok()
        .and_then(|kills| kills.parse().ok())
        .unwrap_or(KILLS)
}

/// Kills each component so many times, never two at a time, and each only when it is at work again.
async fn kill_all(scene: &Scene, kills: usize) -> Result<()> {
    let (hearthd, controller) = (scene.cluster.hearthd(), scene.cluster.controller());
    let mut leader = successions(scene).await?;
    for round in 0..kills {
        pause(round, 0).await;
        hearthd.kill().await?;

        pause(round, 1).await;
        controller.kill().await?;

        pause(round, 2).await;
        scene.containerd.kill().await?;

        hearthd.wait_well().await?;
        scene.containerd.wait_well().await?;
        controller.wait_well().await?;
        leader = until_succeeded(scene, leader).await?;
        until_caught_up(scene).await?;
    }
    Ok(())
}

/// Waits until the next kill would again meet claims in their usual course, and not a backlog.
async fn until_caught_up(scene: &Scene) -> Result<()> {
    wait_for("the backlog is worked off", CATCHING_UP, async || {
        let claims = scene.claims.now();
        let waiting = claims
            .values()
            .filter(|claim| answered(claim).is_err())
            .count();
        let sandboxes = scene.sandboxes.now();
        let members = members(&sandboxes, "pool");
        let stock = members
            .iter()
            .filter(|member| ready(member).is_ok())
            .count();
        if waiting <= 5 && stock >= STOCK {
            Ok(())
        } else {
            Err(format!("{waiting} claims wait, {stock} members are ready"))
        }
    })
    .await
}

/// Spreads the kills, so that they meet the claims at all stages.
async fn pause(round: usize, component: usize) {
    let spread = (round * 379 + component * 737) % 800;
    sleep(Duration::from_millis(
        200 + u64::try_from(spread).unwrap_or_default(),
    ))
    .await;
}

/// How often somebody began to lead.
async fn successions(scene: &Scene) -> Result<i32> {
    let leases: Api<Lease> = Api::namespaced(scene.client.clone(), CONTROLLER_NAMESPACE);
    let lease = leases
        .get(LEADER_LEASE)
        .await
        .context("cannot read the leader Lease")?;
    let successions = lease.spec.and_then(|spec| spec.lease_transitions);
    successions.context("the leader Lease counts no transitions")
}

async fn until_succeeded(scene: &Scene, before: i32) -> Result<i32> {
    wait_for(
        "another controller leads",
        SUCCESSION,
        async || match successions(scene).await {
            Ok(now) if now > before => Ok(now),
            Ok(now) => Err(format!("it is still leader number {now}")),
            Err(error) => Err(format!("{error:#}")),
        },
    )
    .await
}

/// Claims at a steady rate until `done`, and then until the last claim was answered and given back.
async fn serve(
    scene: &Scene,
    done: &CancellationToken,
    first_seen: &FirstSeen,
) -> Result<Vec<Duration>> {
    let mut tick = interval(Duration::from_secs_f64(1.0 / rate()));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut running = FuturesUnordered::new();
    let mut latencies = Vec::new();
    let mut number = 0;
    loop {
        tokio::select! {
            _ = tick.tick(), if !done.is_cancelled() => {
                note_ready_pods(scene, first_seen);
                running.push(one_claim(scene, number, done, first_seen));
                number += 1;
            }
            Some(latency) = running.next() => latencies.push(latency?),
            else => break,
        }
    }
    ensure!(
        latencies.len() == number,
        "{} of {number} claims were answered",
        latencies.len()
    );
    Ok(latencies)
}

/// From the claim to its release: it is answered, the right sandbox answers, and keeps its processes to the end.
async fn one_claim(
    scene: &Scene,
    number: usize,
    done: &CancellationToken,
    first_seen: &FirstSeen,
) -> Result<Duration> {
    let name = format!("claim-{number}");
    let created = Instant::now();
    scene.create(&fixtures::claim(&name, "pool")).await?;
    let claimed = scene.until_answered(&name, ANSWER).await?;
    let latency = created.elapsed();
    let processes = processes(scene, &claimed, first_seen).await?;
    scene.check_answers(&claimed).await?;
    if number.is_multiple_of(SHORT) {
        sleep(HOLD).await;
    } else {
        done.cancelled().await;
    }
    scene.check_answers(&claimed).await?;
    let later = self::processes(scene, &claimed, first_seen).await?;
    ensure!(
        later == processes,
        "{} of {name} had {processes:?} and has {later:?}",
        claimed.sandbox
    );
    scene
        .delete_uid::<SandboxClaim>(&name, &claimed.uid)
        .await?;
    Ok(latency)
}

/// The processes of the claim's sandbox, which are those that it had as a member.
async fn processes(
    scene: &Scene,
    claimed: &Claimed,
    first_seen: &FirstSeen,
) -> Result<BTreeSet<ProcessId>> {
    let sandbox = scene.until_ready(&claimed.sandbox, AWAY).await?;
    check_processes(scene, &sandbox, first_seen)
}

fn check_processes(
    scene: &Scene,
    sandbox: &Sandbox,
    first_seen: &FirstSeen,
) -> Result<BTreeSet<ProcessId>> {
    let uid = pod_uid(sandbox)?;
    let now = scene.cgroups.main_processes(&uid)?;
    let first = first_seen
        .lock()
        .entry(uid)
        .or_insert_with(|| now.clone())
        .clone();
    ensure!(
        now == first,
        "{} was first seen with {first:?} and has {now:?}",
        sandbox.name_any()
    );
    // The pause container's and the server's.
    ensure!(
        now.len() == 2,
        "{} has the processes {now:?}",
        sandbox.name_any()
    );
    Ok(now)
}

/// Remembers the processes of all pods that are ready by now and were not before.
fn note_ready_pods(scene: &Scene, first_seen: &FirstSeen) {
    let mut first_seen = first_seen.lock();
    for sandbox in scene
        .sandboxes
        .now()
        .values()
        .filter(|sandbox| ready(sandbox).is_ok())
    {
        if let Ok(uid) = pod_uid(sandbox)
            && !first_seen.contains_key(&uid)
            // It may be on its way out.
            && let Ok(processes) = scene.cgroups.main_processes(&uid)
            && processes.len() == 2
        {
            first_seen.insert(uid, processes);
        }
    }
}

fn check_all_members(scene: &Scene, first_seen: &FirstSeen) -> Result<()> {
    let sandboxes = scene.sandboxes.now();
    if sandboxes.is_empty() {
        bail!("there are no members");
    }
    for sandbox in sandboxes.values() {
        check_processes(scene, sandbox, first_seen)?;
    }
    Ok(())
}

fn report(kills: usize, mut latencies: Vec<Duration>) {
    latencies.sort();
    let at = |part: usize| {
        latencies
            .get(latencies.len() * part / 100)
            .copied()
            .unwrap_or_default()
    };
    println!(
        "{kills} kills each of hearthd, controller and containerd: {} claims answered, p50 {:?}, p90 {:?}, max {:?}",
        latencies.len(),
        at(50),
        at(90),
        latencies.last().copied().unwrap_or_default(),
    );
}
