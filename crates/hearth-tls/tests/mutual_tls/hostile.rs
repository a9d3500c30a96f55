//! Peers that do not keep the rules: none gets in, none keeps others out.

use std::sync::Arc;
use std::time::Duration;

use hearth_tls::{
    ConnectError, ConnectOptions, Fingerprint, HandshakeCounts, Identity, IncomingOptions, connect,
};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::harness::{LIMIT, Policy, TestServer, who_am_i};

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
