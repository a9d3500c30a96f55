use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::READY_LINE;

const START_LIMIT: Duration = Duration::from_secs(30);
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// `hearth-bench floor serve` as a child: it shares no runtime and no connection with the generator.
#[derive(Debug)]
pub(crate) struct FloorProcess(Child);

impl FloorProcess {
    /// Starts it and waits until its watch is open.
    pub(crate) async fn start(kubeconfig: Option<&Path>, connections: usize) -> Result<Self> {
        let mut command =
            Command::new(std::env::current_exe().context("cannot find this program")?);
        command.args([
            "floor",
            "serve",
            "--with-stdin",
            "--connections",
            &connections.to_string(),
        ]);
        if let Some(path) = kubeconfig {
            command.arg("--kubeconfig").arg(path);
        }
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        let mut child = command.spawn().context("cannot start the floor")?;
        let output = child.stdout.take().context("the floor has no output")?;
        let mut lines = BufReader::new(output).lines();
        let first = timeout(START_LIMIT, lines.next_line()).await;
        let first = first
            .context("the floor does not start in time")?
            .context("cannot read from the floor")?;
        if first.as_deref() != Some(READY_LINE) {
            bail!("the floor ended before it was ready");
        }
        Ok(Self(child))
    }

    /// Ends it and waits for its end.
    pub(crate) async fn stop(mut self) -> Result<()> {
        drop(self.0.stdin.take());
        match timeout(STOP_LIMIT, self.0.wait()).await {
            Ok(status) => {
                let status = status.context("cannot wait for the floor")?;
                if status.success() {
                    Ok(())
                } else {
                    bail!("the floor failed: {status}")
                }
            }
            Err(_) => self.0.kill().await.context("cannot end the floor"),
        }
    }
}
