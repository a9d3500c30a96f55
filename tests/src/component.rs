//! The supervised programs of the cluster, and ending them.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use crate::wait::wait_for;
use anyhow::{Context as _, Result, bail};
use rustix::process::Signal;
use serde::Deserialize;

use crate::http;
use crate::process::ProcessId;

/// etcd, kube-apiserver, kube-controller-manager, hearthd or agent-sandbox-controller: a program under a supervisor
/// that starts it again whenever it ends.
#[derive(Clone, Debug)]
pub struct Component {
    name: String,
    /// Directory of the records.
    run: PathBuf,
}

/// What a supervisor records.
#[derive(Debug, Deserialize)]
struct Record {
    supervisor: ProcessId,
    child: Option<ProcessId>,
    restarts: u32,
}

/// What a supervisor was told, as far as it matters here.
#[derive(Debug, Deserialize)]
struct Spec {
    health: Option<Health>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Health {
    Http { port: u16, path: String },
    Tcp { port: u16 },
}

impl Component {
    pub(crate) fn new(name: &str, run: PathBuf) -> Self {
        Self {
            name: name.to_owned(),
            run,
        }
    }

    /// Its name, as `cargo xtask status` shows it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether a supervisor of this machine looks after it.
    #[must_use]
    pub fn is_supervised(&self) -> bool {
        self.run.join(format!("{}.spec.json", self.name)).exists()
    }

    /// The running program; `None` between two runs.
    ///
    /// # Errors
    /// When there is no record of it.
    pub fn process(&self) -> Result<Option<ProcessId>> {
        Ok(self.record()?.child.filter(|child| child.is_alive()))
    }

    /// How often it was started again since `up`.
    ///
    /// # Errors
    /// When there is no record of it.
    pub fn restarts(&self) -> Result<u32> {
        Ok(self.record()?.restarts)
    }

    /// Kills the program with SIGKILL and returns at once; its supervisor will start it again.
    ///
    /// # Errors
    /// When it does not run.
    pub async fn kill(&self) -> Result<()> {
        let Some(process) = self.process()? else {
            bail!("{} does not run", self.name)
        };
        process
            .kill()
            .await
            .with_context(|| format!("cannot kill {}", self.name))
    }

    /// Kills the program and waits until another one is well.
    ///
    /// # Errors
    /// When it does not come back.
    pub async fn kill_and_wait(&self) -> Result<()> {
        self.kill().await?;
        self.wait_well().await
    }

    /// Waits until the program runs and its health check is content.
    ///
    /// # Errors
    /// When that does not happen within a minute.
    pub async fn wait_well(&self) -> Result<()> {
        let what = format!("{} is well", self.name);
        wait_for(&what, Duration::from_secs(60), async || {
            match self.process() {
                Err(error) => Err(format!("{error:#}")),
                Ok(None) => Err("it does not run".to_owned()),
                Ok(Some(_)) => self.ask().await.map_err(|error| format!("{error:#}")),
            }
        })
        .await
    }

    /// Kills the program and keeps it from being started again until the guard is dropped.
    ///
    /// # Errors
    /// When it does not run.
    pub async fn hold_down(&self) -> Result<HeldDown> {
        let supervisor = self.record()?.supervisor;
        supervisor.signal(Signal::STOP)?;
        // From here on: whatever happens, the supervisor goes on.
        let held = HeldDown { supervisor };
        self.kill().await?;
        Ok(held)
    }

    async fn ask(&self) -> Result<()> {
        let limit = Duration::from_secs(2);
        match self.spec()?.health {
            None => Ok(()),
            Some(Health::Http { port, path }) => {
                http::get("127.0.0.1", port, &path, limit).await.map(drop)
            }
            Some(Health::Tcp { port }) => {
                let connect = tokio::net::TcpStream::connect(("127.0.0.1", port));
                tokio::time::timeout(limit, connect)
                    .await
                    .context("no connection in time")??;
                Ok(())
            }
        }
    }

    fn record(&self) -> Result<Record> {
        self.read(".json")
    }

    fn spec(&self) -> Result<Spec> {
        self.read(".spec.json")
    }

    fn read<T: serde::de::DeserializeOwned>(&self, suffix: &str) -> Result<T> {
        let file = self.run.join(format!("{}{suffix}", self.name));
        let text = fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("cannot parse {}", file.display()))
    }
}

/// A component that stays down. Dropping this lets its supervisor start it again.
#[derive(Debug)]
pub struct HeldDown {
    supervisor: ProcessId,
}

impl Drop for HeldDown {
    fn drop(&mut self) {
        // A supervisor that is gone by now has been ended by somebody on purpose.
        let _ = self.supervisor.signal(Signal::CONT);
    }
}
