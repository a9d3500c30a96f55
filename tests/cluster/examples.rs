//! The manifests of `examples/`, applied by kubectl as the README says.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use hearth_api::constants::reason;
use hearth_tests::fixtures::PORT;
use hearth_tests::http;
use hearth_tests::scene::{self, AWAY, COLD, Scene, WARM};
use tokio::io::AsyncWriteExt as _;

use crate::LIMIT;

#[test]
fn the_example_claim_gets_a_web_server_from_the_example_pool() {
    scene::run(LIMIT, async |scene| {
        apply(scene, "template").await?;
        apply(scene, "pool").await?;
        scene.until_stocked("hello", 4).await?;
        apply(scene, "claim").await?;
        let claimed = scene.until_answered("hello", WARM).await?;
        let page = http::get(&claimed.ip, PORT, "/", Duration::from_secs(5)).await?;
        ensure!(page.contains("hearth"), "{page}");
        scene.release(&claimed).await?;
        scene.until_stocked("hello", 4).await.map(drop)
    });
}

#[test]
fn the_example_sandbox_freezes_suspends_and_comes_back_each_time() {
    scene::run(LIMIT, async |scene| {
        apply(scene, "sandbox").await?;
        scene.until_ready("alone", COLD).await?;
        for (file, reason) in [
            ("freeze", reason::FROZEN),
            ("suspend", reason::POD_TERMINATED),
        ] {
            apply(scene, file).await?;
            scene
                .until_condition("alone", "Suspended", "True", reason, AWAY)
                .await?;
            apply(scene, "sandbox").await?;
            scene.until_ready("alone", COLD).await?;
        }
        Ok(())
    });
}

/// `kubectl apply` of an example, in the test's namespace instead of its own.
async fn apply(scene: &Scene, example: &str) -> Result<()> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../examples/{example}.yaml"));
    let text = std::fs::read_to_string(&file)
        .with_context(|| format!("cannot read {}", file.display()))?;
    let elsewhere = text.replace(
        "namespace: default",
        &format!("namespace: {}", scene.namespace),
    );
    ensure!(
        elsewhere != text,
        "{} does not say its namespace",
        file.display()
    );

    let mut kubectl = tokio::process::Command::new(scene.cluster.program("kubectl"))
        .arg("--kubeconfig")
        .arg(scene.cluster.kubeconfig())
        .args(["apply", "--filename", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot run kubectl")?;
    let mut stdin = kubectl
        .stdin
        .take()
        .context("kubectl has no standard input")?;
    stdin.write_all(elsewhere.as_bytes()).await?;
    drop(stdin);
    let output = kubectl.wait_with_output().await?;
    ensure!(
        output.status.success(),
        "kubectl: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}
