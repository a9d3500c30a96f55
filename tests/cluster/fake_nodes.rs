//! A node without a machine, beside the cluster's own: to the controller it is a node like any other.

use std::fs::File;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use hearth_api::constants::{NODE_LEASE_NAMESPACE, condition, label, reason};
use hearth_api::{SandboxNode, SandboxWarmPool};
use hearth_tests::fixtures;
use hearth_tests::process::ProcessId;
use hearth_tests::scene::{self, AWAY, Scene, WARM};
use hearth_tests::wait::patient;
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::DeleteParams;
use kube::{Api, ResourceExt as _};
use rustix::process::Signal;
use serde_json::json;
use tempfile::TempDir;
use tokio::process::{Child, Command};

/// The controller looks away from a silent node for 40 s, and pools are filled and emptied around that.
const LIMIT: Duration = Duration::from_secs(240);
/// How long it may take until a node that says nothing is lost.
const LOST: Duration = Duration::from_secs(75);
/// How long the process may take to end: less than what it waits for tasks that do not.
const END: Duration = Duration::from_secs(8);

#[test]
fn a_fake_node_fills_pools_answers_claims_and_is_lost_and_found_like_a_real_one() {
    scene::run(LIMIT, async |scene| {
        let mut nodes = FakeNodes::start(scene)?;
        let played = play(scene, &mut nodes).await;
        let log = nodes.log();
        let ended = nodes.end(scene).await;
        if played.is_err() {
            eprintln!("{}", std::fs::read_to_string(log).unwrap_or_default());
        }
        played.and(ended)
    });
}

async fn play(scene: &Scene, nodes: &mut FakeNodes) -> Result<()> {
    let mut pod = fixtures::web_server();
    pod["nodeSelector"] = json!({label::FAKE_NODE: "true"});
    pod["tolerations"] = json!([{"key": label::FAKE_NODE, "operator": "Exists"}]);
    pod["containers"][0]["image"] = "registry.example/agent:1".into();
    scene.create(&fixtures::template("pool", &pod)).await?;
    scene.create(&fixtures::pool("pool", "pool", 3)).await?;
    scene.until_stocked("pool", 3).await?;

    let claimed = scene.claim("first", "pool", WARM).await?;
    ensure!(claimed.ip.starts_with("198.18."), "it is at {}", claimed.ip);
    let sandboxes = scene.sandboxes.now();
    let sandbox = sandboxes.get(&claimed.sandbox);
    let node = sandbox.and_then(|sandbox| sandbox.labels().get(label::NODE));
    ensure!(node == Some(&nodes.node()), "it is on {node:?}");
    scene.release(&claimed).await?;
    scene.until_stocked("pool", 3).await?;

    let kept = scene.claim("second", "pool", WARM).await?;
    nodes.kill().await?;
    let (ready, lost) = (condition::READY, reason::NODE_LOST);
    scene
        .until_condition(&kept.sandbox, ready, "Unknown", lost, LOST)
        .await?;
    nodes.spawn(scene)?;
    scene.until_stocked("pool", 3).await?;

    // While the node is there to let them go.
    let none = json!({"spec": {"replicas": 0}});
    scene.patch::<SandboxWarmPool>("pool", none).await?;
    scene.release(&kept).await?;
    scene
        .sandboxes
        .until("no Sandbox is left", AWAY, |all| match all.len() {
            0 => Ok(()),
            left => Err(format!("there are {left}")),
        })
        .await
}

/// hearthd with one fake node, which no pod of another test is put on.
struct FakeNodes {
    dir: TempDir,
    name: String,
    child: Option<Child>,
}

impl FakeNodes {
    fn start(scene: &Scene) -> Result<Self> {
        let mut nodes = Self {
            dir: tempfile::tempdir().context("no directory for fake nodes")?,
            name: format!("fake-{}", scene.cluster.instance()),
            child: None,
        };
        nodes.spawn(scene)?;
        Ok(nodes)
    }

    /// The name of the node.
    fn node(&self) -> String {
        format!("{}-0", self.name)
    }

    fn log(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    fn spawn(&mut self, scene: &Scene) -> Result<()> {
        let log = File::options().create(true).append(true).open(self.log());
        let log = log.context("no log for fake nodes")?;
        let kubeconfig = scene.cluster.dir().join("credentials/hearthd/kubeconfig");
        let child = Command::new(scene.cluster.program("hearthd"))
            .arg("--fake-nodes=1")
            .arg(format!("--node-name={}", self.name))
            .arg(format!("--kubeconfig={}", kubeconfig.display()))
            .arg(format!("--root-dir={}", self.dir.path().display()))
            .arg("--listen=127.0.0.1:0")
            .arg("--metrics-listen=127.0.0.1:0")
            .arg("--fake-delay=create=20ms,thaw=2ms")
            .arg(format!("--fake-taint={}:NoSchedule", label::FAKE_NODE))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn();
        self.child = Some(child.context("cannot start fake nodes")?);
        Ok(())
    }

    async fn kill(&mut self) -> Result<()> {
        let mut child = self.child.take().context("it does not run")?;
        child.kill().await.context("cannot kill fake nodes")
    }

    /// Ends the process and takes its node away.
    async fn end(mut self, scene: &Scene) -> Result<()> {
        let ended = self.terminate().await;
        let params = DeleteParams::default();
        let nodes: Api<SandboxNode> = Api::all(scene.client.clone());
        let forgotten = nodes.delete(&self.node(), &params).await;
        let leases: Api<Lease> = Api::namespaced(scene.client.clone(), NODE_LEASE_NAMESPACE);
        let expired = leases.delete(&self.node(), &params).await;
        ended?;
        forgotten.context("cannot delete the SandboxNode")?;
        expired.context("cannot delete the Lease")?;
        let log = std::fs::read_to_string(self.log())?;
        let errors: Vec<_> = log.lines().filter(|line| line.contains("ERROR")).collect();
        ensure!(errors.is_empty(), "errors were logged: {errors:#?}");
        Ok(())
    }

    async fn terminate(&mut self) -> Result<()> {
        let mut child = self.child.take().context("it does not run")?;
        let pid = child.id().context("it has ended by itself")?;
        let process = ProcessId::of(i32::try_from(pid)?).context("it has ended by itself")?;
        process.signal(Signal::TERM)?;
        let ended = tokio::time::timeout(patient(END), child.wait()).await;
        let status = ended.context("it does not end")??;
        ensure!(status.success(), "it ended with {status}");
        Ok(())
    }
}
