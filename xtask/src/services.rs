//! The supervised programs of a cluster by name, and waiting for them.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::paths::Layout;
use crate::supervise::{self, Spec, Started};
use crate::ui;

/// The store.
pub(crate) const ETCD: &str = "etcd";
/// The API server.
pub(crate) const API_SERVER: &str = "kube-apiserver";
/// Garbage collection, namespaces, service accounts, volumes.
pub(crate) const CONTROLLER_MANAGER: &str = "kube-controller-manager";
/// Our node daemon.
pub(crate) const HEARTHD: &str = "hearthd";
/// Our controller.
pub(crate) const CONTROLLER: &str = "agent-sandbox-controller";

/// In the order they start; they end in the opposite one.
pub(crate) const START_ORDER: &[&str] =
    &[ETCD, API_SERVER, CONTROLLER_MANAGER, HEARTHD, CONTROLLER];

/// How long to wait before a service is asked again. There is no event to wait for: it is another
/// program that binds a port or fills its caches.
const ASK_AGAIN: Duration = Duration::from_millis(100);
/// A service that ended this often while it was waited for will not come up by itself.
const TOO_MANY_RESTARTS: u32 = 6;

/// Makes `spec` run and says so when that was news.
pub(crate) fn start(layout: &Layout, spec: &Spec) -> Result<()> {
    match supervise::start(layout, spec)? {
        Started::Already => {}
        Started::Fresh => ui::note(format!("started {}", spec.name)),
        Started::Replaced => ui::note(format!(
            "restarted {}: its program or its settings changed",
            spec.name
        )),
    }
    Ok(())
}

/// Waits until the service's own health check is content.
pub(crate) fn wait_healthy(layout: &Layout, name: &str, limit: Duration) -> Result<()> {
    let spec = supervise::spec(layout, name)?.with_context(|| format!("{name} was not started"))?;
    wait_until(layout, name, limit, || match &spec.health {
        Some(health) => health.check(),
        None => Ok(()),
    })
}

/// Waits until `ready` succeeds. Ends early when the service cannot come up, and its error holds
/// the last reason and the end of the log.
pub(crate) fn wait_until(
    layout: &Layout,
    name: &str,
    limit: Duration,
    ready: impl FnMut() -> Result<()>,
) -> Result<()> {
    poll(layout, name, limit, ready).with_context(|| {
        let log = layout.log(name);
        format!(
            "{name} does not come up; the end of {}:\n{}",
            log.display(),
            supervise::log_tail(&log, 15)
        )
    })
}

fn poll(
    layout: &Layout,
    name: &str,
    limit: Duration,
    mut ready: impl FnMut() -> Result<()>,
) -> Result<()> {
    let deadline = Instant::now() + limit;
    let restarts_before = restarts(layout, name)?;
    loop {
        let Err(reason) = ready() else {
            return Ok(());
        };
        let status =
            supervise::status(layout, name)?.with_context(|| format!("{name} has no record"))?;
        if status.restarts.saturating_sub(restarts_before) >= TOO_MANY_RESTARTS {
            let exit = status
                .last_exit
                .unwrap_or_else(|| "an unknown cause".into());
            bail!("it keeps ending, the last time by {exit}");
        }
        if Instant::now() >= deadline {
            return Err(reason)
                .with_context(|| format!("not ready after {}, because", ui::duration(limit)));
        }
        // The end of the supervisor is worth waking up for.
        match status.supervisor.open()? {
            Some(supervisor) if !supervisor.wait(ASK_AGAIN)? => {}
            _ => bail!("its supervisor is gone"),
        }
    }
}

fn restarts(layout: &Layout, name: &str) -> Result<u32> {
    Ok(supervise::status(layout, name)?.map_or(0, |status| status.restarts))
}
