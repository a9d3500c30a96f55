//! Client and server against each other over loopback, and each against peers that do not keep the rules.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

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
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tonic::body::Body;
use tonic::transport::{Channel, Server};
use tonic::{Code, Status};
use tower::{Service, ServiceExt};

/// Nothing here takes long; only a bug makes a test wait for this.
const LIMIT: Duration = Duration::from_secs(20);

enum Policy {
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

struct TestServer {
    address: SocketAddr,
    monitor: HandshakeMonitor,
    identity: Identity,
    task: JoinHandle<()>,
}

impl TestServer {
    async fn start(policy: Policy, options: IncomingOptions) -> Self {
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

    async fn connect(&self, client: &Identity) -> Result<Channel, ConnectError> {
        connect(
            &self.address.to_string(),
            client,
            self.identity.fingerprint(),
            ConnectOptions::default(),
        )
        .await
    }

    /// Waits until the counts are as told; they only ever grow.
    async fn wait_for_counts(&self, expect: HandshakeCounts) {
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
struct WhoAmI;

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

async fn who_am_i(channel: &mut Channel) -> Result<String, Status> {
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

#[tokio::test]
async fn both_pins_right_the_server_knows_its_client() {
    let client = Identity::generate("client").unwrap();
    let server = TestServer::start(
        Policy::Only(client.fingerprint()),
        IncomingOptions::default(),
    )
    .await;
    let mut channel = server.connect(&client).await.unwrap();
    for _ in 0..3 {
        assert_eq!(
            who_am_i(&mut channel).await.unwrap(),
            client.fingerprint().to_string()
        );
    }
    assert_eq!(
        server.monitor.counts(),
        HandshakeCounts {
            accepted: 1,
            ..Default::default()
        }
    );
}

#[tokio::test]
async fn another_server_is_named_as_such() {
    let client = Identity::generate("client").unwrap();
    let server = TestServer::start(
        Policy::Only(client.fingerprint()),
        IncomingOptions::default(),
    )
    .await;
    let pinned = Identity::generate("server").unwrap().fingerprint();
    let error = connect(
        &server.address.to_string(),
        &client,
        pinned,
        ConnectOptions::default(),
    )
    .await
    .unwrap_err();
    match error {
        ConnectError::WrongServer { source, .. } => {
            assert_eq!(
                (source.expected, source.presented),
                (pinned, server.identity.fingerprint())
            );
        }
        other => panic!("{other:?}"),
    }
    server
        .wait_for_counts(HandshakeCounts {
            failed: 1,
            ..Default::default()
        })
        .await;
}

#[tokio::test]
async fn another_client_is_told_that_it_is_not_allowed() {
    let leader = Identity::generate("leader").unwrap();
    let server = TestServer::start(
        Policy::Only(leader.fingerprint()),
        IncomingOptions::default(),
    )
    .await;
    let deposed = Identity::generate("deposed").unwrap();
    let mut channel = server.connect(&deposed).await.unwrap();
    let status = who_am_i(&mut channel).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied, "{status:?}");
    assert!(server.monitor.counts().refused >= 1);
    assert_eq!(server.monitor.counts().accepted, 0);

    let mut channel = server.connect(&leader).await.unwrap();
    who_am_i(&mut channel).await.unwrap();
}

/// A TLS client that trusts any server, to be as wrong as each test wants.
fn careless_client() -> rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert> {
    #[derive(Debug)]
    struct Trusting;
    impl ServerCertVerifier for Trusting {
        fn verify_server_cert(
            &self,
            _: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            _: UnixTime,
        ) -> Result<ServerCertVerified, rustls::Error> {
            Ok(ServerCertVerified::assertion())
        }
        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            Ok(HandshakeSignatureValid::assertion())
        }
        fn verify_tls13_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            Ok(HandshakeSignatureValid::assertion())
        }
        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            rustls::crypto::ring::default_provider()
                .signature_verification_algorithms
                .supported_schemes()
        }
    }
    ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Trusting))
}

/// Connects and reads until the server ends the connection; whatever it sent.
async fn read_to_the_end(server: &TestServer, config: ClientConfig) -> std::io::Result<Vec<u8>> {
    let tcp = TcpStream::connect(server.address).await?;
    let name = ServerName::try_from("anything.invalid").unwrap();
    let mut received = Vec::new();
    let mut tls = TlsConnector::from(Arc::new(config))
        .connect(name, tcp)
        .await?;
    timeout(LIMIT, tls.read_to_end(&mut received))
        .await
        .expect("the server ends the connection")
        .map(|_| received)
}

fn certificate_and_key() -> (
    Vec<CertificateDer<'static>>,
    rustls_pki_types::PrivateKeyDer<'static>,
) {
    let rcgen::CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(Vec::new()).unwrap();
    let key = rustls_pki_types::PrivatePkcs8KeyDer::from(signing_key.serialize_der());
    (vec![cert.der().clone()], key.into())
}

#[tokio::test]
async fn a_client_without_a_certificate_fails_the_handshake() {
    let server = TestServer::start(Policy::NeverAnswers, IncomingOptions::default()).await;
    let mut config = careless_client().with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let error = read_to_the_end(&server, config).await.unwrap_err();
    assert!(error.to_string().contains("CertificateRequired"), "{error}");
    server
        .wait_for_counts(HandshakeCounts {
            failed: 1,
            ..Default::default()
        })
        .await;
}

#[tokio::test]
async fn a_stolen_certificate_is_worth_nothing_without_its_key() {
    /// Shows the leader's certificate, signs with its own key.
    #[derive(Debug)]
    struct Impostor(Arc<rustls::sign::CertifiedKey>);
    impl rustls::client::ResolvesClientCert for Impostor {
        fn resolve(
            &self,
            _: &[&[u8]],
            _: &[SignatureScheme],
        ) -> Option<Arc<rustls::sign::CertifiedKey>> {
            Some(Arc::clone(&self.0))
        }
        fn has_certs(&self) -> bool {
            true
        }
    }
    let (stolen, _) = certificate_and_key();
    let (_, own_key) = certificate_and_key();
    let leader = Fingerprint::of_der(&stolen[0]);
    let server = TestServer::start(Policy::Only(leader), IncomingOptions::default()).await;

    let own_key = rustls::crypto::ring::sign::any_supported_type(&own_key).unwrap();
    let forged = rustls::sign::CertifiedKey::new(stolen, own_key);
    let mut config =
        careless_client().with_client_cert_resolver(Arc::new(Impostor(Arc::new(forged))));
    config.alpn_protocols = vec![b"h2".to_vec()];
    read_to_the_end(&server, config).await.unwrap_err();
    server
        .wait_for_counts(HandshakeCounts {
            failed: 1,
            ..Default::default()
        })
        .await;
}

#[tokio::test]
async fn a_server_with_a_stolen_certificate_is_refused() {
    let (stolen, _) = certificate_and_key();
    let (_, own_key) = certificate_and_key();
    let pinned = Fingerprint::of_der(&stolen[0]);
    let own_key = rustls::crypto::ring::sign::any_supported_type(&own_key).unwrap();
    let forged = rustls::sign::CertifiedKey::new(stolen, own_key);
    let mut config = rustls::ServerConfig::builder_with_provider(Arc::new(
        rustls::crypto::ring::default_provider(),
    ))
    .with_safe_default_protocol_versions()
    .unwrap()
    .with_no_client_auth()
    .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(forged)));
    config.alpn_protocols = vec![b"h2".to_vec()];
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = listener.local_addr().unwrap().to_string();
    let server = async {
        let (tcp, _) = listener.accept().await.unwrap();
        tokio_rustls::TlsAcceptor::from(Arc::new(config))
            .accept(tcp)
            .await
    };
    let client = Identity::generate("client").unwrap();
    let (connected, _) = tokio::join!(
        connect(&endpoint, &client, pinned, ConnectOptions::default()),
        server
    );
    assert!(
        matches!(connected, Err(ConnectError::Handshake { .. })),
        "{connected:?}"
    );
}

#[tokio::test]
async fn a_client_of_another_protocol_is_refused() {
    let (certificate, key) = certificate_and_key();
    let allowed = Fingerprint::of_der(&certificate[0]);
    let server = TestServer::start(Policy::Only(allowed), IncomingOptions::default()).await;
    for (failed, protocols) in [(1, vec![b"http/1.1".to_vec()]), (2, Vec::new())] {
        let mut config = careless_client()
            .with_client_auth_cert(certificate.clone(), key.clone_key())
            .unwrap();
        config.alpn_protocols = protocols;
        if let Ok(received) = read_to_the_end(&server, config).await {
            assert!(received.is_empty());
        }
        server
            .wait_for_counts(HandshakeCounts {
                failed,
                ..Default::default()
            })
            .await;
    }
}

#[tokio::test]
async fn a_plaintext_client_fails_and_the_next_is_served() {
    let client = Identity::generate("client").unwrap();
    let server = TestServer::start(
        Policy::Only(client.fingerprint()),
        IncomingOptions::default(),
    )
    .await;
    let mut plain = TcpStream::connect(server.address).await.unwrap();
    plain
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        .await
        .unwrap();
    server
        .wait_for_counts(HandshakeCounts {
            failed: 1,
            ..Default::default()
        })
        .await;
    let mut channel = server.connect(&client).await.unwrap();
    who_am_i(&mut channel).await.unwrap();
}

#[tokio::test]
async fn a_silent_client_keeps_nobody_out_and_is_dropped_at_its_deadline() {
    let client = Identity::generate("client").unwrap();
    let options = IncomingOptions {
        handshake_deadline: Duration::from_millis(300),
        ..Default::default()
    };
    let server = TestServer::start(Policy::Only(client.fingerprint()), options).await;
    let mut silent = TcpStream::connect(server.address).await.unwrap();
    let mut channel = server.connect(&client).await.unwrap();
    who_am_i(&mut channel).await.unwrap();
    assert_eq!(
        timeout(LIMIT, silent.read(&mut [0; 1]))
            .await
            .expect("it is dropped")
            .unwrap(),
        0
    );
    server
        .wait_for_counts(HandshakeCounts {
            accepted: 1,
            expired: 1,
            ..Default::default()
        })
        .await;
}

#[tokio::test]
async fn silent_clients_in_every_place_make_room_for_one_that_speaks() {
    let client = Identity::generate("client").unwrap();
    let options = IncomingOptions {
        max_handshakes: 2,
        handshake_deadline: LIMIT,
    };
    let server = TestServer::start(Policy::Only(client.fingerprint()), options).await;
    let mut silent = Vec::new();
    for _ in 0..5 {
        silent.push(TcpStream::connect(server.address).await.unwrap());
    }
    server
        .wait_for_counts(HandshakeCounts {
            displaced: 3,
            ..Default::default()
        })
        .await;
    let mut channel = server.connect(&client).await.unwrap();
    who_am_i(&mut channel).await.unwrap();
    server
        .wait_for_counts(HandshakeCounts {
            displaced: 4,
            accepted: 1,
            ..Default::default()
        })
        .await;
    // Oldest first: the last one is still there.
    for displaced in &mut silent[..4] {
        assert_eq!(
            timeout(LIMIT, displaced.read(&mut [0; 1]))
                .await
                .expect("it is dropped")
                .unwrap(),
            0
        );
    }
    assert!(
        silent[4]
            .try_read(&mut [0; 1])
            .is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
    );
}

#[tokio::test]
async fn a_policy_that_does_not_answer_is_a_client_that_is_dropped() {
    let client = Identity::generate("client").unwrap();
    let options = IncomingOptions {
        handshake_deadline: Duration::from_millis(100),
        ..Default::default()
    };
    let server = TestServer::start(Policy::NeverAnswers, options).await;
    let mut channel = server.connect(&client).await.unwrap();
    let status = who_am_i(&mut channel).await.unwrap_err();
    assert_ne!(status.code(), Code::PermissionDenied, "{status:?}");
    assert!(server.monitor.counts().expired >= 1);
}

#[tokio::test]
async fn a_server_that_never_answers_is_given_up_at_the_deadline() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = listener.local_addr().unwrap().to_string();
    let identity = Identity::generate("client").unwrap();
    let options = ConnectOptions {
        deadline: Duration::from_millis(50),
        ..Default::default()
    };
    let connected = timeout(
        LIMIT,
        connect(&endpoint, &identity, identity.fingerprint(), options),
    )
    .await;
    assert!(
        matches!(connected, Ok(Err(ConnectError::Deadline { .. }))),
        "{connected:?}"
    );
}

#[tokio::test]
async fn unusable_endpoints_are_told_apart() {
    async fn check(endpoint: &str, expect: fn(&ConnectError) -> bool) {
        let identity = Identity::generate("client").unwrap();
        let error = connect(
            endpoint,
            &identity,
            identity.fingerprint(),
            ConnectOptions::default(),
        )
        .await
        .unwrap_err();
        assert!(expect(&error), "{endpoint}: {error:?}");
    }
    check("not a host", |error| {
        matches!(error, ConnectError::Endpoint { .. })
    })
    .await;
    check("127.0.0.1", |error| {
        matches!(error, ConnectError::Tcp { .. })
    })
    .await;
    let unused = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    check(&unused.to_string(), |error| {
        matches!(error, ConnectError::Tcp { .. })
    })
    .await;
}

#[tokio::test]
async fn reconnects_with_the_same_pin() {
    let client = Identity::generate("client").unwrap();
    let identity = Identity::generate("server").unwrap();
    let policy = || Arc::new(Policy::Only(client.fingerprint()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();

    // A runtime of its own: tonic spawns a task per connection, and the end of a server must end those too.
    let serve = |listener: std::net::TcpListener, identity: &Identity| {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let _entered = runtime.enter();
        let listener = TcpListener::from_std(listener).unwrap();
        let incoming = Incoming::new(listener, identity, policy(), IncomingOptions::default());
        runtime.spawn(async move {
            Server::builder()
                .serve_with_incoming(WhoAmI, incoming)
                .await
        });
        runtime
    };
    let end = async |server: tokio::runtime::Runtime| {
        tokio::task::spawn_blocking(move || server.shutdown_timeout(LIMIT))
            .await
            .unwrap();
        TcpListener::bind(address)
            .await
            .unwrap()
            .into_std()
            .unwrap()
    };

    let server = serve(listener.into_std().unwrap(), &identity);
    let mut channel = connect(
        &address.to_string(),
        &client,
        identity.fingerprint(),
        ConnectOptions::default(),
    )
    .await
    .unwrap();
    who_am_i(&mut channel).await.unwrap();

    let server = serve(end(server).await, &identity);
    let answers = async {
        // The first call may still meet the broken connection.
        while who_am_i(&mut channel).await.is_err() {}
    };
    timeout(LIMIT, answers)
        .await
        .expect("the same server is found again");

    let other = serve(end(server).await, &Identity::generate("other").unwrap());
    for _ in 0..3 {
        who_am_i(&mut channel)
            .await
            .expect_err("the pin does not fit any more");
    }
    other.shutdown_background();
}

#[tokio::test]
async fn the_stream_of_connections_can_be_used_without_tonic() {
    use futures::StreamExt;
    let client = Identity::generate("client").unwrap();
    let server = Identity::generate("server").unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = listener.local_addr().unwrap().to_string();
    let policy = Arc::new(Policy::Only(client.fingerprint()));
    let mut incoming = Incoming::new(listener, &server, policy, IncomingOptions::default());
    let connecting = connect(
        &endpoint,
        &client,
        server.fingerprint(),
        ConnectOptions::default(),
    );
    let (connected, accepted) = tokio::join!(connecting, incoming.next());
    connected.unwrap();
    assert_eq!(
        accepted.unwrap().unwrap().client().fingerprint,
        client.fingerprint()
    );
}
