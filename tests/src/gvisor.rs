//! gVisor's sandboxes, by gVisor's own tool.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use hearth_cri::{PodRuntime as _, v1};
use tokio::process::Command;
use tokio::time::timeout;

use crate::cluster::Cluster;
use crate::containerd::Containerd;
use crate::process::ProcessId;

/// How long the tool may take.
const ANSWER: Duration = Duration::from_secs(20);
/// The label by which CRI knows a pod's uid.
const POD_UID_LABEL: &str = "io.kubernetes.pod.uid";

/// The gVisor sandbox of one pod.
#[derive(Clone, Debug)]
pub struct Sentry {
    runsc: PathBuf,
    root: PathBuf,
    id: String,
}

impl Sentry {
    /// The sandbox of a pod; `None` when the pod does not run on gVisor.
    ///
    /// # Errors
    /// When there is no such pod.
    pub async fn of(
        cluster: &Cluster,
        containerd: &Containerd,
        pod_uid: &str,
    ) -> Result<Option<Self>> {
        let filter = v1::PodSandboxFilter {
            label_selector: [(POD_UID_LABEL.to_owned(), pod_uid.to_owned())].into(),
            ..v1::PodSandboxFilter::default()
        };
        let pods = containerd.cri().list_pod_sandboxes(filter).await?;
        let pod = pods
            .into_iter()
            .max_by_key(|pod| pod.metadata.as_ref().map(|metadata| metadata.attempt))
            .with_context(|| format!("containerd has no pod {pod_uid}"))?;
        Ok((pod.runtime_handler == "runsc").then(|| Self {
            runsc: cluster.program("runsc"),
            root: PathBuf::from("/run/hearth")
                .join(cluster.instance())
                .join("runsc/k8s.io"),
            id: pod.id,
        }))
    }

    /// Whether all tasks of the sandbox are stopped, by the stacks of the Sentry.
    ///
    /// # Errors
    /// When the Sentry does not answer.
    pub async fn is_paused(&self) -> Result<bool> {
        let stacks = self.runsc(&["debug", "--stacks=true"]).await?;
        let (mut tasks, mut stopped) = (0, 0);
        for goroutine in stacks.split("\n\n") {
            if goroutine.contains("kernel.(*Task).run(") {
                tasks += 1;
                stopped += usize::from(goroutine.contains("kernel.(*Task).doStop("));
            }
        }
        ensure!(tasks > 0, "no tasks in {stacks}");
        Ok(stopped == tasks)
    }

    /// The Sentry's process.
    ///
    /// # Errors
    /// When it has ended.
    pub async fn process(&self) -> Result<ProcessId> {
        let state = self.runsc(&["state"]).await?;
        let state: serde_json::Value = serde_json::from_str(&state)?;
        let pid = state["pid"]
            .as_i64()
            .and_then(|pid| i32::try_from(pid).ok());
        pid.and_then(ProcessId::of)
            .with_context(|| format!("no process in {state}"))
    }

    async fn runsc(&self, args: &[&str]) -> Result<String> {
        let mut command = Command::new(&self.runsc);
        command
            .arg(format!("--root={}", self.root.display()))
            .args(args)
            .arg(&self.id)
            .kill_on_drop(true);
        let output = timeout(ANSWER, command.output())
            .await
            .with_context(|| format!("runsc {args:?} took too long"))??;
        ensure!(output.status.success(), "runsc {args:?}: {output:?}");
        // `debug` logs what it was asked for.
        let text = [output.stdout, output.stderr].concat();
        Ok(String::from_utf8_lossy(&text).into_owned())
    }
}
