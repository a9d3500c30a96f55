//! Beside the agent-sandbox controller: its Pods, its Lease, and moving from it and back.
//!
//! No kubelet runs here, so that a Pod is an object alone: it is created without a node and told that it runs.

use std::collections::BTreeMap;
use std::process::Output;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use hearth_api::constants::{CONTROLLER_NAMESPACE, LEADER_LEASE, condition, label, reason};
use hearth_api::{OperatingMode, Sandbox, SandboxWarmPool};
use hearth_tests::fixtures;
use hearth_tests::observe::Observed;
use hearth_tests::scene::{self, AWAY, COLD, Scene, WARM};
use hearth_tests::status::{find_condition, name_hash, ready, to_json};
use hearth_tests::wait::wait_for;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt as _};
use serde_json::{Value, json};
use tokio::process::Command;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::lifecycle::set_mode;

/// How long a test may take that waits for a Lease to run out.
const LONG: Duration = Duration::from_secs(240);
/// How long moving may take.
const MOVING: Duration = Duration::from_secs(90);
/// The stand-in's name in the Lease.
const STAND_IN: &str = "agent-sandbox-controller-0_stand-in";
/// How often client-go's leader election tries, and how long it lets a holder be silent.
const RETRY: Duration = Duration::from_secs(2);
const LEASE_SECONDS: i32 = 15;

/// What upstream's controller says of a Sandbox whose Pod is ready.
fn upstreams_status(name: &str) -> Value {
    let condition = |type_: &str, status: &str, reason: &str, message: &str| {
        json!({"type": type_, "status": status, "reason": reason, "message": message, "observedGeneration": 1,
               "lastTransitionTime": "2026-01-15T08:00:00Z"})
    };
    json!({"status": {
        "conditions": [
            condition("Ready", "True", "DependenciesReady", "Pod is Ready"),
            condition("Suspended", "False", "NotSuspended", "Sandbox is not suspended"),
            condition("PodScheduled", "True", "PodScheduled", ""),
        ],
        "podIPs": ["10.244.0.7"],
        "nodeName": "a-node-of-a-kubelet",
        "selector": format!("agents.x-k8s.io/sandbox-name-hash={}", name_hash(name)),
    }})
}

/// Makes a Sandbox and its Pod as upstream's controller leaves them. Nobody must lead meanwhile.
async fn old_sandbox(scene: &Scene, sandbox: &Sandbox) -> Result<()> {
    let made = scene.create(sandbox).await?;
    let name = made.name_any();
    let uid = made.uid().context("a Sandbox without a uid")?;
    old_pod(scene, &name, &name, &uid).await?;
    let api: Api<Sandbox> = scene.api();
    let status = Patch::Merge(upstreams_status(&name));
    let patched = api
        .patch_status(&name, &PatchParams::default(), &status)
        .await;
    patched
        .map(drop)
        .context("cannot write the Sandbox's status")
}

async fn old_pod(scene: &Scene, name: &str, sandbox: &str, uid: &str) -> Result<()> {
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {
            "name": name,
            "labels": {"agents.x-k8s.io/sandbox-name-hash": name_hash(sandbox)},
            "ownerReferences": [{
                "apiVersion": "agents.x-k8s.io/v1beta1", "kind": "Sandbox", "name": sandbox, "uid": uid,
                "controller": true, "blockOwnerDeletion": true,
            }],
        },
        "spec": {"containers": [{"name": "main", "image": "image"}], "automountServiceAccountToken": false},
    }))?;
    let pods: Api<Pod> = scene.api();
    // The namespace's ServiceAccount is made a moment after the namespace.
    wait_for("the Pod is taken", WARM, async || {
        let created = pods.create(&PostParams::default(), &pod).await;
        created.map(drop).map_err(|error| error.to_string())
    })
    .await?;
    let running = json!({"status": {
        "phase": "Running", "podIP": "10.244.0.7",
        "conditions": [{"type": "Ready", "status": "True"}, {"type": "PodScheduled", "status": "True"}],
    }});
    let patched = pods
        .patch_status(name, &PatchParams::default(), &Patch::Merge(running))
        .await;
    patched.map(drop).context("cannot write the Pod's status")
}

/// What a condition says: status, reason and message.
fn said(sandbox: &Sandbox, type_: &str) -> Option<(String, String, String)> {
    let status = sandbox.status.as_ref()?;
    let condition = find_condition(&status.conditions, type_)?;
    Some((
        condition.status.clone(),
        condition.reason.clone(),
        condition.message.clone(),
    ))
}

/// Whether the Sandbox is left to its Pod, and upstream's words of that are untouched.
fn held(sandbox: &Arc<Sandbox>) -> Result<(), String> {
    let assigned = said(sandbox, condition::HEARTH_ASSIGNED);
    let is_held = assigned.is_some_and(|(status, reason, message)| {
        status == "False" && reason == reason::OLD_POD_PRESENT && message.contains("migrate")
    });
    let ready = said(sandbox, condition::READY);
    let is_ready = ready.is_some_and(|(status, ..)| status == "True");
    if is_held && is_ready && !sandbox.labels().contains_key(label::NODE) {
        Ok(())
    } else {
        Err(format!("it is {}", to_json(&**sandbox)))
    }
}

/// The program's subcommand, with an administrator's rights.
async fn migrate(scene: &Scene, args: &[&str]) -> Result<Output> {
    // The one that the cluster's supervisor runs, or has run last.
    let program = scene.cluster.program("agent-sandbox-controller");
    let command = Command::new(&program)
        .arg("migrate")
        .arg(format!(
            "--kubeconfig={}",
            scene.cluster.kubeconfig().display()
        ))
        .arg(format!("--namespace={}", scene.namespace))
        .args(args)
        .kill_on_drop(true)
        .output();
    let output = timeout(MOVING, command)
        .await
        .with_context(|| format!("migrate {args:?} has not ended"))?;
    output.with_context(|| format!("cannot run {}", program.display()))
}

/// What it printed, if it ended with this code.
fn ended(output: &Output, code: i32) -> Result<BTreeMap<String, String>> {
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    ensure!(
        output.status.code() == Some(code),
        "{output:?}\n{out}\n{err}"
    );
    // `sandbox.agents.x-k8s.io/name -n namespace verdict`
    let line = |line: &str| {
        let (object, rest) = line.split_once(" -n ")?;
        let (_, verdict) = rest.split_once(' ')?;
        let (_, name) = object.split_once('/')?;
        Some((name.to_owned(), verdict.to_owned()))
    };
    Ok(out.lines().filter_map(line).collect())
}

fn verdict<'a>(lines: &'a BTreeMap<String, String>, name: &str) -> &'a str {
    lines.get(name).map_or("nothing", String::as_str)
}

#[test]
fn a_sandbox_with_a_real_pod_is_left_to_it_until_it_is_suspended_or_moved() {
    scene::run(LONG, async |scene| {
        let pods: Observed<Pod> = Observed::start(scene.api());
        let controller = scene.cluster.controller();
        let down = controller.hold_down().await?;
        for name in ["by-hand", "moved"] {
            old_sandbox(scene, &fixtures::sandbox(name, &fixtures::web_server())).await?;
        }
        drop(down);
        controller.wait_well().await?;
        for name in ["by-hand", "moved"] {
            let what = "is left to its Pod";
            scene.sandboxes.until_one(name, what, COLD, held).await?;
        }

        // Suspended by its user it loses the Pod, and is resumed on a node of ours.
        set_mode(scene, "by-hand", OperatingMode::Suspended).await?;
        pods.until_gone("by-hand", AWAY).await?;
        scene
            .sandboxes
            .until_one("by-hand", "is suspended", WARM, |sandbox| {
                match said(sandbox, condition::SUSPENDED) {
                    Some((status, reason, _))
                        if status == "True" && reason == reason::POD_TERMINATED =>
                    {
                        Ok(())
                    }
                    other => Err(format!("it says {other:?}")),
                }
            })
            .await?;
        set_mode(scene, "by-hand", OperatingMode::Running).await?;
        scene
            .sandboxes
            .until_one("by-hand", "is ready on a node of ours", COLD, ready_here)
            .await?;

        let planned = ended(&migrate(scene, &["--to=hearth", "--dry-run"]).await?, 0)?;
        ensure!(
            verdict(&planned, "moved") == "suspended (dry run)",
            "{planned:?}"
        );
        let still = scene
            .sandboxes
            .until_one("moved", "is where it was", WARM, held);
        still.await?;
        let moved = ended(&migrate(scene, &["--to=hearth"]).await?, 0)?;
        ensure!(verdict(&moved, "moved") == "moved", "{moved:?}");
        ensure!(
            verdict(&moved, "by-hand").starts_with("unchanged"),
            "{moved:?}"
        );
        pods.until_gone("moved", AWAY).await?;
        scene
            .sandboxes
            .until_one("moved", "is ready on a node of ours", COLD, ready_here)
            .await?;
        let again = ended(&migrate(scene, &["--to=hearth"]).await?, 0)?;
        ensure!(
            verdict(&again, "moved").starts_with("unchanged"),
            "{again:?}"
        );
        scene.until_node_agrees(AWAY).await
    });
}

/// Whether it is ready, and by the word of our node.
fn ready_here(sandbox: &Arc<Sandbox>) -> Result<(), String> {
    ready(sandbox)?;
    if said(sandbox, condition::HEARTH_ASSIGNED).is_some() {
        return Err("it still speaks of an old Pod".to_owned());
    }
    if sandbox.labels().contains_key(label::NODE) {
        Ok(())
    } else {
        Err("it has no node".to_owned())
    }
}

#[test]
fn several_real_pods_of_a_sandbox_are_left_alone() {
    scene::run(LONG, async |scene| {
        let pods: Observed<Pod> = Observed::start(scene.api());
        let controller = scene.cluster.controller();
        let down = controller.hold_down().await?;
        let sandbox = fixtures::sandbox("twice", &fixtures::web_server());
        old_sandbox(scene, &sandbox).await?;
        let api: Api<Sandbox> = scene.api();
        let uid = api.get("twice").await?.uid().unwrap_or_default();
        old_pod(scene, "second", "twice", &uid).await?;
        drop(down);
        controller.wait_well().await?;
        let several =
            "multiple Pods (2) are controlled by this Sandbox; refusing to choose or create a Pod";
        let says_so = |sandbox: &Arc<Sandbox>| match said(sandbox, condition::READY) {
            Some((_, reason, message)) if reason == "MultiplePods" && message == several => Ok(()),
            other => Err(format!("it says {other:?}")),
        };
        let what = "refuses to choose";
        scene
            .sandboxes
            .until_one("twice", what, COLD, says_so)
            .await?;
        ensure!(pods.now().len() == 2, "there are {:?}", pods.now().keys());
        // One fewer, and the other is its Pod again.
        scene.delete::<Pod>("second").await?;
        scene
            .sandboxes
            .until_one("twice", "has one Pod", WARM, |sandbox| {
                match said(sandbox, condition::HEARTH_ASSIGNED) {
                    Some((status, ..)) if status == "False" => Ok(()),
                    other => Err(format!("it says {other:?}")),
                }
            })
            .await
    });
}

#[test]
fn a_pool_counts_members_with_real_pods_and_has_them_retired_by_the_move() {
    scene::run(LONG, async |scene| {
        let pods: Observed<Pod> = Observed::start(scene.api());
        let controller = scene.cluster.controller();
        let down = controller.hold_down().await?;
        scene
            .create(&fixtures::template("pool", &fixtures::web_server()))
            .await?;
        let pool = scene.create(&fixtures::pool("pool", "pool", 1)).await?;
        let mut member = fixtures::sandbox("pool-old", &fixtures::web_server());
        member.metadata.labels = Some(BTreeMap::from([
            (label::WARM_POOL.to_owned(), name_hash("pool")),
            (label::TEMPLATE_REF_HASH.to_owned(), name_hash("pool")),
            (label::LAUNCH_TYPE.to_owned(), "warm".to_owned()),
        ]));
        member.metadata.owner_references = serde_json::from_value(json!([{
            "apiVersion": "extensions.agents.x-k8s.io/v1beta1", "kind": "SandboxWarmPool", "name": "pool",
            "uid": pool.uid(), "controller": true, "blockOwnerDeletion": true,
        }]))?;
        old_sandbox(scene, &member).await?;
        drop(down);
        controller.wait_well().await?;
        let what = "is left to its Pod";
        scene
            .sandboxes
            .until_one("pool-old", what, COLD, held)
            .await?;
        scene
            .pools
            .until_one(
                "pool",
                "counts it and does not call it ready",
                WARM,
                |pool| {
                    let status = pool.status.clone().unwrap_or_default();
                    if (status.replicas, status.ready_replicas) == (1, 0) {
                        Ok(())
                    } else {
                        Err(format!("it counts {}", to_json(&status)))
                    }
                },
            )
            .await?;
        ensure!(
            scene.sandboxes.now().len() == 1,
            "it made another one beside it"
        );

        let moved = ended(&migrate(scene, &["--to=hearth", "--batch=1"]).await?, 0)?;
        ensure!(verdict(&moved, "pool-old") == "retired", "{moved:?}");
        // The garbage collector takes the Pod of a Sandbox that is gone.
        pods.until_gone("pool-old", AWAY).await?;
        scene.until_stocked("pool", 1).await.map(drop)
    });
}

/// Leader election as client-go has it: a holder is let be for as long as it is seen to renew, and annotations that others
/// have written stay.
struct StandIn {
    leases: Api<Lease>,
}

impl StandIn {
    fn of(scene: &Scene) -> Self {
        Self {
            leases: Api::namespaced(scene.client.clone(), CONTROLLER_NAMESPACE),
        }
    }

    async fn lease(&self) -> Result<Lease> {
        let lease = self.leases.get(LEADER_LEASE).await;
        lease.context("cannot read the leader Lease")
    }

    /// Writes the Lease as its holder, from the state that was read: of two who do so one fails.
    async fn write(&self, mut lease: Lease, holder: &str, seconds: i32) -> Result<()> {
        let spec = lease.spec.get_or_insert_with(LeaseSpec::default);
        let now = MicroTime(Timestamp::now());
        if spec.holder_identity.as_deref() != Some(holder) {
            spec.acquire_time = Some(now.clone());
            spec.lease_transitions = Some(spec.lease_transitions.unwrap_or_default() + 1);
        }
        spec.holder_identity = Some(holder.to_owned());
        spec.lease_duration_seconds = Some(seconds);
        spec.renew_time = Some(now);
        let params = PostParams::default();
        let written = self.leases.replace(LEADER_LEASE, &params, &lease).await;
        written.map(drop).context("cannot write the leader Lease")
    }

    /// Renews it so many times, as its holder, at client-go's pace. A renewal that was on its way when this was called may
    /// come between.
    async fn renew(&self, times: usize) -> Result<()> {
        let mut tick = interval(RETRY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for _ in 0..times {
            tick.tick().await;
            wait_for("the stand-in renews the Lease", RETRY, async || {
                let renewed = self.renew_once().await;
                renewed.map_err(|error| format!("{error:#}"))
            })
            .await?;
        }
        Ok(())
    }

    async fn renew_once(&self) -> Result<()> {
        let lease = self.lease().await?;
        let spec = lease.spec.as_ref();
        let holder = spec.and_then(|spec| spec.holder_identity.clone());
        ensure!(
            holder.as_deref() == Some(STAND_IN),
            "{holder:?} has taken it"
        );
        self.write(lease, STAND_IN, LEASE_SECONDS).await
    }

    /// Empties the Lease's holder. A renewal of ours that was on its way may come before it.
    async fn give_back(&self) -> Result<()> {
        wait_for("the Lease is given back", WARM, async || {
            let lease = self.lease().await.map_err(|error| format!("{error:#}"))?;
            let written = self.write(lease, "", 1).await;
            written.map_err(|error| format!("{error:#}"))
        })
        .await
    }

    /// Looks at the Lease so many times at client-go's pace, and fails when it could be taken: when its holder was not
    /// seen to renew it for as long as it lasts.
    async fn try_in_vain(&self, times: u32) -> Result<()> {
        let mut tick = interval(RETRY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut seen = None;
        let mut silent = 0;
        for _ in 0..times {
            tick.tick().await;
            let spec = self.lease().await?.spec.unwrap_or_default();
            let holder = spec.holder_identity.unwrap_or_default();
            ensure!(
                !holder.is_empty() && holder != STAND_IN,
                "{holder:?} holds it"
            );
            let renewed = spec.renew_time.map(|time| time.0);
            silent = if seen == Some(renewed) { silent + 1 } else { 0 };
            seen = Some(renewed);
            ensure!(
                RETRY * silent < Duration::from_secs(15),
                "its holder is silent"
            );
        }
        Ok(())
    }
}

/// What ours does while the stand-in leads: nothing, and it says why.
async fn held_by(scene: &Scene, stand_in: &StandIn) -> Result<()> {
    stand_in.renew(2).await?;
    scene.cluster.controller().wait_well().await?;
    scene
        .create(&fixtures::sandbox("waits", &fixtures::web_server()))
        .await?;
    // Longer than a Lease lasts that nobody renews.
    stand_in.renew(9).await?;
    let waits = scene.api::<Sandbox>().get("waits").await?;
    ensure!(
        waits.labels().is_empty() && waits.status.is_none(),
        "{}",
        to_json(&waits)
    );
    for target in ["hearth", "upstream"] {
        let target = format!("--to={target}");
        let args = [target.as_str()];
        // It waits to see whether the holder lives.
        let refused = tokio::select! {
            refused = migrate(scene, &args) => refused?,
            renewed = stand_in.renew(usize::MAX) => {
                renewed?;
                bail!("nobody renews for ever");
            }
        };
        ended(&refused, 3)?;
        let why = String::from_utf8_lossy(&refused.stderr).into_owned();
        ensure!(why.contains(STAND_IN) && why.contains("to 0"), "{why}");
    }
    Ok(())
}

#[test]
fn never_do_both_controllers_lead() {
    scene::run(LONG, async |scene| {
        let stand_in = StandIn::of(scene);
        stand_in.try_in_vain(9).await?;

        let controller = scene.cluster.controller();
        let down = controller.hold_down().await?;
        // As after the 15 seconds that it would wait.
        let lease = stand_in.lease().await?;
        stand_in.write(lease, STAND_IN, LEASE_SECONDS).await?;
        drop(down);
        let held = held_by(scene, &stand_in).await;
        // Whatever came of it: as client-go gives a Lease back.
        stand_in.give_back().await?;
        held?;
        scene
            .sandboxes
            .until_one("waits", "is ready once ours leads", COLD, ready_here)
            .await
    });
}

#[test]
fn what_runs_is_drained_and_handed_over_and_can_be_taken_back() {
    scene::run(LONG, async |scene| {
        scene.stocked_pool("pool", 1).await?;
        scene
            .create(&fixtures::sandbox("kept", &fixtures::web_server()))
            .await?;
        scene
            .sandboxes
            .until_one("kept", "is ready", COLD, ready_here)
            .await?;
        let drained = ended(&migrate(scene, &["--to=upstream"]).await?, 0)?;
        ensure!(verdict(&drained, "kept") == "suspended", "{drained:?}");
        ensure!(verdict(&drained, "pool") == "drained", "{drained:?}");
        scene.until_no_pods(AWAY).await?;

        let controller = scene.cluster.controller();
        let down = controller.hold_down().await?;
        let over = ended(&migrate(scene, &["--to=upstream"]).await?, 0)?;
        ensure!(verdict(&over, "kept") == "handed over", "{over:?}");
        ensure!(verdict(&over, "pool") == "handed over", "{over:?}");
        let kept = scene.api::<Sandbox>().get("kept").await?;
        let ours = |key: &&String| key.starts_with("hearth.dev/");
        let left = kept
            .labels()
            .keys()
            .chain(kept.annotations().keys())
            .find(ours);
        ensure!(left.is_none(), "{left:?} is left");
        ensure!(
            kept.spec.operating_mode == OperatingMode::Running,
            "{}",
            to_json(&kept)
        );
        let pool = scene.api::<SandboxWarmPool>().get("pool").await?;
        ensure!(pool.spec.replicas == Some(1), "{}", to_json(&pool));
        let again = ended(&migrate(scene, &["--to=upstream"]).await?, 0)?;
        ensure!(
            verdict(&again, "kept").starts_with("unchanged"),
            "{again:?}"
        );

        // Whoever leads next runs it: here that is Hearth again.
        drop(down);
        controller.wait_well().await?;
        scene
            .sandboxes
            .until_one("kept", "is ready again", COLD, ready_here)
            .await?;
        scene.until_stocked("pool", 1).await.map(drop)
    });
}
