//! A fake runtime behind a socket, and configurations to use with it.

#![allow(clippy::unwrap_used)] // test code, which the lint only recognises inside test functions

use futures::StreamExt;
use hearth_cri::fake::{FakeRuntime, FakeServer};
use hearth_cri::{ContainerEvents, CriClient, Deadlines, PodRuntime, v1};
use tempfile::TempDir;

pub(crate) struct Node {
    pub(crate) fake: FakeRuntime,
    pub(crate) client: CriClient,
    server: Option<FakeServer>,
    directory: TempDir,
}

impl Node {
    pub(crate) fn start(deadlines: Deadlines) -> Self {
        Self::with(FakeRuntime::default(), deadlines)
    }

    pub(crate) fn with(fake: FakeRuntime, deadlines: Deadlines) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let client = CriClient::new(&directory.path().join("cri.sock"), deadlines);
        let mut node = Self {
            fake,
            client,
            server: None,
            directory,
        };
        node.restart();
        node
    }

    pub(crate) async fn kill(&mut self) {
        self.server.take().unwrap().stop().await.unwrap();
    }

    pub(crate) fn restart(&mut self) {
        let socket = self.directory.path().join("cri.sock");
        self.server = Some(FakeServer::start(self.fake.clone(), &socket).unwrap());
    }

    /// Ids of a new sandbox and of its running container.
    pub(crate) async fn run(&self) -> (String, String) {
        run(&self.client).await
    }
}

pub(crate) async fn run(runtime: &impl PodRuntime) -> (String, String) {
    let pod = runtime
        .run_pod_sandbox(sandbox("pod"), "runc")
        .await
        .unwrap();
    let config = container("localhost/hearth-busybox:dev");
    let id = runtime
        .create_container(&pod, config, sandbox("pod"))
        .await
        .unwrap();
    runtime.start_container(&id).await.unwrap();
    (pod, id)
}

/// The next event of this type.
pub(crate) async fn next_of(
    events: &mut ContainerEvents,
    kind: v1::ContainerEventType,
) -> v1::ContainerEventResponse {
    loop {
        let event = events.next().await.unwrap().unwrap();
        if event.container_event_type() == kind {
            return event;
        }
    }
}

pub(crate) fn sandbox(name: &str) -> v1::PodSandboxConfig {
    v1::PodSandboxConfig {
        metadata: Some(v1::PodSandboxMetadata {
            name: name.to_owned(),
            uid: format!("uid-{name}"),
            namespace: "default".to_owned(),
            attempt: 0,
        }),
        ..v1::PodSandboxConfig::default()
    }
}

pub(crate) fn container(image: &str) -> v1::ContainerConfig {
    v1::ContainerConfig {
        metadata: Some(v1::ContainerMetadata {
            name: "main".to_owned(),
            attempt: 0,
        }),
        image: Some(v1::ImageSpec {
            image: image.to_owned(),
            ..v1::ImageSpec::default()
        }),
        ..v1::ContainerConfig::default()
    }
}
