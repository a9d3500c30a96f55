//! Putting one fake node together, in the order in which the daemon does it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hearth_api::constants::label;
use hearth_api::{HandlerStatus, NodeCapacity};
use hearth_core::podspec::{Policy, Support, UserNamespaces};
use hearth_cri::fake::{FakeOptions, FakeRuntime};
use hearth_cri::{Deadlines, ImageStore};
use hearth_sys::ProcessId;
use hearth_telemetry::Readiness;
use kube::Client;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::FakeConfig;
use super::host::FakeNodeHost;
use super::network::Blocks;
use crate::adapters::PodStatus;
use crate::assignment::{Assignment, AssignmentStatus, Board};
use crate::binder::Binder;
use crate::daemon::{DaemonError, Tasks, adopted, door, keep_leader, known_leader, open_journal};
use crate::heartbeat;
use crate::host::ContainerdState;
use crate::images::{ImageConfig, Images};
use crate::journal::{Journal, Opened};
use crate::ladder::{Bells, Ladder, ReclaimSettings};
use crate::metered::Metered;
use crate::metrics::Metrics;
use crate::pod::{
    ClaimActivity, Handler, PodConfig, PodDeps, PodManager, Reach, RecordStore, RemoveReason,
    WallClock,
};
use crate::presence::{Facts, Marks, Presence, Sources};
use crate::reporter::Reporter;
use crate::server::{KubeLease, LeaderGate, NodeApi};
use crate::volumes::{self, OwnVolumes};

/// What `SandboxNode` and `Sandbox` say of how pods of fake nodes are frozen.
const FREEZE_METHOD: &str = "fake";
/// The handlers of a fake node: those of a real one.
const HANDLERS: [&str; 3] = ["runc", "runsc", "kata"];
/// What a fake node has for each of its sandboxes: more than any asks for, so that only their number counts.
const MILLI_CPU: i64 = 16_000;
const MEMORY_BYTES: i64 = 64 << 30;
const STORAGE_BYTES: i64 = 1 << 40;
/// There are no logs and no disks to be looked at.
const NEVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// What the nodes of a process share.
#[derive(Clone, Debug)]
pub(super) struct Common {
    pub(super) config: Arc<FakeConfig>,
    pub(super) blocks: Blocks,
    pub(super) metrics: Metrics,
    pub(super) readiness: Readiness,
    pub(super) tracker: TaskTracker,
    pub(super) stop: CancellationToken,
}

/// One node while it is put together.
struct Parts<'a> {
    common: &'a Common,
    number: u16,
    name: String,
    dir: PathBuf,
    client: Client,
    runtime: Arc<Metered<FakeRuntime>>,
    activity: ClaimActivity,
    tasks: &'a mut Tasks,
}

/// Starts a node. Its parts are among `tasks`.
pub(super) async fn start(
    common: &Common,
    number: u16,
    client: Client,
    tasks: &mut Tasks,
) -> Result<PodManager, DaemonError> {
    let name = common.config.name(number);
    let fake = fake_runtime(&common.config, common.blocks.part(number));
    let runtime = Arc::new(Metered::new(fake.clone(), common.metrics.cri.clone()));
    let mut node = Parts {
        common,
        number,
        dir: common.config.base.root_dir.join(&name),
        name,
        client,
        runtime,
        activity: ClaimActivity::default(),
        tasks,
    };
    node.start(&fake).await
}

/// The runtime of a node whose pods have addresses of this network.
pub(super) fn fake_runtime(config: &FakeConfig, network: (std::net::Ipv4Addr, u8)) -> FakeRuntime {
    let runtime = FakeRuntime::new(FakeOptions {
        handlers: HANDLERS.map(str::to_owned).into(),
        images: vec![config.base.pause_image.clone()],
        every_image: true,
        pod_network: network,
        deadlines: Deadlines::default(),
    });
    config.delays.slow(&runtime);
    runtime
}

fn handlers() -> Vec<HandlerStatus> {
    let handler = |name: &str| HandlerStatus {
        name: name.to_owned(),
        freeze_method: FREEZE_METHOD.to_owned(),
        message: String::new(),
    };
    HANDLERS.map(handler).into()
}

fn capacity(config: &FakeConfig) -> NodeCapacity {
    let sandboxes = config.base.max_sandboxes;
    let of = |each: i64| each * i64::from(sandboxes);
    NodeCapacity {
        sandboxes: i32::from(sandboxes),
        milli_cpu: of(MILLI_CPU),
        memory_bytes: of(MEMORY_BYTES),
        storage_bytes: of(STORAGE_BYTES),
    }
}

/// How pods are made on the node `name`, whose directory is `dir`.
pub(super) fn pod_config(config: &FakeConfig, name: &str, dir: &Path) -> PodConfig {
    let (base, capacity) = (&config.base, capacity(config));
    let mut pods = PodConfig::new(&base.instance, name, dir.join("logs"));
    pods.handlers = handlers().iter().map(Handler::of).collect();
    pods.support = Support {
        policy: Policy::new(base.allow.clone()),
        app_armor: true,
        user_namespaces: UserNamespaces::Yes,
    };
    pods.first_user_id = base.first_user_id;
    pods.host_ip = base.host_ip();
    pods.cluster_domain.clone_from(&base.cluster_domain);
    pods.pids_limit = base.pids_limit;
    pods.reach = Reach::Nobody;
    pods.no_packets = Some("a fake node sees no packets".to_owned());
    pods.max_parallel_creates = base.max_parallel_creates;
    pods.min_parallel_creates = base.min_parallel_creates;
    pods.cores = hearth_sys::machine::cpu_count();
    (pods.cluster_dns, pods.services) = (base.resolver(), base.services());
    pods.machine_cpu_millis = u64::try_from(capacity.milli_cpu).unwrap_or(u64::MAX);
    pods.machine_memory = u64::try_from(capacity.memory_bytes).unwrap_or(u64::MAX);
    pods.measure = NEVER;
    pods
}

/// The pods of a node.
pub(super) fn pod_manager(
    common: &Common,
    fake: &FakeRuntime,
    runtime: Arc<Metered<FakeRuntime>>,
    records: Arc<dyn RecordStore>,
    activity: ClaimActivity,
    pods: PodConfig,
    dir: &Path,
) -> PodManager {
    let (config, metrics) = (&common.config, &common.metrics);
    let images = ImageConfig {
        max_parallel_pulls: config.base.storage.max_parallel_pulls,
        notes: None,
    };
    PodManager::new(PodDeps {
        runtime: runtime.clone(),
        images: Images::new(runtime, &images, metrics.images.clone()),
        host: Arc::new(FakeNodeHost::new(fake.clone(), config.delays.freezer())),
        volumes: OwnVolumes::new(dir.join("volumes"), dir.join("wiped"), dir.join("pods")),
        records,
        claims: activity,
        clock: WallClock::default(),
        metrics: metrics.pods.clone(),
        config: pods,
    })
}

impl Parts<'_> {
    async fn start(&mut self, fake: &FakeRuntime) -> Result<PodManager, DaemonError> {
        let (client, name) = (self.client.clone(), self.name.clone());
        let (period, stop) = (self.common.config.base.heartbeat, self.stop());
        self.tasks.never_ends("heartbeat", async move {
            heartbeat::run(client, name, period, stop).await;
            Ok(())
        });
        let Opened {
            journal,
            contents,
            found: _,
            writer,
        } = open_journal(self.dir.clone(), self.common.metrics.journal.clone()).await?;
        self.tasks.never_ends("journal", async move {
            writer.await;
            Ok(())
        });
        let pods = self.start_pods(fake, journal.clone());
        let (records, leader) = (adopted(&contents), known_leader(&contents));
        let binder = Binder::new(
            contents.bindings,
            journal.clone(),
            pods.clone(),
            self.activity.clone(),
            self.common.metrics.binder.clone(),
            self.common.tracker.clone(),
        );
        pods.adopt(records).await;
        for view in pods.views() {
            if binder.is_disposed(&view.uid) {
                pods.remove(&view.uid, RemoveReason::Released);
            }
        }
        let lease = KubeLease::new(
            self.client.clone(),
            &self.common.config.base.leader_namespace,
            &self.common.config.base.leader_lease,
        );
        let keep = Box::new(move |leader: Option<&_>| keep_leader(&journal, leader));
        let gate = LeaderGate::new(Box::new(lease), leader, keep);
        let facts = self.serve_node_api(&binder, &pods, gate).await?;
        self.follow_api(binder, &pods, facts);
        Ok(pods)
    }

    fn stop(&self) -> CancellationToken {
        self.common.stop.clone()
    }

    /// Starts what makes, runs and ends pods.
    fn start_pods(&mut self, fake: &FakeRuntime, journal: Journal) -> PodManager {
        let pods = pod_manager(
            self.common,
            fake,
            self.runtime.clone(),
            Arc::new(journal),
            self.activity.clone(),
            pod_config(&self.common.config, &self.name, &self.dir),
            &self.dir,
        );
        self.common.metrics.census.of(pods.clone());
        let (manager, stop) = (pods.clone(), self.stop());
        self.tasks.never_ends("pod manager", async move {
            manager.run(stop).await.map_err(DaemonError::Runner)
        });
        let (volumes, stop) = (pods.volumes().clone(), self.stop());
        self.tasks
            .never_ends("remover of wiped volumes", async move {
                volumes::remover::run(volumes, stop).await;
                Ok(())
            });
        let (settings, metrics) = (ReclaimSettings::new(0), self.common.metrics.ladder.clone());
        let ladder = Ladder::new(pods.clone(), None, Bells::default(), settings, metrics);
        let stop = self.stop();
        self.tasks.never_ends("ladder", async move {
            ladder.run(stop).await;
            Ok(())
        });
        pods
    }

    /// Serves the node API. Returns what the SandboxNode says of the node.
    async fn serve_node_api(
        &mut self,
        binder: &Binder<PodManager>,
        pods: &PodManager,
        gate: LeaderGate,
    ) -> Result<Facts, DaemonError> {
        let identity = door::identity(self.dir.join("tls"), self.name.clone()).await?;
        let listen = port_of(self.common.config.base.listen, self.number);
        let (listener, address) = door::listen_on(listen).await?;
        let fingerprint = identity.fingerprint().to_string();
        let api = NodeApi::new(
            binder.clone(),
            pods.clone(),
            gate,
            self.common.tracker.clone(),
            self.stop(),
            self.common.metrics.server.clone(),
        );
        self.tasks.never_ends("node API", async move {
            api.serve(listener, &identity)
                .await
                .map_err(DaemonError::Serve)
        });
        let config = &self.common.config;
        let (network, bits) = self.common.blocks.part(self.number);
        Ok(Facts {
            node_name: self.name.clone(),
            pod_cidr: format!("{network}/{bits}"),
            endpoint: address.to_string(),
            fingerprint,
            // All its pods are gone when the process is.
            boot_id: uuid::Uuid::new_v4().to_string(),
            capacity: capacity(config),
            fake: Some(Marks {
                labels: labels(config, &self.name),
                taints: config.taints.clone(),
            }),
        })
    }

    /// Starts what watches and writes the API.
    fn follow_api(&mut self, binder: Binder<PodManager>, pods: &PodManager, facts: Facts) {
        let board = Board::default();
        let (confirmations, confirmed) = watch::channel(0);
        let metrics = &self.common.metrics;
        let assignment = Assignment::new(
            self.client.clone(),
            &self.name,
            pods.clone(),
            binder,
            board.clone(),
            confirmed,
            metrics.assignment.clone(),
        );
        let source = PodStatus {
            pods: pods.clone(),
            node_name: self.name.clone(),
        };
        let reporter = Reporter::new(
            self.client.clone(),
            source,
            board,
            self.activity.clone(),
            metrics.reporter.clone(),
        );
        let status = assignment.status();
        let blocker = self.common.readiness.block("first list of Sandboxes");
        let mut synced = status.synced.clone();
        self.common.tracker.spawn(async move {
            // Ends with the watch, whose end takes the process with it.
            let _ = synced.wait_for(|synced| *synced).await;
            drop(blocker);
        });
        let stop = self.stop();
        self.tasks.never_ends("watch of Sandboxes", async move {
            assignment.run(stop).await;
            Ok(())
        });
        let stop = self.stop();
        self.tasks.never_ends("reporter", async move {
            reporter.run(stop).await;
            Ok(())
        });
        self.keep_sandbox_node(pods, facts, status, confirmations);
    }

    fn keep_sandbox_node(
        &mut self,
        pods: &PodManager,
        facts: Facts,
        assignment: AssignmentStatus,
        confirmations: watch::Sender<u64>,
    ) {
        // Never down, and never full.
        let (up, containerd) = watch::channel(ContainerdState::Up {
            since: Instant::now(),
            process: ProcessId {
                pid: i32::try_from(std::process::id()).unwrap_or_default(),
                start_time: 0,
            },
            set_aside: None,
        });
        let (room, pressure) = watch::channel(None);
        let images: Arc<dyn ImageStore> = self.runtime.clone();
        let sources = Sources {
            pods: pods.clone(),
            images,
            containerd,
            handlers: handlers(),
            assignment,
            pressure,
        };
        let presence = Presence::new(&self.client, facts, sources, confirmations);
        let stop = self.stop();
        self.tasks.never_ends("SandboxNode", async move {
            let _kept = (up, room);
            presence.run(stop).await;
            Ok(())
        });
    }
}

/// Where a node listens.
fn port_of(first: SocketAddr, number: u16) -> SocketAddr {
    let port = match first.port() {
        0 => 0,
        port => port.saturating_add(number),
    };
    SocketAddr::new(first.ip(), port)
}

/// The labels that nodes have, and those that fake ones were given.
fn labels(config: &FakeConfig, name: &str) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::from([
        ("kubernetes.io/hostname".to_owned(), name.to_owned()),
        ("kubernetes.io/os".to_owned(), "linux".to_owned()),
        (label::FAKE_NODE.to_owned(), "true".to_owned()),
    ]);
    labels.extend(config.labels.clone());
    labels
}
