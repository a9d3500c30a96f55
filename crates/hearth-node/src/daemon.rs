//! Putting the daemon together.
//!
//! [`run`] brings the parts up in the order in which they need each other, serves until it is told to stop, and leaves
//! containerd and every sandbox as they are. What survives a daemon is found again in this order: the journal says what
//! there should be, the runtime and the cgroups what there is, the API what is wanted.

pub(crate) mod door;
mod error;
mod kept;
mod ladder;
mod tasks;

use std::sync::Arc;

use hearth_api::{HandlerStatus, NodeCapacity};
use hearth_cri::{CriClient, Deadlines, ImageStore, PodRuntime};
use hearth_telemetry::{AdminServer, Blocker, ErrorChain, Readiness};
use kube::Client;
use prometheus_client::registry::Registry;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::adapters::PodStatus;
use crate::assignment::{Assignment, Board};
use crate::binder::Binder;
use crate::config::Config;
use crate::heartbeat;
use crate::host::{ContainerdHost, ContainerdState, Host, import_images, probe_all, wait_up};
use crate::images::{DiskKeeper, ImageConfig, Images, disk_of};
use crate::journal::Journal;
use crate::metered::Metered;
use crate::metrics::Metrics;
use crate::pod::{
    Adopted, ClaimActivity, Handler, PodConfig, PodDeps, PodManager, PodRecord, RemoveReason,
    SysHost, WallClock,
};
use crate::presence::{self, Facts, Presence, Sources};
use crate::reporter::Reporter;
use crate::runtime_classes;
use crate::sandboxes::{LocalSocket, Node, SandboxesApi};
use crate::server::{KubeLease, LeaderGate, LeaderRecord, NodeApi};
use crate::volumes::{self, OwnVolumes};

pub use error::DaemonError;
pub(crate) use kept::{adopted, keep_leader, known_leader, open_journal};
pub(crate) use tasks::Tasks;

/// What the parts share.
struct Parts {
    config: Config,
    client: Client,
    host: Host,
    runtime: Arc<Metered<CriClient>>,
    images: Images,
    metrics: Metrics,
    tracker: TaskTracker,
    token: CancellationToken,
    tasks: Tasks,
}

/// Runs the daemon until `token` is cancelled. Sandboxes and their containerd go on without it.
///
/// # Errors
/// When it cannot start, or when a part of it that never ends has ended.
pub async fn run(
    config: Config,
    client: Client,
    token: CancellationToken,
) -> Result<(), DaemonError> {
    config.check().map_err(DaemonError::Config)?;
    let mut registry = Registry::default();
    let metrics = Metrics::register(&mut registry);
    let readiness = Readiness::new();
    let starting = readiness.block("start");
    let admin = AdminServer::bind(config.metrics_listen, registry, readiness.clone())
        .await
        .map_err(DaemonError::Admin)?;
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        node = %config.node_name,
        instance = %config.instance,
        metrics = %admin.address(),
        "starting"
    );
    let host = Host::prepare(&config).await.map_err(DaemonError::Host)?;
    let socket = host.paths().containerd_socket();
    let runtime = Arc::new(Metered::new(
        CriClient::new(&socket, Deadlines::default()),
        metrics.cri.clone(),
    ));
    let image_config = ImageConfig {
        max_parallel_pulls: config.storage.max_parallel_pulls,
        notes: Some(host.paths().image_notes()),
    };
    let images = Images::new(runtime.clone(), &image_config, metrics.images.clone());
    let stop = token.child_token();
    let mut parts = Parts {
        runtime,
        images,
        config,
        client,
        host,
        metrics,
        tracker: TaskTracker::new(),
        token: stop.clone(),
        tasks: Tasks::new(stop.clone()),
    };
    parts.never_ends("metrics server", async move {
        admin.run(stop).await.map_err(DaemonError::Admin)
    });
    let result = parts.serve(&readiness, starting, &token).await;
    parts.metrics.census.forget();
    parts.tasks.shut_down(&parts.tracker).await;
    result
}

impl Parts {
    /// Spawns a part; when it ends before it was told to, the daemon ends with it.
    fn never_ends(
        &mut self,
        name: &'static str,
        part: impl Future<Output = Result<(), DaemonError>> + Send + 'static,
    ) {
        self.tasks.never_ends(name, part);
    }

    async fn serve(
        &mut self,
        readiness: &Readiness,
        starting: Blocker,
        token: &CancellationToken,
    ) -> Result<(), DaemonError> {
        // Cancel-safe: what was started is ended by the caller, which cancels the parts' token.
        tokio::select! {
            () = token.cancelled() => return Ok(()),
            started = self.start(readiness) => started?,
        }
        drop(starting);
        tracing::info!(node = %self.config.node_name, "serving");
        self.tasks.until(token).await
    }

    /// Brings everything up.
    async fn start(&mut self, readiness: &Readiness) -> Result<(), DaemonError> {
        self.start_heartbeat();
        let containerd = self.start_containerd(readiness);
        let root = self.host.paths().root().to_owned();
        let opened = open_journal(root, self.metrics.journal.clone()).await?;
        let journal = opened.journal;
        let writer = opened.writer;
        self.never_ends("journal", async move {
            writer.await;
            Ok(())
        });
        let records = adopted(&opened.contents);
        let sandboxes = self.serve_local_api(&records)?;
        let mut up = containerd.clone();
        let not_ready = presence::say_why_not_ready(
            self.client.clone(),
            &self.config.node_name,
            containerd.clone(),
        );
        // Cancel-safe: a condition that is not written is written when containerd is up.
        let up = tokio::select! {
            up = wait_up(&mut up) => up,
            () = not_ready => false,
        };
        if !up {
            return Err(DaemonError::Ended("containerd host"));
        }
        self.import_images().await;
        let handlers = probe_all(&self.host, self.runtime.as_ref()).await;
        for handler in &handlers {
            tracing::info!(handler = %handler.name, freeze_method = %handler.freeze_method, message = %handler.message, "probed");
        }
        self.metrics.handlers.set(&handlers);

        let activity = ClaimActivity::default();
        let traffic = self.open_traffic().await;
        let no_packets = traffic.as_ref().err().cloned();
        let pods = self.pod_manager(journal.clone(), activity.clone(), &handlers, no_packets)?;
        self.metrics.census.of(pods.clone());
        let manager = pods.clone();
        let stop = self.token.clone();
        self.never_ends("pod manager", async move {
            manager.run(stop).await.map_err(DaemonError::Runner)
        });
        let (volumes, stop) = (pods.volumes().clone(), self.token.clone());
        self.never_ends("remover of wiped volumes", async move {
            volumes::remover::run(volumes, stop).await;
            Ok(())
        });
        self.follow_containerd(containerd.clone(), pods.clone());

        let leader = known_leader(&opened.contents);
        let binder = Binder::new(
            opened.contents.bindings,
            journal.clone(),
            pods.clone(),
            activity.clone(),
            self.metrics.binder.clone(),
            self.tracker.clone(),
        );
        // Before the pods are looked at: what keeps that waiting may be what somebody wants to see.
        sandboxes.serve_all(Node {
            pods: pods.clone(),
            owners: Box::new(binder.clone()),
            streams: self.runtime.clone(),
        });
        pods.adopt(records).await;
        for view in pods.views() {
            if binder.is_disposed(&view.uid) {
                pods.remove(&view.uid, RemoveReason::Released);
            }
        }
        self.start_ladder(&pods, traffic.ok());
        let (endpoint, fingerprint) = self
            .serve_node_api(&binder, &pods, &sandboxes, leader, journal)
            .await?;
        let facts = self.facts(endpoint, fingerprint)?;
        self.follow_api(
            binder, pods, activity, facts, containerd, handlers, readiness,
        );
        Ok(())
    }

    fn start_heartbeat(&mut self) {
        let (client, node) = (self.client.clone(), self.config.node_name.clone());
        let (period, stop) = (self.config.heartbeat, self.token.clone());
        self.never_ends("heartbeat", async move {
            heartbeat::run(client, node, period, stop).await;
            Ok(())
        });
    }

    fn start_containerd(&mut self, readiness: &Readiness) -> watch::Receiver<ContainerdState> {
        let runtime: Arc<dyn PodRuntime> = self.runtime.clone();
        let containerd = ContainerdHost::new(&self.host, runtime, self.metrics.containerd.clone());
        let state = containerd.state();
        let stop = self.token.clone();
        self.never_ends("containerd host", async move {
            containerd.run(stop).await;
            Ok(())
        });
        let (mut state_for_readiness, readiness) = (state.clone(), readiness.clone());
        let stop = self.token.clone();
        self.never_ends("readiness", async move {
            let mut blocker = Some(readiness.block("containerd"));
            loop {
                let up = state_for_readiness.borrow_and_update().is_up();
                if up {
                    blocker = None;
                } else if blocker.is_none() {
                    blocker = Some(readiness.block("containerd"));
                }
                // Cancel-safe: both arms only wait.
                tokio::select! {
                    () = stop.cancelled() => return Ok(()),
                    changed = state_for_readiness.changed() => if changed.is_err() { return Ok(()) },
                }
            }
        });
        state
    }

    async fn import_images(&self) {
        import(
            &self.host,
            self.runtime.as_ref(),
            &self.images,
            &self.config,
        )
        .await;
    }

    fn pod_manager(
        &self,
        journal: Journal,
        claims: ClaimActivity,
        handlers: &[HandlerStatus],
        no_packets: Option<String>,
    ) -> Result<PodManager, DaemonError> {
        let paths = self.host.paths();
        let mut config =
            PodConfig::new(&self.config.instance, &self.config.node_name, paths.logs());
        config.handlers = handlers.iter().map(Handler::of).collect();
        config.support = self.config.support();
        config.first_user_id = self.config.first_user_id;
        config.seccomp_dir = paths.seccomp();
        config.host_ip = self.config.host_ip();
        config
            .cluster_domain
            .clone_from(&self.config.cluster_domain);
        config.pids_limit = self.config.pids_limit;
        config.logs = self.config.storage.logs;
        config.no_packets = no_packets;
        config.max_parallel_creates = self.config.max_parallel_creates;
        config.min_parallel_creates = self.config.min_parallel_creates;
        config.cores = hearth_sys::machine::cpu_count();
        (config.cluster_dns, config.services) = (self.config.resolver(), self.config.services());
        config.machine_cpu_millis =
            u64::try_from(hearth_sys::machine::cpu_count()).unwrap_or(u64::MAX / 1000) * 1000;
        config.machine_memory =
            hearth_sys::machine::memory_total_bytes().map_err(|source| DaemonError::Machine {
                what: "the machine's memory",
                source,
            })?;
        let volumes = OwnVolumes::new(paths.volumes(), paths.wiped_volumes(), paths.pods());
        let runtime: Arc<dyn PodRuntime> = self.runtime.clone();
        Ok(PodManager::new(PodDeps {
            runtime,
            images: self.images.clone(),
            host: Arc::new(SysHost::new(
                self.host.cgroups().clone(),
                self.host.freezers(),
                paths.pods(),
                paths.containerd_state(),
                volumes.clone(),
            )),
            volumes,
            records: Arc::new(journal),
            claims,
            clock: WallClock::default(),
            metrics: self.metrics.pods.clone(),
            config,
        }))
    }

    /// Tells the pods each time containerd serves again; its images may be others then.
    fn follow_containerd(&mut self, mut state: watch::Receiver<ContainerdState>, pods: PodManager) {
        let (host, runtime, images, config) = (
            self.host.clone(),
            Arc::clone(&self.runtime),
            self.images.clone(),
            self.config.clone(),
        );
        let stop = self.token.clone();
        state.mark_unchanged();
        self.never_ends("containerd follower", async move {
            loop {
                // Cancel-safe: both arms only wait.
                tokio::select! {
                    () = stop.cancelled() => return Ok(()),
                    changed = state.changed() => if changed.is_err() { return Ok(()) },
                }
                if state.borrow_and_update().is_up() {
                    import(&host, runtime.as_ref(), &images, &config).await;
                    pods.runtime_restarted();
                    pods.images_changed();
                }
            }
        });
    }

    /// Serves the local API, from before containerd has answered: why it does not may be what somebody wants to see.
    fn serve_local_api(&mut self, records: &[Adopted]) -> Result<SandboxesApi, DaemonError> {
        let path = self.host.paths().local_socket();
        let socket =
            LocalSocket::bind(&path).map_err(|source| DaemonError::LocalSocket { path, source })?;
        let records: Vec<PodRecord> = records.iter().map(|kept| kept.record.clone()).collect();
        let logs = self.host.paths().logs();
        let api = SandboxesApi::new(
            &records,
            logs,
            self.tracker.clone(),
            self.token.clone(),
            self.metrics.sessions.clone(),
        );
        let served = api.clone();
        self.never_ends("local API", async move {
            served.serve(socket).await.map_err(DaemonError::ServeLocal)
        });
        Ok(api)
    }

    /// Serves the node API. Returns where, and the fingerprint of its certificate.
    async fn serve_node_api(
        &mut self,
        binder: &Binder<PodManager>,
        pods: &PodManager,
        sandboxes: &SandboxesApi,
        leader: Option<LeaderRecord>,
        journal: Journal,
    ) -> Result<(String, String), DaemonError> {
        let identity =
            door::identity(self.host.paths().tls(), self.config.node_name.clone()).await?;
        let (listener, address) = door::listen_on(self.config.listen).await?;
        let endpoint = self
            .config
            .advertise_address
            .clone()
            .unwrap_or_else(|| address.to_string());
        let fingerprint = identity.fingerprint().to_string();
        let lease = KubeLease::new(
            self.client.clone(),
            &self.config.leader_namespace,
            &self.config.leader_lease,
        );
        let gate = LeaderGate::new(
            Box::new(lease),
            leader,
            Box::new(move |leader| keep_leader(&journal, leader)),
        );
        let api = NodeApi::new(
            binder.clone(),
            pods.clone(),
            gate,
            self.tracker.clone(),
            self.token.clone(),
            self.metrics.server.clone(),
        )
        .with_sandboxes(sandboxes.another_door());
        tracing::info!(%address, endpoint, fingerprint, "the node API listens");
        self.never_ends("node API", async move {
            api.serve(listener, &identity)
                .await
                .map_err(DaemonError::Serve)
        });
        Ok((endpoint, fingerprint))
    }

    fn facts(&self, endpoint: String, fingerprint: String) -> Result<Facts, DaemonError> {
        let machine = |what| move |source| DaemonError::Machine { what, source };
        let memory =
            hearth_sys::machine::memory_total_bytes().map_err(machine("the machine's memory"))?;
        let cores = i64::try_from(hearth_sys::machine::cpu_count()).unwrap_or(i64::MAX / 1000);
        let disk = hearth_sys::disk::file_system(self.host.paths().root())
            .map_err(machine("the disk of the root directory"))?;
        // The rest is never to be used.
        let kept_free = self.config.storage.disk.pressure.available_percent;
        let allocatable = disk.capacity_bytes / 100 * u64::from(100_u8.saturating_sub(kept_free));
        Ok(Facts {
            node_name: self.config.node_name.clone(),
            pod_cidr: self.config.pod_cidr.clone(),
            endpoint,
            fingerprint,
            boot_id: hearth_sys::boot::boot_id().map_err(machine("the boot id"))?,
            capacity: NodeCapacity {
                sandboxes: i32::from(self.config.max_sandboxes),
                milli_cpu: cores * 1000,
                memory_bytes: i64::try_from(memory).unwrap_or(i64::MAX),
                storage_bytes: i64::try_from(allocatable).unwrap_or(i64::MAX),
            },
            fake: None,
        })
    }

    /// Starts what watches and writes the API.
    #[expect(
        clippy::too_many_arguments,
        reason = "the parts of the daemon, each used once"
    )]
    fn follow_api(
        &mut self,
        binder: Binder<PodManager>,
        pods: PodManager,
        activity: ClaimActivity,
        facts: Facts,
        containerd: watch::Receiver<ContainerdState>,
        handlers: Vec<HandlerStatus>,
        readiness: &Readiness,
    ) {
        let (client, stop) = (self.client.clone(), self.token.clone());
        let classes = pods.clone();
        self.never_ends("watch of RuntimeClasses", async move {
            let told = move |known| classes.set_runtime_classes(known);
            runtime_classes::follow(client, told, stop).await;
            Ok(())
        });
        let board = Board::default();
        let (confirmations, confirmed) = watch::channel(0);
        let assignment = Assignment::new(
            self.client.clone(),
            &self.config.node_name,
            pods.clone(),
            binder,
            board.clone(),
            confirmed,
            self.metrics.assignment.clone(),
        );
        let status = assignment.status();
        let stop = self.token.clone();
        self.never_ends("watch of Sandboxes", async move {
            assignment.run(stop).await;
            Ok(())
        });
        let source = PodStatus {
            pods: pods.clone(),
            node_name: self.config.node_name.clone(),
        };
        let reporter = Reporter::new(
            self.client.clone(),
            source,
            board,
            activity,
            self.metrics.reporter.clone(),
        );
        let stop = self.token.clone();
        self.never_ends("reporter", async move {
            reporter.run(stop).await;
            Ok(())
        });
        let blocker = readiness.block("first list of Sandboxes");
        let mut synced = status.synced.clone();
        self.tracker.spawn(async move {
            // Ends with the watch, whose end takes the daemon with it.
            let _ = synced.wait_for(|synced| *synced).await;
            drop(blocker);
        });
        let keeper = DiskKeeper::new(
            self.images.clone(),
            Arc::new(pods.clone()),
            disk_of(self.host.paths().root().to_owned()),
            self.config.storage.disk,
            status.synced.clone(),
        );
        let pressure = keeper.pressure();
        let stop = self.token.clone();
        self.never_ends("disk", async move {
            keeper.run(stop).await;
            Ok(())
        });
        let images: Arc<dyn ImageStore> = self.runtime.clone();
        let sources = Sources {
            pods,
            images,
            containerd,
            handlers,
            assignment: status,
            pressure,
        };
        let presence = Presence::new(&self.client, facts, sources, confirmations);
        let stop = self.token.clone();
        self.never_ends("SandboxNode", async move {
            presence.run(stop).await;
            Ok(())
        });
    }
}

async fn import(host: &Host, store: &dyn ImageStore, images: &Images, config: &Config) {
    let Some(dir) = &config.images_dir else {
        return;
    };
    // What became of each archive is logged where it is imported.
    match import_images(host, store, dir).await {
        Ok(archives) => images.set_own(archives.into_iter().flat_map(|archive| archive.images)),
        Err(error) => {
            tracing::error!(error = %ErrorChain(&error), "cannot import image archives");
        }
    }
}
