//! A real TLS client against the server on loopback.

use std::net::SocketAddr;

use jiff::Timestamp;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::super::authority::{Pair, names};
use super::super::certificates::certified;
use super::*;

const SERVICE: &str = "agent-sandbox-webhook-service.agent-sandbox-system.svc";

struct Served {
    address: SocketAddr,
    certificates: Arc<Certificates>,
    token: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Served {
    async fn start(files: Option<Files>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let certificates = Arc::new(Certificates::default());
        let token = CancellationToken::new();
        let task = tokio::spawn(serve(
            listener,
            Arc::clone(&certificates),
            files,
            token.clone(),
        ));
        Self {
            address,
            certificates,
            token,
            task,
        }
    }

    async fn with(pair: &Pair) -> Self {
        let served = Self::start(None).await;
        served.serve_with(pair);
        served
    }

    fn serve_with(&self, pair: &Pair) {
        let certified = certified(pair.certificate.as_bytes(), pair.key.as_bytes()).unwrap();
        assert!(self.certificates.set(certified));
    }

    /// Connects to a server that `authority` vouches for under the name.
    async fn connect(&self, authority: &str, name: &str) -> std::io::Result<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        let authority = CertificateDer::from_pem_slice(authority.as_bytes()).unwrap();
        roots.add(authority).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::clone(provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let stream = TcpStream::connect(self.address).await?;
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let connector = TlsConnector::from(Arc::new(config));
        connector.connect(name, stream).await
    }

    /// Sends this and returns all that comes.
    async fn exchange(&self, authority: &str, name: &str, sent: &[u8]) -> std::io::Result<String> {
        let mut stream = self.connect(authority, name).await?;
        stream.write_all(sent).await?;
        rest(&mut stream).await
    }

    /// Announces a body of so many bytes, and waits until the server wants it.
    async fn begin(&self, authority: &str, bytes: usize) -> TlsStream<TcpStream> {
        let mut stream = self.connect(authority, SERVICE).await.unwrap();
        let head = format!(
            "POST {CONVERT_PATH} HTTP/1.1\r\nHost: {SERVICE}\r\nConnection: close\r\nExpect: 100-continue\r\n\
             Content-Length: {bytes}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut wanted = [0; b"HTTP/1.1 100 Continue\r\n\r\n".len()];
        stream.read_exact(&mut wanted).await.unwrap();
        let wanted = String::from_utf8_lossy(&wanted);
        assert!(wanted.starts_with("HTTP/1.1 100 "), "{wanted}");
        stream
    }

    async fn post(&self, authority: &str, path: &str, body: &str) -> String {
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: {SERVICE}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        self.exchange(authority, SERVICE, request.as_bytes())
            .await
            .unwrap()
    }

    async fn end(self) {
        self.token.cancel();
        self.task.await.unwrap();
    }
}

/// All that still comes.
async fn rest(stream: &mut TlsStream<TcpStream>) -> std::io::Result<String> {
    let mut received = Vec::new();
    // A server that has answered need not say goodbye.
    match stream.read_to_end(&mut received).await {
        Err(error) if received.is_empty() => Err(error),
        _ => Ok(String::from_utf8_lossy(&received).into_owned()),
    }
}

fn pair() -> Pair {
    let names = names("agent-sandbox-webhook-service", "agent-sandbox-system");
    Pair::issue(&names, Timestamp::now()).unwrap()
}

fn review() -> String {
    let sandbox = json!({
        "apiVersion": "agents.x-k8s.io/v1alpha1", "kind": "Sandbox",
        "metadata": {"name": "a", "namespace": "team"}, "spec": {"replicas": 0},
    });
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "ConversionReview",
        "request": {"uid": "u", "desiredAPIVersion": "agents.x-k8s.io/v1beta1", "objects": [sandbox]},
    })
    .to_string()
}

fn is_ok(response: &str) -> bool {
    response.starts_with("HTTP/1.1 200 ")
}

#[tokio::test]
async fn reviews_are_answered_under_all_names_that_api_servers_use() {
    let pair = pair();
    let served = Served::with(&pair).await;
    let response = served.post(&pair.authority, CONVERT_PATH, &review()).await;
    assert!(is_ok(&response), "{response}");
    let (_, body) = response.split_once("\r\n\r\n").unwrap();
    let answer: Value = serde_json::from_str(body).unwrap();
    let mode = &answer["response"]["convertedObjects"][0]["spec"]["operatingMode"];
    assert_eq!(*mode, "Suspended");
    let get = format!("GET / HTTP/1.1\r\nHost: {SERVICE}\r\nConnection: close\r\n\r\n");
    for name in [SERVICE, "127.0.0.1", "localhost"] {
        let response = served.exchange(&pair.authority, name, get.as_bytes()).await;
        assert!(response.unwrap().starts_with("HTTP/1.1 404 "), "{name}");
    }
    let elsewhere = served.exchange(&pair.authority, "example.com", b"").await;
    elsewhere.unwrap_err();
    served.end().await;
}

#[tokio::test]
async fn another_certificate_is_served_without_a_restart() {
    let (old, new) = (pair(), pair());
    let served = Served::with(&old).await;
    let response = served.post(&old.authority, CONVERT_PATH, &review()).await;
    assert!(is_ok(&response), "{response}");
    served.serve_with(&new);
    let response = served.post(&new.authority, CONVERT_PATH, &review()).await;
    assert!(is_ok(&response), "{response}");
    let refused = served.exchange(&old.authority, SERVICE, b"").await;
    refused.unwrap_err();
    served.end().await;
}

#[tokio::test]
async fn files_are_read_anew_and_half_a_change_serves_the_old_pair() {
    let dir = tempfile::tempdir().unwrap();
    let files = Files {
        certificate: dir.path().join("tls.crt"),
        key: dir.path().join("tls.key"),
    };
    let (old, new) = (pair(), pair());
    let served = Served::start(Some(files.clone())).await;
    served
        .exchange(&old.authority, SERVICE, b"")
        .await
        .unwrap_err();
    std::fs::write(&files.certificate, &old.certificate).unwrap();
    std::fs::write(&files.key, &old.key).unwrap();
    let response = served.post(&old.authority, CONVERT_PATH, &review()).await;
    assert!(is_ok(&response), "{response}");
    std::fs::write(&files.certificate, &new.certificate).unwrap();
    let response = served.post(&old.authority, CONVERT_PATH, &review()).await;
    assert!(is_ok(&response), "{response}");
    std::fs::write(&files.key, &new.key).unwrap();
    let response = served.post(&new.authority, CONVERT_PATH, &review()).await;
    assert!(is_ok(&response), "{response}");
    served.end().await;
}

#[tokio::test]
async fn what_is_no_review_is_refused_in_words() {
    let pair = pair();
    let served = Served::with(&pair).await;
    let close = "Host: x\r\nConnection: close\r\n";
    for (request, status, words) in [
        (
            format!("GET /convert HTTP/1.1\r\n{close}\r\n"),
            "405",
            "is posted",
        ),
        (
            format!("POST /other HTTP/1.1\r\n{close}Content-Length: 0\r\n\r\n"),
            "404",
            "nothing but /convert",
        ),
        (
            format!("POST /convert HTTP/1.1\r\n{close}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
            "411",
            "without Content-Length",
        ),
        (
            format!("POST /convert HTTP/1.1\r\n{close}Content-Length: 33554433\r\n\r\n"),
            "413",
            "33554433 bytes are too many",
        ),
        (
            format!("POST /convert HTTP/1.1\r\n{close}Content-Length: 2\r\n\r\n{{}}"),
            "400",
            "this is no ConversionReview",
        ),
    ] {
        let response = served
            .exchange(&pair.authority, SERVICE, request.as_bytes())
            .await
            .unwrap();
        let expected = format!("HTTP/1.1 {status} ");
        assert!(response.starts_with(&expected), "{request} gets {response}");
        assert!(response.contains(words), "{request} gets {response}");
    }
    served.end().await;
}

#[tokio::test]
async fn clients_that_connect_and_say_nothing_do_not_keep_others_out() {
    let pair = pair();
    let served = Served::with(&pair).await;
    let mut silent = Vec::new();
    for _ in 0..CONNECTIONS {
        silent.push(TcpStream::connect(served.address).await.unwrap());
    }
    let response = served.post(&pair.authority, CONVERT_PATH, &review()).await;
    assert!(is_ok(&response), "{response}");
    drop(silent);
    served.end().await;
}

#[tokio::test]
async fn what_is_only_announced_takes_nothing_of_what_others_need() {
    let pair = pair();
    let served = Served::with(&pair).await;
    let mut announced = Vec::new();
    for _ in 0..=AT_ONCE / LARGEST as usize {
        let largest = LARGEST as usize * 1024;
        announced.push(served.begin(&pair.authority, largest).await);
    }
    let response = served.post(&pair.authority, CONVERT_PATH, &review()).await;
    assert!(is_ok(&response), "{response}");
    drop(announced);
    served.end().await;
}

#[tokio::test]
async fn a_request_under_way_is_not_ended_for_one_more_connection() {
    let pair = pair();
    let served = Served::with(&pair).await;
    let review = review();
    let mut oldest = served.begin(&pair.authority, review.len()).await;
    let mut silent = Vec::new();
    for _ in 0..CONNECTIONS {
        silent.push(TcpStream::connect(served.address).await.unwrap());
    }
    // Connections are accepted in their order: by now all of them are.
    let response = served.post(&pair.authority, CONVERT_PATH, &review).await;
    assert!(is_ok(&response), "{response}");
    oldest.write_all(review.as_bytes()).await.unwrap();
    let response = rest(&mut oldest).await.unwrap();
    assert!(is_ok(&response), "{response}");
    drop(silent);
    served.end().await;
}

#[tokio::test]
async fn while_all_connections_have_requests_one_more_waits() {
    let pair = pair();
    let served = Served::with(&pair).await;
    let review = review();
    let mut busy = Vec::new();
    for _ in 0..CONNECTIONS {
        busy.push(served.begin(&pair.authority, review.len()).await);
    }
    let finish = |mut stream: TlsStream<TcpStream>| {
        let review = review.clone();
        async move {
            stream.write_all(review.as_bytes()).await.unwrap();
            let response = rest(&mut stream).await.unwrap();
            assert!(is_ok(&response), "{response}");
        }
    };
    let last = busy.pop().unwrap();
    let late = served.post(&pair.authority, CONVERT_PATH, &review);
    let (late, ()) = tokio::join!(late, finish(last));
    assert!(is_ok(&late), "{late}");
    for stream in busy {
        finish(stream).await;
    }
    served.end().await;
}

#[tokio::test(start_paused = true)]
async fn the_whole_exchange_has_a_deadline_and_idle_time_has_none() {
    let (begun, since) = watch::channel(None);
    let (begun, idle) = (Arc::new(begun), Arc::default());
    let start = Instant::now();
    let requests = async {
        drop(Underway::new(&begun, &idle));
        sleep(EXCHANGE * 2).await;
        let _underway = Underway::new(&begun, &idle);
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = overdue(since) => {}
        () = requests => {}
    }
    assert_eq!(start.elapsed(), EXCHANGE * 3);
}

#[tokio::test]
async fn a_share_is_held_until_the_answer_is_sent() {
    let budget = Arc::new(Semaphore::new(1));
    let share = Arc::clone(&budget).try_acquire_owned().unwrap();
    let (begun, since) = watch::channel(None);
    let mut answer = Answer {
        left: Bytes::from(vec![b' '; PIECE + 1]),
        _share: Some(share),
        _underway: Underway::new(&Arc::new(begun), &Arc::default()),
    };
    let whole = u64::try_from(PIECE).unwrap() + 1;
    assert_eq!(answer.size_hint().exact(), Some(whole));
    for bytes in [PIECE, 1] {
        assert!(!answer.is_end_stream());
        let piece = answer.frame().await.unwrap().unwrap();
        assert_eq!(piece.into_data().unwrap().len(), bytes);
        assert_eq!(budget.available_permits(), 0);
        assert!(since.borrow().is_some());
    }
    assert!(answer.is_end_stream());
    drop(answer);
    assert_eq!(budget.available_permits(), 1);
    assert!(since.borrow().is_none());
}
