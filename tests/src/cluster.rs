//! The cluster that the suite runs against, as `cargo xtask up` left it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use kube::Client;
use kube::config::{Config, KubeConfigOptions, Kubeconfig};
use serde::Deserialize;

use crate::audit::AuditLog;
use crate::cgroups::Cgroups;
use crate::component::Component;
use crate::containerd::Containerd;
use crate::daemon_logs::DaemonLogs;

/// The cluster's directory, named by `HEARTH_DIR`.
#[derive(Debug)]
pub struct Cluster {
    dir: PathBuf,
    instance: Instance,
}

/// What `up` recorded, as far as it matters here.
#[derive(Debug, Deserialize)]
struct Instance {
    id: String,
    node_name: String,
    ports: Ports,
}

#[derive(Debug, Deserialize)]
struct Ports {
    node_api: u16,
    node_metrics: u16,
    controller_metrics: u16,
    /// Of the controller's webhook.
    #[serde(default)]
    webhook: u16,
}

impl Cluster {
    /// The cluster of the environment.
    ///
    /// # Errors
    /// When there is none: the suite never passes without one.
    pub fn of_environment() -> Result<Self> {
        let Some(dir) = std::env::var_os("HEARTH_DIR") else {
            bail!(
                "HEARTH_DIR is not set. This suite needs a running cluster: `cargo xtask test` brings one up and runs \
                 it; by hand: `cargo xtask up --dir .hearth-test`, then `HEARTH_DIR=$PWD/.hearth-test cargo test -p \
                 hearth-tests --features cluster`"
            );
        };
        let dir = PathBuf::from(dir);
        let file = dir.join("instance.json");
        let text = fs::read(&file).with_context(|| {
            format!(
                "cannot read {}; is the cluster of HEARTH_DIR up? `cargo xtask up --dir <it>`",
                file.display()
            )
        })?;
        let instance = serde_json::from_slice(&text)
            .with_context(|| format!("cannot parse {}", file.display()))?;
        Ok(Self { dir, instance })
    }

    /// A client with the administrator's rights.
    ///
    /// # Errors
    /// When the kubeconfig cannot be used.
    pub async fn client(&self) -> Result<Client> {
        let file = self.kubeconfig();
        let kubeconfig = Kubeconfig::read_from(&file)
            .with_context(|| format!("cannot read {}", file.display()))?;
        let config =
            Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
        Ok(Client::try_from(config)?)
    }

    /// The cluster's directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The administrator's kubeconfig.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.join("kubeconfig")
    }

    /// A program of the cluster, for example `kubectl`.
    #[must_use]
    pub fn program(&self, name: &str) -> PathBuf {
        self.dir.join("bin").join(name)
    }

    /// The instance id that everything machine-global derives from.
    #[must_use]
    pub fn instance(&self) -> &str {
        &self.instance.id
    }

    /// The name of the one node.
    #[must_use]
    pub fn node_name(&self) -> &str {
        &self.instance.node_name
    }

    /// The port of hearthd's node API.
    #[must_use]
    pub fn node_api_port(&self) -> u16 {
        self.instance.ports.node_api
    }

    /// The port of the controller's webhook.
    #[must_use]
    pub fn webhook_port(&self) -> u16 {
        self.instance.ports.webhook
    }

    /// hearthd's metrics as Prometheus text.
    ///
    /// # Errors
    /// When hearthd does not answer.
    pub async fn node_metrics(&self) -> Result<String> {
        metrics(self.instance.ports.node_metrics).await
    }

    /// The controller's metrics as Prometheus text.
    ///
    /// # Errors
    /// When the controller does not answer.
    pub async fn controller_metrics(&self) -> Result<String> {
        metrics(self.instance.ports.controller_metrics).await
    }

    /// The node daemon.
    #[must_use]
    pub fn hearthd(&self) -> Component {
        self.component("hearthd")
    }

    /// The controller.
    #[must_use]
    pub fn controller(&self) -> Component {
        self.component("agent-sandbox-controller")
    }

    /// The API server.
    #[must_use]
    pub fn api_server(&self) -> Component {
        self.component("kube-apiserver")
    }

    /// Those of the API server, hearthd and the controller that a supervisor of this machine looks after: all of them,
    /// but in the guest of `cargo xtask vm-test` none.
    #[must_use]
    pub fn supervised(&self) -> Vec<Component> {
        let mut all = vec![self.api_server(), self.hearthd(), self.controller()];
        all.retain(Component::is_supervised);
        all
    }

    /// The instance's cgroups.
    ///
    /// # Errors
    /// When this machine has no version 2 hierarchy.
    pub fn cgroups(&self) -> Result<Cgroups> {
        Cgroups::of_instance(self.instance())
    }

    /// The containerd that hearthd started.
    ///
    /// # Errors
    /// When this machine has no version 2 hierarchy.
    pub fn containerd(&self) -> Result<Containerd> {
        let socket = Path::new("/run/hearth")
            .join(self.instance())
            .join("containerd/containerd.sock");
        Ok(Containerd::new(socket, self.cgroups()?))
    }

    /// The API server's audit log.
    #[must_use]
    pub fn audit_log(&self) -> AuditLog {
        AuditLog::new(self.dir.join("log/audit.log"))
    }

    /// What hearthd and the controller log.
    #[must_use]
    pub fn daemon_logs(&self) -> DaemonLogs {
        DaemonLogs::new(&self.dir.join("log"))
    }

    fn component(&self, name: &str) -> Component {
        Component::new(name, self.dir.join("run"))
    }
}

async fn metrics(port: u16) -> Result<String> {
    crate::http::get(
        "127.0.0.1",
        port,
        "/metrics",
        std::time::Duration::from_secs(5),
    )
    .await
}
