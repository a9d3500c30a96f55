//! Connections to the API server.
//!
//! kube's own stack speaks HTTP/1.1: every request in flight needs a connection, a burst opens many at once, each with a
//! TLS handshake that the API server pays for, and a peer that is gone without a word is not noticed. What
//! [`client`] makes speaks HTTP/2, as Kubernetes' own components do: one connection carries all requests, small ones
//! leave at once, and a ping finds out within [`PING_EVERY`] + [`PING_LIMIT`] that nobody is there.

mod observed;
mod spread;

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use kube::client::{Body, ConfigExt as _};
use kube::config::{InClusterError, KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, Config};
use thiserror::Error;
use tower::{BoxError, ServiceBuilder};

use observed::Observed;
pub use observed::OnResponse;
use spread::Spread;

/// Until a TCP connection is there.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// How long a connection is silent before it is asked whether it lives, as in client-go.
const PING_EVERY: Duration = Duration::from_secs(30);
/// How long the answer to that may take, as in client-go.
const PING_LIMIT: Duration = Duration::from_secs(15);

/// Why there is no client.
#[derive(Debug, Error)]
pub enum ConnectError {
    /// The kubeconfig cannot be used.
    #[error("cannot use the kubeconfig {path}")]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: Box<KubeconfigError>,
    },
    /// Neither a kubeconfig nor a Pod's ServiceAccount.
    #[error("no kubeconfig was given and this is not a Pod; pass --kubeconfig")]
    NotInCluster(#[source] Box<InClusterError>),
    /// The kubeconfig names a proxy.
    #[error(
        "the kubeconfig has proxy-url {0}, which is not supported: give a server that is reached directly"
    )]
    Proxy(String),
    /// The credentials cannot be used.
    #[error("cannot make a Kubernetes client")]
    Client(#[source] Box<kube::Error>),
}

/// Reads how to reach the API server: from a kubeconfig, or, without one, from the Pod's ServiceAccount.
///
/// # Errors
/// When neither is there or can be read.
pub async fn config(kubeconfig: Option<&Path>) -> Result<Config, ConnectError> {
    let Some(path) = kubeconfig else {
        return Config::incluster().map_err(|source| ConnectError::NotInCluster(Box::new(source)));
    };
    let error = |source| ConnectError::Kubeconfig {
        path: path.to_owned(),
        source: Box::new(source),
    };
    let file = Kubeconfig::read_from(path).map_err(error)?;
    Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
        .await
        .map_err(error)
}

/// A client with a connection of its own, which it opens with the first request and again whenever it is lost. It tries
/// nothing twice and has no deadline: who calls knows what a second try means and how long is too long.
///
/// # Errors
/// When the configuration asks for a proxy, or its credentials cannot be used.
pub fn client(config: &Config) -> Result<Client, ConnectError> {
    client_with(config, NonZeroUsize::MIN, Arc::new(|_, _| {}))
}

/// The same with several connections, which requests take in turns: an API server allows each connection so many
/// requests at once, by default a hundred. `on_response` is told of each request.
///
/// # Errors
/// As [`client`].
pub fn client_with(
    config: &Config,
    connections: NonZeroUsize,
    on_response: OnResponse,
) -> Result<Client, ConnectError> {
    if let Some(proxy) = &config.proxy_url {
        return Err(ConnectError::Proxy(proxy.to_string()));
    }
    let error = |source| ConnectError::Client(Box::new(source));
    let mut tls = config.rustls_client_config().map_err(error)?;
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(CONNECT_LIMIT));
    tcp.set_keepalive(Some(PING_EVERY));
    let connector = HttpsConnector::from((tcp, Arc::new(tls)));
    let connect = || -> HttpClient<_, Body> {
        HttpClient::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .http2_keep_alive_interval(PING_EVERY)
            .http2_keep_alive_timeout(PING_LIMIT)
            .build(connector.clone())
    };
    let http = Spread::new(connect(), (1..connections.get()).map(|_| connect()));
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer().map_err(error)?)
        .layer(config.extra_headers_layer().map_err(error)?)
        // The layer for refreshed tokens wants this error type of whatever is below it.
        .map_err(BoxError::from)
        .service(Observed::new(http, on_response));
    Ok(Client::new(service, config.default_namespace.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kubeconfig(cluster: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: c\n\
             contexts: [{{name: c, context: {{cluster: c, user: u}}}}]\n\
             users: [{{name: u, user: {{token: t}}}}]\n\
             clusters: [{{name: c, cluster: {{{cluster}}}}}]\n"
        );
        std::fs::write(file.path(), text).unwrap();
        file
    }

    #[tokio::test]
    async fn a_proxy_is_refused_by_name() {
        let file = kubeconfig("server: \"https://127.0.0.1:1\", proxy-url: \"http://127.0.0.1:2\"");
        let config = config(Some(file.path())).await.unwrap();
        let error = client(&config).err().unwrap().to_string();
        assert!(error.contains("http://127.0.0.1:2"), "{error}");
    }

    #[tokio::test]
    async fn a_missing_kubeconfig_is_named() {
        let error = config(Some(Path::new("/no/such/file"))).await.unwrap_err();
        assert!(error.to_string().contains("/no/such/file"), "{error}");
    }

    #[tokio::test]
    async fn a_server_that_is_not_there_is_an_error_and_not_a_wait() {
        let file = kubeconfig("server: \"https://127.0.0.1:1\"");
        let client = client(&config(Some(file.path())).await.unwrap()).unwrap();
        assert!(client.apiserver_version().await.is_err());
    }
}
