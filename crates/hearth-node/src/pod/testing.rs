//! A node without a kernel, a runtime or a disk.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use hearth_api::constants::label;
use hearth_api::{PodSpecJson, Sandbox, SandboxSpec, SandboxStatus, Time};
use hearth_core::binding::BoundEnv;
use hearth_core::ids::{PodUid, SandboxUid};
use hearth_core::podspec::PodPlan;
use hearth_cri::fake::{FakeOptions, FakeRuntime, Program};
use hearth_sys::fake::FakeFreezer;
use hearth_sys::reclaim::ReclaimError;
use hearth_sys::{Freezer, HeldMemory, Limits, Usage};
use jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::configs::testing::open_namespace;
use crate::fake::{FakePodFreezer, FreezerDelays};
use crate::freezers::FreezeTarget;
use crate::images::{ImageConfig, ImageMetrics, Images};
use crate::volumes::{Locations, OwnVolumes};

/// Far beyond what anything here takes, by a clock that stands still while something can be done.
const LIMIT: Duration = Duration::from_secs(3600);
pub(crate) const IMAGE: &str = "localhost/hearth-busybox:dev";

/// The environment of a container.
pub(super) type Env = Vec<(String, String)>;

/// Volumes, cgroups and freezers in memory. What is frozen is frozen at the runtime as well: calls that need live
/// processes hang there.
#[derive(Debug)]
pub(crate) struct FakeHost {
    runtime: FakeRuntime,
    state: Arc<Mutex<HostState>>,
    volumes_made: Notify,
}

#[derive(Debug, Default)]
struct HostState {
    volumes: BTreeSet<PodUid>,
    cgroups: BTreeMap<PodUid, Limits>,
    freezers: HashMap<PodUid, FakeFreezer>,
    files: HashMap<PodUid, VolumeFiles>,
    last_words: HashMap<String, String>,
    last_target: Option<FreezeTarget>,
    /// What is mounted of volumes that outlive the pod.
    mounted: HashMap<PodUid, Locations>,
    fail_volumes: u32,
    fail_kills: bool,
    /// What directories take of the disk.
    sizes: HashMap<PathBuf, u64>,
    cpu: HashMap<PodUid, Duration>,
    memory: HashMap<PodUid, HeldMemory>,
}

/// Moves memory to swap, down to a quarter of what there was at first.
#[derive(Debug)]
struct FakeReclaim {
    state: Arc<Mutex<HostState>>,
    pod: PodUid,
}

impl Reclaim for FakeReclaim {
    fn reclaim(&mut self, bytes: u64) -> Result<bool, ReclaimError> {
        let mut state = self.state.lock();
        let held = state.memory.entry(self.pod.clone()).or_default();
        let least = (held.resident_bytes + held.swapped_bytes) / 4;
        let moved = bytes.min(held.resident_bytes.saturating_sub(least));
        held.resident_bytes -= moved;
        held.swapped_bytes += moved;
        Ok(moved == bytes)
    }
}

fn refused(action: &'static str) -> HostError {
    HostError::File {
        action,
        path: "/pods".into(),
        source: std::io::Error::other("disk full"),
    }
}

fn cgroup_of(pod: &PodUid) -> String {
    format!("/hearth-t/pods/pod{pod}")
}

impl FakeHost {
    /// The freezer of a pod, to script it and to ask it.
    pub(crate) fn fake_freezer(&self, pod: &PodUid) -> FakeFreezer {
        self.state
            .lock()
            .freezers
            .entry(pod.clone())
            .or_default()
            .clone()
    }

    /// What a freezer was last asked for.
    pub(super) fn last_target(&self) -> Option<FreezeTarget> {
        self.state.lock().last_target.clone()
    }

    /// Waits until a file of a pod's volume holds this.
    pub(super) async fn until_file(&self, pod: &PodUid, volume: &str, path: &str, text: &str) {
        loop {
            let now = self.file(pod, volume, path);
            if now.as_deref() == Some(text) {
                return;
            }
            let waited = timeout(LIMIT, self.volumes_made.notified()).await;
            assert!(
                waited.is_ok(),
                "{path} of {volume} holds {now:?} and not {text:?}"
            );
        }
    }

    /// A file of a pod's volume, as text.
    fn file(&self, pod: &PodUid, volume: &str, path: &str) -> Option<String> {
        let state = self.state.lock();
        let file = state.files.get(pod)?.get(volume)?.get(path)?;
        Some(String::from_utf8_lossy(&file.data).into_owned())
    }

    /// The last words of an attempt of a container, `<container>-<attempt>`.
    pub(super) fn set_last_words(&self, place: &str, words: &str) {
        let mut state = self.state.lock();
        state.last_words.insert(place.to_owned(), words.to_owned());
    }

    /// A directory takes this much of the disk. The layer of a container is `/layers/<container id>`.
    pub(super) fn set_size(&self, directory: &str, bytes: u64) {
        let mut state = self.state.lock();
        state.sizes.insert(PathBuf::from(directory), bytes);
    }

    /// The pod uses CPU.
    pub(crate) fn burn(&self, pod: &PodUid, time: Duration) {
        *self.state.lock().cpu.entry(pod.clone()).or_default() += time;
    }

    /// The pod holds so much memory.
    pub(crate) fn fill(&self, pod: &PodUid, bytes: u64) {
        let held = HeldMemory {
            resident_bytes: bytes,
            swapped_bytes: 0,
        };
        self.state.lock().memory.insert(pod.clone(), held);
    }

    pub(super) fn fail_next_volumes(&self) {
        self.state.lock().fail_volumes += 1;
    }

    pub(super) fn fail_kills(&self) {
        self.state.lock().fail_kills = true;
    }

    pub(super) fn limits(&self, pod: &PodUid) -> Option<Limits> {
        self.state.lock().cgroups.get(pod).copied()
    }

    pub(super) fn is_empty(&self) -> bool {
        let state = self.state.lock();
        state.volumes.is_empty() && state.cgroups.is_empty()
    }

    /// Something of a pod that nobody knows.
    pub(super) fn leave_behind(&self, pod: &str) {
        let mut state = self.state.lock();
        state.volumes.insert(PodUid::from(pod));
        state.cgroups.insert(PodUid::from(pod), Limits::default());
    }
}

impl PodHost for FakeHost {
    fn make_volumes(
        &self,
        pod: &PodUid,
        plan: &PodPlan,
        files: &VolumeFiles,
        locations: &Locations,
    ) -> Result<(), HostError> {
        let mut state = self.state.lock();
        if state.fail_volumes > 0 {
            state.fail_volumes -= 1;
            return Err(refused("make"));
        }
        let mut claims = plan.volumes.iter().filter(|volume| volume.claim.is_some());
        let mounted = state.mounted.contains_key(pod);
        assert!(
            mounted || claims.all(|volume| locations.contains_key(&volume.name)),
            "made without knowing where its volumes are"
        );
        if !mounted {
            state.mounted.insert(pod.clone(), locations.clone());
        }
        state.volumes.insert(pod.clone());
        state.files.insert(pod.clone(), files.clone());
        self.volumes_made.notify_one();
        Ok(())
    }

    fn mount_part(&self, pod: &PodUid, part: &Part) -> Result<PathBuf, HostError> {
        let (volume, path) = (&part.volume, &part.path);
        Ok(PathBuf::from(format!("/pods/{pod}/parts/{volume}/{path}")))
    }

    fn remove_volumes(&self, pod: &PodUid) -> Result<(), HostError> {
        let mut state = self.state.lock();
        state.volumes.remove(pod);
        state.mounted.remove(pod);
        Ok(())
    }

    fn volumes(&self, pod: &PodUid) -> PathBuf {
        PathBuf::from(format!("/pods/{pod}/volumes"))
    }

    fn write_hosts(&self, pod: &PodUid, _content: &str) -> Result<PathBuf, HostError> {
        Ok(PathBuf::from(format!("/pods/{pod}/etc-hosts")))
    }

    fn make_last_words(&self, pod: &PodUid, place: &str) -> Result<PathBuf, HostError> {
        Ok(PathBuf::from(format!("/pods/{pod}/last-words/{place}")))
    }

    fn last_words(&self, _pod: &PodUid, place: &str) -> String {
        let state = self.state.lock();
        state.last_words.get(place).cloned().unwrap_or_default()
    }

    fn make_cgroup(&self, pod: &PodUid, limits: &Limits) -> Result<(), HostError> {
        self.state.lock().cgroups.insert(pod.clone(), *limits);
        Ok(())
    }

    fn remove_cgroup(&self, pod: &PodUid) -> Result<(), HostError> {
        assert!(
            !self.fake_freezer(pod).is_frozen().unwrap(),
            "removed a frozen cgroup"
        );
        self.state.lock().cgroups.remove(pod);
        Ok(())
    }

    fn kill_container(&self, _pod: &PodUid, container: &str) -> Result<bool, HostError> {
        if self.state.lock().fail_kills {
            return Err(refused("kill"));
        }
        Ok(self.runtime.exit_container(container, 137))
    }

    fn cgroup_parent(&self, pod: &PodUid) -> Result<String, HostError> {
        Ok(cgroup_of(pod))
    }

    fn freezer(&self, target: &FreezeTarget) -> Result<Arc<dyn Freezer>, HostError> {
        self.state.lock().last_target = Some(target.clone());
        Ok(Arc::new(FakePodFreezer::new(
            self.fake_freezer(&target.pod),
            self.runtime.clone(),
            cgroup_of(&target.pod),
            FreezerDelays::default(),
        )))
    }

    fn cpu_time(&self, pod: &PodUid) -> Result<Option<Duration>, HostError> {
        let state = self.state.lock();
        let used = state.cpu.get(pod).copied().unwrap_or_default();
        Ok(state.cgroups.contains_key(pod).then_some(used))
    }

    fn held_memory(&self, pod: &PodUid) -> Result<Option<HeldMemory>, HostError> {
        Ok(self.state.lock().memory.get(pod).copied())
    }

    fn reclaim(&self, pod: &PodUid) -> Result<Box<dyn Reclaim>, HostError> {
        Ok(Box::new(FakeReclaim {
            state: Arc::clone(&self.state),
            pod: pod.clone(),
        }))
    }

    fn usage(&self, pod: &PodUid) -> Result<Option<Usage>, HostError> {
        let has_cgroup = self.state.lock().cgroups.contains_key(pod);
        Ok(has_cgroup.then_some(Usage {
            memory_bytes: 4096,
            working_set_bytes: 2048,
            swap_bytes: 1024,
            cpu_micros: 1_500_000,
            pids: 3,
        }))
    }

    fn layers(&self) -> Result<HashMap<String, PathBuf>, HostError> {
        let running = self.runtime.running_containers().into_iter();
        let layer = |id: String| (id.clone(), PathBuf::from(format!("/layers/{id}")));
        Ok(running.map(layer).collect())
    }

    fn measure(&self, directory: &Path) -> Result<DiskUsage, HostError> {
        let bytes = self.state.lock().sizes.get(directory).copied();
        Ok(DiskUsage {
            bytes: bytes.unwrap_or(0),
            ..DiskUsage::default()
        })
    }

    fn pods(&self) -> Result<BTreeSet<PodUid>, HostError> {
        let state = self.state.lock();
        Ok(state
            .volumes
            .iter()
            .chain(state.cgroups.keys())
            .cloned()
            .collect())
    }
}

/// A journal in memory.
#[derive(Debug, Default)]
pub(crate) struct FakeRecords {
    records: Mutex<HashMap<SandboxUid, PodRecord>>,
    fail: Mutex<u32>,
}

impl FakeRecords {
    pub(crate) fn get(&self, uid: &str) -> Option<PodRecord> {
        self.records.lock().get(&SandboxUid::from(uid)).cloned()
    }

    pub(super) fn lose(&self, uid: &str) {
        self.records.lock().remove(&SandboxUid::from(uid));
    }

    pub(super) fn fail_next(&self) {
        *self.fail.lock() += 1;
    }

    fn write(&self, uid: &SandboxUid) -> Result<(), RecordError> {
        let mut fail = self.fail.lock();
        if *fail > 0 {
            *fail -= 1;
            return Err(RecordError {
                uid: uid.clone(),
                source: "disk full".into(),
            });
        }
        Ok(())
    }
}

#[async_trait]
impl RecordStore for FakeRecords {
    async fn put(&self, record: &PodRecord) -> Result<(), RecordError> {
        self.write(&record.uid)?;
        // Through its wire form, as the journal keeps it.
        let text = serde_json::to_string(record).unwrap();
        self.records
            .lock()
            .insert(record.uid.clone(), serde_json::from_str(&text).unwrap());
        Ok(())
    }

    async fn delete(&self, uid: &SandboxUid) -> Result<(), RecordError> {
        self.write(uid)?;
        self.records.lock().remove(uid);
        Ok(())
    }
}

/// A node with a daemon that can be killed.
pub(crate) struct Node {
    pub(crate) runtime: FakeRuntime,
    pub(crate) host: Arc<FakeHost>,
    pub(super) records: Arc<FakeRecords>,
    pub(super) claims: ClaimActivity,
    pub(super) metrics: PodMetrics,
    pub(crate) pods: PodManager,
    config: PodConfig,
    clock: WallClock,
    stop: CancellationToken,
    task: JoinHandle<Result<(), RunnerPanicked>>,
}

impl Node {
    pub(super) fn new() -> Self {
        Self::with(|_| {})
    }

    pub(crate) fn with(change: impl FnOnce(&mut PodConfig)) -> Self {
        let runtime = FakeRuntime::new(FakeOptions::default());
        let host = Arc::new(FakeHost {
            runtime: runtime.clone(),
            state: Arc::default(),
            volumes_made: Notify::new(),
        });
        let mut config = PodConfig::new("t", "node", PathBuf::from("/nonexistent/logs"));
        let runc = Handler {
            name: "runc".into(),
            freeze_method: "cgroup-v2".into(),
            message: String::new(),
        };
        let runsc = Handler {
            name: "runsc".into(),
            freeze_method: String::new(),
            message: "not probed".into(),
        };
        config.handlers = [("runc".into(), runc), ("runsc".into(), runsc)].into();
        change(&mut config);
        let (epoch, start) = (
            Instant::now(),
            Timestamp::from_second(1_800_000_000).unwrap(),
        );
        let clock = WallClock::new(move || start + epoch.elapsed());
        let (records, claims) = (Arc::default(), ClaimActivity::default());
        let metrics = PodMetrics::default();
        let stop = CancellationToken::new();
        let pods = manager(
            &runtime, &host, &records, &claims, &clock, &metrics, &config,
        );
        let task = tokio::spawn(pods.clone().run(stop.clone()));
        Self {
            runtime,
            host,
            records,
            claims,
            metrics,
            pods,
            config,
            clock,
            stop,
            task,
        }
    }

    /// Sets which RuntimeClasses there are, and their handlers.
    pub(super) fn classes(&self, classes: &[(&str, &str)]) {
        let classes = classes.iter().map(|(name, handler)| class(name, handler));
        self.pods.set_runtime_classes(classes.collect());
    }

    /// Ends the daemon at once and starts another, which adopts what there is. `bound`: whom owner keys hold.
    pub(super) async fn restart(&mut self, bound: &[&str]) {
        self.stop_daemon().await;
        self.restart_after_stop(bound).await;
    }

    pub(crate) async fn restart_after_stop(&mut self, bound: &[&str]) {
        let bound: Vec<_> = bound.iter().map(|uid| (*uid, None)).collect();
        self.restart_with(&bound).await;
    }

    /// The same with the variables that came with the binds.
    pub(super) async fn restart_with(&mut self, bound: &[(&str, Option<Arc<BoundEnv>>)]) {
        self.metrics = PodMetrics::default();
        let Self {
            runtime,
            host,
            records,
            claims,
            clock,
            metrics,
            config,
            ..
        } = self;
        self.pods = manager(runtime, host, records, claims, clock, metrics, config);
        self.stop = CancellationToken::new();
        self.task = tokio::spawn(self.pods.clone().run(self.stop.clone()));
        let records: Vec<PodRecord> = self.records.records.lock().values().cloned().collect();
        let adopted = |record: PodRecord| {
            let bind = bound.iter().find(|(uid, _)| *uid == record.uid.as_str());
            Adopted {
                bound: bind.is_some(),
                env: bind.and_then(|(_, env)| env.clone()),
                record,
            }
        };
        self.pods
            .adopt(records.into_iter().map(adopted).collect())
            .await;
    }

    pub(crate) async fn stop_daemon(&mut self) {
        self.stop.cancel();
        (&mut self.task).await.unwrap().unwrap();
    }

    pub(crate) fn want(&self, sandbox: &Sandbox) {
        let uid = SandboxUid(sandbox.metadata.uid.clone().unwrap());
        self.pods.set_desired(&uid, self.pods.desired(sandbox));
    }

    /// Waits until the view of a sandbox is as wanted.
    pub(crate) async fn view_when(
        &self,
        uid: &str,
        why: &str,
        wanted: impl Fn(&PodView) -> bool,
    ) -> Arc<PodView> {
        let uid = SandboxUid::from(uid);
        let mut changes = self.pods.changes();
        loop {
            let view = self.pods.view(&uid);
            if let Some(view) = view.as_ref().filter(|view| wanted(view)) {
                return Arc::clone(view);
            }
            let waited = timeout(LIMIT, changes.next()).await;
            assert!(waited.is_ok(), "{uid} did not become {why}: {view:?}");
        }
    }

    /// Waits until the view of a sandbox says what stands in its way.
    pub(super) async fn told(&self, uid: &str) -> Arc<PodView> {
        self.view_when(uid, "told", |view| !view.message.is_empty())
            .await
    }

    pub(crate) async fn ready(&self, uid: &str, tier: hearth_api::Tier) -> Arc<PodView> {
        let ready = |view: &PodView| view.phase == PodPhase::Ready && view.tier == Some(tier);
        self.view_when(uid, &format!("ready and {tier:?}"), ready)
            .await
    }

    pub(crate) async fn gone(&self, uid: &str) {
        let uid = SandboxUid::from(uid);
        let mut changes = self.pods.changes();
        while self.pods.view(&uid).is_some() {
            let waited = timeout(LIMIT, changes.next()).await;
            assert!(
                waited.is_ok(),
                "{uid} is not gone: {:?}",
                self.pods.view(&uid)
            );
        }
    }

    /// `type status reason: message` of each condition.
    pub(crate) fn conditions(&self, view: &PodView) -> Vec<String> {
        let status = view.status(
            &SandboxStatus::default(),
            "node",
            &Time(Timestamp::UNIX_EPOCH),
        );
        let line = |c: &hearth_api::Condition| {
            format!("{} {} {}: {}", c.type_, c.status, c.reason, c.message)
        };
        status.conditions.iter().map(line).collect()
    }

    /// From now on: the environment of each container that is made, without the node's own variables.
    pub(super) fn given_env(&self) -> Arc<Mutex<Vec<Env>>> {
        let given = Arc::new(Mutex::new(Vec::new()));
        let note = Arc::clone(&given);
        self.runtime.set_program(move |config| {
            let env = config.envs.iter();
            let env = env.map(|pair| (pair.key.clone(), pair.value.clone()));
            note.lock().push(env.collect());
            Program::Runs
        });
        given
    }

    /// How many calls of each kind that makes or ends something.
    pub(super) fn changes_made(&self) -> u64 {
        use hearth_cri::Operation as Op;
        [
            Op::RunPodSandbox,
            Op::CreateContainer,
            Op::StartContainer,
            Op::StopContainer,
            Op::StopPodSandbox,
        ]
        .map(|op| self.runtime.calls(op))
        .iter()
        .sum()
    }

    pub(super) async fn sandboxes_at_runtime(&self) -> Vec<hearth_cri::v1::PodSandbox> {
        use hearth_cri::PodRuntime;
        self.runtime
            .list_pod_sandboxes(hearth_cri::v1::PodSandboxFilter::default())
            .await
            .unwrap()
    }
}

fn manager(
    runtime: &FakeRuntime,
    host: &Arc<FakeHost>,
    records: &Arc<FakeRecords>,
    claims: &ClaimActivity,
    clock: &WallClock,
    metrics: &PodMetrics,
    config: &PodConfig,
) -> PodManager {
    let pods = PodManager::new(PodDeps {
        runtime: Arc::new(runtime.clone()),
        images: Images::new(
            Arc::new(runtime.clone()),
            &ImageConfig {
                max_parallel_pulls: 2,
                notes: None,
            },
            ImageMetrics::default(),
        ),
        host: host.clone(),
        volumes: OwnVolumes::new("/volumes".into(), "/wiped".into(), "/pods".into()),
        records: records.clone(),
        claims: claims.clone(),
        clock: clock.clone(),
        metrics: metrics.clone(),
        config: config.clone(),
    });
    for (key, config) in open_namespace("ns") {
        pods.set_config(key, config);
    }
    pods.set_runtime_classes([class("gvisor", "runsc")].into());
    pods
}

fn class(name: &str, handler: &str) -> (String, NodeClass) {
    let class = NodeClass {
        handler: handler.to_owned(),
        ..NodeClass::default()
    };
    (name.to_owned(), class)
}

/// A bare sandbox with one container, and these fields in its pod.
pub(crate) fn sandbox(uid: &str, fields: &Value) -> Sandbox {
    let mut pod = json!({"containers": [{"name": "main", "image": IMAGE}], "terminationGracePeriodSeconds": 2});
    for (name, value) in fields.as_object().unwrap() {
        pod[name] = value.clone();
    }
    let mut sandbox = Sandbox::new(uid, SandboxSpec::default());
    sandbox.metadata.namespace = Some("ns".into());
    sandbox.metadata.uid = Some(uid.into());
    sandbox.metadata.generation = Some(1);
    sandbox.spec.pod_template.spec = PodSpecJson::from_value(&pod).unwrap();
    sandbox
}

pub(crate) fn bare(uid: &str) -> Sandbox {
    sandbox(uid, &json!({}))
}

/// A pool member that nobody has claimed.
pub(crate) fn member(uid: &str) -> Sandbox {
    let mut sandbox = bare(uid);
    sandbox.metadata.labels = Some([(label::WARM_POOL.to_owned(), "hash".to_owned())].into());
    sandbox
}
