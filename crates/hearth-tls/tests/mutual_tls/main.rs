//! Client and server against each other over loopback, and each against peers that do not keep the rules.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

mod harness;
mod hostile;

use std::sync::Arc;
use std::time::Duration;

use hearth_tls::{
    ConnectError, ConnectOptions, HandshakeCounts, Identity, Incoming, IncomingOptions, connect,
};
use tokio::net::TcpListener;
use tokio::time::timeout;
use tonic::Code;
use tonic::transport::Server;

use crate::harness::{LIMIT, Policy, TestServer, WhoAmI, who_am_i};

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
