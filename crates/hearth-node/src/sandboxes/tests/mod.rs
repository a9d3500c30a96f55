//! The calls over the socket of the local API, on a node without a runtime.

mod gate;
mod logs;
mod sessions;
mod starting;

use std::path::{Path, PathBuf};

use hearth_api::Tier;
use hearth_cri::Operation;
use hearth_proto::sandboxes::v1::sandboxes_client::SandboxesClient;
use hyper_util::rt::TokioIo;
use tempfile::TempDir;
use tokio::net::UnixStream;
use tokio::task::JoinHandle;
use tonic::Code;
use tonic::transport::{Channel, Endpoint, Uri};

use super::error::Refusal;
use super::*;
use crate::pod::PodPhase;
use crate::pod::testing::{Node, bare, member};

/// Bound is what a test says.
#[derive(Debug)]
struct Bound(&'static str);

impl Owners for Bound {
    fn owner(&self, sandbox: &SandboxUid) -> Option<OwnerKey> {
        (sandbox.as_str() == self.0).then(|| OwnerKey::from("claim"))
    }
}

/// A node whose local API is served.
struct Served {
    node: Node,
    client: SandboxesClient<Channel>,
    api: SandboxesApi,
    sessions: SessionMetrics,
    socket: PathBuf,
    stop: CancellationToken,
    task: JoinHandle<()>,
    dir: TempDir,
}

impl Served {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let logs = dir.path().join("logs");
        let node = Node::with(|config| config.logs_dir = logs);
        let stop = CancellationToken::new();
        let path = dir.path().join("hearthd.sock");
        // What a daemon has left that was killed.
        std::fs::write(&path, "").unwrap();
        let socket = LocalSocket::bind(&path).unwrap();
        let logs = dir.path().join("logs");
        let sessions = SessionMetrics::default();
        let api = SandboxesApi::new(
            &[],
            logs,
            TaskTracker::new(),
            stop.clone(),
            sessions.clone(),
        );
        api.serve_all(super::Node {
            pods: node.pods.clone(),
            owners: Box::new(Bound("bound")),
            streams: Arc::new(node.runtime.clone()),
        });
        let serving = api.clone();
        let task = tokio::spawn(async move { serving.serve(socket).await.unwrap() });
        Self {
            node,
            client: client_of(&path).await,
            api,
            sessions,
            socket: path,
            stop,
            task,
            dir,
        }
    }

    async fn inspect(&mut self, sandbox: &str) -> Result<proto::InspectResponse, Status> {
        let sandbox = sandbox.to_owned();
        let answer = self.client.inspect(proto::InspectRequest { sandbox }).await;
        answer.map(Response::into_inner)
    }
}

async fn client_of(socket: &Path) -> SandboxesClient<Channel> {
    let to = socket.to_owned();
    let connector = tower::service_fn(move |_: Uri| {
        let to = to.clone();
        async move { UnixStream::connect(to).await.map(TokioIo::new) }
    });
    let channel = Endpoint::from_static("http://localhost")
        .initial_connection_window_size(CONNECTION_WINDOW)
        .connect_with_connector(connector)
        .await
        .unwrap();
    SandboxesClient::new(channel)
}

#[tokio::test]
async fn the_socket_is_for_its_owner_and_goes_with_the_daemon() {
    use std::os::unix::fs::PermissionsExt;
    let served = Served::start().await;
    let mode = std::fs::metadata(&served.socket)
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    served.stop.cancel();
    served.task.await.unwrap();
    assert!(!served.socket.exists());
}

#[tokio::test]
async fn the_list_says_what_each_sandbox_is() {
    let mut served = Served::start().await;
    served.node.want(&bare("bound"));
    served.node.want(&member("member"));
    served.node.ready("bound", Tier::Running).await;
    served.node.ready("member", Tier::Frozen).await;
    let list = served.client.list(proto::ListRequest {}).await.unwrap();
    let told: Vec<_> = list
        .into_inner()
        .sandboxes
        .into_iter()
        .map(|s| {
            assert!(!s.created_at.is_empty() && !s.pod_uid.is_empty());
            (s.name, s.phase, s.tier, s.member, s.owner_key)
        })
        .collect();
    let row = |name: &str, tier: &str, member, owner: &str| {
        (
            name.to_owned(),
            "Ready".to_owned(),
            tier.to_owned(),
            member,
            owner.to_owned(),
        )
    };
    assert_eq!(
        told,
        [
            row("bound", "Running", false, "claim"),
            row("member", "Frozen", true, "")
        ]
    );
}

#[tokio::test]
async fn the_list_does_not_need_the_runtime() {
    let mut served = Served::start().await;
    served.node.want(&bare("a"));
    served.node.ready("a", Tier::Running).await;
    served.node.runtime.set_down(true);
    let list = served.client.list(proto::ListRequest {}).await.unwrap();
    assert_eq!(list.into_inner().sandboxes[0].created_at, "");
    let inspected = served.inspect("ns/a").await.unwrap();
    assert!(inspected.runtime_error.contains("not available"));
    assert!(inspected.containers.is_empty());
}

#[tokio::test]
async fn a_sandbox_is_found_by_name_and_by_uid_with_its_containers() {
    let mut served = Served::start().await;
    served.node.want(&bare("a"));
    let view = served.node.ready("a", Tier::Running).await;
    let by_name = served.inspect("ns/a").await.unwrap();
    assert_eq!(by_name, served.inspect("a").await.unwrap());
    let pod = view.pod_uid.clone().unwrap();
    assert_eq!(by_name.cgroup, format!("/hearth-t/pods/pod{pod}"));
    let main = &by_name.containers[0];
    assert_eq!(
        (main.name.as_str(), main.state.as_str()),
        ("main", "Running")
    );
    assert_eq!(main.exit_code, None);
    let log = served.dir.path().join("logs/ns_a_a/main/0.log");
    assert_eq!(main.log_path, log.to_string_lossy());
    assert!(by_name.phases.contains_key("sandbox"), "{by_name:?}");
}

#[tokio::test]
async fn a_name_that_is_not_there_is_refused_with_where_to_look() {
    let mut served = Served::start().await;
    let status = served.inspect("ns/none").await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    assert_eq!(
        status.message(),
        "sandbox is \"ns/none\": this node has none of that name or UID; name one as NAMESPACE/NAME or by its UID, as \
         `hearthd ctl list` shows them"
    );
}

#[tokio::test]
async fn what_is_under_way_ends_with_the_daemon() {
    let served = Served::start().await;
    served.node.want(&bare("a"));
    served.node.ready("a", Tier::Running).await;
    served.node.runtime.hang_next(Operation::ListContainers);
    let mut client = served.client.clone();
    let asked = tokio::spawn(async move {
        let sandbox = "a".to_owned();
        client.inspect(proto::InspectRequest { sandbox }).await
    });
    let listed = served.node.runtime.calls(Operation::ListContainers);
    served
        .node
        .runtime
        .called(Operation::ListContainers, listed + 1)
        .await;
    served.stop.cancel();
    served.task.await.unwrap();
    let status = asked.await.unwrap().unwrap_err();
    assert_eq!(status.message(), "the daemon is being stopped");
    assert!(
        served
            .node
            .pods
            .views()
            .iter()
            .all(|view| view.phase == PodPhase::Ready)
    );
}

#[tokio::test]
async fn what_sandboxes_use_is_told_of_those_with_a_pod() {
    let mut served = Served::start().await;
    let mut suspended = bare("b");
    suspended.spec.operating_mode = hearth_api::OperatingMode::Suspended;
    served.node.want(&suspended);
    served.node.want(&bare("a"));
    served.node.ready("a", Tier::Running).await;
    let stopped = |view: &PodView| view.phase == PodPhase::Stopped;
    served.node.view_when("b", "suspended", stopped).await;
    let all = served.client.stats(proto::StatsRequest::default()).await;
    let expect = proto::SandboxStats {
        uid: "a".to_owned(),
        namespace: "ns".to_owned(),
        name: "a".to_owned(),
        tier: "Running".to_owned(),
        cpu_micros: 1_500_000,
        memory_bytes: 4096,
        working_set_bytes: 2048,
        swap_bytes: 1024,
        tasks: 3,
    };
    assert_eq!(all.unwrap().into_inner().sandboxes, [expect]);
    let sandbox = "ns/b".to_owned();
    let status = served.client.stats(proto::StatsRequest { sandbox }).await;
    assert_eq!(status.unwrap_err().code(), Code::FailedPrecondition);
}
