mod attachments;
mod sandboxes;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use hearth_core::ids::{Fence, SandboxUid};
use hearth_proto::node::v1 as proto;
use hearth_proto::node::v1::node_client::NodeClient;
use hearth_proto::node::v1::session_event::Event;
use hearth_proto::node::v1::session_request::Request;
use hearth_tls::{ClientPolicy, ConnectOptions, Fingerprint, Identity};
use parking_lot::Mutex;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Code, Status, Streaming};

use super::*;
use crate::binder::testing::{FakePods, view};
use crate::binder::{Binder, BinderMetrics};
use crate::journal::testing::Disk;
use crate::pod::{ClaimActivity, PodPhase};
use crate::sandboxes::SessionMetrics;

/// Longer than anything here takes, short enough to wait for.
const PATIENCE: Duration = Duration::from_secs(20);

/// A Lease that a test writes.
#[derive(Clone, Debug, Default)]
struct FakeLease(Arc<LeaseState>);

#[derive(Debug, Default)]
struct LeaseState {
    view: Mutex<LeaseView>,
    away: Mutex<bool>,
    reads: AtomicUsize,
}

#[async_trait]
impl LeaseReader for FakeLease {
    async fn read(&self) -> Result<LeaseView, LeaseReadError> {
        self.0.reads.fetch_add(1, Ordering::Relaxed);
        if *self.0.away.lock() {
            Err(LeaseReadError::Deadline)
        } else {
            Ok(*self.0.view.lock())
        }
    }
}

impl FakeLease {
    fn name(&self, leader: &Identity, version: u64) {
        *self.0.view.lock() = LeaseView::Leader(LeaderRecord {
            fingerprint: leader.fingerprint(),
            version: Fence(version),
        });
    }
}

struct Node {
    pods: FakePods,
    lease: FakeLease,
    disk: Disk,
    identity: Identity,
    address: SocketAddr,
    stop: CancellationToken,
    tasks: TaskTracker,
    sandboxes: SandboxesApi,
    _dir: TempDir,
}

impl Node {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let disk = Disk::holding(Vec::new());
        let opened = disk.journal(dir.path());
        let (pods, lease) = (FakePods::default(), FakeLease::default());
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let binder = Binder::new(
            opened.contents.bindings,
            opened.journal,
            pods.clone(),
            ClaimActivity::default(),
            BinderMetrics::default(),
            tasks.clone(),
        );
        let gate = LeaderGate::new(Box::new(lease.clone()), None, Box::new(|_| {}));
        let metrics = ServerMetrics::default();
        let api = NodeApi::new(
            binder,
            pods.clone(),
            gate,
            tasks.clone(),
            stop.clone(),
            metrics,
        );
        let logs = dir.path().join("logs");
        let sandboxes = SandboxesApi::new(
            &[],
            logs,
            tasks.clone(),
            stop.clone(),
            SessionMetrics::default(),
        );
        let api = api.with_sandboxes(sandboxes.another_door());
        let identity = Identity::generate("node").unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = identity.clone();
        tasks.spawn(async move { api.serve(listener, &serving).await.unwrap() });
        Self {
            pods,
            lease,
            disk,
            identity,
            address,
            stop,
            tasks,
            sandboxes,
            _dir: dir,
        }
    }

    /// Opens a session as `leader`, and sends `first`.
    async fn open(&self, leader: &Identity, first: Request) -> Result<Client, Status> {
        let (address, pin) = (self.address.to_string(), self.identity.fingerprint());
        let channel = hearth_tls::connect(&address, leader, pin, ConnectOptions::default())
            .await
            .unwrap();
        let mut node = NodeClient::new(channel);
        let (requests, outgoing) = mpsc::channel(16);
        requests
            .send(proto::SessionRequest {
                id: 0,
                request: Some(first),
            })
            .await
            .unwrap();
        let events = node
            .session(ReceiverStream::new(outgoing))
            .await?
            .into_inner();
        Ok(Client {
            requests,
            events,
            next_id: 1,
        })
    }

    /// Opens a session as the leader that the Lease names.
    async fn lead(&self, leader: &Identity, fence: u64) -> (Client, proto::Inventory) {
        self.lease.name(leader, fence);
        let mut client = self.open(leader, hello(fence)).await.unwrap();
        let Event::Inventory(inventory) = client.event().await.unwrap().1 else {
            panic!("no inventory")
        };
        (client, inventory)
    }

    async fn shut_down(self) {
        self.stop.cancel();
        self.tasks.close();
        timeout(PATIENCE, self.tasks.wait())
            .await
            .expect("all tasks end");
    }
}

struct Client {
    requests: mpsc::Sender<proto::SessionRequest>,
    events: Streaming<proto::SessionEvent>,
    next_id: u64,
}

impl Client {
    async fn event(&mut self) -> Result<(u64, Event), Status> {
        let event = timeout(PATIENCE, self.events.message())
            .await
            .expect("an event or the end in time")?;
        let event = event.ok_or_else(|| Status::ok("the stream ended"))?;
        Ok((event.id, event.event.expect("a known event")))
    }

    async fn ask(&mut self, request: Request) -> Result<Event, Status> {
        let id = self.next_id;
        self.next_id += 1;
        self.requests
            .send(proto::SessionRequest {
                id,
                request: Some(request),
            })
            .await
            .unwrap();
        loop {
            let (answered, event) = self.event().await?;
            if answered == id {
                return Ok(event);
            }
        }
    }

    /// Sends what has no answer.
    async fn tell(&self, request: Request) {
        let request = proto::SessionRequest {
            id: 0,
            request: Some(request),
        };
        self.requests.send(request).await.unwrap();
    }

    async fn bind(&mut self, key: &str, uid: &str) -> proto::BindReply {
        match self.ask(bind(key, uid)).await.unwrap() {
            Event::Bind(reply) => reply,
            other => panic!("not a BindReply: {other:?}"),
        }
    }

    /// How the session ends.
    async fn end(&mut self) -> Status {
        loop {
            if let Err(status) = self.event().await {
                return status;
            }
        }
    }
}

impl Node {
    /// Waits until these ConfigMaps and Secrets are known with these versions.
    async fn until_known(&self, wanted: &str) {
        loop {
            let mut known: Vec<_> = self
                .pods
                .0
                .configs
                .lock()
                .iter()
                .map(|(key, config)| {
                    let version = config.as_ref().map_or("absent", |config| &config.version);
                    format!("{} {version}", key.config.name)
                })
                .collect();
            known.sort();
            if known.join(", ") == wanted {
                return;
            }
            let waited = timeout(PATIENCE, self.pods.0.supplied.notified()).await;
            assert!(waited.is_ok(), "known are {known:?}, not {wanted}");
        }
    }
}

fn hello(fence: u64) -> Request {
    Request::Hello(proto::Hello {
        fence,
        holder: "test".to_owned(),
    })
}

fn bind(key: &str, uid: &str) -> Request {
    Request::Bind(proto::BindRequest {
        owner_key: key.to_owned(),
        sandbox_uid: uid.to_owned(),
        env: Vec::new(),
    })
}

fn release(key: &str) -> Request {
    Request::Release(proto::ReleaseRequest {
        owner_key: key.to_owned(),
        sandbox_uid: String::new(),
    })
}

#[tokio::test]
async fn a_session_opens_with_all_that_the_node_holds() {
    let node = Node::start().await;
    node.pods.show(view("a", PodPhase::Ready));
    node.pods.show(view("b", PodPhase::Pending));
    let leader = Identity::generate("leader").unwrap();
    let (mut client, _) = node.lead(&leader, 5).await;
    client.bind("k", "a").await;
    client.ask(release("other")).await.unwrap();
    drop(client);

    let (_client, inventory) = node.lead(&leader, 5).await;
    assert_eq!(inventory.fence, 5);
    assert_eq!(inventory.tombstones, ["other"]);
    let owners: HashMap<&str, (&str, proto::Phase)> = inventory
        .members
        .iter()
        .map(|member| {
            (
                member.sandbox_uid.as_str(),
                (member.owner_key.as_str(), member.phase()),
            )
        })
        .collect();
    assert_eq!(owners["a"], ("k", proto::Phase::Frozen));
    assert_eq!(owners["b"], ("", proto::Phase::Pending));
    node.shut_down().await;
}

#[tokio::test]
async fn requests_are_answered_by_their_ids() {
    use proto::bind_reply::Outcome as Bound;
    use proto::retire_reply::Outcome as Retired;
    let node = Node::start().await;
    node.pods.show(view("a", PodPhase::Ready));
    node.pods.show(view("b", PodPhase::Ready));
    node.pods.show(view("young", PodPhase::Pending));
    let (mut client, _) = node.lead(&Identity::generate("leader").unwrap(), 1).await;

    let reply = client.bind("k", "a").await;
    assert_eq!(reply.outcome(), Bound::Bound);
    assert_eq!(reply.member.unwrap().owner_key, "k");
    assert!(reply.phases.unwrap().journal_us > 0);
    assert_eq!(client.bind("thief", "a").await.outcome(), Bound::Taken);
    assert_eq!(client.bind("k2", "young").await.outcome(), Bound::NotReady);
    assert_eq!(
        client.bind("k2", "nowhere").await.outcome(),
        Bound::NotFound
    );
    assert_eq!(
        client.bind("k", "b").await.member.unwrap().sandbox_uid,
        "a",
        "the key keeps what it holds"
    );

    let retire = |uid: &str| {
        Request::Retire(proto::RetireRequest {
            sandbox_uid: uid.to_owned(),
        })
    };
    for (uid, expected) in [
        ("a", Retired::Bound),
        ("b", Retired::Retired),
        ("nowhere", Retired::NotFound),
    ] {
        let Event::Retire(reply) = client.ask(retire(uid)).await.unwrap() else {
            panic!("not a RetireReply")
        };
        assert_eq!(reply.outcome(), expected, "{uid}");
    }
    assert_eq!(client.bind("k2", "b").await.outcome(), Bound::Retired);

    let Event::Release(reply) = client.ask(release("k")).await.unwrap() else {
        panic!("not a ReleaseReply")
    };
    assert_eq!(reply.sandbox_uid, "a");
    assert_eq!(client.bind("k", "a").await.outcome(), Bound::Released);
    node.shut_down().await;
}

#[tokio::test]
async fn what_the_leader_supplies_is_taken_in_and_what_it_does_not_name_is_forgotten() {
    let node = Node::start().await;
    let leader = Identity::generate("leader").unwrap();
    let (client, _) = node.lead(&leader, 5).await;
    let key = |name: &str| proto::ConfigKey {
        kind: proto::config_key::Kind::Secret.into(),
        namespace: "ns".to_owned(),
        name: name.to_owned(),
    };
    let list = |names: &[&str]| {
        Request::Supplies(proto::SupplyList {
            keys: names.iter().map(|name| key(name)).collect(),
        })
    };
    let supply = |name: &str, wanted: bool, config| {
        Request::Supply(proto::Supply {
            key: Some(key(name)),
            wanted,
            config,
        })
    };
    let holds = proto::Config {
        resource_version: "7".to_owned(),
        data: [("key".to_owned(), b"value".to_vec())].into(),
    };
    client.tell(list(&["a", "b", "c"])).await;
    client.tell(supply("a", true, Some(holds))).await;
    client.tell(supply("b", true, None)).await;
    client.tell(supply("c", true, None)).await;
    client.tell(supply("c", false, None)).await;
    node.until_known("a 7, b absent").await;
    client.tell(list(&["b"])).await;
    node.until_known("b absent").await;
    node.shut_down().await;
}

#[tokio::test]
async fn changes_are_told_with_their_owner() {
    let node = Node::start().await;
    let (mut client, _) = node.lead(&Identity::generate("leader").unwrap(), 1).await;
    node.pods.show(view("a", PodPhase::Ready));
    let (id, Event::Member(event)) = client.event().await.unwrap() else {
        panic!("not a MemberEvent")
    };
    let member = event.member.unwrap();
    assert_eq!(
        (id, event.gone, member.sandbox_uid.as_str(), member.phase()),
        (0, false, "a", proto::Phase::Frozen)
    );
    client.bind("k", "a").await;
    node.pods.show(view("a", PodPhase::Ready));
    let (_, Event::Member(event)) = client.event().await.unwrap() else {
        panic!("not a MemberEvent")
    };
    assert_eq!(event.member.unwrap().owner_key, "k");
    client.ask(release("k")).await.unwrap();
    node.pods.show(view("a", PodPhase::Ready));
    let (_, Event::Member(event)) = client.event().await.unwrap() else {
        panic!("not a MemberEvent")
    };
    assert_eq!(
        event.member.unwrap().phase(),
        proto::Phase::Stopping,
        "released, whatever the pod still does"
    );
    node.pods.hide(&SandboxUid::from("a"));
    let (_, Event::Member(event)) = client.event().await.unwrap() else {
        panic!("not a MemberEvent")
    };
    assert!(event.gone);
    node.shut_down().await;
}

#[tokio::test]
async fn only_the_certificate_of_the_lease_gets_in() {
    let node = Node::start().await;
    let (leader, stranger) = (
        Identity::generate("leader").unwrap(),
        Identity::generate("stranger").unwrap(),
    );
    let (_client, _) = node.lead(&leader, 1).await;
    let refused = node
        .open(&stranger, hello(2))
        .await
        .map(|_| ())
        .unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused:?}");
    // The Lease moves on, and the node reads it before it refuses.
    let (_client, inventory) = node.lead(&stranger, 2).await;
    assert_eq!(inventory.fence, 2);
    node.shut_down().await;
}

#[tokio::test]
async fn a_known_leader_gets_in_while_the_api_server_is_away() {
    let node = Node::start().await;
    let leader = Identity::generate("leader").unwrap();
    drop(node.lead(&leader, 1).await);
    *node.lease.0.away.lock() = true;
    let mut client = node.open(&leader, hello(1)).await.unwrap();
    assert!(matches!(
        client.event().await.unwrap().1,
        Event::Inventory(_)
    ));
    let stranger = Identity::generate("stranger").unwrap();
    assert_eq!(
        node.open(&stranger, hello(2))
            .await
            .map(|_| ())
            .unwrap_err()
            .code(),
        Code::PermissionDenied
    );
    node.shut_down().await;
}

#[tokio::test]
async fn a_leader_that_lost_the_lease_to_a_controller_of_another_kind_does_not_get_in_again() {
    let node = Node::start().await;
    let leader = Identity::generate("leader").unwrap();
    drop(node.lead(&leader, 1).await);
    // Given back it names nobody else yet.
    *node.lease.0.view.lock() = LeaseView::Nobody;
    drop(node.open(&leader, hello(1)).await.unwrap());
    *node.lease.0.view.lock() = LeaseView::Stranger;
    let refused = node.open(&leader, hello(1)).await.map(|_| ()).unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused:?}");
    // Not while the API server is away either: what was heard last counts.
    *node.lease.0.away.lock() = true;
    let refused = node.open(&leader, hello(1)).await.map(|_| ()).unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused:?}");
    node.shut_down().await;
}

#[tokio::test]
async fn a_newer_leader_ends_the_session_of_the_older_one() {
    let node = Node::start().await;
    let (old, new) = (
        Identity::generate("old").unwrap(),
        Identity::generate("new").unwrap(),
    );
    let (mut first, _) = node.lead(&old, 1).await;
    let (mut again, _) = node.lead(&old, 1).await;
    assert_eq!(
        first.end().await.code(),
        Code::Aborted,
        "the same leader came back"
    );
    let (_client, _) = node.lead(&new, 2).await;
    assert_eq!(again.end().await.code(), Code::FailedPrecondition);
    // Its certificate may still be let in; its fence is not.
    node.lease.name(&old, 3);
    let mut late = node.open(&old, hello(1)).await.unwrap();
    assert_eq!(late.end().await.code(), Code::FailedPrecondition);
    node.shut_down().await;
}

#[tokio::test]
async fn a_leader_whose_lease_went_back_in_time_is_taken() {
    let node = Node::start().await;
    let leader = Identity::generate("leader").unwrap();
    drop(node.lead(&leader, 1000).await);
    let (_client, inventory) = node.lead(&leader, 10).await;
    assert_eq!(inventory.fence, 10);
    node.shut_down().await;
}

#[tokio::test]
async fn a_session_without_a_greeting_or_with_nonsense_ends() {
    let node = Node::start().await;
    let leader = Identity::generate("leader").unwrap();
    node.lease.name(&leader, 1);
    let mut client = node.open(&leader, bind("k", "a")).await.unwrap();
    assert_eq!(client.end().await.code(), Code::InvalidArgument);
    for nonsense in [
        hello(1),
        bind("", "a"),
        bind("k", &"x".repeat(1000)),
        bind("k\n", "a"),
    ] {
        let (mut client, _) = node.lead(&leader, 1).await;
        assert_eq!(
            client.ask(nonsense).await.unwrap_err().code(),
            Code::InvalidArgument
        );
    }
    node.shut_down().await;
}

#[tokio::test]
async fn a_release_that_is_not_durable_is_not_answered() {
    let node = Node::start().await;
    node.pods.show(view("a", PodPhase::Ready));
    let leader = Identity::generate("leader").unwrap();
    let (mut client, _) = node.lead(&leader, 1).await;
    client.bind("k", "a").await;
    node.disk.break_down(true);
    assert_eq!(
        client.ask(release("k")).await.unwrap_err().code(),
        Code::Unavailable
    );
    node.disk.break_down(false);
    let (mut client, _) = node.lead(&leader, 1).await;
    assert!(matches!(
        client.ask(release("k")).await.unwrap(),
        Event::Release(_)
    ));
    assert_eq!(node.pods.0.removed.lock().len(), 1);
    node.shut_down().await;
}

#[tokio::test]
async fn a_stopping_node_says_so() {
    let node = Node::start().await;
    let (mut client, _) = node.lead(&Identity::generate("leader").unwrap(), 1).await;
    node.stop.cancel();
    assert_eq!(client.end().await.code(), Code::Unavailable);
    drop(client);
    node.shut_down().await;
}

#[tokio::test(start_paused = true)]
async fn the_next_daemon_knows_the_leader_and_that_another_kind_leads() {
    let lease = FakeLease::default();
    let leader = Identity::generate("leader").unwrap();
    lease.name(&leader, 1);
    let kept = Arc::new(Mutex::new(Vec::new()));
    let keep = {
        let kept = Arc::clone(&kept);
        move |leader: Option<&LeaderRecord>| kept.lock().push(leader.map(|one| one.fingerprint))
    };
    let gate = LeaderGate::new(Box::new(lease.clone()), None, Box::new(keep));
    let allows = async || gate.allows(&leader.fingerprint()).await;
    assert!(allows().await && allows().await);
    *lease.0.view.lock() = LeaseView::Nobody;
    assert!(allows().await, "it may still lead");
    *lease.0.view.lock() = LeaseView::Stranger;
    assert!(!allows().await && !allows().await);
    assert_eq!(*kept.lock(), [Some(leader.fingerprint()), None]);
}

#[tokio::test(start_paused = true)]
async fn strangers_do_not_make_the_node_hammer_the_api_server() {
    let lease = FakeLease::default();
    let leader = Identity::generate("leader").unwrap();
    lease.name(&leader, 1);
    let gate = LeaderGate::new(Box::new(lease.clone()), None, Box::new(|_| {}));
    assert!(gate.allows(&leader.fingerprint()).await);
    let strangers: Vec<Fingerprint> = (0..50_u8).map(|n| Fingerprint::of_der(&[n])).collect();
    let asked = strangers.iter().map(|stranger| gate.allows(stranger));
    assert!(
        futures::future::join_all(asked)
            .await
            .iter()
            .all(|allowed| !allowed)
    );
    let reads = lease.0.reads.load(Ordering::Relaxed);
    assert!(reads <= 3, "{reads} reads for 50 who asked at once");
}
