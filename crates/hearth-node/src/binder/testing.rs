//! Pods that do what a test says.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use hearth_api::{PhaseTimes, Tier};
use hearth_core::attachments::Attachment;
use hearth_core::binding::BoundEnv;
use hearth_core::effects::ConfigKey;
use hearth_core::ids::{Key, SandboxUid};
use hearth_core::podspec::Config;
use hearth_core::volumes::Location;
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc};

use super::{MemberPods, Thawed};
use crate::assignment::AssignedPods;
use crate::pod::{ForStatus, PodPhase, PodView, RemoveReason, Requests, ThawRefused};
use crate::server::{NextChange, SessionPods};
use crate::volumes::OwnVolumes;

pub(crate) fn view(uid: &str, phase: PodPhase) -> PodView {
    PodView {
        uid: SandboxUid::from(uid),
        key: Key::new("ns", uid),
        generation: Some(1),
        member: true,
        pod_uid: None,
        phase,
        tier: Some(Tier::Frozen),
        pod_ips: Vec::new(),
        handler: "runc".to_owned(),
        freeze_method: "cgroup-v2".to_owned(),
        message: String::new(),
        phases: PhaseTimes::default(),
        requests: Requests::default(),
        idle: None,
        asks_suspension: false,
        for_status: ForStatus::default(),
    }
}

/// Pods that are ready, thaw at once unless told otherwise, and remember what was done to them.
#[derive(Clone, Debug, Default)]
pub(crate) struct FakePods(pub(crate) Arc<FakeState>);

#[derive(Debug, Default)]
pub(crate) struct FakeState {
    pub(crate) views: Mutex<HashMap<SandboxUid, Arc<PodView>>>,
    pub(crate) thaws: Mutex<VecDeque<ThawRefused>>,
    /// When set, thaws wait for `go`.
    pub(crate) slow: Mutex<bool>,
    pub(crate) go: Notify,
    pub(crate) waiting: Notify,
    pub(crate) envs: Mutex<Vec<Option<Arc<BoundEnv>>>>,
    pub(crate) held: Mutex<Vec<SandboxUid>>,
    pub(crate) kept: Mutex<Vec<SandboxUid>>,
    pub(crate) removed: Mutex<Vec<(SandboxUid, RemoveReason)>>,
    changes: Mutex<Vec<mpsc::UnboundedSender<SandboxUid>>>,
    pub(crate) wishes: Mutex<Vec<SandboxUid>>,
    pub(crate) configs: Mutex<HashMap<ConfigKey, Option<Arc<Config>>>>,
    pub(crate) locations: Mutex<HashMap<Key, Option<Location>>>,
    /// What was listed, and what was said.
    pub(crate) attachments: Mutex<HashMap<SandboxUid, Option<Attachment>>>,
    pub(crate) supplied: Notify,
    volumes: std::sync::OnceLock<OwnVolumes>,
}

impl FakePods {
    /// Puts a sandbox there and tells of it.
    pub(crate) fn show(&self, view: PodView) {
        let uid = view.uid.clone();
        self.0.views.lock().insert(uid.clone(), Arc::new(view));
        self.tell(&uid);
    }

    /// Takes a sandbox away and tells of it.
    pub(crate) fn hide(&self, uid: &SandboxUid) {
        self.0.views.lock().remove(uid);
        self.tell(uid);
    }

    fn tell(&self, uid: &SandboxUid) {
        self.0
            .changes
            .lock()
            .retain(|changes| changes.send(uid.clone()).is_ok());
    }
}

impl AssignedPods for FakePods {
    fn wish(&self, uid: &SandboxUid, _sandbox: &hearth_api::Sandbox) {
        self.0.wishes.lock().push(uid.clone());
    }

    fn known(&self) -> Vec<(SandboxUid, Key)> {
        self.0
            .views
            .lock()
            .values()
            .map(|view| (view.uid.clone(), view.key.clone()))
            .collect()
    }
}

impl SessionPods for FakePods {
    type Changes = mpsc::UnboundedReceiver<SandboxUid>;

    fn views(&self) -> Vec<Arc<PodView>> {
        self.0.views.lock().values().cloned().collect()
    }

    fn changes(&self) -> Self::Changes {
        let (changes, receiver) = mpsc::unbounded_channel();
        self.0.changes.lock().push(changes);
        receiver
    }

    fn keep_configs(&self, keys: &HashSet<ConfigKey>) {
        self.0.configs.lock().retain(|key, _| keys.contains(key));
        self.0.supplied.notify_one();
    }

    fn set_config(&self, key: ConfigKey, config: Option<Arc<Config>>) {
        self.0.configs.lock().insert(key, config);
        self.0.supplied.notify_one();
    }

    fn forget_config(&self, key: &ConfigKey) {
        self.0.configs.lock().remove(key);
        self.0.supplied.notify_one();
    }

    fn keep_locations(&self, claims: &HashSet<Key>) {
        self.0
            .locations
            .lock()
            .retain(|claim, _| claims.contains(claim));
        self.0.supplied.notify_one();
    }

    fn set_location(&self, claim: Key, location: Option<Location>) {
        self.0.locations.lock().insert(claim, location);
        self.0.supplied.notify_one();
    }

    fn forget_location(&self, claim: &Key) {
        self.0.locations.lock().remove(claim);
        self.0.supplied.notify_one();
    }

    fn keep_attachments(&self, sandboxes: HashSet<SandboxUid>) {
        let mut attachments = self.0.attachments.lock();
        attachments.retain(|uid, _| sandboxes.contains(uid));
        for uid in sandboxes {
            attachments.entry(uid).or_default();
        }
        drop(attachments);
        self.0.supplied.notify_one();
    }

    fn set_attachment(&self, uid: SandboxUid, attachment: Option<Attachment>) {
        self.0.attachments.lock().insert(uid, attachment);
        self.0.supplied.notify_one();
    }

    fn volumes(&self) -> &OwnVolumes {
        self.0.volumes.get_or_init(|| {
            let root = std::env::temp_dir().join(format!("hearth-test-{}", uuid::Uuid::new_v4()));
            OwnVolumes::new(root.join("volumes"), root.join("wiped"), root.join("pods"))
        })
    }
}

impl NextChange for mpsc::UnboundedReceiver<SandboxUid> {
    async fn next(&mut self) -> SandboxUid {
        match self.recv().await {
            Some(uid) => uid,
            None => std::future::pending().await,
        }
    }
}

/// Gives the member back when dropped.
pub(crate) struct Held(SandboxUid, Arc<FakeState>, bool);

impl Drop for Held {
    fn drop(&mut self) {
        self.1.held.lock().retain(|uid| *uid != self.0);
        if self.2 {
            self.1.kept.lock().push(self.0.clone());
        }
    }
}

impl MemberPods for FakePods {
    type Held = Held;

    fn view(&self, sandbox: &SandboxUid) -> Option<Arc<PodView>> {
        self.0.views.lock().get(sandbox).cloned()
    }

    async fn thaw_for_bind(
        &self,
        sandbox: &SandboxUid,
        env: Option<&Arc<BoundEnv>>,
    ) -> Result<Thawed<Held>, ThawRefused> {
        self.0.envs.lock().push(env.cloned());
        if *self.0.slow.lock() {
            self.0.waiting.notify_one();
            self.0.go.notified().await;
        }
        if let Some(refused) = self.0.thaws.lock().pop_front() {
            return Err(refused);
        }
        self.0.held.lock().push(sandbox.clone());
        let view = self.view(sandbox).ok_or(ThawRefused::NotFound)?;
        Ok(Thawed {
            view,
            took: Duration::from_micros(120),
            held: Held(sandbox.clone(), Arc::clone(&self.0), false),
        })
    }

    fn keep(mut held: Held) {
        held.2 = true;
    }

    async fn keep_live(&self, _sandbox: &SandboxUid) {}

    fn remove(&self, sandbox: &SandboxUid, reason: RemoveReason) {
        self.0.removed.lock().push((sandbox.clone(), reason));
    }
}
