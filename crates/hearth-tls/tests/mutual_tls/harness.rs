//! A server that answers with its client's fingerprint, and policies for it.

use std::convert::Infallible;
use std::future::{pending, ready};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use hearth_tls::{
    ClientInfo, ClientPolicy, ConnectError, ConnectOptions, Fingerprint, HandshakeCounts,
    HandshakeMonitor, Identity, Incoming, IncomingOptions, connect,
};
use http_body_util::{BodyExt, Full};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tonic::Status;
use tonic::body::Body;
use tonic::transport::{Channel, Server};
use tower::{Service, ServiceExt};

/// Nothing here takes long; only a bug makes a test wait for this.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);

pub(crate) enum Policy {
    Only(Fingerprint),
    NeverAnswers,
}

#[async_trait]
impl ClientPolicy for Policy {
    async fn allows(&self, client: &Fingerprint) -> bool {
        match self {
            Self::Only(fingerprint) => client == fingerprint,
            Self::NeverAnswers => pending().await,
        }
    }
}

pub(crate) struct TestServer {
    pub(crate) address: SocketAddr,
    pub(crate) monitor: HandshakeMonitor,
    pub(crate) identity: Identity,
    task: JoinHandle<()>,
}

impl TestServer {
    pub(crate) async fn start(policy: Policy, options: IncomingOptions) -> Self {
        let identity = Identity::generate("server").unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let incoming = Incoming::new(listener, &identity, Arc::new(policy), options);
        let monitor = incoming.monitor();
        let task = tokio::spawn(async move {
            Server::builder()
                .serve_with_incoming(WhoAmI, incoming)
                .await
                .unwrap();
        });
        Self {
            address,
            monitor,
            identity,
            task,
        }
    }

    pub(crate) async fn connect(&self, client: &Identity) -> Result<Channel, ConnectError> {
        connect(
            &self.address.to_string(),
            client,
            self.identity.fingerprint(),
            ConnectOptions::default(),
        )
        .await
    }

    /// Waits until the counts are as told; they only ever grow.
    pub(crate) async fn wait_for_counts(&self, expect: HandshakeCounts) {
        let reached = async {
            while self.monitor.counts() != expect {
                tokio::task::yield_now().await;
            }
        };
        if timeout(LIMIT, reached).await.is_err() {
            panic!("counts are {:?} and not {expect:?}", self.monitor.counts());
        }
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Answers every call with the fingerprint of its client.
#[derive(Clone)]
pub(crate) struct WhoAmI;

impl Service<http::Request<Body>> for WhoAmI {
    type Response = http::Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(
        &mut self,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), Infallible>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let client = request
            .extensions()
            .get::<ClientInfo>()
            .expect("each request carries its client");
        ready(Ok(http::Response::new(Full::new(
            client.fingerprint.to_string().into(),
        ))))
    }
}

pub(crate) async fn who_am_i(channel: &mut Channel) -> Result<String, Status> {
    let request = http::Request::post("http://server/test.WhoAmI/Ask")
        .body(Body::empty())
        .unwrap();
    let call = async {
        let response = channel.ready().await?.call(request).await?;
        Ok::<_, tonic::transport::Error>(response.into_body().collect().await.unwrap().to_bytes())
    };
    let answer = timeout(LIMIT, call).await.expect("the call ends");
    answer
        .map(|body| String::from_utf8(body.to_vec()).unwrap())
        .map_err(|error| Status::from_error(error.into()))
}
