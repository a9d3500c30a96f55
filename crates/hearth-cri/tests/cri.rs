//! The client and the fake: in process, and through a real socket.

mod support;

use std::time::Duration;

use futures::StreamExt;
use hearth_cri::contract::{self, Subject};
use hearth_cri::fake::{FakeOptions, FakeRuntime, FakeServer, Program};
use hearth_cri::{CriClient, Deadlines, ErrorKind, ImageStore, Operation, PodRuntime, v1};
use support::{Node, container, sandbox};

const IMAGE: &str = "localhost/hearth-busybox:dev";

fn subject() -> Subject {
    Subject {
        run: "test".to_owned(),
        handler: "runc".to_owned(),
        image: IMAGE.to_owned(),
        sandbox: v1::PodSandboxConfig::default(),
        command: vec!["sleep".to_owned()],
    }
}

#[tokio::test]
async fn the_fake_keeps_the_contract() {
    contract::run(&FakeRuntime::default(), &subject())
        .await
        .unwrap();
}

#[tokio::test]
async fn the_client_keeps_the_contract_over_a_socket() {
    let node = Node::start(Deadlines::default());
    contract::run(&node.client, &subject()).await.unwrap();
}

#[tokio::test]
async fn an_unreachable_runtime_is_unavailable_and_nothing_was_sent() {
    let directory = tempfile::tempdir().unwrap();
    let client = CriClient::new(&directory.path().join("nobody.sock"), Deadlines::default());
    let error = client
        .run_pod_sandbox(sandbox("a"), "runc")
        .await
        .unwrap_err();
    assert_eq!(
        (error.kind, error.outcome_unknown()),
        (ErrorKind::Unavailable, false),
        "{error:?}"
    );
    assert!(error.is_retryable());
}

#[tokio::test]
async fn a_connection_lost_in_a_call_leaves_the_outcome_unknown_and_is_made_anew() {
    let mut node = Node::start(Deadlines::default());
    node.fake.hang_next_after_effect(Operation::RunPodSandbox);
    let client = node.client.clone();
    let call = tokio::spawn(async move { client.run_pod_sandbox(sandbox("a"), "runc").await });
    node.fake.called(Operation::RunPodSandbox, 1).await;
    node.kill().await;
    let error = call.await.unwrap().unwrap_err();
    assert_eq!(
        (error.kind, error.outcome_unknown()),
        (ErrorKind::ConnectionLost, true),
        "{error:?}"
    );

    let error = node.client.version().await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable, "{error:?}");

    node.restart();
    let found = node
        .client
        .list_pod_sandboxes(v1::PodSandboxFilter::default())
        .await
        .unwrap();
    assert_eq!(
        found.len(),
        1,
        "the sandbox was made although the answer was lost"
    );
}

#[tokio::test]
async fn a_call_without_answer_ends_at_its_deadline() {
    let node = Node::start(Deadlines {
        run_sandbox: Duration::from_millis(50),
        ..Deadlines::default()
    });
    node.fake.hang_next(Operation::RunPodSandbox);
    let error = node
        .client
        .run_pod_sandbox(sandbox("a"), "runc")
        .await
        .unwrap_err();
    assert_eq!(
        (error.kind, error.outcome_unknown()),
        (ErrorKind::DeadlineExceeded, true),
        "{error:?}"
    );

    let error = node
        .client
        .run_pod_sandbox(sandbox("a"), "runc")
        .await
        .unwrap_err();
    assert_eq!(
        error.kind,
        ErrorKind::AlreadyExists,
        "the name stays with the call that hangs: {error:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_call_that_was_given_up_frees_its_name() {
    let fake = FakeRuntime::default();
    fake.delay(Operation::RunPodSandbox, Duration::from_secs(5));
    let given_up = fake.run_pod_sandbox(sandbox("a"), "runc");
    assert!(
        tokio::time::timeout(Duration::from_secs(1), given_up)
            .await
            .is_err()
    );
    fake.run_pod_sandbox(sandbox("a"), "runc").await.unwrap();
}

#[tokio::test]
async fn a_container_that_cannot_start_has_exited() {
    let node = Node::start(Deadlines::default());
    node.fake.set_program(|_| Program::FailsToStart);
    let pod = node
        .client
        .run_pod_sandbox(sandbox("a"), "runc")
        .await
        .unwrap();
    let id = node
        .client
        .create_container(&pod, container(IMAGE), sandbox("a"))
        .await
        .unwrap();
    let error = node.client.start_container(&id).await.unwrap_err();
    assert_eq!(
        (error.kind, error.outcome_unknown()),
        (ErrorKind::Other, false),
        "{error:?}"
    );
    let status = node.client.container_status(&id).await.unwrap().unwrap();
    assert_eq!(
        (status.state(), status.exit_code),
        (v1::ContainerState::ContainerExited, 128)
    );
}

#[tokio::test(start_paused = true)]
async fn in_process_calls_have_deadlines_too() {
    let fake = FakeRuntime::default();
    fake.hang_next(Operation::StartContainer);
    let error = fake.start_container("x").await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::DeadlineExceeded);
}

#[tokio::test]
async fn scripted_failures_pass_through_the_socket() {
    let node = Node::start(Deadlines::default());
    for (op, kind) in [
        (Operation::RunPodSandbox, ErrorKind::UnknownHandler),
        (Operation::RunPodSandbox, ErrorKind::AlreadyExists),
        (Operation::RunPodSandbox, ErrorKind::ConnectionLost),
        (Operation::RunPodSandbox, ErrorKind::DeadlineExceeded),
        (Operation::RunPodSandbox, ErrorKind::Unavailable),
        (Operation::RunPodSandbox, ErrorKind::Invalid),
        (Operation::RunPodSandbox, ErrorKind::Other),
    ] {
        node.fake.fail_next(op, kind);
        let error = node
            .client
            .run_pod_sandbox(sandbox("a"), "runc")
            .await
            .unwrap_err();
        assert_eq!(error.kind, kind, "{error:?}");
    }
    node.client
        .run_pod_sandbox(sandbox("a"), "runc")
        .await
        .unwrap();
}

#[tokio::test]
async fn a_failure_after_the_effect_leaves_the_sandbox() {
    let fake = FakeRuntime::default();
    fake.fail_next_after_effect(Operation::RunPodSandbox, ErrorKind::DeadlineExceeded);
    let error = fake
        .run_pod_sandbox(sandbox("a"), "runc")
        .await
        .unwrap_err();
    assert!(error.outcome_unknown());
    assert_eq!(
        fake.list_pod_sandboxes(v1::PodSandboxFilter::default())
            .await
            .unwrap()
            .len(),
        1
    );
}

#[tokio::test(start_paused = true)]
async fn a_delayed_call_takes_its_time() {
    let fake = FakeRuntime::default();
    fake.delay(Operation::RunPodSandbox, Duration::from_secs(3));
    let before = tokio::time::Instant::now();
    fake.run_pod_sandbox(sandbox("a"), "runc").await.unwrap();
    assert_eq!(before.elapsed(), Duration::from_secs(3));
}

#[tokio::test]
async fn an_exit_is_told_and_kept() {
    let node = Node::start(Deadlines::default());
    let mut events = node.client.container_events().await.unwrap();
    let (_, id) = node.run().await;
    assert!(node.fake.exit_container(&id, 3));
    let event = support::next_of(&mut events, v1::ContainerEventType::ContainerStoppedEvent).await;
    assert_eq!(event.container_id, id);
    let status = node.client.container_status(&id).await.unwrap().unwrap();
    assert_eq!(
        (status.state(), status.exit_code),
        (v1::ContainerState::ContainerExited, 3)
    );
}

#[tokio::test]
async fn a_restart_ends_the_events_and_keeps_the_containers() {
    let node = Node::start(Deadlines::default());
    let events = node.client.container_events().await.unwrap();
    let (_, id) = node.run().await;
    node.fake.restart();
    let rest: Vec<_> = events.collect().await;
    assert!(
        rest.last().is_some_and(Result::is_err),
        "the last item is the error: {rest:?}"
    );
    assert_eq!(node.fake.running_containers(), vec![id]);
}

#[tokio::test]
async fn a_killed_runtime_ends_the_events() {
    let mut node = Node::start(Deadlines::default());
    let events = node.client.container_events().await.unwrap();
    node.kill().await;
    let rest: Vec<_> = events.collect().await;
    assert!(matches!(rest.as_slice(), [Err(_)]), "{rest:?}");
}

#[tokio::test(start_paused = true)]
async fn a_container_that_ignores_the_stop_is_killed_after_the_grace_period() {
    let fake = FakeRuntime::default();
    fake.set_program(|_| Program::IgnoresStop);
    let pod = fake.run_pod_sandbox(sandbox("a"), "runc").await.unwrap();
    let id = fake
        .create_container(&pod, container(IMAGE), sandbox("a"))
        .await
        .unwrap();
    fake.start_container(&id).await.unwrap();
    let before = tokio::time::Instant::now();
    fake.stop_container(&id, Duration::from_secs(7))
        .await
        .unwrap();
    assert_eq!(before.elapsed(), Duration::from_secs(7));
    assert_eq!(
        fake.container_status(&id).await.unwrap().unwrap().exit_code,
        137
    );
}

#[tokio::test(start_paused = true)]
async fn a_command_in_a_frozen_pod_waits_for_the_thaw() {
    let fake = FakeRuntime::default();
    let mut config = sandbox("a");
    config.linux = Some(v1::LinuxPodSandboxConfig {
        cgroup_parent: "/hearth-t/pods/poda".to_owned(),
        ..v1::LinuxPodSandboxConfig::default()
    });
    let pod = fake.run_pod_sandbox(config.clone(), "runc").await.unwrap();
    let id = fake
        .create_container(&pod, container(IMAGE), config)
        .await
        .unwrap();
    fake.start_container(&id).await.unwrap();

    fake.set_frozen("/hearth-t/pods/poda", true);
    let error = fake
        .exec_sync(&id, vec![], Duration::from_secs(2))
        .await
        .unwrap_err();
    assert_eq!(error.kind, ErrorKind::DeadlineExceeded);

    let waiting = fake.exec_sync(&id, vec![], Duration::from_secs(60));
    let thaw = async {
        fake.called(Operation::ExecSync, 2).await;
        fake.set_frozen("/hearth-t/pods/poda", false);
    };
    let (answer, ()) = tokio::join!(waiting, thaw);
    assert_eq!(answer.unwrap().exit_code, 0);
}

#[tokio::test]
async fn a_long_list_is_read() {
    let options = FakeOptions {
        pod_network: ([10, 0, 0, 0].into(), 8),
        ..FakeOptions::default()
    };
    let node = Node::with(FakeRuntime::new(options), Deadlines::default());
    for n in 0..5000 {
        let mut config = sandbox(&n.to_string());
        config
            .annotations
            .insert("filler".to_owned(), "x".repeat(1000));
        node.fake.run_pod_sandbox(config, "runc").await.unwrap();
    }
    let listed = node
        .client
        .list_pod_sandboxes(v1::PodSandboxFilter::default())
        .await
        .unwrap();
    assert_eq!(listed.len(), 5000, "more than gRPC's usual limit of 4 MiB");
}

#[tokio::test]
async fn images_are_pulled_when_the_registry_has_them() {
    let node = Node::start(Deadlines::default());
    let spec = v1::ImageSpec {
        image: "registry/app:1".to_owned(),
        ..v1::ImageSpec::default()
    };
    let error = node
        .client
        .pull_image(spec.clone(), None, None)
        .await
        .unwrap_err();
    assert_eq!(error.kind, ErrorKind::ImageNotFound);
    node.fake.publish_image("registry/app:1");
    node.client.pull_image(spec, None, None).await.unwrap();
    assert!(
        node.client
            .image_status("registry/app:1")
            .await
            .unwrap()
            .is_some()
    );
    node.client.remove_image("registry/app:1").await.unwrap();
    assert!(
        node.client
            .image_status("registry/app:1")
            .await
            .unwrap()
            .is_none()
    );
}

#[tokio::test]
async fn a_runtime_that_is_down_answers_nothing_until_it_is_back() {
    let fake = FakeRuntime::default();
    let (sandbox_id, _) = support::run(&fake).await;
    fake.set_down(true);
    let error = fake.pod_sandbox_status(&sandbox_id).await.unwrap_err();
    assert_eq!(
        (error.kind, error.outcome_unknown()),
        (ErrorKind::Unavailable, false)
    );
    fake.set_down(false);
    assert!(
        fake.pod_sandbox_status(&sandbox_id)
            .await
            .unwrap()
            .is_some()
    );
}

#[tokio::test]
async fn a_stopped_server_leaves_its_socket_to_the_next() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("cri.sock");
    for _ in 0..2 {
        let server = FakeServer::start(FakeRuntime::default(), &socket).unwrap();
        CriClient::new(&socket, Deadlines::default())
            .version()
            .await
            .unwrap();
        server.stop().await.unwrap();
    }
}
