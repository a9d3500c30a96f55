//! Nodes without machines, many in one process: for measuring everything but the machine.
//!
//! A fake node has a SandboxNode, a Lease, a certificate and a port of its own, and between the API server, the controller
//! and the container runtime everything that a node has: the watch, the pod runners with their gates, the binder, the
//! journal with its fsync, the session with the controller, the reporter, the ladder. What is below is made up: the
//! runtime is `hearth_cri::fake`, with delays that can be set; nothing is mounted, no cgroup is made, and pods have
//! addresses that nobody answers at, so that probes over the network succeed without being sent. Images are always there.
//!
//! What is left out: containerd, the probe of handlers, the local API with exec and logs, disk pressure, and packets, so
//! that no sandbox is idle.
//!
//! The nodes of a process share its metrics, one watch of RuntimeClasses, and connections to the API server.

mod alone;
mod config;
mod delays;
mod freezer;
mod host;
mod network;
mod node;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use hearth_telemetry::{AdminServer, Readiness};
use kube::Client;
use prometheus_client::registry::Registry;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::daemon::{DaemonError, Tasks};
use crate::metrics::Metrics;
use crate::pod::NodeClass;
use crate::runtime_classes;

pub use alone::{Alone, AloneConfig};
pub use config::FakeConfig;
pub(crate) use delays::FreezerDelays;
pub use delays::{Delay, DelayError, Delays, Step};
pub(crate) use freezer::FakePodFreezer;
use node::Common;

/// Nodes for each connection to the API server. Each has one watch that stays, and a connection carries a hundred requests
/// at once by default.
const NODES_PER_CONNECTION: u16 = 25;

/// Clients that fake nodes share, each with a connection of its own.
#[derive(Clone)]
pub struct Connections {
    first: Client,
    others: Vec<Client>,
}

impl fmt::Debug for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connections")
            .field("others", &self.others.len())
            .finish_non_exhaustive()
    }
}

impl Connections {
    /// As many as so many nodes need, made by `connect`.
    ///
    /// # Errors
    /// The first of `connect`.
    pub fn open<E>(nodes: u16, mut connect: impl FnMut() -> Result<Client, E>) -> Result<Self, E> {
        let first = connect()?;
        let others = (1..nodes.div_ceil(NODES_PER_CONNECTION)).map(|_| connect());
        let others = others.collect::<Result<Vec<_>, E>>()?;
        Ok(Self { first, others })
    }

    /// The one that a node uses.
    fn of(&self, node: u16) -> Client {
        let index = usize::from(node / NODES_PER_CONNECTION);
        let other = index
            .checked_sub(1)
            .and_then(|index| self.others.get(index));
        other.unwrap_or(&self.first).clone()
    }
}

/// Serves the nodes until `token` is cancelled. When this ends their pods are gone, and their journals are not.
///
/// # Errors
/// When they cannot be started, or when a part of one that never ends has ended.
pub async fn run(
    config: FakeConfig,
    clients: Connections,
    token: CancellationToken,
) -> Result<(), DaemonError> {
    let blocks = config.check().map_err(DaemonError::Config)?;
    let mut registry = Registry::default();
    let metrics = Metrics::register(&mut registry);
    let readiness = Readiness::new();
    let starting = readiness.block("start");
    let admin = AdminServer::bind(config.base.metrics_listen, registry, readiness.clone())
        .await
        .map_err(DaemonError::Admin)?;
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        nodes = config.nodes,
        delays = %config.delays,
        metrics = %admin.address(),
        "starting fake nodes"
    );
    let stop = token.child_token();
    let tracker = TaskTracker::new();
    let mut tasks = Tasks::new(stop.clone());
    let admin_stop = stop.clone();
    tasks.never_ends("metrics server", async move {
        admin.run(admin_stop).await.map_err(DaemonError::Admin)
    });
    let common = Common {
        config: Arc::new(config),
        blocks,
        metrics,
        readiness,
        tracker: tracker.clone(),
        stop,
    };
    // Cancel-safe: what was started is ended below.
    let started = tokio::select! {
        () = token.cancelled() => Ok(()),
        started = start(&common, clients, &mut tasks) => started,
    };
    let result = match started {
        Ok(()) => {
            drop(starting);
            tasks.until(&token).await
        }
        Err(error) => Err(error),
    };
    common.metrics.census.forget();
    tasks.shut_down(&tracker).await;
    result
}

/// Starts all nodes, one after the other: each waits for its own disk only.
async fn start(
    common: &Common,
    clients: Connections,
    tasks: &mut Tasks,
) -> Result<(), DaemonError> {
    let mut nodes = Vec::with_capacity(usize::from(common.config.nodes));
    for number in 0..common.config.nodes {
        nodes.push(node::start(common, number, clients.of(number), tasks).await?);
    }
    tracing::info!(nodes = nodes.len(), "serving fake nodes");
    let (client, stop) = (clients.first, common.stop.clone());
    tasks.never_ends("watch of RuntimeClasses", async move {
        let told = move |known: BTreeMap<String, NodeClass>| {
            for pods in &nodes {
                pods.set_runtime_classes(known.clone());
            }
        };
        runtime_classes::follow(client, told, stop).await;
        Ok(())
    });
    Ok(())
}
