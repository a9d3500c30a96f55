use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use http::{Method, Request};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use kube::client::{Body, ConfigExt as _};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tower::{BoxError, ServiceBuilder};

use super::call::call;

const CONNECT_LIMIT: Duration = Duration::from_secs(5);
const FIRST_CALL_LIMIT: Duration = Duration::from_secs(30);

/// A fixed number of open connections to the API server, used in turn, and one more for watches.
///
/// kube's own stack speaks HTTP/1.1, where 300 requests at once mean 300 TLS handshakes inside the measured window.
/// These speak HTTP/2 as client-go does and are opened before anything is measured.
pub(crate) struct Connections {
    config: Config,
    clients: Vec<Client>,
    next: Cell<usize>,
}

impl Connections {
    /// Reads `kubeconfig` (absent: as kubectl finds it, or in-cluster) and opens `count` connections.
    pub(crate) async fn open(kubeconfig: Option<&std::path::Path>, count: usize) -> Result<Self> {
        let mut config = match kubeconfig {
            Some(path) => {
                let file = Kubeconfig::read_from(path)
                    .with_context(|| format!("cannot read kubeconfig {}", path.display()))?;
                Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?
            }
            None => Config::infer()
                .await
                .context("no kubeconfig and not in a cluster")?,
        };
        // A retry would hide the very delay that is to be seen.
        config.default_retry = false;
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
    let client = client(config)?;
    let request = Request::builder()
        .method(Method::GET)
        .uri("/version")
        .body(Body::empty())?;
    call(&client, request, FIRST_CALL_LIMIT)
        .await
        .with_context(|| format!("the API server at {} does not answer", config.cluster_url))?;
    Ok(client)
}

fn client(config: &Config) -> Result<Client> {
    let mut tls = config.rustls_client_config()?;
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(CONNECT_LIMIT));
    let http: HttpClient<_, Body> =
        HttpClient::builder(TokioExecutor::new()).build(HttpsConnector::from((tcp, Arc::new(tls))));
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        // The layer for refreshed tokens wants this error type of whatever is below it.
        .map_err(BoxError::from)
        .service(http);
    Ok(Client::new(service, config.default_namespace.clone()))
}
