//! What an operator says to the controller, and what it says to an operator.

use std::path::Path;

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
fn the_api_server_takes_the_deployment() {
    scene::run(LIMIT, async |scene| {
        let manifests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/controller");
        let output = tokio::process::Command::new(scene.cluster.program("kubectl"))
            .arg("--kubeconfig")
            .arg(scene.cluster.kubeconfig())
            .args(["apply", "--dry-run=server", "--output=name", "--kustomize"])
            .arg(&manifests)
            .output()
            .await
            .context("cannot run kubectl")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "kubectl: {said}");
        let mut taken: Vec<_> = std::str::from_utf8(&output.stdout)?.lines().collect();
        taken.sort_unstable();
        ensure!(
            taken
                == [
                    "deployment.apps/agent-sandbox-controller",
                    "service/agent-sandbox-controller"
                ],
            "kubectl: {taken:?}"
        );
        Ok(())
    });
}
