//! Carrying out operations: from what the state machine wants to calls of the runtime, the host and the journal.

use std::sync::Arc;

use hearth_api::PodMetadata;
use hearth_core::ids::{Key, PodUid, SandboxUid};
use hearth_core::placement::DEFAULT_HANDLER;
use hearth_core::podspec::{ContainerPlan, PodNames, PodPlan, Resolver};
use hearth_core::sandbox::{
    Learned, Life, NewPod, Op, Outcome, Pod, Priority, Residency, Stage, Stray,
};
use hearth_cri::{CriError, ErrorKind, v1};
use hearth_sys::Limits;
use hearth_telemetry::ErrorChain;
use tokio::task::spawn_blocking;
use uuid::Uuid;

use super::cell::Cell;
use super::config::Handler;
use super::cri_config::{self, PodIdentity, PodPlaces};
use super::host::{HostError, PodHost, VolumeFiles};
use super::manager::Shared;
use super::metrics::{FreezeReason, ThawReason};
use super::record::{PodIncarnation, PodRecord};
use super::sight;
use super::slots::{Group, Slot};
use super::stop::Grace;
use super::user_ids::IdRange;
use crate::freezers::{self, FreezeTarget};
use crate::log_files;

/// What an operation is about. A copy, because the operation goes on while its runner looks after other things.
#[derive(Clone, Debug)]
pub(super) struct Subject {
    pub(super) shared: Arc<Shared>,
    pub(super) cell: Arc<Cell>,
    pub(super) key: Key,
    pub(super) member: bool,
    /// With whom it takes turns.
    pub(super) group: Group,
    pub(super) handler: Handler,
    pub(super) pod: Option<Pod>,
    /// Labels and annotations of the pod; `None` while the API was not heard.
    pub(super) metadata: Option<Arc<PodMetadata>>,
    /// Whether the pod that is to be made has ids of the node to itself.
    pub(super) wants_ids: bool,
    /// How often the pod's processes had been asked for when this was decided.
    pub(super) asked: u64,
    /// What a pod is to be made from for stock, of which there is nothing yet.
    pub(super) ahead: Option<Arc<PodPlan>>,
    /// Why it is frozen, should that be what is done.
    pub(super) freeze_reason: FreezeReason,
}

/// How an operation ended, and the turn it has got.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) outcome: Outcome,
    pub(super) slot: Option<Slot>,
    /// Ids of the node for the pod that is to be made.
    pub(super) ids: Option<IdRange>,
}

/// Why an operation failed.
#[derive(Debug)]
pub(super) enum Problem {
    /// It was not done.
    Failed(String),
    /// Nobody knows.
    Unknown(String),
}

pub(super) type Result<T> = std::result::Result<T, Problem>;

pub(super) const NOTHING: Result<Learned> = Ok(Learned::Nothing);

impl Problem {
    pub(super) fn of(error: &dyn std::error::Error) -> Self {
        Self::Failed(ErrorChain(error).to_string())
    }

    /// A call that changes something: a deadline means that it may have been done, and so does a name that is taken.
    pub(super) fn of_change(error: &CriError) -> Self {
        let text = ErrorChain(error).to_string();
        if error.outcome_unknown() || error.kind == ErrorKind::AlreadyExists {
            Self::Unknown(text)
        } else {
            Self::Failed(text)
        }
    }

    pub(super) fn about(self, container: &str) -> Self {
        self.of_one("container", container)
    }

    pub(super) fn of_one(self, what: &str, name: &str) -> Self {
        match self {
            Self::Failed(text) => Self::Failed(format!("{what} {name}: {text}")),
            Self::Unknown(text) => Self::Unknown(format!("{what} {name}: {text}")),
        }
    }
}

/// Carries out one operation.
pub(super) async fn perform(subject: Subject, op: Op) -> Done {
    if let Op::Admit(priority) = op {
        if let Some(plan) = &subject.ahead {
            subject.pull_ahead(plan).await;
        }
        return subject.admit(priority).await;
    }
    let outcome = match subject.perform(op).await {
        Ok(learned) => Outcome::Done(learned),
        Err(Problem::Failed(text)) => Outcome::Failed(text),
        Err(Problem::Unknown(text)) => Outcome::Unknown(text),
    };
    Done {
        outcome,
        slot: None,
        ids: None,
    }
}

impl Subject {
    /// Waits for a turn, and gives a pod that is to be made what is the node's to give.
    async fn admit(&self, priority: Priority) -> Done {
        let slot = self
            .shared
            .slots
            .acquire(priority, self.group.clone())
            .await;
        let ids = self.wants_ids.then(|| self.shared.user_ids.take());
        if let Some(None) = ids {
            let error = "the node has no user ids left for another pod with hostUsers: false";
            return Done {
                outcome: Outcome::Failed(error.to_owned()),
                slot: None,
                ids: None,
            };
        }
        let ids = ids.flatten();
        let new = NewPod {
            uid: PodUid(Uuid::new_v4().to_string()),
            first_id: ids.as_ref().map(IdRange::first),
        };
        Done {
            outcome: Outcome::Done(Learned::Admitted(new)),
            slot: Some(slot),
            ids,
        }
    }

    async fn perform(&self, op: Op) -> Result<Learned> {
        let runtime = &self.shared.runtime;
        match op {
            Op::Record(stage) => self.record(stage).await,
            Op::Forget => {
                self.remove_logs().await?;
                self.shared
                    .records
                    .delete(&self.cell.uid)
                    .await
                    .map_err(|error| Problem::of(&error))?;
                NOTHING
            }
            Op::Volumes { .. } => {
                let (plan, files) = (self.pod()?.plan.clone(), self.files()?);
                let locations = self.shared.locations.of(&self.key, &plan);
                self.on_host(move |host, pod| host.make_volumes(pod, &plan, &files, &locations))
                    .await
            }
            Op::Cgroup => {
                let limits = self.limits()?;
                self.on_host(move |host, pod| host.make_cgroup(pod, &limits))
                    .await
            }
            Op::RunSandbox { attempt } => self.run_sandbox(attempt).await,
            Op::Image { container } => self.image(self.container(container)?).await,
            Op::Pull { container } => self.pull(self.container(container)?).await,
            Op::Create {
                container,
                attempt,
                with_env,
            } => self.create_in_place(container, attempt, with_env).await,
            Op::Start { container, id } => {
                let name = &self.container(container)?.name;
                changed(runtime.start_container(&id).await).map_err(|problem| problem.about(name))
            }
            Op::RemoveContainer { id, .. } if id.is_empty() => NOTHING,
            Op::RemoveContainer { id, .. } => changed(runtime.remove_container(&id).await),
            Op::KillPredecessor { container, id } => {
                let name = &self.container(container)?.name;
                let killed = self.kill_predecessor(&id).await;
                killed.map_err(|problem| problem.about(name))
            }
            Op::RemovePredecessor { container, id } => {
                let name = &self.container(container)?.name;
                let removed = self.remove_predecessor(&id).await;
                removed.map_err(|problem| problem.about(name))
            }
            Op::Freeze => self.freeze().await,
            Op::Thaw => self.thaw().await,
            Op::Kill {
                container,
                id,
                grace_seconds,
            } => {
                let name = &self.container(container)?.name;
                let stopped = self.stop_container(&id, Grace::begin(grace_seconds)).await;
                changed(stopped).map_err(|problem| problem.about(name))
            }
            Op::StopContainers {
                ids,
                sidecars,
                grace_seconds,
            } => self.stop_containers(&ids, &sidecars, grace_seconds).await,
            Op::StopSandbox { id } => changed(runtime.stop_pod_sandbox(&id).await),
            Op::RemoveSandbox { id } => changed(runtime.remove_pod_sandbox(&id).await),
            Op::RemoveStray(stray) => self.remove_stray(stray).await,
            Op::Look => self.look().await,
            Op::RemoveVolumes => self.on_host(|host, pod| host.remove_volumes(pod)).await,
            Op::RemoveCgroup => self.on_host(|host, pod| host.remove_cgroup(pod)).await,
            // Done above, because it brings a turn.
            Op::Admit(_) => NOTHING,
        }
    }

    pub(super) fn pod(&self) -> Result<&Pod> {
        self.pod
            .as_ref()
            .ok_or_else(|| Problem::Failed("there is no pod".to_owned()))
    }

    pub(super) fn container(&self, index: usize) -> Result<&ContainerPlan> {
        let plan = &self.pod()?.plan;
        plan.containers
            .get(index)
            .ok_or_else(|| Problem::Failed(format!("there is no container {index}")))
    }

    async fn on_host(
        &self,
        call: impl FnOnce(&dyn PodHost, &PodUid) -> std::result::Result<(), HostError> + Send + 'static,
    ) -> Result<Learned> {
        let pod = self.pod()?.uid.clone();
        blocking(&self.shared, move |host| call(host, &pod)).await?;
        NOTHING
    }

    async fn record(&self, stage: Stage) -> Result<Learned> {
        let pod = self.pod.as_ref().map(|pod| PodIncarnation {
            uid: pod.uid.clone(),
            attempt: pod.attempt,
            handler: self.handler.name.clone(),
            first_id: pod.first_id,
            active_ms: u64::try_from(pod.active.total.as_millis()).unwrap_or(u64::MAX),
            plan: Arc::clone(&pod.plan),
            evicted: pod.evicted.clone(),
        });
        let record = PodRecord {
            uid: self.cell.uid.clone(),
            key: self.key.clone(),
            stage,
            member: self.member,
            pod,
        };
        self.shared
            .records
            .put(&record)
            .await
            .map_err(|error| Problem::of(&error))?;
        NOTHING
    }

    /// The files of the pod's volumes as they are to be now.
    fn files(&self) -> Result<VolumeFiles> {
        let pod = self.pod()?;
        let configs = self.shared.configs.of(&self.key, &pod.plan);
        let mut all = VolumeFiles::new();
        for volume in &pod.plan.volumes {
            let Some(plan) = &volume.files else { continue };
            let files = pod.plan.files(plan, &self.known(pod), &configs);
            let files = files
                .map_err(|missing| Problem::Failed(format!("volume {}: {missing}", volume.name)))?;
            all.insert(volume.name.clone(), files);
        }
        Ok(all)
    }

    fn limits(&self) -> Result<Limits> {
        let resources = self.pod()?.plan.resources();
        Ok(Limits {
            cpu_request_millis: resources.cpu_request_millis,
            cpu_limit_millis: resources.cpu_limit_millis,
            memory_bytes: resources.memory_limit,
            pids: Some(self.shared.config.pids_limit).filter(|limit| *limit > 0),
        })
    }

    /// Calls `make` with all that CRI messages are made from.
    pub(super) fn with_places<T>(
        &self,
        make: impl FnOnce(&Pod, PodIdentity<'_>, PodPlaces<'_>) -> T,
    ) -> Result<T> {
        let pod = self.pod()?;
        let config = &self.shared.config;
        let cgroup_parent = self
            .shared
            .host
            .cgroup_parent(&pod.uid)
            .map_err(|error| Problem::of(&error))?;
        let identity = PodIdentity {
            sandbox: &self.cell.uid,
            key: &self.key,
            pod: &pod.uid,
            instance: &config.instance,
        };
        let places = PodPlaces {
            cgroup_parent: &cgroup_parent,
            log_directory: &log_files::directory(&config.logs_dir, &self.key, &self.cell.uid),
            volumes: &self.shared.host.volumes(&pod.uid),
            machine_memory: config.machine_memory,
            hostname: &self.names(pod)?.host,
            seccomp: &config.seccomp_dir,
            first_id: pod.first_id,
            resolver: None,
        };
        Ok(make(pod, identity, places))
    }

    /// What the pod is called.
    pub(super) fn names(&self, pod: &Pod) -> Result<PodNames> {
        let Key { namespace, name } = &self.key;
        let names = pod
            .plan
            .names(name, namespace, &self.shared.config.cluster_domain);
        names.map_err(|error| Problem::of(&error))
    }

    /// The pod's addresses, given those that the runtime has made for it: in the node's network it has the node's.
    fn addresses(&self, ips: Vec<String>) -> Vec<String> {
        let in_node_s = self.pod.as_ref().is_some_and(|pod| pod.plan.host.network);
        let host_ip = &self.shared.config.host_ip;
        if in_node_s && ips.is_empty() && !host_ip.is_empty() {
            vec![host_ip.clone()]
        } else {
            ips
        }
    }

    pub(super) fn sandbox_config(&self, attempt: u32) -> Result<v1::PodSandboxConfig> {
        self.with_places(|pod, identity, places| {
            cri_config::pod_sandbox(&pod.plan, identity, places, attempt)
        })
    }

    /// The pod's resolver, unless it is the node's.
    async fn resolver(&self) -> Result<Option<Resolver>> {
        let config = &self.shared.config;
        let text = tokio::fs::read_to_string(&config.resolv_conf).await;
        // A node without one has no resolver to give.
        let node = Resolver::parse(&text.unwrap_or_default());
        let plan = &self.pod()?.plan;
        Ok(plan.resolver(&self.key.namespace, &node, config.cluster_dns.as_ref()))
    }

    async fn run_sandbox(&self, attempt: u32) -> Result<Learned> {
        let runtime = &self.shared.runtime;
        let resolver = self.resolver().await?;
        let config = self.with_places(|pod, identity, places| {
            let places = PodPlaces {
                resolver: resolver.as_ref(),
                ..places
            };
            cri_config::pod_sandbox(&pod.plan, identity, places, attempt)
        })?;
        // Nothing of this incarnation can be frozen yet.
        self.cell.attach(None, Residency::Running);
        self.cell.forget_all_killed();
        let id = runtime
            .run_pod_sandbox(config, &self.handler.name)
            .await
            .map_err(|error| Problem::of_change(&error))?;
        // Without an address it is there all the same; the next look brings it.
        let ips = sight::addresses(runtime.as_ref(), &id)
            .await
            .unwrap_or_default();
        let ips = self.addresses(ips);
        Ok(Learned::Sandbox { id, ips })
    }

    async fn freeze(&self) -> Result<Learned> {
        let frozen = self.freeze_once().await;
        if frozen.is_err() && self.freeze_reason == FreezeReason::Idle {
            self.cell.rest_failed(self.asked);
        }
        frozen
    }

    async fn freeze_once(&self) -> Result<Learned> {
        let target = self.freeze_target()?;
        let _permit = self.shared.freezes.acquire().await;
        let freezer = match self.cell.kept_freezer(&target.sandbox) {
            Some(kept) => kept,
            None => blocking(&self.shared, move |host| host.freezer(&target)).await?,
        };
        // Somebody who needs the processes is no failure: what follows is decided by who holds the pod then.
        self.cell
            .freeze(
                freezer,
                self.shared.config.freeze_within,
                self.asked,
                self.freeze_reason,
            )
            .await
            .map_err(|error| Problem::of(&error))?;
        NOTHING
    }

    fn freeze_target(&self) -> Result<FreezeTarget> {
        let pod = self.pod()?;
        let running = pod.containers.iter().filter_map(|c| match &c.life {
            Life::Running(id) => Some(id.clone()),
            // It has not come to be killed yet.
            _ => c.living_predecessor().map(str::to_owned),
        });
        Ok(FreezeTarget {
            pod: pod.uid.clone(),
            handler: self.handler.name.clone(),
            sandbox: pod.sandbox.id().unwrap_or_default().to_owned(),
            containers: running.collect(),
        })
    }

    async fn thaw(&self) -> Result<Learned> {
        if self.cell.lacks_freezer() {
            self.find_freezer().await?;
        }
        let thaw = self
            .cell
            .thaw(self.shared.config.thaw_within, ThawReason::Wish)
            .await;
        thaw.map(|_| Learned::Nothing)
            .map_err(|error| Problem::of(&error))
    }

    /// Finds out how a pod is frozen of which nobody knows.
    async fn find_freezer(&self) -> Result<()> {
        let (runtime, pod) = (self.shared.runtime.as_ref(), self.pod()?.uid.clone());
        let target = freezers::find(runtime, &pod, &self.handler.name).await;
        let Some(target) = target.map_err(|error| Problem::of(&error))? else {
            // Nothing that could stand still.
            self.cell.attach(None, Residency::Running);
            return Ok(());
        };
        let freezer = blocking(&self.shared, move |host| host.freezer(&target)).await?;
        self.cell.attach(Some(freezer), Residency::Unclear);
        Ok(())
    }

    async fn remove_stray(&self, stray: Stray) -> Result<Learned> {
        match stray {
            Stray::Container { id } => changed(self.shared.runtime.remove_container(&id).await),
            Stray::Sandbox { id, pod_uid } => {
                let own = self.pod.as_ref().is_some_and(|pod| pod.uid == pod_uid);
                if own {
                    self.thaw().await?;
                    return remove_sandbox(&self.shared, &id).await;
                }
                remove_foreign(&self.shared, &id, &pod_uid).await
            }
        }
    }

    async fn look(&self) -> Result<Learned> {
        let permit = self.shared.looks.acquire().await;
        let seen = sight::look(
            self.shared.runtime.as_ref(),
            &self.cell.uid,
            self.pod.as_ref(),
        )
        .await;
        drop(permit);
        let mut seen = seen.map_err(|error| Problem::of(&error))?;
        for sandbox in seen.sandboxes.iter_mut().filter(|sandbox| sandbox.ready) {
            sandbox.ips = self.addresses(std::mem::take(&mut sandbox.ips));
        }
        self.hear_last_words(&mut seen).await?;
        Ok(Learned::Seen(seen))
    }
}

pub(super) fn changed(result: std::result::Result<(), CriError>) -> Result<Learned> {
    result
        .map(|()| Learned::Nothing)
        .map_err(|error| Problem::of_change(&error))
}

pub(super) async fn blocking<T: Send + 'static>(
    shared: &Shared,
    call: impl FnOnce(&dyn PodHost) -> std::result::Result<T, HostError> + Send + 'static,
) -> Result<T> {
    let host = Arc::clone(&shared.host);
    let ended = spawn_blocking(move || call(host.as_ref())).await;
    ended
        .map_err(|error| Problem::of(&error))?
        .map_err(|error| Problem::of(&error))
}

async fn remove_sandbox(shared: &Shared, id: &str) -> Result<Learned> {
    changed(shared.runtime.stop_pod_sandbox(id).await)?;
    changed(shared.runtime.remove_pod_sandbox(id).await)
}

/// Removes a pod of which no runner takes care: thawed first, like every pod.
async fn remove_foreign(shared: &Shared, id: &str, pod: &PodUid) -> Result<Learned> {
    if let Some(target) = foreign(shared, id, pod).await? {
        let within = shared.config.thaw_within;
        blocking(shared, move |host| match host.freezer(&target) {
            Ok(freezer) => freezer.thaw(within).map_err(|source| HostError::Freezer {
                pod: target.pod,
                source,
            }),
            // No freezer: no tasks.
            Err(_) => Ok(()),
        })
        .await?;
    }
    remove_sandbox(shared, id).await?;
    clear_host(shared, pod).await
}

/// A pod that only the runtime knows; `None` when it does not either.
async fn foreign(shared: &Shared, id: &str, pod: &PodUid) -> Result<Option<FreezeTarget>> {
    let status = shared.runtime.pod_sandbox_status(id).await;
    let status = status.map_err(|error| Problem::of(&error))?;
    let Some(status) = status else {
        return Ok(None);
    };
    let mut target = FreezeTarget {
        pod: pod.clone(),
        handler: match status.runtime_handler {
            unnamed if unnamed.is_empty() => DEFAULT_HANDLER.to_owned(),
            named => named,
        },
        sandbox: id.to_owned(),
        containers: Vec::new(),
    };
    let containers = freezers::containers(shared.runtime.as_ref(), &target).await;
    target.containers = containers.map_err(|error| Problem::of(&error))?;
    Ok(Some(target))
}

/// Removes volumes and cgroup of a pod that the runtime does not have any more.
async fn clear_host(shared: &Shared, pod: &PodUid) -> Result<Learned> {
    let uid = pod.clone();
    blocking(shared, move |host| {
        host.remove_volumes(&uid)
            .and_then(|()| host.remove_cgroup(&uid))
    })
    .await?;
    NOTHING
}

/// A pod of ours that no record names.
#[derive(Clone, Debug)]
pub(super) struct Orphan {
    /// The CRI sandbox; `None` when only volumes or a cgroup are left.
    pub(super) sandbox: Option<String>,
    pub(super) pod: PodUid,
    /// Whose it was, for the log.
    pub(super) owner: SandboxUid,
}

/// Removes a pod of ours that no record names. What fails is found again by the next resync.
pub(super) async fn remove_orphan(shared: &Shared, orphan: &Orphan) {
    let Orphan {
        sandbox,
        pod,
        owner,
    } = orphan;
    let removed = match sandbox {
        Some(id) => remove_foreign(shared, id, pod).await,
        None => clear_host(shared, pod).await,
    };
    match removed {
        Ok(_) => {
            shared.metrics.orphan();
            tracing::info!(sandbox = %owner, %pod, "removed a pod that no record names");
        }
        Err(Problem::Failed(error) | Problem::Unknown(error)) => {
            tracing::warn!(sandbox = %owner, %pod, error, "a pod that no record names could not be removed");
        }
    }
}
