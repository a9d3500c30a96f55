use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper_util::rt::TokioIo;
use rustls::client::Resumption;
use rustls::sign::SingleCertAndKey;
use rustls::{CertificateError, ClientConfig};
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint};
use tower::Service;

use crate::verify::{PinnedServer, provider};
use crate::{ALPN_H2, Fingerprint, Identity};

/// Times of a client connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectOptions {
    /// From the first packet to the end of the TLS handshake, name lookup included; for reconnects too.
    pub deadline: Duration,
    /// How often an HTTP/2 ping is sent, also when no call is open.
    pub keepalive_interval: Duration,
    /// How long the answer to a ping may take before the connection counts as dead.
    pub keepalive_timeout: Duration,
}

impl Default for ConnectOptions {
    fn default() -> Self {
        Self {
            deadline: Duration::from_secs(5),
            keepalive_interval: Duration::from_secs(5),
            keepalive_timeout: Duration::from_secs(5),
        }
    }
}

/// The server showed another certificate than the pinned one: it was replaced, or somebody else answers there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the certificate has fingerprint {presented}, pinned is {expected}")]
pub struct WrongServer {
    /// What was pinned.
    pub expected: Fingerprint,
    /// What the server showed.
    pub presented: Fingerprint,
}

/// A connection that did not come about.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// Not `host:port`.
    #[error("{endpoint:?} is not host:port")]
    Endpoint {
        /// What was given.
        endpoint: String,
        /// What is wrong with it.
        #[source]
        source: tonic::transport::Error,
    },
    /// Nobody answers there.
    #[error("cannot connect to {endpoint}")]
    Tcp {
        /// Where.
        endpoint: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Somebody answers, but not the one who was asked for. Look up the fingerprint again before the next try.
    #[error("{endpoint} is not who was expected")]
    WrongServer {
        /// Where.
        endpoint: String,
        /// Both fingerprints.
        #[source]
        source: WrongServer,
    },
    /// No common TLS.
    #[error("TLS handshake with {endpoint} failed")]
    Handshake {
        /// Where.
        endpoint: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Too slow.
    #[error("no connection to {endpoint} within {deadline:?}")]
    Deadline {
        /// Where.
        endpoint: String,
        /// The time that was given.
        deadline: Duration,
    },
    /// TLS stands, HTTP/2 does not.
    #[error("cannot start HTTP/2 with {endpoint}")]
    Http2 {
        /// Where.
        endpoint: String,
        /// Why.
        #[source]
        source: tonic::transport::Error,
    },
}

/// Connects to `endpoint` (`host:port`), which must show the certificate with the fingerprint `expected`.
///
/// The channel reconnects by itself, always with the same pin and deadline; a server that comes back with another
/// certificate fails every call until the caller connects anew. Calls have no deadline of their own: set one on each.
///
/// TLS 1.3 lets a client finish before the server has judged it, so a client that the server refuses learns of it from
/// its first call, as `PERMISSION_DENIED`.
///
/// # Errors
///
/// See [`ConnectError`].
pub async fn connect(
    endpoint: &str,
    identity: &Identity,
    expected: Fingerprint,
    options: ConnectOptions,
) -> Result<Channel, ConnectError> {
    // The scheme is that of the bytes which tonic sees; TLS is below it.
    let builder = Endpoint::from_shared(format!("http://{endpoint}"))
        .map_err(|source| ConnectError::Endpoint {
            endpoint: endpoint.to_owned(),
            source,
        })?
        .http2_keep_alive_interval(options.keepalive_interval)
        .keep_alive_timeout(options.keepalive_timeout)
        .keep_alive_while_idle(true);
    let dialer = Dialer {
        endpoint: endpoint.into(),
        tls: client_config(identity, expected).into(),
        deadline: options.deadline,
    };
    // The first connection is made here and not by tonic, so that its error keeps its type.
    let first = dialer.dial().await?;
    builder
        .connect_with_connector(Connector {
            dialer,
            first: Some(first),
        })
        .await
        .map_err(|source| ConnectError::Http2 {
            endpoint: endpoint.to_owned(),
            source,
        })
}

fn client_config(identity: &Identity, expected: Fingerprint) -> Arc<ClientConfig> {
    let mut config = ClientConfig::builder_with_provider(Arc::clone(provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("the ring provider has cipher suites for TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(PinnedServer(expected)))
        .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(identity.certified_key())));
    config.alpn_protocols = vec![ALPN_H2.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
    Arc::new(config)
}

/// Opens TLS connections to one pinned server.
#[derive(Clone)]
struct Dialer {
    endpoint: Arc<str>,
    tls: TlsConnector,
    deadline: Duration,
}

impl Dialer {
    async fn dial(&self) -> Result<TlsStream<TcpStream>, ConnectError> {
        let endpoint = || self.endpoint.to_string();
        let until = Instant::now() + self.deadline;
        let expired = |_| ConnectError::Deadline {
            endpoint: endpoint(),
            deadline: self.deadline,
        };
        let tcp = timeout_at(until, TcpStream::connect(&*self.endpoint))
            .await
            .map_err(expired)?
            .and_then(|tcp| tcp.set_nodelay(true).map(|()| tcp))
            .map_err(|source| ConnectError::Tcp {
                endpoint: endpoint(),
                source,
            })?;
        // Neither sent (no SNI) nor checked (the pin says it all), but the library wants a name.
        let name = ServerName::try_from("pinned.invalid").expect("it is a valid DNS name");
        timeout_at(until, self.tls.connect(name, tcp))
            .await
            .map_err(expired)?
            .map_err(|source| match wrong_server(&source) {
                Some(source) => ConnectError::WrongServer {
                    endpoint: endpoint(),
                    source,
                },
                None => ConnectError::Handshake {
                    endpoint: endpoint(),
                    source,
                },
            })
    }
}

fn wrong_server(error: &io::Error) -> Option<WrongServer> {
    match error.get_ref()?.downcast_ref()? {
        rustls::Error::InvalidCertificate(CertificateError::Other(other)) => {
            other.0.downcast_ref().copied()
        }
        _ => None,
    }
}

/// What tonic calls for each connection: the first is there already, later ones are dialled.
struct Connector {
    dialer: Dialer,
    first: Option<TlsStream<TcpStream>>,
}

impl Service<Uri> for Connector {
    type Response = TokioIo<TlsStream<TcpStream>>;
    type Error = ConnectError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, ConnectError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let first = self.first.take();
        let dialer = self.dialer.clone();
        Box::pin(async move {
            let stream = match first {
                Some(stream) => stream,
                None => dialer.dial().await?,
            };
            Ok(TokioIo::new(stream))
        })
    }
}
