//! The fake's sandboxes and containers: what is, and how each call changes it. No clock but the wall's, no waiting.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::Ipv4Addr;
use std::time::{SystemTime, UNIX_EPOCH};

use k8s_cri::v1;
use k8s_cri::v1::{ContainerEventType, ContainerState, PodSandboxState};
use tokio::sync::broadcast;
use tonic::Status;

use super::images::Images;
use super::network::Network;
use super::{FakeOptions, Program};

/// Events a slow subscriber may be behind before it loses its stream.
const EVENT_BACKLOG: usize = 1024;

pub(super) struct State {
    handlers: Vec<String>,
    sandboxes: BTreeMap<String, Sandbox>,
    containers: BTreeMap<String, Container>,
    /// Names taken by what exists and by unfinished calls, with the id they are taken for.
    names: HashMap<String, String>,
    frozen: HashSet<String>,
    network: Network,
    pub(super) images: Images,
    next_id: u64,
    events: broadcast::Sender<v1::ContainerEventResponse>,
}

struct Sandbox {
    name: String,
    config: v1::PodSandboxConfig,
    handler: String,
    ready: bool,
    created_at: i64,
    address: Option<Ipv4Addr>,
    /// Ids of its containers.
    containers: Vec<String>,
}

struct Container {
    name: String,
    sandbox_id: String,
    config: v1::ContainerConfig,
    image_id: String,
    program: Program,
    state: ContainerState,
    created_at: i64,
    started_at: i64,
    finished_at: i64,
    exit_code: i32,
    reason: String,
}

/// Whether a container can act on a request now.
pub(super) enum Liveness {
    /// It runs and its processes are scheduled.
    Live(Program),
    /// It runs, but its processes are frozen.
    Frozen,
    /// It does not run, or does not exist.
    Ended,
}

impl State {
    pub(super) fn new(options: FakeOptions) -> Self {
        let images = Images::new(&options.images, options.every_image);
        Self {
            handlers: options.handlers,
            sandboxes: BTreeMap::new(),
            containers: BTreeMap::new(),
            names: HashMap::new(),
            frozen: HashSet::new(),
            network: Network::new(options.pod_network),
            images,
            next_id: 1,
            events: broadcast::Sender::new(EVENT_BACKLOG),
        }
    }

    pub(super) fn subscribe(&self) -> broadcast::Receiver<v1::ContainerEventResponse> {
        self.events.subscribe()
    }

    /// Names taken by calls that never finished are free after a restart.
    pub(super) fn forget_unfinished(&mut self) {
        let (sandboxes, containers) = (&self.sandboxes, &self.containers);
        self.names
            .retain(|_, id| sandboxes.contains_key(id) || containers.contains_key(id));
    }

    pub(super) fn set_frozen(&mut self, cgroup_parent: &str, frozen: bool) {
        if frozen {
            self.frozen.insert(cgroup_parent.to_owned());
        } else {
            self.frozen.remove(cgroup_parent);
        }
    }

    // ---- sandboxes

    /// Takes the sandbox's name, as the first thing that running it does.
    pub(super) fn reserve_sandbox(
        &mut self,
        config: &v1::PodSandboxConfig,
    ) -> Result<String, Status> {
        let name = sandbox_name(config)?;
        self.reserve("sandbox", name)
    }

    /// Frees a name that a call has taken and did not use.
    pub(super) fn release_name(&mut self, id: &str) {
        self.names.retain(|_, owner| owner != id);
    }

    pub(super) fn run_sandbox(
        &mut self,
        id: &str,
        config: v1::PodSandboxConfig,
        handler: String,
    ) -> Result<(), Status> {
        let name = sandbox_name(&config)?;
        if !handler.is_empty() && !self.handlers.contains(&handler) {
            return Err(Status::unknown(format!(
                "unable to get OCI runtime for sandbox {id:?}: no runtime for {handler:?} is configured"
            )));
        }
        let address = self.network.allocate().ok_or_else(|| {
            Status::unknown("failed to setup network for sandbox: plugin type=\"bridge\" failed (add): no IP addresses available")
        })?;
        let sandbox = Sandbox {
            name,
            config,
            handler,
            ready: true,
            created_at: now_nanos(),
            address: Some(address),
            containers: Vec::new(),
        };
        self.sandboxes.insert(id.to_owned(), sandbox);
        self.emit(id, id, ContainerEventType::ContainerCreatedEvent);
        self.emit(id, id, ContainerEventType::ContainerStartedEvent);
        Ok(())
    }

    pub(super) fn stop_sandbox(&mut self, id: &str) {
        for container in self.containers_of(id) {
            self.exit_container(&container, 137, "");
        }
        let Some(sandbox) = self.sandboxes.get_mut(id) else {
            return;
        };
        let was_ready = std::mem::replace(&mut sandbox.ready, false);
        if let Some(address) = sandbox.address.take() {
            self.network.release(address);
        }
        if was_ready {
            self.emit(id, id, ContainerEventType::ContainerStoppedEvent);
        }
    }

    pub(super) fn remove_sandbox(&mut self, id: &str) {
        self.stop_sandbox(id);
        for container in self.containers_of(id) {
            self.remove_container(&container);
        }
        if let Some(sandbox) = self.sandboxes.remove(id) {
            self.names.remove(&sandbox.name);
            self.emit(id, id, ContainerEventType::ContainerDeletedEvent);
        }
    }

    pub(super) fn sandbox_status(&self, id: &str) -> Result<v1::PodSandboxStatus, Status> {
        let missing = || {
            Status::not_found(format!(
                "an error occurred when try to find sandbox {id:?}: not found"
            ))
        };
        let sandbox = self.sandboxes.get(id).ok_or_else(missing)?;
        Ok(v1::PodSandboxStatus {
            id: id.to_owned(),
            metadata: sandbox.config.metadata.clone(),
            state: sandbox.state().into(),
            created_at: sandbox.created_at,
            network: Some(v1::PodSandboxNetworkStatus {
                ip: sandbox.address.map_or_else(String::new, |a| a.to_string()),
                additional_ips: Vec::new(),
            }),
            linux: None,
            labels: sandbox.config.labels.clone(),
            annotations: sandbox.config.annotations.clone(),
            runtime_handler: sandbox.handler.clone(),
        })
    }

    pub(super) fn list_sandboxes(&self, filter: &v1::PodSandboxFilter) -> Vec<v1::PodSandbox> {
        let matches = |(id, sandbox): &(&String, &Sandbox)| {
            (filter.id.is_empty() || id.starts_with(&filter.id))
                && filter
                    .state
                    .as_ref()
                    .is_none_or(|s| s.state == i32::from(sandbox.state()))
                && has_labels(&sandbox.config.labels, &filter.label_selector)
        };
        let item = |(id, sandbox): (&String, &Sandbox)| v1::PodSandbox {
            id: id.clone(),
            metadata: sandbox.config.metadata.clone(),
            state: sandbox.state().into(),
            created_at: sandbox.created_at,
            labels: sandbox.config.labels.clone(),
            annotations: sandbox.config.annotations.clone(),
            runtime_handler: sandbox.handler.clone(),
        };
        self.sandboxes.iter().filter(matches).map(item).collect()
    }

    // ---- containers

    /// Takes the container's name, as the first thing that creating it does.
    pub(super) fn reserve_container(
        &mut self,
        sandbox_id: &str,
        config: &v1::ContainerConfig,
    ) -> Result<String, Status> {
        let name = self.container_name(sandbox_id, config)?;
        self.reserve("container", name)
    }

    pub(super) fn create_container(
        &mut self,
        id: &str,
        sandbox_id: &str,
        config: v1::ContainerConfig,
        program: Program,
    ) -> Result<(), Status> {
        let name = self.container_name(sandbox_id, &config)?;
        if !self.sandboxes.get(sandbox_id).is_some_and(|s| s.ready) {
            return Err(Status::unknown(format!(
                "sandbox container {sandbox_id:?} is not running"
            )));
        }
        let reference = config
            .image
            .as_ref()
            .map_or("", |image| image.image.as_str());
        let image = self.images.ask(reference).ok_or_else(|| {
            Status::not_found(format!("failed to resolve image {reference:?}: not found"))
        })?;
        let container = Container {
            name,
            sandbox_id: sandbox_id.to_owned(),
            image_id: image.id.clone(),
            config,
            program,
            state: ContainerState::ContainerCreated,
            created_at: now_nanos(),
            started_at: 0,
            finished_at: 0,
            exit_code: 0,
            reason: String::new(),
        };
        self.containers.insert(id.to_owned(), container);
        if let Some(sandbox) = self.sandboxes.get_mut(sandbox_id) {
            sandbox.containers.push(id.to_owned());
        }
        self.emit(sandbox_id, id, ContainerEventType::ContainerCreatedEvent);
        Ok(())
    }

    pub(super) fn start_container(&mut self, id: &str) -> Result<(), Status> {
        let container = self
            .containers
            .get_mut(id)
            .ok_or_else(|| container_missing(id))?;
        let sandbox_id = container.sandbox_id.clone();
        if container.state != ContainerState::ContainerCreated {
            let state = container.state.as_str_name();
            return Err(Status::unknown(format!(
                "failed to set starting state for container {id:?}: container is in {state} state"
            )));
        }
        if !self.sandboxes.get(&sandbox_id).is_some_and(|s| s.ready) {
            return Err(Status::unknown(format!(
                "sandbox container {sandbox_id:?} is not running"
            )));
        }
        container.started_at = now_nanos();
        let program = container.program;
        if program == Program::FailsToStart {
            container.state = ContainerState::ContainerExited;
            container.finished_at = now_nanos();
            container.exit_code = 128;
            container.reason = "StartError".to_owned();
            return Err(Status::unknown(
                "failed to create containerd task: failed to create shim task: exec: \"scripted\": executable file not found in $PATH",
            ));
        }
        container.state = ContainerState::ContainerRunning;
        self.emit(&sandbox_id, id, ContainerEventType::ContainerStartedEvent);
        if let Program::Exits(code) = program {
            self.exit_container(id, code, "");
        }
        Ok(())
    }

    /// Ends a running container; `false` when it does not run. An empty reason is worked out from the code.
    pub(super) fn exit_container(&mut self, id: &str, code: i32, reason: &str) -> bool {
        let Some(container) = self.containers.get_mut(id) else {
            return false;
        };
        if container.state != ContainerState::ContainerRunning {
            return false;
        }
        container.state = ContainerState::ContainerExited;
        container.finished_at = now_nanos();
        container.exit_code = code;
        let by_code = if code == 0 { "Completed" } else { "Error" };
        container.reason = if reason.is_empty() { by_code } else { reason }.to_owned();
        let sandbox_id = container.sandbox_id.clone();
        self.emit(&sandbox_id, id, ContainerEventType::ContainerStoppedEvent);
        true
    }

    pub(super) fn remove_container(&mut self, id: &str) {
        self.exit_container(id, 137, "");
        if let Some(container) = self.containers.remove(id) {
            self.names.remove(&container.name);
            if let Some(sandbox) = self.sandboxes.get_mut(&container.sandbox_id) {
                sandbox.containers.retain(|other| other != id);
            }
            self.emit(
                &container.sandbox_id,
                id,
                ContainerEventType::ContainerDeletedEvent,
            );
        }
    }

    pub(super) fn container_status(&self, id: &str) -> Result<v1::ContainerStatus, Status> {
        let container = self
            .containers
            .get(id)
            .ok_or_else(|| container_missing(id))?;
        Ok(v1::ContainerStatus {
            id: id.to_owned(),
            metadata: container.config.metadata.clone(),
            state: container.state.into(),
            created_at: container.created_at,
            started_at: container.started_at,
            finished_at: container.finished_at,
            exit_code: container.exit_code,
            image: container.config.image.clone(),
            image_ref: container.image_id.clone(),
            image_id: container.image_id.clone(),
            reason: container.reason.clone(),
            labels: container.config.labels.clone(),
            annotations: container.config.annotations.clone(),
            mounts: container.config.mounts.clone(),
            log_path: self.log_path(container),
            ..v1::ContainerStatus::default()
        })
    }

    /// Nothing is written here, so that there is nothing to open.
    pub(super) fn reopen_log(&self, id: &str) -> Result<(), Status> {
        let container = self.containers.get(id);
        let container = container.ok_or_else(|| container_missing(id))?;
        if container.state == ContainerState::ContainerRunning {
            Ok(())
        } else {
            Err(Status::unknown("container is not running"))
        }
    }

    fn log_path(&self, container: &Container) -> String {
        let sandbox = self.sandboxes.get(&container.sandbox_id);
        let directory = sandbox.map_or("", |sandbox| sandbox.config.log_directory.as_str());
        match (directory, container.config.log_path.as_str()) {
            ("", path) | (path, "") => path.to_owned(),
            (directory, path) => format!("{directory}/{path}"),
        }
    }

    pub(super) fn list_containers(&self, filter: &v1::ContainerFilter) -> Vec<v1::Container> {
        let matches = |(id, container): &(&String, &Container)| {
            (filter.id.is_empty() || id.starts_with(&filter.id))
                && (filter.pod_sandbox_id.is_empty()
                    || container.sandbox_id.starts_with(&filter.pod_sandbox_id))
                && filter
                    .state
                    .as_ref()
                    .is_none_or(|s| s.state == i32::from(container.state))
                && has_labels(&container.config.labels, &filter.label_selector)
        };
        let item = |(id, container): (&String, &Container)| v1::Container {
            id: id.clone(),
            pod_sandbox_id: container.sandbox_id.clone(),
            metadata: container.config.metadata.clone(),
            image: container.config.image.clone(),
            image_ref: container.image_id.clone(),
            image_id: container.image_id.clone(),
            state: container.state.into(),
            created_at: container.created_at,
            labels: container.config.labels.clone(),
            annotations: container.config.annotations.clone(),
        };
        self.containers.iter().filter(matches).map(item).collect()
    }

    pub(super) fn liveness(&self, id: &str) -> Liveness {
        match self.containers.get(id) {
            Some(container) if container.state == ContainerState::ContainerRunning => {
                if self.is_frozen(&container.sandbox_id) {
                    Liveness::Frozen
                } else {
                    Liveness::Live(container.program)
                }
            }
            _ => Liveness::Ended,
        }
    }

    /// Why a command cannot run in the container, if it cannot.
    pub(super) fn exec_refusal(&self, id: &str) -> Option<Status> {
        match self.containers.get(id) {
            None => Some(Status::not_found(format!(
                "failed to find container {id:?} in store: not found"
            ))),
            Some(container) if container.state != ContainerState::ContainerRunning => {
                Some(Status::unknown(format!(
                    "container is in {} state",
                    container.state.as_str_name()
                )))
            }
            Some(_) => None,
        }
    }

    pub(super) fn running_containers(&self) -> Vec<String> {
        let runs = |c: &Container| c.state == ContainerState::ContainerRunning;
        self.containers
            .iter()
            .filter(|(_, c)| runs(c))
            .map(|(id, _)| id.clone())
            .collect()
    }

    // ---- within

    fn is_frozen(&self, sandbox_id: &str) -> bool {
        let sandbox = self.sandboxes.get(sandbox_id);
        let linux = sandbox.and_then(|s| s.config.linux.as_ref());
        linux.is_some_and(|linux| self.frozen.contains(&linux.cgroup_parent))
    }

    fn containers_of(&self, sandbox_id: &str) -> Vec<String> {
        let sandbox = self.sandboxes.get(sandbox_id);
        sandbox.map_or_else(Vec::new, |sandbox| sandbox.containers.clone())
    }

    fn container_name(
        &self,
        sandbox_id: &str,
        config: &v1::ContainerConfig,
    ) -> Result<String, Status> {
        let sandbox = self.sandboxes.get(sandbox_id).ok_or_else(|| {
            Status::not_found(format!(
                "failed to find sandbox id {sandbox_id:?}: not found"
            ))
        })?;
        let metadata = config
            .metadata
            .as_ref()
            .ok_or_else(|| Status::unknown("container config must include metadata"))?;
        Ok(format!(
            "{}_{}_{}",
            metadata.name, sandbox.name, metadata.attempt
        ))
    }

    /// Takes a name for a new id.
    fn reserve(&mut self, what: &str, name: String) -> Result<String, Status> {
        if let Some(owner) = self.names.get(&name) {
            return Err(Status::unknown(format!(
                "failed to reserve {what} name {name:?}: name {name:?} is reserved for {owner:?}"
            )));
        }
        let id = format!("{:064x}", self.next_id);
        self.next_id += 1;
        self.names.insert(name, id.clone());
        Ok(id)
    }

    fn emit(&self, sandbox_id: &str, id: &str, kind: ContainerEventType) {
        let containers = self.containers_of(sandbox_id);
        let event = v1::ContainerEventResponse {
            container_id: id.to_owned(),
            container_event_type: kind.into(),
            created_at: now_nanos(),
            pod_sandbox_status: self.sandbox_status(sandbox_id).ok(),
            containers_statuses: containers
                .iter()
                .filter_map(|c| self.container_status(c).ok())
                .collect(),
        };
        // Without subscribers there is nobody to tell.
        let _ = self.events.send(event);
    }
}

impl Sandbox {
    fn state(&self) -> PodSandboxState {
        if self.ready {
            PodSandboxState::SandboxReady
        } else {
            PodSandboxState::SandboxNotready
        }
    }
}

fn sandbox_name(config: &v1::PodSandboxConfig) -> Result<String, Status> {
    let metadata = config
        .metadata
        .as_ref()
        .ok_or_else(|| Status::unknown("sandbox config must include metadata"))?;
    Ok(format!(
        "{}_{}_{}_{}",
        metadata.name, metadata.namespace, metadata.uid, metadata.attempt
    ))
}

fn container_missing(id: &str) -> Status {
    Status::not_found(format!(
        "an error occurred when try to find container {id:?}: not found"
    ))
}

fn has_labels(labels: &HashMap<String, String>, selector: &HashMap<String, String>) -> bool {
    selector
        .iter()
        .all(|(key, value)| labels.get(key) == Some(value))
}

fn now_nanos() -> i64 {
    let since_epoch = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since_epoch.as_nanos()).unwrap_or(i64::MAX)
}
