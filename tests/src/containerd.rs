//! The containerd that hearthd started and watches.

use std::path::PathBuf;
use std::time::Duration;

use crate::wait::{patient, wait_for};
use anyhow::{Context as _, Result, bail, ensure};
use hearth_cri::{CriClient, Deadlines, PodRuntime as _, v1};

use crate::cgroups::Cgroups;
use crate::process::{self, ProcessId};

/// The label by which CRI knows a pod's uid.
const POD_UID_LABEL: &str = "io.kubernetes.pod.uid";

/// containerd, its process and its socket.
#[derive(Debug)]
pub struct Containerd {
    socket: PathBuf,
    cgroups: Cgroups,
}

/// What a command inside a container did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// Exit code.
    pub code: i32,
    /// Standard output, then standard error.
    pub text: String,
}

impl Containerd {
    pub(crate) fn new(socket: PathBuf, cgroups: Cgroups) -> Self {
        Self { socket, cgroups }
    }

    /// A CRI client.
    #[must_use]
    pub fn cri(&self) -> CriClient {
        let deadline = patient(Duration::from_secs(10));
        CriClient::new(&self.socket, Deadlines::uniform(deadline))
    }

    /// The process; `None` between two runs.
    ///
    /// # Errors
    /// When the instance has no cgroup for it.
    pub fn process(&self) -> Result<Option<ProcessId>> {
        let pids = self.cgroups.supervisor_pids()?;
        Ok(pids
            .into_iter()
            .filter(|&pid| process::comm(pid) == "containerd")
            .find_map(ProcessId::of))
    }

    /// Kills it with SIGKILL; hearthd starts it again.
    ///
    /// # Errors
    /// When it does not run.
    pub async fn kill(&self) -> Result<()> {
        let Some(process) = self.process()? else {
            bail!("containerd does not run")
        };
        process.kill().await.context("cannot kill containerd")
    }

    /// Waits until it answers.
    ///
    /// # Errors
    /// When that does not happen within a minute.
    pub async fn wait_well(&self) -> Result<()> {
        let cri = self.cri();
        wait_for("containerd is well", Duration::from_secs(60), async || {
            cri.version()
                .await
                .map(drop)
                .map_err(|error| error.to_string())
        })
        .await
    }

    /// The pod sandboxes that belong to the Sandboxes of `namespace`, or to all.
    ///
    /// # Errors
    /// When containerd does not answer.
    pub async fn pods(&self, namespace: Option<&str>) -> Result<Vec<v1::PodSandbox>> {
        let mut pods = self
            .cri()
            .list_pod_sandboxes(v1::PodSandboxFilter::default())
            .await?;
        if let Some(namespace) = namespace {
            pods.retain(|pod| {
                pod.metadata
                    .as_ref()
                    .is_some_and(|metadata| metadata.namespace == namespace)
            });
        }
        Ok(pods)
    }

    /// The containers of a pod, by name and attempt.
    ///
    /// # Errors
    /// When containerd does not answer.
    pub async fn attempts(&self, pod_uid: &str) -> Result<Vec<(String, u32)>> {
        let filter = v1::ContainerFilter {
            label_selector: [(POD_UID_LABEL.to_owned(), pod_uid.to_owned())].into(),
            ..v1::ContainerFilter::default()
        };
        let containers = self.cri().list_containers(filter).await?.into_iter();
        let mut attempts: Vec<_> = containers
            .filter_map(|container| container.metadata)
            .map(|metadata| (metadata.name, metadata.attempt))
            .collect();
        attempts.sort();
        Ok(attempts)
    }

    /// Runs a shell script in the one container of a pod.
    ///
    /// # Errors
    /// When there is not exactly one running container, or the script does not end within `limit`.
    pub async fn shell(&self, pod_uid: &str, script: &str, limit: Duration) -> Result<Output> {
        let cri = self.cri();
        let filter = v1::ContainerFilter {
            label_selector: [(POD_UID_LABEL.to_owned(), pod_uid.to_owned())].into(),
            state: Some(v1::ContainerStateValue {
                state: v1::ContainerState::ContainerRunning.into(),
            }),
            ..v1::ContainerFilter::default()
        };
        let containers = cri.list_containers(filter).await?;
        ensure!(
            containers.len() == 1,
            "pod {pod_uid} has {} running containers",
            containers.len()
        );
        let command = ["/bin/sh", "-c", script].map(str::to_owned).into();
        let answer = cri.exec_sync(&containers[0].id, command, limit).await?;
        let text = [answer.stdout, answer.stderr].concat();
        Ok(Output {
            code: answer.exit_code,
            text: String::from_utf8_lossy(&text).into_owned(),
        })
    }
}
