//! The handle to all sandboxes of the node.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use hearth_api::Sandbox;
use hearth_core::binding::BoundEnv;
use hearth_core::effects::ConfigKey;
use hearth_core::ids::{PodUid, SandboxUid};
use hearth_core::podspec::Config;
use hearth_core::sandbox::State;
use hearth_cri::PodRuntime;
use parking_lot::RwLock;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::alarm::Alarm;
use super::cell::Cell;
use super::changes::{Changes, Hub};
use super::classes::{Classes, NodeClass};
use super::clock::WallClock;
use super::config::PodConfig;
use super::desired::{DesiredSandbox, Plans};
use super::gate::{BoundPod, GateError};
use super::host::PodHost;
use super::metrics::{PodMetrics, ThawReason};
use super::record::{PodRecord, RecordStore};
use super::runner::{Origin, Runner};
use super::show;
use super::slots::Slots;
use super::user_ids::UserIds;
use super::view::PodView;
use super::{ClaimActivity, follow, logs, stalls, storage};
use crate::attachments::AttachmentStore;
use crate::configs::ConfigStore;
use crate::images::Images;
use crate::volumes::{LocationStore, OwnVolumes};

/// How many sandboxes are looked at, at the runtime, at once.
const PARALLEL_LOOKS: usize = 8;
/// How many pods' containers begin to be stopped at once, for each pod that may be made at once. A stop costs a fraction of
/// a start, and waits besides.
const STOPS_PER_CREATE: usize = 8;
/// How many pods are frozen at once, if the node has fewer processors: one that does not stop must not hold up all.
const MIN_FREEZES: usize = 2;
/// How long the adoption of all pods may take before the rest of the daemon goes on without.
const ADOPTION: Duration = Duration::from_secs(60);

/// What the pods need from the rest of the daemon.
#[derive(Debug)]
pub struct PodDeps {
    /// Pods and containers.
    pub runtime: Arc<dyn PodRuntime>,
    /// Images.
    pub images: Images,
    /// Cgroups, freezers, volumes.
    pub host: Arc<dyn PodHost>,
    /// Volumes that were made on this node.
    pub volumes: OwnVolumes,
    /// The journal.
    pub records: Arc<dyn RecordStore>,
    /// When claims were last served.
    pub claims: ClaimActivity,
    /// The time of day.
    pub clock: WallClock,
    /// What is counted.
    pub metrics: PodMetrics,
    /// Directories, handlers, limits.
    pub config: PodConfig,
}

/// What the manager, the runners and their operations share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) runtime: Arc<dyn PodRuntime>,
    pub(super) images: Images,
    pub(super) host: Arc<dyn PodHost>,
    pub(super) records: Arc<dyn RecordStore>,
    pub(super) clock: WallClock,
    pub(super) metrics: PodMetrics,
    pub(super) config: PodConfig,
    pub(super) slots: Slots,
    pub(super) looks: Semaphore,
    pub(super) stops: Semaphore,
    /// Freezes, each of which may hold a thread for longer than a second.
    pub(super) freezes: Semaphore,
    /// What the runners' times are counted from.
    pub(super) epoch: Instant,
    pub(super) cells: RwLock<HashMap<SandboxUid, Arc<Cell>>>,
    pub(super) stop: CancellationToken,
    pub(super) tasks: TaskTracker,
    pub(super) alarm: Alarm,
    pub(super) configs: ConfigStore,
    pub(super) classes: Classes,
    /// Why no pod is begun now.
    pub(super) no_room: RwLock<Option<String>>,
    pub(super) locations: LocationStore,
    pub(super) attachments: AttachmentStore,
    pub(super) volumes: OwnVolumes,
    pub(super) user_ids: UserIds,
    hub: Hub,
    plans: Plans,
}

/// All sandboxes of this node. Cheap to clone; the last clone does not stop anything, [`PodManager::run`] does.
#[derive(Clone, Debug)]
pub struct PodManager {
    pub(super) shared: Arc<Shared>,
}

/// A record of the journal, and what the journal says of its owner.
#[derive(Clone, Debug)]
pub struct Adopted {
    /// The record.
    pub record: PodRecord,
    /// Whether an owner key holds the sandbox.
    pub bound: bool,
    /// The variables that came with the bind.
    pub env: Option<Arc<BoundEnv>>,
}

/// Why a sandbox goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RemoveReason {
    /// Its object is gone (verified), or assigned to another node.
    Deleted,
    /// Its owner released it.
    Released,
    /// It was retired, unbound.
    Retired,
}

/// What an operation on a pod needs of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Its processes run, and go on running until the operation has ended.
    Live,
    /// Nothing but that it is there.
    Any,
}

/// Why a sandbox could not be thawed for a bind.
#[derive(Debug, thiserror::Error)]
pub enum ThawRefused {
    /// No such sandbox.
    #[error("no such sandbox on this node")]
    NotFound,
    /// It is being stopped, or has ended.
    #[error("the sandbox is on its way out")]
    Ending,
    /// It is not ready.
    #[error("the sandbox is not ready")]
    NotReady,
    /// Another bind holds it.
    #[error("the sandbox is held by another bind")]
    Held,
    /// A variable is for a container that there is not.
    #[error("the sandbox has no container {0}")]
    NoContainer(String),
    /// The kernel did not thaw it.
    #[error("thaw")]
    Failed(#[source] std::io::Error),
}

/// Why an operation on a pod was not done.
#[derive(Debug, thiserror::Error)]
pub enum GateRefused {
    /// No such sandbox, or it has no pod.
    #[error("sandbox {0} has no pod on this node")]
    NoPod(SandboxUid),
    /// It could not be thawed.
    #[error("thaw sandbox {uid}")]
    Thaw {
        /// The sandbox.
        uid: SandboxUid,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// It took too long.
    #[error("sandbox {uid}: not done within {within:?}")]
    Deadline {
        /// The sandbox.
        uid: SandboxUid,
        /// How long it was given.
        within: Duration,
    },
}

/// A runner has panicked, so that its sandbox is nobody's any more. The daemon must be started again.
#[derive(Debug, thiserror::Error)]
#[error("the task of sandbox {0} has panicked")]
pub struct RunnerPanicked(pub SandboxUid);

impl PodManager {
    /// Starts nothing yet: call [`PodManager::adopt`], then [`PodManager::run`].
    #[must_use]
    pub fn new(deps: PodDeps) -> Self {
        let PodDeps {
            runtime,
            images,
            host,
            volumes,
            records,
            claims,
            clock,
            metrics,
            config,
        } = deps;
        let slots = Slots::new(claims, &config);
        let creates = config.cores.min(config.max_parallel_creates).max(1);
        let stops = Semaphore::new(creates * STOPS_PER_CREATE);
        let freezes = Semaphore::new(config.cores.max(MIN_FREEZES));
        let user_ids = UserIds::new(config.first_user_id);
        Self {
            shared: Arc::new(Shared {
                runtime,
                images,
                host,
                records,
                clock,
                metrics,
                classes: Classes::new(config.handlers.clone()),
                config,
                slots,
                looks: Semaphore::new(PARALLEL_LOOKS),
                stops,
                freezes,
                epoch: Instant::now(),
                cells: RwLock::default(),
                stop: CancellationToken::new(),
                tasks: TaskTracker::new(),
                alarm: Alarm::default(),
                configs: ConfigStore::default(),
                no_room: RwLock::default(),
                locations: LocationStore::default(),
                attachments: AttachmentStore::default(),
                volumes,
                user_ids,
                hub: Hub::default(),
                plans: Plans::default(),
            }),
        }
    }

    /// Brings journal, runtime and cgroups together after a start: running pods of a record go on as they are, what no
    /// record names is removed. Called once, before [`PodManager::set_desired`]; [`PodManager::run`] may run already.
    ///
    /// Returns once it is known of each record what there is of it, or after a minute.
    pub async fn adopt(&self, records: Vec<Adopted>) {
        let (sender, mut looked) = mpsc::channel(1);
        let mut pods = HashSet::new();
        let mut owners = HashSet::new();
        for Adopted { record, bound, env } in records {
            let PodRecord {
                uid,
                key,
                stage,
                member,
                pod,
            } = record;
            owners.insert(uid.clone());
            let (mut why, mut made_on) = (None, None);
            let (mut active, mut first_id) = (Duration::ZERO, None);
            let pod = pod.map(|pod| {
                pods.insert(pod.uid.clone());
                why = pod.evicted;
                made_on = Some((pod.uid.clone(), pod.handler)).filter(|(_, name)| !name.is_empty());
                active = Duration::from_millis(pod.active_ms);
                first_id = pod.first_id;
                (pod.uid, pod.attempt, self.shared.plans.share(pod.plan))
            });
            let mut state = State::adopted(stage, pod)
                .with_active(active)
                .with_first_id(first_id);
            if let Some(pod) = &mut state.pod {
                pod.evicted = why;
            }
            self.shared.spawn(
                &uid,
                Origin {
                    key,
                    state,
                    member,
                    made_on,
                    adopting: Some(sender.clone()),
                },
                bound.then_some(env),
            );
        }
        drop(sender);
        if timeout(ADOPTION, looked.recv()).await.is_err() {
            tracing::warn!("not all pods of the journal were looked at yet; going on without");
        }
        self.shared.remove_unrecorded(&owners, &pods).await;
    }

    /// Follows container events, relists when they may have been missed, resyncs slowly. Ends when `stop` is cancelled,
    /// with all runners ended and no pod touched.
    ///
    /// # Errors
    /// When a runner has panicked.
    pub async fn run(self, stop: CancellationToken) -> Result<(), RunnerPanicked> {
        let shared = &self.shared;
        // Each arm runs until another ends it all, so that none has to be cancel-safe.
        let result = tokio::select! {
            () = stop.cancelled() => Ok(()),
            uid = shared.alarm.heard() => Err(RunnerPanicked(uid)),
            never = follow::events(shared) => match never {},
            never = follow::resync(shared) => match never {},
            never = shared.slots.drive(stalls::since_last(), |limit| shared.metrics.parallel(limit)) => match never {},
            never = storage::watch(shared) => match never {},
            never = logs::keep(shared) => match never {},
        };
        shared.stop.cancel();
        shared.tasks.close();
        shared.tasks.wait().await;
        result
    }

    /// The runtime has been started again: what failed because it was away is tried at once, and what it has is listed.
    /// The end of its event stream has the same effect.
    pub fn runtime_restarted(&self) {
        self.shared.tell_all(|inbox| {
            inbox.changed = true;
            inbox.retry = true;
        });
    }

    /// There may be more images: what failed for want of one is tried at once.
    pub fn images_changed(&self) {
        self.shared.tell_all(|inbox| inbox.retry = true);
    }

    /// No pod is begun for this reason, or for none any more. Those that there are go on.
    pub fn set_no_room(&self, why: Option<String>) {
        *self.shared.no_room.write() = why;
        self.shared.tell_all(|_| {});
    }

    /// The cluster's RuntimeClasses, by name. Pods that wait for one go on.
    pub fn set_runtime_classes(&self, classes: BTreeMap<String, NodeClass>) {
        if self.shared.classes.set(classes) {
            self.shared.tell_all(|inbox| inbox.retry = true);
        }
    }

    /// All the objects that the sandboxes of this node are made from; what else is known is forgotten.
    pub fn keep_configs(&self, keys: &HashSet<ConfigKey>) {
        self.shared.configs.retain(keys);
    }

    /// What one of them holds now; `None`: there is none. Pods that wait for it go on, files follow.
    pub fn set_config(&self, key: ConfigKey, config: Option<Arc<Config>>) {
        let namespace = key.namespace.clone();
        if self.shared.configs.put(key, config) {
            self.shared.retry_in(&namespace);
        }
    }

    /// No sandbox of this node names it any more.
    pub fn forget_config(&self, key: &ConfigKey) {
        self.shared.configs.forget(key);
    }

    /// What an API object wants of its sandbox.
    #[must_use]
    pub fn desired(&self, sandbox: &Sandbox) -> DesiredSandbox {
        let Shared {
            plans,
            configs,
            config,
            ..
        } = &*self.shared;
        plans.desired(sandbox, configs, config)
    }

    /// Sets what the API wants of a sandbox. Ignored while the sandbox is being removed.
    pub fn set_desired(&self, uid: &SandboxUid, desired: DesiredSandbox) {
        let cell = self.shared.cells.read().get(uid).map(Arc::clone);
        let cell = cell.unwrap_or_else(|| {
            let origin = Origin {
                key: desired.key.clone(),
                state: State::default(),
                member: false,
                made_on: None,
                adopting: None,
            };
            self.shared.spawn(uid, origin, None)
        });
        cell.tell(|inbox| inbox.desired = Some(desired));
    }

    /// Tears the sandbox down and forgets it: stop, remove, volumes, cgroup, record. Idempotent; returns at once. When
    /// all is gone [`PodManager::view`] says `None` and [`Changes`] names the uid.
    pub fn remove(&self, uid: &SandboxUid, reason: RemoveReason) {
        if let Some(cell) = self.shared.cells.read().get(uid) {
            cell.tell(|inbox| inbox.remove = Some(reason));
        }
    }

    /// Thaws a ready member at once, without waiting for anything else that happens to it or to others. With variables it
    /// is not ready from then on: once the bind is durable, its runner makes anew what they are for.
    ///
    /// # Errors
    /// Says why the sandbox cannot be bound; it is then as it was.
    pub async fn thaw_for_bind(
        &self,
        uid: &SandboxUid,
        env: Option<&Arc<BoundEnv>>,
    ) -> Result<BoundPod, ThawRefused> {
        let cell = self.cell(uid).ok_or(ThawRefused::NotFound)?;
        let within = self.shared.config.thaw_within;
        cell.thaw_for_bind(within, env).await
    }

    /// Sees to it that a sandbox that is bound already is not kept frozen as a member.
    pub async fn keep_live(&self, uid: &SandboxUid) {
        let Some(cell) = self.cell(uid) else { return };
        cell.bound_again();
        let within = self.shared.config.thaw_within;
        if let Err(error) = cell.thaw(within, ThawReason::Bind).await {
            // The runner, which was told, goes on trying.
            let error = hearth_telemetry::ErrorChain(&error);
            tracing::warn!(sandbox = %uid, %error, "a bound sandbox could not be thawed yet");
        }
    }

    /// Does something with a pod through its gate. With [`Need::Live`] it is thawed first, kept from being frozen
    /// meanwhile, and frozen again after, if that is how it is to be.
    ///
    /// # Errors
    /// When there is no pod, when it could not be thawed, and when `op` has not ended within `deadline`; `op` is then
    /// dropped.
    pub async fn with<T, F>(
        &self,
        uid: &SandboxUid,
        need: Need,
        deadline: Duration,
        op: impl FnOnce(Arc<PodView>) -> F,
    ) -> Result<T, GateRefused>
    where
        F: Future<Output = T>,
    {
        let no_pod = || GateRefused::NoPod(uid.clone());
        let cell = self.cell(uid).ok_or_else(no_pod)?;
        let work = async {
            let thaw = |source: GateError| GateRefused::Thaw {
                uid: uid.clone(),
                source: Box::new(source),
            };
            let _hold = match need {
                Need::Live => Some(
                    cell.hold(self.shared.config.thaw_within)
                        .await
                        .map_err(thaw)?,
                ),
                Need::Any => None,
            };
            let view = cell.view();
            if view.pod_uid.is_none() {
                return Err(no_pod());
            }
            Ok(op(view).await)
        };
        let late = |_| GateRefused::Deadline {
            uid: uid.clone(),
            within: deadline,
        };
        timeout(deadline, work).await.map_err(late)?
    }

    /// What is known of a sandbox; `None` when this node has nothing of it (any more).
    #[must_use]
    pub fn view(&self, uid: &SandboxUid) -> Option<Arc<PodView>> {
        self.cell(uid).map(|cell| cell.view())
    }

    /// What is known of all sandboxes.
    #[must_use]
    pub fn views(&self) -> Vec<Arc<PodView>> {
        self.shared
            .cells
            .read()
            .values()
            .map(|cell| cell.view())
            .collect()
    }

    /// Subscribes to changes. Subscribe first, then read [`PodManager::views`].
    #[must_use]
    pub fn changes(&self) -> Changes {
        self.shared.hub.subscribe()
    }

    /// How many pods wait for their turn to be made or torn down: those that somebody waits for, and the others.
    #[must_use]
    pub fn waiting(&self) -> (usize, usize) {
        self.shared.slots.waiting()
    }

    pub(super) fn cell(&self, uid: &SandboxUid) -> Option<Arc<Cell>> {
        self.shared.cells.read().get(uid).map(Arc::clone)
    }
}

impl Shared {
    /// Starts the runner of a sandbox, unless there is one. What was bound by an earlier daemon brings the variables of
    /// its bind.
    fn spawn(
        self: &Arc<Self>,
        uid: &SandboxUid,
        origin: Origin,
        bound: Option<Option<Arc<BoundEnv>>>,
    ) -> Arc<Cell> {
        let mut cells = self.cells.write();
        if let Some(cell) = cells.get(uid) {
            return Arc::clone(cell);
        }
        let view = show::nothing(uid, &origin.key, origin.adopting.is_none());
        let cell = Cell::new(
            uid.clone(),
            view,
            self.hub.clone(),
            self.slots.clone(),
            self.metrics.residency.clone(),
        );
        if let Some(env) = bound {
            cell.was_bound(env);
        }
        cells.insert(uid.clone(), Arc::clone(&cell));
        let runner =
            Runner::new(Arc::clone(self), Arc::clone(&cell), origin).run(self.stop.clone());
        let alarm = self.alarm.guard(uid);
        self.tasks.spawn(async move {
            runner.await;
            alarm.disarm();
        });
        cell
    }

    /// A runner has nothing left.
    pub(super) fn forget(&self, cell: &Arc<Cell>) {
        {
            let mut cells = self.cells.write();
            if cells
                .get(&cell.uid)
                .is_some_and(|known| Arc::ptr_eq(known, cell))
            {
                cells.remove(&cell.uid);
            }
        }
        self.hub.changed(&cell.uid);
    }

    /// What the sandboxes of a namespace may wait for has come.
    pub(super) fn retry_in(&self, namespace: &str) {
        for cell in self.cells.read().values() {
            if cell.view().key.namespace == namespace {
                cell.tell(|inbox| inbox.retry = true);
            }
        }
    }

    pub(super) fn tell_all(&self, put: impl Fn(&mut super::cell::Inbox)) {
        for cell in self.cells.read().values() {
            cell.tell(&put);
        }
    }

    /// Removes what is ours and no record names: pods at the runtime, then what is left of others on the host.
    async fn remove_unrecorded(
        self: &Arc<Self>,
        owners: &HashSet<SandboxUid>,
        pods: &HashSet<PodUid>,
    ) {
        follow::remove_unrecorded(self, owners, pods).await;
    }
}
