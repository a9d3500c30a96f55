//! Which sandboxes this node is to have: the watch of its Sandbox objects, and what their absence means.
//!
//! The last known state stands while the API server is away. An object that cannot be read is reported on itself and
//! stalls nothing. Absence is judged by [`absence`]; a sandbox that somebody owns is never torn down for it, only when
//! it is released or when its object is marked as deleted.

mod absence;
mod board;
mod metrics;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::pin::pin;
use std::time::Duration;

use futures::{Stream, StreamExt};
use hearth_api::constants::{annotation, label};
use hearth_api::{Guarded, InvalidObject, Sandbox};
use hearth_core::ids::{Key, SandboxUid};
use hearth_core::names::node_label_value;
use hearth_telemetry::ErrorChain;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::PartialObjectMeta;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, Resource};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::binder::{Binder, MemberPods};
use crate::pod::{PodPhase, RemoveReason};
use absence::{Absences, Presence};

pub use absence::MassDisappearance;
pub use board::{Board, Posted};
pub use metrics::AssignmentMetrics;

/// How often suspects are judged while there are any.
const JUDGE_EVERY: Duration = Duration::from_millis(250);
/// How long a question for one object may take.
const ASK_DEADLINE: Duration = Duration::from_secs(10);
/// How often what need not be remembered is forgotten.
const PRUNE_EVERY: Duration = Duration::from_secs(60);

/// What the watch needs of the pods.
pub trait AssignedPods: MemberPods {
    /// Sets what the API wants of a sandbox.
    fn wish(&self, uid: &SandboxUid, sandbox: &Sandbox);

    /// All sandboxes of which the node has something.
    fn known(&self) -> Vec<(SandboxUid, Key)>;
}

/// Follows the Sandboxes of one node.
pub struct Assignment<P: AssignedPods> {
    client: Client,
    node_label: String,
    pods: P,
    binder: Binder<P>,
    board: Board,
    absences: Absences,
    /// The sandbox of each object that was created again for a pod that outlived its first object.
    adopted: HashMap<String, SandboxUid>,
    /// Objects seen since the watch began anew; `None` while it goes on.
    listed: Option<HashSet<SandboxUid>>,
    synced: watch::Sender<bool>,
    mass: watch::Sender<Option<MassDisappearance>>,
    confirmations: watch::Receiver<u64>,
    metrics: AssignmentMetrics,
    began: Instant,
}

impl<P: AssignedPods> fmt::Debug for Assignment<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Assignment")
            .field("node_label", &self.node_label)
            .finish_non_exhaustive()
    }
}

/// What others may know of the watch.
#[derive(Clone, Debug)]
pub struct AssignmentStatus {
    /// Whether all objects were seen once.
    pub synced: watch::Receiver<bool>,
    /// Whether too many are missing.
    pub mass: watch::Receiver<Option<MassDisappearance>>,
}

impl<P: AssignedPods> Assignment<P> {
    /// Watches the objects of `node_name` with `client`, on whose connections nothing else should wait.
    /// `confirmations` counts how often a person confirmed a mass disappearance.
    #[must_use]
    pub fn new(
        client: Client,
        node_name: &str,
        pods: P,
        binder: Binder<P>,
        board: Board,
        confirmations: watch::Receiver<u64>,
        metrics: AssignmentMetrics,
    ) -> Self {
        Self {
            client,
            node_label: node_label_value(node_name),
            pods,
            binder,
            board,
            absences: Absences::default(),
            adopted: HashMap::new(),
            listed: None,
            synced: watch::Sender::new(false),
            mass: watch::Sender::new(None),
            confirmations,
            metrics,
            began: Instant::now(),
        }
    }

    /// Its status, now and from now on.
    #[must_use]
    pub fn status(&self) -> AssignmentStatus {
        AssignmentStatus {
            synced: self.synced.subscribe(),
            mass: self.mass.subscribe(),
        }
    }

    /// Follows until `stop` is cancelled.
    pub async fn run(self, stop: CancellationToken) {
        let api = Api::<Guarded<Sandbox>>::all(self.client.clone());
        let config =
            watcher::Config::default().labels(&format!("{}={}", label::NODE, self.node_label));
        let events = watcher(api, config).default_backoff();
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.follow(events) => {}
        }
    }

    async fn follow(
        mut self,
        events: impl Stream<Item = watcher::Result<Event<Guarded<Sandbox>>>>,
    ) {
        let mut events = pin!(events);
        let mut questions = JoinSet::new();
        let mut judge = tokio::time::interval(JUDGE_EVERY);
        judge.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut prune = tokio::time::interval(PRUNE_EVERY);
        let mut confirmations = self.confirmations.clone();
        loop {
            // Each arm keeps what it has when it is dropped: a stream, a set of tasks, intervals, a watch.
            tokio::select! {
                event = events.next() => match event {
                    Some(Ok(event)) => self.event(event),
                    Some(Err(error)) => {
                        self.metrics.watch_errors.inc();
                        tracing::warn!(error = %ErrorChain(&error), "the watch of Sandboxes was interrupted");
                    }
                    None => return,
                },
                Some(answer) = questions.join_next() => match answer {
                    Ok((uid, presence)) => self.absences.answer(&uid, presence),
                    Err(error) => tracing::error!(error = %ErrorChain(&error), "a question for an object was lost"),
                },
                Ok(()) = confirmations.changed() => {
                    tracing::warn!("the disappearance of Sandboxes was confirmed by a person");
                    self.absences.confirm();
                }
                // Once more after the last suspect, to take back what was said of too many.
                _ = judge.tick(), if !self.absences.is_empty() || self.mass.borrow().is_some() => {
                    self.judge(&mut questions);
                }
                _ = prune.tick() => {
                    let known: HashSet<SandboxUid> = self.pods.known().into_iter().map(|(uid, _)| uid).collect();
                    let (binder, board) = (&self.binder, &self.board);
                    binder.prune(|uid| known.contains(uid) || board.contains(uid)).await;
                }
            }
        }
    }

    fn event(&mut self, event: Event<Guarded<Sandbox>>) {
        match event {
            Event::Init => self.listed = Some(HashSet::new()),
            Event::InitApply(object) | Event::Apply(object) => self.apply(object),
            Event::InitDone => self.relisted(),
            Event::Delete(object) => {
                let uid = self.identity(object.meta());
                self.adopted.retain(|_, sandbox| *sandbox != uid);
                self.board.withdraw(&uid);
                let key = key(object.meta());
                if !self.binder.is_disposed(&uid) {
                    tracing::info!(sandbox = %uid, name = %key, "the Sandbox is not in the watch any more");
                }
                self.absences.suspect(uid, key, self.began.elapsed());
            }
        }
    }

    fn apply(&mut self, object: Guarded<Sandbox>) {
        let uid = self.identity(object.meta());
        self.absences.clear(&uid);
        if let Some(listed) = &mut self.listed {
            listed.insert(uid.clone());
        }
        let deleted = object.meta().deletion_timestamp.is_some();
        let (posted, sandbox) = match object.0 {
            Ok(sandbox) => (
                post(
                    &sandbox.metadata,
                    sandbox.status.clone().unwrap_or_default(),
                    None,
                ),
                Some(sandbox),
            ),
            Err(InvalidObject { metadata, error }) => {
                tracing::warn!(sandbox = %uid, name = %key(&metadata), error, "the Sandbox cannot be read");
                self.metrics.invalid.inc();
                (
                    post(&metadata, hearth_api::SandboxStatus::default(), Some(error)),
                    None,
                )
            }
        };
        self.board.post(uid.clone(), posted);
        if deleted || self.binder.is_disposed(&uid) {
            self.pods.remove(&uid, RemoveReason::Deleted);
        } else if let Some(sandbox) = sandbox {
            self.pods.wish(&uid, &sandbox);
        }
    }

    /// All objects were listed: what the node has besides them is suspect.
    fn relisted(&mut self) {
        let Some(listed) = self.listed.take() else {
            return;
        };
        let now = self.began.elapsed();
        for (uid, key) in self.pods.known() {
            if !listed.contains(&uid) {
                self.absences.suspect(uid, key, now);
            }
        }
        for uid in self.board.uids() {
            if !listed.contains(&uid) {
                self.board.withdraw(&uid);
            }
        }
        tracing::info!(
            sandboxes = listed.len(),
            missing = self.absences.suspects().count(),
            "Sandboxes listed"
        );
        self.synced.send_replace(true);
    }

    fn judge(&mut self, questions: &mut JoinSet<(SandboxUid, Option<Presence>)>) {
        let done: Vec<SandboxUid> = self
            .absences
            .suspects()
            .filter(|uid| self.is_settled(uid))
            .cloned()
            .collect();
        done.iter().for_each(|uid| self.absences.clear(uid));
        let known = self.staying();
        let (pods, binder) = (&self.pods, &self.binder);
        let next = self
            .absences
            .judge(self.began.elapsed(), known, |uid| binder.is_held(uid));
        for (uid, key) in next.ask {
            questions.spawn(ask(self.client.clone(), self.node_label.clone(), uid, key));
        }
        for uid in next.tear_down {
            tracing::info!(sandbox = %uid, "the Sandbox is gone for certain: tearing it down");
            self.metrics.torn_down.inc();
            pods.remove(&uid, RemoveReason::Deleted);
        }
        let changed = self.mass.send_if_modified(|mass| {
            let changed = mass.is_some() != next.stopped.is_some();
            *mass = next.stopped;
            changed
        });
        if let (true, Some(mass)) = (changed, next.stopped) {
            tracing::error!(
                missing = mass.missing,
                of = mass.of,
                "too many Sandboxes vanished at once: nothing is torn down"
            );
        }
    }

    /// How many sandboxes the node has that are not on their way out already.
    fn staying(&self) -> usize {
        let staying = |uid: &SandboxUid| {
            let view = self.pods.view(uid);
            view.is_some_and(|view| view.phase != PodPhase::Stopping)
                && !self.binder.is_disposed(uid)
        };
        let known = self.pods.known();
        known.iter().filter(|(uid, _)| staying(uid)).count()
    }

    /// Whether there is nothing to judge: it was announced, or nothing of it is left.
    fn is_settled(&self, uid: &SandboxUid) -> bool {
        if self.binder.is_disposed(uid) {
            // Its removal may have been asked for by an earlier daemon.
            self.pods.remove(uid, RemoveReason::Deleted);
            return true;
        }
        self.pods.view(uid).is_none() && !self.binder.is_held(uid)
    }

    /// The sandbox that an object stands for.
    fn identity(&mut self, meta: &ObjectMeta) -> SandboxUid {
        let object = meta.uid.clone().unwrap_or_default();
        if let Some(sandbox) = self.adopted.get(&object) {
            return sandbox.clone();
        }
        let adopts = meta
            .annotations
            .as_ref()
            .and_then(|annotations| annotations.get(annotation::ADOPTS));
        if let Some(sandbox) = adopts.map(|uid| SandboxUid(uid.clone()))
            && self.binder.is_held(&sandbox)
            && self
                .pods
                .view(&sandbox)
                .is_some_and(|view| view.key == key(meta))
        {
            tracing::info!(%sandbox, object, "the Sandbox was created again and keeps its pod");
            self.adopted.insert(object, sandbox.clone());
            return sandbox;
        }
        SandboxUid(object)
    }
}

/// Asks the API server for one object; `None` when it does not answer.
async fn ask(
    client: Client,
    node_label: String,
    uid: SandboxUid,
    key: Key,
) -> (SandboxUid, Option<Presence>) {
    let api = Api::<Sandbox>::namespaced(client, &key.namespace);
    let presence = match tokio::time::timeout(ASK_DEADLINE, api.get_metadata_opt(&key.name)).await {
        Ok(Ok(object)) => Some(presence(object.as_ref(), &uid, &node_label)),
        Ok(Err(error)) => {
            tracing::warn!(sandbox = %uid, name = %key, error = %ErrorChain(&error), "cannot ask for the Sandbox");
            None
        }
        Err(_) => {
            tracing::warn!(sandbox = %uid, name = %key, "no answer about the Sandbox in time");
            None
        }
    };
    (uid, presence)
}

fn presence(
    object: Option<&PartialObjectMeta<Sandbox>>,
    uid: &SandboxUid,
    node_label: &str,
) -> Presence {
    let Some(object) = object else {
        return Presence::Gone;
    };
    let meta = &object.metadata;
    let is_it = meta.uid.as_deref() == Some(uid.as_str())
        || meta
            .annotations
            .as_ref()
            .and_then(|all| all.get(annotation::ADOPTS))
            .map(String::as_str)
            == Some(uid.as_str());
    let is_ours = meta
        .labels
        .as_ref()
        .and_then(|all| all.get(label::NODE))
        .map(String::as_str)
        == Some(node_label);
    if is_it && is_ours {
        Presence::Here
    } else {
        Presence::Gone
    }
}

fn key(meta: &ObjectMeta) -> Key {
    Key::new(
        meta.namespace.clone().unwrap_or_default(),
        meta.name.clone().unwrap_or_default(),
    )
}

fn post(meta: &ObjectMeta, status: hearth_api::SandboxStatus, invalid: Option<String>) -> Posted {
    Posted {
        key: key(meta),
        object_uid: meta.uid.clone().unwrap_or_default(),
        resource_version: meta.resource_version.clone().unwrap_or_default(),
        generation: meta.generation.unwrap_or_default(),
        status,
        invalid,
    }
}
