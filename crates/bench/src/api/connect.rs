use std::cell::Cell;
use std::time::Duration;

use anyhow::{Context as _, Result};
use http::{Method, Request};
use kube::client::Body;
use kube::{Client, Config};

use super::call::call;

const FIRST_CALL_LIMIT: Duration = Duration::from_secs(30);

/// A fixed number of open connections to the API server, used in turn, and one more for watches.
///
/// They are opened before anything is measured.
pub(crate) struct Connections {
    config: Config,
    clients: Vec<Client>,
    next: Cell<usize>,
}

impl Connections {
    /// Reads `kubeconfig` (absent: as kubectl finds it, or in-cluster) and opens `count` connections.
    pub(crate) async fn open(kubeconfig: Option<&std::path::Path>, count: usize) -> Result<Self> {
        let config = match kubeconfig {
            Some(path) => hearth_kube::config(Some(path)).await?,
            None => Config::infer()
                .await
                .context("no kubeconfig and not in a cluster")?,
        };
        let mut clients = Vec::with_capacity(count);
        for _ in 0..count.max(1) {
            clients.push(warm_client(&config).await?);
        }
        Ok(Self {
            config,
            clients,
            next: Cell::new(0),
        })
    }

    /// The connection whose turn it is.
    pub(crate) fn next(&self) -> &Client {
        let turn = self.next.get();
        self.next.set(turn.wrapping_add(1));
        &self.clients[turn % self.clients.len()]
    }

    /// A connection of its own, for a watch: its events then never queue behind the answers to requests.
    pub(crate) async fn separate(&self) -> Result<Client> {
        warm_client(&self.config).await
    }
}

async fn warm_client(config: &Config) -> Result<Client> {
    let client = hearth_kube::client(config)?;
    let request = Request::builder()
        .method(Method::GET)
        .uri("/version")
        .body(Body::empty())?;
    call(&client, request, FIRST_CALL_LIMIT)
        .await
        .with_context(|| format!("the API server at {} does not answer", config.cluster_url))?;
    Ok(client)
}
