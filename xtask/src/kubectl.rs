//! The cluster's own kubectl.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use crate::paths::Layout;
use crate::system;

/// Runs kubectl as the administrator of a cluster.
#[derive(Debug, Clone)]
pub(crate) struct Kubectl {
    program: PathBuf,
    kubeconfig: PathBuf,
    cache: PathBuf,
}

impl Kubectl {
    /// The one of this cluster.
    pub(crate) fn new(layout: &Layout) -> Self {
        Self {
            program: layout.program("kubectl"),
            kubeconfig: layout.kubeconfig(),
            cache: layout.root().join("cache/kubectl"),
        }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command
            .arg("--request-timeout=30s")
            .args(args)
            .env("KUBECONFIG", &self.kubeconfig)
            .env("KUBECACHEDIR", &self.cache);
        command
    }

    /// Runs it and returns what it printed.
    pub(crate) fn capture(&self, args: &[&str]) -> Result<String> {
        system::capture(&mut self.command(args))
    }

    /// Applies a manifest.
    pub(crate) fn apply(&self, manifest: &str) -> Result<String> {
        system::capture_with_input(
            &mut self.command(&["apply", "--filename=-"]),
            manifest.as_bytes(),
        )
    }

    /// Waits for `condition` (as in `kubectl wait --for`) on `object`, which need not exist yet.
    pub(crate) fn wait(&self, object: &[&str], condition: &str, limit: Duration) -> Result<()> {
        let condition = format!("--for={condition}");
        let timeout = format!("--timeout={}s", limit.as_secs());
        let mut args = vec!["wait", &condition, &timeout];
        args.extend(object);
        let mut command = Command::new(&self.program);
        // A watch outlives any single request's timeout, so there is none here.
        command
            .args(args)
            .env("KUBECONFIG", &self.kubeconfig)
            .env("KUBECACHEDIR", &self.cache);
        system::capture(&mut command).map(drop)
    }
}
