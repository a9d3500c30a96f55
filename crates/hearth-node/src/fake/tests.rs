//! The pods of a fake node, without an API server.

use std::path::Path;
use std::time::Duration;

use hearth_api::constants::label;
use hearth_api::{PodSpecJson, Sandbox, Tier};
use hearth_core::ids::SandboxUid;
use hearth_proto::node::v1 as proto;
use hearth_proto::node::v1::node_client::NodeClient;
use hearth_proto::node::v1::session_event::Event;
use hearth_proto::node::v1::session_request::Request;
use hearth_tls::{ConnectOptions, Identity};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tokio_stream::wrappers::ReceiverStream;

use super::node::{fake_runtime, pod_config, pod_manager};
use super::*;
use crate::config::Config;
use crate::config::tests::good;
use crate::configs::testing::open_namespace;
use crate::metered::Metered;
use crate::pod::testing::{FakeRecords, bare, member, sandbox};
use crate::pod::{
    Adopted, ClaimActivity, PodManager, PodPhase, PodView, RemoveReason, RunnerPanicked,
};

/// Far beyond what anything here takes, by a clock that stands still while something can be done.
const LIMIT: Duration = Duration::from_secs(3600);

fn config(delays: &[&str]) -> FakeConfig {
    let delay = |text: &&str| text.parse::<Delay>().unwrap();
    FakeConfig {
        base: Config {
            node_name: "fake".to_owned(),
            pod_cidr: "198.18.0.0/15".to_owned(),
            max_sandboxes: 125,
            ..good()
        },
        nodes: 2,
        delays: delays.iter().map(delay).collect(),
        labels: BTreeMap::new(),
        taints: Vec::new(),
    }
}

/// The second of two fake nodes, without what talks to others.
struct Node {
    pods: PodManager,
    stop: CancellationToken,
    task: JoinHandle<Result<(), RunnerPanicked>>,
}

impl Node {
    fn start(config: FakeConfig) -> Self {
        Self::with(config, Arc::default())
    }

    fn with(config: FakeConfig, records: Arc<FakeRecords>) -> Self {
        let stop = CancellationToken::new();
        let common = Common {
            blocks: config.check().unwrap(),
            config: Arc::new(config),
            metrics: Metrics::default(),
            readiness: Readiness::new(),
            tracker: TaskTracker::new(),
            stop: stop.clone(),
        };
        let fake = fake_runtime(&common.config, common.blocks.part(1));
        let dir = Path::new("/nonexistent");
        let pods = pod_manager(
            &common,
            &fake,
            Arc::new(Metered::new(fake.clone(), common.metrics.cri.clone())),
            records,
            ClaimActivity::default(),
            pod_config(&common.config, &common.config.name(1), dir),
            dir,
        );
        for (key, config) in open_namespace("ns") {
            pods.set_config(key, config);
        }
        pods.set_runtime_classes(BTreeMap::new());
        let task = tokio::spawn(pods.clone().run(stop.clone()));
        Self { pods, stop, task }
    }

    fn want(&self, sandbox: &Sandbox) -> SandboxUid {
        let uid = SandboxUid(sandbox.metadata.uid.clone().unwrap());
        self.pods.set_desired(&uid, self.pods.desired(sandbox));
        uid
    }

    async fn until(
        &self,
        uid: &SandboxUid,
        what: &str,
        is: impl Fn(Option<&PodView>) -> bool,
    ) -> Option<Arc<PodView>> {
        let mut changes = self.pods.changes();
        loop {
            let view = self.pods.view(uid);
            if is(view.as_deref()) {
                return view;
            }
            let waited = timeout(LIMIT, changes.next()).await;
            assert!(waited.is_ok(), "{uid} is not {what}: {view:?}");
        }
    }

    async fn ready(&self, uid: &SandboxUid, tier: Tier) -> Arc<PodView> {
        let is = |view: &PodView| view.phase == PodPhase::Ready && view.tier == Some(tier);
        let view = self.until(uid, "ready", |view| view.is_some_and(is)).await;
        view.unwrap()
    }

    async fn end(self) {
        self.stop.cancel();
        self.task.await.unwrap().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_pod_takes_as_long_as_the_delays_say() {
    let node = Node::start(config(&["run-sandbox=3s", "create=2s", "start=1s"]));
    let begun = Instant::now();
    let uid = node.want(&bare("a"));
    node.ready(&uid, Tier::Running).await;
    assert_eq!(begun.elapsed().as_secs(), 6);
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_member_of_any_image_with_a_probe_over_the_network_lives_as_on_a_real_node() {
    let node = Node::start(config(&[]));
    let mut wanted = sandbox(
        "a",
        &json!({"containers": [{
            "name": "main",
            "image": "registry.example/agent:1",
            "imagePullPolicy": "Always",
            "readinessProbe": {"httpGet": {"port": 8888}},
        }]}),
    );
    wanted.metadata.labels = Some([(label::WARM_POOL.to_owned(), "hash".to_owned())].into());
    let uid = node.want(&wanted);
    let view = node.ready(&uid, Tier::Frozen).await;
    assert_eq!(view.freeze_method, "fake");
    assert_eq!(
        view.pod_ips,
        ["198.18.0.130"],
        "the first of the second node's part"
    );

    let bound = node.pods.thaw_for_bind(&uid, None).await.unwrap();
    bound.commit();
    node.ready(&uid, Tier::Running).await;

    node.pods.remove(&uid, RemoveReason::Released);
    node.until(&uid, "gone", |view| view.is_none()).await;
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_the_journal_has_is_made_anew_by_the_next_process() {
    let records: Arc<FakeRecords> = Arc::default();
    let node = Node::with(config(&[]), Arc::clone(&records));
    let uid = node.want(&member("a"));
    node.ready(&uid, Tier::Frozen).await;
    node.end().await;

    let record = records.get("a").unwrap();
    let node = Node::with(config(&[]), records);
    let adopted = Adopted {
        record,
        bound: true,
        env: None,
    };
    node.pods.adopt(vec![adopted]).await;
    node.want(&member("a"));
    node.ready(&uid, Tier::Running).await;
    node.end().await;
}

#[test]
fn what_cannot_be_is_refused_by_the_name_of_its_flag() {
    type Change = fn(&mut FakeConfig);
    let cases: [(&str, Change); 7] = [
        ("fake-nodes", |config| config.nodes = 0),
        ("node-name", |config| config.base.node_name.clear()),
        ("max-sandboxes", |config| config.base.max_sandboxes = 0),
        ("listen", |config| {
            config.base.listen = ([0, 0, 0, 0], 0).into();
        }),
        ("listen", |config| {
            config.base.listen = ([127, 0, 0, 1], 65_535).into();
        }),
        ("max-parallel-creates", |config| {
            config.base.max_parallel_creates = 0;
        }),
        ("fake-pod-cidr", |config| {
            config.base.pod_cidr = "198.18.0.0/25".to_owned();
        }),
    ];
    for (flag, change) in cases {
        let mut config = config(&[]);
        change(&mut config);
        assert_eq!(config.check().unwrap_err().flag, flag);
    }
}

/// Longer than anything real takes here.
const PATIENCE: Duration = Duration::from_secs(20);

#[tokio::test]
async fn a_node_by_itself_binds_its_members_for_its_leader() {
    let dir = tempfile::tempdir().unwrap();
    let leader = Identity::generate("leader").unwrap();
    let config = AloneConfig {
        dir: dir.path().to_owned(),
        sandboxes: 3,
        parallel: 2,
        delays: Delays::default(),
    };
    let node = Alone::start(config, leader.fingerprint()).await.unwrap();
    let pod = PodSpecJson::from_value(&json!({"containers": [{"name": "main", "image": "a"}]}));
    let uids = timeout(PATIENCE, node.fill(3, &pod.unwrap()))
        .await
        .unwrap();

    let (address, pin) = (node.address().to_string(), node.fingerprint());
    let channel = hearth_tls::connect(&address, &leader, pin, ConnectOptions::default())
        .await
        .unwrap();
    let (requests, outgoing) = mpsc::channel(2);
    let hello = proto::Hello {
        fence: Alone::FENCE,
        holder: "leader".to_owned(),
    };
    let bind = proto::BindRequest {
        owner_key: "claim".to_owned(),
        sandbox_uid: uids[1].clone(),
        env: Vec::new(),
    };
    for (id, request) in [(0, Request::Hello(hello)), (1, Request::Bind(bind))] {
        let request = Some(request);
        requests
            .send(proto::SessionRequest { id, request })
            .await
            .unwrap();
    }
    let mut client = NodeClient::new(channel);
    let session = client.session(ReceiverStream::new(outgoing)).await;
    let mut events = session.unwrap().into_inner();
    let bound = async {
        loop {
            match events.message().await.unwrap().unwrap().event.unwrap() {
                Event::Inventory(inventory) => assert_eq!(inventory.members.len(), 3),
                Event::Bind(reply) => return reply,
                _ => {}
            }
        }
    };
    let reply = timeout(PATIENCE, bound).await.unwrap();
    assert_eq!(reply.outcome(), proto::bind_reply::Outcome::Bound);
    assert_eq!(reply.member.unwrap().sandbox_uid, uids[1]);
    drop((client, events, requests));
    let stopping = timeout(Duration::from_secs(8), node.stop());
    assert!(stopping.await.is_ok(), "something goes on");
}
