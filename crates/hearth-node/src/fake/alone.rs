//! One fake node by itself, without an API server: for measuring what the node does.

use std::collections::{BTreeMap, HashSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use hearth_api::constants::label;
use hearth_api::{PodSpecJson, Sandbox, SandboxSpec, Tier};
use hearth_core::ids::{Fence, SandboxUid};
use hearth_telemetry::Readiness;
use hearth_tls::{Fingerprint, Identity};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::node::{Common, fake_runtime, pod_config, pod_manager};
use super::{Delays, FakeConfig};
use crate::binder::Binder;
use crate::config::{Config, StorageConfig, first_user_id};
use crate::configs::open_namespace;
use crate::daemon::{DaemonError, Tasks, door, open_journal};
use crate::metered::Metered;
use crate::metrics::Metrics;
use crate::pod::{ClaimActivity, PodManager, PodPhase, PodView};
use crate::server::{LeaderGate, LeaderRecord, LeaseReadError, LeaseReader, LeaseView, NodeApi};

/// The namespace of its members.
const NAMESPACE: &str = "default";

/// One fake node by itself. What it runs ends with the runtime that it was started on, or by [`Alone::stop`].
#[derive(Debug)]
pub struct Alone {
    pods: PodManager,
    address: SocketAddr,
    fingerprint: Fingerprint,
    tasks: Tasks,
    tracker: TaskTracker,
}

/// What a node by itself is told.
#[derive(Clone, Debug)]
pub struct AloneConfig {
    /// Where its journal is.
    pub dir: PathBuf,
    /// How many sandboxes it has room for.
    pub sandboxes: u16,
    /// How many pods are made at once.
    pub parallel: usize,
    /// How long things take.
    pub delays: Delays,
}

impl AloneConfig {
    fn into_fake(self) -> FakeConfig {
        let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
        let instance = "alone".to_owned();
        let base = Config {
            node_name: "fake".to_owned(),
            first_user_id: first_user_id(&instance),
            instance,
            root_dir: self.dir,
            run_dir: PathBuf::new(),
            bin_dir: PathBuf::new(),
            handlers: Vec::new(),
            images_dir: None,
            pause_image: "pause".to_owned(),
            listen: loopback,
            advertise_address: None,
            metrics_listen: loopback,
            pod_cidr: "198.18.0.0/15".to_owned(),
            max_sandboxes: self.sandboxes,
            max_parallel_creates: self.parallel,
            min_parallel_creates: self.parallel,
            pids_limit: 0,
            allow: Vec::new(),
            reclaim_rate: 0,
            cluster_dns: Vec::new(),
            cluster_domain: "cluster.local".to_owned(),
            kubernetes_service: None,
            leader_namespace: String::new(),
            leader_lease: String::new(),
            heartbeat: Duration::from_secs(10),
            storage: StorageConfig::default(),
        };
        FakeConfig {
            base,
            nodes: 1,
            delays: self.delays,
            labels: BTreeMap::new(),
            taints: Vec::new(),
        }
    }
}

/// A Lease that always names the same leader.
#[derive(Debug)]
struct Named(LeaderRecord);

#[async_trait]
impl LeaseReader for Named {
    async fn read(&self) -> Result<LeaseView, LeaseReadError> {
        Ok(LeaseView::Leader(self.0))
    }
}

impl Alone {
    /// The fence of its leader.
    pub const FENCE: u64 = 1;

    /// Starts it on a free port of the loopback interface. Its leader is who has this certificate, with [`Alone::FENCE`].
    ///
    /// # Errors
    /// When it cannot be started.
    pub async fn start(config: AloneConfig, leader: Fingerprint) -> Result<Self, DaemonError> {
        let config = config.into_fake();
        let (name, listen) = (config.name(0), config.base.listen);
        let dir = config.base.root_dir.join(&name);
        let (stop, tracker) = (CancellationToken::new(), TaskTracker::new());
        let common = Common {
            blocks: config.check().map_err(DaemonError::Config)?,
            config: Arc::new(config),
            metrics: Metrics::default(),
            readiness: Readiness::new(),
            tracker: tracker.clone(),
            stop: stop.clone(),
        };
        let mut tasks = Tasks::new(stop.clone());
        let opened = open_journal(dir.clone(), common.metrics.journal.clone()).await?;
        let (journal, writer) = (opened.journal, opened.writer);
        tasks.never_ends("journal", async move {
            writer.await;
            Ok(())
        });
        let fake = fake_runtime(&common.config, common.blocks.part(0));
        let runtime = Arc::new(Metered::new(fake.clone(), common.metrics.cri.clone()));
        let activity = ClaimActivity::default();
        let pods = pod_manager(
            &common,
            &fake,
            runtime,
            Arc::new(journal.clone()),
            activity.clone(),
            pod_config(&common.config, &name, &dir),
            &dir,
        );
        let (manager, manager_stop) = (pods.clone(), stop.clone());
        tasks.never_ends("pod manager", async move {
            manager.run(manager_stop).await.map_err(DaemonError::Runner)
        });
        pods.adopt(Vec::new()).await;
        for (key, config) in open_namespace(NAMESPACE) {
            pods.set_config(key, config);
        }
        pods.set_runtime_classes(BTreeMap::new());
        let metrics = &common.metrics;
        let binder = Binder::new(
            opened.contents.bindings,
            journal,
            pods.clone(),
            activity,
            metrics.binder.clone(),
            tracker.clone(),
        );
        let leader = LeaderRecord {
            fingerprint: leader,
            version: Fence(Self::FENCE),
        };
        let gate = LeaderGate::new(Box::new(Named(leader)), Some(leader), Box::new(|_| {}));
        let api = NodeApi::new(
            binder,
            pods.clone(),
            gate,
            tracker.clone(),
            stop,
            metrics.server.clone(),
        );
        let identity = Identity::generate(&name).map_err(DaemonError::Identity)?;
        let (listener, address) = door::listen_on(listen).await?;
        let fingerprint = identity.fingerprint();
        tasks.never_ends("node API", async move {
            api.serve(listener, &identity)
                .await
                .map_err(DaemonError::Serve)
        });
        Ok(Self {
            pods,
            address,
            fingerprint,
            tasks,
            tracker,
        })
    }

    /// Where its node API is.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The fingerprint of its certificate.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// Makes so many members of a pool with these pods, and waits, for however long it takes, until all are ready and
    /// frozen. Returns the UIDs of their Sandboxes. Called again it makes no others.
    pub async fn fill(&self, count: usize, pod: &PodSpecJson) -> Vec<String> {
        let mut changes = self.pods.changes();
        let uids: Vec<_> = (0..count)
            .map(|number| format!("member-{number}"))
            .collect();
        for uid in &uids {
            let wish = self.pods.desired(&member(uid, pod));
            self.pods.set_desired(&SandboxUid::from(uid.as_str()), wish);
        }
        let is_ready = |uid: &SandboxUid| self.pods.view(uid).is_some_and(|view| is_frozen(&view));
        let mut missing: HashSet<_> = uids
            .iter()
            .map(|uid| SandboxUid::from(uid.as_str()))
            .filter(|uid| !is_ready(uid))
            .collect();
        while !missing.is_empty() {
            let uid = changes.next().await;
            if is_ready(&uid) {
                missing.remove(&uid);
            }
        }
        uids
    }

    /// Ends it.
    pub async fn stop(self) {
        let Self {
            pods,
            mut tasks,
            tracker,
            ..
        } = self;
        // The journal ends with the last who could write to it.
        drop(pods);
        tasks.shut_down(&tracker).await;
    }
}

fn is_frozen(view: &PodView) -> bool {
    view.phase == PodPhase::Ready && view.tier == Some(Tier::Frozen)
}

fn member(uid: &str, pod: &PodSpecJson) -> Sandbox {
    let mut sandbox = Sandbox::new(uid, SandboxSpec::default());
    let metadata = &mut sandbox.metadata;
    metadata.namespace = Some(NAMESPACE.to_owned());
    metadata.uid = Some(uid.to_owned());
    metadata.generation = Some(1);
    metadata.labels = Some([(label::WARM_POOL.to_owned(), "pool".to_owned())].into());
    sandbox.spec.pod_template.spec = pod.clone();
    sandbox
}
