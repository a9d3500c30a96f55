//! The cluster's own kubectl.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use crate::paths::Layout;
use crate::process;
use crate::system;

/// Runs kubectl as the administrator of a cluster.
#[derive(Debug, Clone)]
pub(crate) struct Kubectl {
    program: PathBuf,
    root: PathBuf,
    kubeconfig: PathBuf,
    cache: PathBuf,
}

impl Kubectl {
    /// The one of this cluster.
    pub(crate) fn new(layout: &Layout) -> Self {
        Self {
            program: layout.program("kubectl"),
            root: layout.root().to_owned(),
            kubeconfig: layout.kubeconfig(),
            cache: layout.root().join("cache/kubectl"),
        }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = self.unlimited(args);
        command.arg("--request-timeout=30s");
        command
    }

    /// Without a limit on requests, which a watch outlives.
    fn unlimited(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(args)
            .env("KUBECONFIG", &self.kubeconfig)
            .env("KUBECACHEDIR", &self.cache)
            // A killed `up` leaves it behind, and `down` must find it.
            .env(process::MARK, &self.root);
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

    /// Has the API server do all that a creation takes, but keep nothing.
    pub(crate) fn create_for_show(&self, manifest: &str) -> Result<String> {
        system::capture_with_input(
            &mut self.command(&["create", "--dry-run=server", "--filename=-"]),
            manifest.as_bytes(),
        )
    }

    /// Waits for `condition` (as in `kubectl wait --for`) on `object`, which need not exist yet.
    pub(crate) fn wait(&self, object: &[&str], condition: &str, limit: Duration) -> Result<()> {
        let condition = format!("--for={condition}");
        let timeout = format!("--timeout={}s", limit.as_secs());
        let mut args = vec!["wait", &condition, &timeout];
        args.extend(object);
        system::capture(&mut self.unlimited(&args)).map(drop)
    }
}
