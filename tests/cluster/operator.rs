//! What an operator says to the controller, and what it says to an operator.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use hearth_api::constants::CONTROLLER_NAMESPACE;
use hearth_tests::fixtures;
use hearth_tests::scene::{self, COLD, Scene, WARM};
use hearth_tests::wait::wait_for;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use serde_json::json;

use crate::LIMIT;

const CONFIG_MAP: &str = "agent-sandbox-config";

#[test]
fn the_config_map_says_which_labels_claims_may_set() {
    scene::run(LIMIT, async |scene| {
        scene.stocked_pool("pool", 1).await?;
        let maps: Api<ConfigMap> = Api::namespaced(scene.client.clone(), CONTROLLER_NAMESPACE);
        let map = serde_json::from_value(json!({
            "metadata": {"name": CONFIG_MAP},
            "data": {
                "_note": "for people",
                "allowed-label-domains": "Example.com,\nsandbox.users.io\n",
                "sandbox-warm-pool-max-batch-size": "7",
            },
        }))?;
        let created = maps.create(&PostParams::default(), &map).await;
        created.context("cannot create the ConfigMap")?;
        let claimed = claims_with_labels_of_domains(scene, &maps).await;
        // Whatever became of it: the tests after this one find the defaults.
        let deleted = maps.delete(CONFIG_MAP, &DeleteParams::default()).await;
        deleted.context("cannot delete the ConfigMap")?;
        scene.cluster.controller().kill_and_wait().await?;
        claimed
    });
}

/// By a controller that was started again, for it reads the flags when it starts; and, without another start, after a
/// change.
async fn claims_with_labels_of_domains(scene: &Scene, maps: &Api<ConfigMap>) -> Result<()> {
    scene.cluster.controller().kill_and_wait().await?;
    claim_with_label(scene, "mine", "team.example.com/name").await?;
    let changed = json!({"data": {"allowed-label-domains": "example.org"}});
    let params = PatchParams::default();
    let changed = maps
        .patch(CONFIG_MAP, &params, &Patch::Merge(changed))
        .await;
    changed.context("cannot change the ConfigMap")?;
    claim_with_label(scene, "other", "team.example.org/name").await
}

async fn claim_with_label(scene: &Scene, name: &str, label: &str) -> Result<()> {
    let mut claim = fixtures::claim(name, "pool");
    claim.spec.additional_pod_metadata = serde_json::from_value(json!({"labels": {label: "a"}}))?;
    scene.create(&claim).await?;
    scene.until_answered(name, COLD).await.map(drop)
}

#[test]
fn metrics_have_the_lines_that_dashboards_ask_for() {
    scene::run(LIMIT, async |scene| {
        scene.stocked_pool("pool", 1).await?;
        scene.claim("mine", "pool", WARM).await?;
        let namespace = &scene.namespace;
        let expected = [
            format!(
                "agent_sandbox_claim_creation_total{{namespace=\"{namespace}\",sandbox_template=\"pool\",\
                 launch_type=\"warm\",warmpool_name=\"pool\",pod_condition=\"ready\",created_by=\"unknown\"}} 1"
            ),
            format!(
                "agent_sandboxes{{namespace=\"{namespace}\",ready_condition=\"true\",expired=\"false\",\
                 launch_type=\"warm\",sandbox_template=\"pool\",owned_by=\"SandboxClaim\",created_by=\"unknown\",\
                 operating_mode=\"Running\"}} 1"
            ),
            "leader_election_master_status{name=\"a3317529.agent-sandbox.x-k8s.io\"} 1".to_owned(),
        ];
        wait_for("the metrics count the claim", COLD, async || {
            let text = scene.cluster.controller_metrics().await;
            let text = text.map_err(|error| format!("{error:#}"))?;
            let missing = |line: &&String| !text.lines().any(|there| there == line.as_str());
            match expected.iter().find(missing) {
                None => Ok(()),
                Some(line) => Err(format!("no {line} in\n{text}")),
            }
        })
        .await
    });
}

#[test]
fn alerts_ask_for_metrics_that_there_are() {
    /// There only once a step of a pod has failed.
    const OF_FAILURES: [&str; 1] = ["hearth_node_pod_step_failures_total"];
    scene::run(LIMIT, async |scene| {
        let rules = std::fs::read_to_string(deploy("monitoring/rules.yaml"))
            .context("cannot read the alert rules")?;
        let metrics = metrics_in(&rules);
        ensure!(metrics.len() > 8, "the rules ask for {metrics:?} only");
        scene.stocked_pool("pool", 1).await?;
        scene.claim("mine", "pool", WARM).await?;
        wait_for("all metrics of the alerts are there", COLD, async || {
            let served = async {
                let controller = scene.cluster.controller_metrics().await?;
                Ok::<_, anyhow::Error>(controller + &scene.cluster.node_metrics().await?)
            };
            let served = served.await.map_err(|error| format!("{error:#}"))?;
            let there = |metric: &str| {
                let mut lines = served.lines();
                lines.any(|line| {
                    line.strip_prefix(metric)
                        .is_some_and(|rest| rest.starts_with(['{', ' ']))
                })
            };
            let missing: Vec<_> = metrics
                .iter()
                .filter(|metric| !OF_FAILURES.contains(&metric.as_str()) && !there(metric))
                .collect();
            if missing.is_empty() {
                Ok(())
            } else {
                Err(format!("no {missing:?}"))
            }
        })
        .await
    });
}

/// The metrics of ours in expressions.
fn metrics_in(rules: &str) -> BTreeSet<String> {
    let expressions = rules
        .lines()
        .filter_map(|line| line.trim().strip_prefix("expr: "));
    expressions
        .flat_map(|expression| expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_'))
        .filter(|word| {
            ["hearth_", "agent_sandbox", "leader_election_"]
                .iter()
                .any(|prefix| word.starts_with(prefix))
        })
        .map(str::to_owned)
        .collect()
}

#[test]
fn the_api_server_takes_the_deployment() {
    scene::run(LIMIT, async |scene| {
        let manifests = deploy("controller");
        let mut taken = dry_run(scene, "--kustomize", &manifests).await?;
        taken.sort_unstable();
        ensure!(
            taken
                == [
                    "deployment.apps/agent-sandbox-controller",
                    "poddisruptionbudget.policy/agent-sandbox-controller",
                    "service/agent-sandbox-controller"
                ],
            "kubectl: {taken:?}"
        );
        Ok(())
    });
}

#[test]
fn the_api_server_takes_all_that_is_installed() {
    scene::run(LIMIT, async |scene| {
        let file = deploy("install.yaml");
        let text = std::fs::read_to_string(&file).context("cannot read the manifests")?;
        let documents = text.lines().filter(|line| *line == "---").count();
        let taken = dry_run(scene, "--filename", &file).await?;
        ensure!(
            taken.len() == documents,
            "{documents} documents, and kubectl says {taken:?}"
        );
        for object in [
            "daemonset.apps/hearthd",
            "deployment.apps/agent-sandbox-controller",
            "flowschema.flowcontrol.apiserver.k8s.io/hearth-controller",
            "priorityclass.scheduling.k8s.io/hearth-node",
            "customresourcedefinition.apiextensions.k8s.io/sandboxes.agents.x-k8s.io",
        ] {
            ensure!(
                taken.iter().any(|name| name == object),
                "no {object} in {taken:?}"
            );
        }
        Ok(())
    });
}

/// A part of the manifests.
fn deploy(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../deploy")
        .join(path)
}

/// Has the API server check manifests as if they were applied, fields that it does not know included. Returns their names.
async fn dry_run(scene: &Scene, how: &str, manifests: &Path) -> Result<Vec<String>> {
    let output = tokio::process::Command::new(scene.cluster.program("kubectl"))
        .arg("--kubeconfig")
        .arg(scene.cluster.kubeconfig())
        .args([
            "apply",
            "--dry-run=server",
            "--validate=strict",
            "--output=name",
            how,
        ])
        .arg(manifests)
        .output()
        .await
        .context("cannot run kubectl")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "kubectl: {said}");
    let names = std::str::from_utf8(&output.stdout)?;
    Ok(names.lines().map(str::to_owned).collect())
}
