//! Claims that go well: what a client sees, and what becomes of the sandbox.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use hearth_api::constants::{annotation, label};
use hearth_api::{Sandbox, SandboxClaim, SandboxNode};
use hearth_tests::fixtures;
use hearth_tests::scene::{self, AWAY, COLD, Scene, WARM};
use hearth_tests::status::{Claimed, name_hash, pod_uid};
use hearth_tests::wait::wait_for;
use kube::{Api, ResourceExt as _};
use serde_json::{Value, json};

use crate::LIMIT;

#[test]
fn a_claim_on_a_stocked_pool_is_answered_with_a_running_sandbox() {
    scene::run(LIMIT, async |scene| {
        scene.stocked_pool("pool", 2).await?;
        let claimed = scene.claim("mine", "pool", WARM).await?;
        check_status_is_as_upstream(scene, &claimed)?;
        scene.check_answers(&claimed).await?;
        check_adoption(scene, &claimed).await?;
        // The answer stays what it is.
        check_status_is_as_upstream(scene, &claimed)?;

        let members = scene.until_stocked("pool", 2).await?;
        ensure!(
            members
                .iter()
                .all(|member| member.name_any() != claimed.sandbox),
            "the claimed sandbox is a member"
        );
        Ok(())
    });
}

#[test]
fn a_deleted_claim_takes_its_sandbox_and_pod_away_and_the_pool_stays_full() {
    scene::run(LIMIT, async |scene| {
        scene.stocked_pool("pool", 2).await?;
        let claimed = scene.claim("mine", "pool", WARM).await?;
        let sandbox = scene
            .sandboxes
            .now()
            .get(&claimed.sandbox)
            .cloned()
            .context("the claimed Sandbox is not there")?;
        let uid = pod_uid(&sandbox)?;
        ensure!(
            scene.cgroups.pods()?.contains(&uid),
            "the pod {uid} has no cgroup"
        );

        scene.release(&claimed).await?;
        wait_for(
            "the pod is gone from kernel and containerd",
            AWAY,
            async || {
                let pods = scene
                    .containerd
                    .pods(Some(&scene.namespace))
                    .await
                    .map_err(|error| format!("{error:#}"))?;
                if pods.iter().any(|pod| {
                    pod.metadata
                        .as_ref()
                        .is_some_and(|metadata| metadata.uid == uid)
                }) {
                    return Err("containerd still has it".to_owned());
                }
                match scene.cgroups.pods() {
                    Ok(uids) if uids.contains(&uid) => Err("its cgroup is still there".to_owned()),
                    Ok(_) => Ok(()),
                    Err(error) => Err(format!("{error:#}")),
                }
            },
        )
        .await?;
        scene.until_stocked("pool", 2).await.map(drop)
    });
}

#[test]
fn a_claim_on_a_pool_that_keeps_nothing_starts_a_sandbox_of_its_own_name() {
    scene::run(LIMIT, async |scene| {
        scene
            .create(&fixtures::template("cold", &fixtures::web_server()))
            .await?;
        scene.create(&fixtures::pool("cold", "cold", 0)).await?;
        let claimed = scene.claim("mine", "cold", COLD).await?;
        check_status_is_as_upstream(scene, &claimed)?;
        ensure!(
            claimed.sandbox == "mine",
            "the sandbox is called {}",
            claimed.sandbox
        );
        scene.check_answers(&claimed).await?;
        let sandbox = scene
            .sandboxes
            .now()
            .get("mine")
            .cloned()
            .context("the Sandbox is not there")?;
        let labels = sandbox.labels();
        ensure!(
            labels.get(label::LAUNCH_TYPE).map(String::as_str) == Some("cold"),
            "labels {labels:?}"
        );
        ensure!(
            labels.get(label::CLAIM_UID) == Some(&claimed.uid),
            "labels {labels:?}"
        );
        ensure!(!scene.is_frozen(&pod_uid(&sandbox)?).await?, "it is frozen");
        check_owner(&sandbox, &claimed)?;
        scene.release(&claimed).await
    });
}

#[test]
fn metadata_of_a_claim_reaches_the_sandboxs_pod_template() {
    scene::run(LIMIT, async |scene| {
        scene.stocked_pool("pool", 1).await?;
        let mut claim = fixtures::claim("mine", "pool");
        claim.spec.additional_pod_metadata = serde_json::from_value(json!({
            "labels": {"sandbox.users.io/team": "a"},
            "annotations": {"example.com/n": "1"},
        }))?;
        scene.create(&claim).await?;
        let claimed = scene.until_answered("mine", WARM).await?;
        scene
            .sandboxes
            .until_one(
                &claimed.sandbox,
                "has the claim's metadata",
                WARM,
                |sandbox| {
                    let metadata = &sandbox.spec.pod_template.metadata;
                    let label = metadata
                        .labels
                        .get("sandbox.users.io/team")
                        .map(String::as_str);
                    let annotation = metadata
                        .annotations
                        .get("example.com/n")
                        .map(String::as_str);
                    if (label, annotation) == (Some("a"), Some("1")) {
                        Ok(())
                    } else {
                        Err(format!("it has {metadata:?}"))
                    }
                },
            )
            .await
    });
}

#[test]
fn members_of_a_pool_look_as_upstream_writes_them() {
    scene::run(LIMIT, async |scene| {
        scene.stocked_pool("pool", 1).await?;
        let members = scene.until_stocked("pool", 1).await?;
        let member = members.first().context("the pool is empty")?;
        ensure!(
            member.metadata.generate_name.as_deref() == Some("pool-"),
            "{:?}",
            member.metadata.generate_name
        );
        check_labels(
            member,
            &[
                (label::CREATED_BY, "controller"),
                (label::LAUNCH_TYPE, "warm"),
                (label::TEMPLATE_REF_HASH, &name_hash("pool")),
                (label::WARM_POOL, &name_hash("pool")),
                (label::NODE, scene.cluster.node_name()),
            ],
        )?;
        for hash in [label::TEMPLATE_HASH, label::POD_TEMPLATE_HASH] {
            ensure!(
                member
                    .labels()
                    .get(hash)
                    .is_some_and(|hash| hash.len() == 8),
                "{:?}",
                member.labels()
            );
        }
        let owner = member.owner_references();
        ensure!(
            owner.len() == 1 && owner[0].kind == "SandboxWarmPool" && owner[0].name == "pool",
            "{owner:?}"
        );
        ensure!(
            owner[0].controller == Some(true) && owner[0].block_owner_deletion == Some(true),
            "{owner:?}"
        );

        let status = serde_json::to_value(&member.status)?;
        let conditions = without_times(&status["conditions"]);
        ensure!(
            conditions == running_conditions(1),
            "conditions are {conditions:#}\nbut upstream's are {:#}",
            running_conditions(1)
        );
        ensure!(status["nodeName"] == scene.cluster.node_name(), "{status}");
        let selector = format!(
            "{}={}",
            label::SANDBOX_NAME_HASH,
            name_hash(&member.name_any())
        );
        ensure!(status["selector"] == selector, "{status}");
        ensure!(
            status["podIPs"]
                .as_array()
                .is_some_and(|ips| ips.len() == 1),
            "{status}"
        );

        let pool = scene
            .pools
            .now()
            .get("pool")
            .cloned()
            .context("the pool is not there")?;
        let status = serde_json::to_value(&pool.status)?;
        let selector = format!("{}={}", label::WARM_POOL, name_hash("pool"));
        let expect = json!({"replicas": 1, "readyReplicas": 1, "observedGeneration": 1, "selector": selector});
        ensure!(status == expect, "pool status {status}");
        Ok(())
    });
}

#[test]
fn kubectl_get_shows_what_a_user_wants_to_know() {
    scene::run(LIMIT, async |scene| {
        scene.stocked_pool("pool", 1).await?;
        let claimed = scene.claim("mine", "pool", WARM).await?;
        scene.until_stocked("pool", 1).await?;
        let nodes: Api<SandboxNode> = Api::all(scene.client.clone());
        let node = nodes
            .get(scene.cluster.node_name())
            .await
            .context("the node has no SandboxNode")?;

        let text = wait_for("kubectl shows a full pool", WARM, async || {
            let text = kubectl_get(scene)
                .await
                .map_err(|error| format!("{error:#}"))?;
            let pools = rows(&text, "sandboxwarmpool.extensions.agents.x-k8s.io/");
            if pools.of("pool").first().is_some_and(|ready| ready == "1") {
                Ok(text)
            } else {
                Err(text)
            }
        })
        .await?;
        let table = |kind: &str| rows(&text, kind);
        let claims = table("sandboxclaim.extensions.agents.x-k8s.io/");
        ensure!(
            claims.header == ["NAME", "READY", "SANDBOX", "REASON", "AGE"],
            "{text}"
        );
        ensure!(
            claims.of("mine")[..3] == ["True", &claimed.sandbox, "DependenciesReady"],
            "{text}"
        );
        let sandboxes = table("sandbox.agents.x-k8s.io/");
        ensure!(
            sandboxes.header == ["NAME", "READY", "REASON", "AGE"],
            "{text}"
        );
        ensure!(
            sandboxes.of(&claimed.sandbox)[..2] == ["True", "DependenciesReady"],
            "{text}"
        );
        let pools = table("sandboxwarmpool.extensions.agents.x-k8s.io/");
        ensure!(
            pools.header == ["NAME", "READY", "DESIRED", "AGE"],
            "{text}"
        );
        ensure!(pools.of("pool")[..2] == ["1", "1"], "{text}");
        let nodes = table("sandboxnode.hearth.dev/");
        ensure!(
            nodes.header
                == [
                    "NAME",
                    "READY",
                    "SANDBOXES",
                    "FREE",
                    "MAX",
                    "HANDLERS",
                    "AGE"
                ],
            "{text}"
        );
        ensure!(nodes.of(&node.name_any())[0] == "True", "{text}");
        Ok(())
    });
}

/// The claim's status is exactly what golden upstream objects have: Ready, the name and the addresses.
fn check_status_is_as_upstream(scene: &Scene, claimed: &Claimed) -> Result<()> {
    let claim = scene
        .claims
        .now()
        .get(&claimed.name)
        .cloned()
        .context("the claim is not there")?;
    let mut status = serde_json::to_value(&claim.status)?;
    status["conditions"] = without_times(&status["conditions"]);
    let ready = condition("Ready", "True", "DependenciesReady", "Pod is Ready", 1);
    let expect = json!({
        "conditions": [ready],
        "sandbox": {"name": claimed.sandbox, "podIPs": [claimed.ip]},
    });
    ensure!(
        status == expect,
        "the status is {status:#}\nbut upstream's is {expect:#}"
    );
    Ok(())
}

/// What trails the answer: the Sandbox becomes the claim's own.
async fn check_adoption(scene: &Scene, claimed: &Claimed) -> Result<()> {
    scene
        .sandboxes
        .until_one(&claimed.sandbox, "is adopted", WARM, |sandbox| {
            check_owner(sandbox, claimed).map_err(|error| format!("{error:#}"))
        })
        .await?;
    let sandbox = scene
        .sandboxes
        .now()
        .get(&claimed.sandbox)
        .cloned()
        .context("the Sandbox is not there")?;
    check_labels(
        &sandbox,
        &[
            (label::CLAIM_UID, &claimed.uid),
            (label::LAUNCH_TYPE, "warm"),
            (label::TEMPLATE_REF_HASH, &name_hash("pool")),
            (label::NODE, scene.cluster.node_name()),
        ],
    )?;
    for gone in [
        label::WARM_POOL,
        label::TEMPLATE_HASH,
        label::POD_TEMPLATE_HASH,
        label::CREATED_BY,
    ] {
        ensure!(
            !sandbox.labels().contains_key(gone),
            "the label {gone} is still there"
        );
    }
    ensure!(
        sandbox
            .annotations()
            .get(annotation::TEMPLATE_REF)
            .map(String::as_str)
            == Some("pool"),
        "no template-ref"
    );
    let pod = &sandbox.spec.pod_template.metadata;
    ensure!(
        pod.labels.get(label::CLAIM_UID) == Some(&claimed.uid),
        "the pod's labels are {:?}",
        pod.labels
    );
    ensure!(
        !pod.labels.contains_key(label::WARM_POOL),
        "the pod's labels are {:?}",
        pod.labels
    );
    ensure!(
        !pod.annotations
            .contains_key("cluster-autoscaler.kubernetes.io/safe-to-evict"),
        "the pod's annotations are {:?}",
        pod.annotations
    );
    scene
        .claims
        .until_one(
            &claimed.name,
            "is annotated with its sandbox",
            WARM,
            |claim: &std::sync::Arc<SandboxClaim>| match claim
                .annotations()
                .get(annotation::SANDBOX_NAME)
            {
                Some(name) if *name == claimed.sandbox => Ok(()),
                other => Err(format!("the annotation is {other:?}")),
            },
        )
        .await
}

fn check_owner(sandbox: &Sandbox, claimed: &Claimed) -> Result<()> {
    let owners = serde_json::to_value(sandbox.owner_references())?;
    let expect = json!([{
        "apiVersion": "extensions.agents.x-k8s.io/v1beta1",
        "kind": "SandboxClaim",
        "name": claimed.name,
        "uid": claimed.uid,
        "controller": true,
        "blockOwnerDeletion": true,
    }]);
    ensure!(owners == expect, "its owners are {owners}");
    Ok(())
}

fn check_labels(sandbox: &Sandbox, expect: &[(&str, &str)]) -> Result<()> {
    let labels = sandbox.labels();
    for (key, value) in expect {
        ensure!(
            labels.get(*key).map(String::as_str) == Some(*value),
            "{key} is not {value} in {labels:?}"
        );
    }
    Ok(())
}

/// The conditions of a running Sandbox in upstream's order, by which nothing should depend: sorted by type.
pub(crate) fn running_conditions(generation: i64) -> Value {
    json!([
        condition("PodScheduled", "True", "PodScheduled", "", generation),
        condition(
            "Ready",
            "True",
            "DependenciesReady",
            "Pod is Ready",
            generation
        ),
        condition(
            "Suspended",
            "False",
            "NotSuspended",
            "Sandbox is not suspended",
            generation
        ),
    ])
}

pub(crate) fn condition(
    type_: &str,
    status: &str,
    reason: &str,
    message: &str,
    generation: i64,
) -> Value {
    json!({
        "type": type_, "status": status, "reason": reason, "message": message, "observedGeneration": generation,
    })
}

/// Conditions sorted by type, without their transition times.
pub(crate) fn without_times(conditions: &Value) -> Value {
    let mut conditions = conditions.as_array().cloned().unwrap_or_default();
    for condition in &mut conditions {
        if let Some(condition) = condition.as_object_mut() {
            condition.remove("lastTransitionTime");
        }
    }
    conditions.sort_by_key(|condition| condition["type"].to_string());
    Value::Array(conditions)
}

async fn kubectl_get(scene: &Scene) -> Result<String> {
    let output = tokio::process::Command::new(scene.cluster.program("kubectl"))
        .arg("--kubeconfig")
        .arg(scene.cluster.kubeconfig())
        .args([
            "--namespace",
            &scene.namespace,
            "get",
            "sandboxclaims,sandboxes,swp,sandboxnodes",
        ])
        .output()
        .await
        .context("cannot run kubectl")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(
        output.status.success(),
        "kubectl: {}{text}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(text)
}

/// One table of kubectl's output.
struct Table {
    header: Vec<String>,
    rows: BTreeMap<String, Vec<String>>,
}

impl Table {
    /// The columns after the name.
    fn of(&self, name: &str) -> &[String] {
        self.rows.get(name).map_or(&[], Vec::as_slice)
    }
}

/// The table whose names begin with `prefix`.
fn rows(text: &str, prefix: &str) -> Table {
    let mut table = Table {
        header: Vec::new(),
        rows: BTreeMap::new(),
    };
    let mut header = Vec::new();
    for line in text.lines() {
        let mut columns = line.split_whitespace().map(str::to_owned);
        match columns.next() {
            Some(first) if first == "NAME" => {
                header = std::iter::once(first).chain(columns).collect()
            }
            Some(first) => {
                if let Some(name) = first.strip_prefix(prefix) {
                    table.header.clone_from(&header);
                    table.rows.insert(name.to_owned(), columns.collect());
                }
            }
            None => {}
        }
    }
    table
}
