//! The node's SandboxNode: what the controller places by, and what people look at.
//!
//! Written when something changed, at most once in [`SPACING`]; looked over every [`LOOK`] for what no event tells:
//! pressure, images, the Node's labels and taints.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hearth_api::constants::{annotation, condition};
use hearth_api::{
    Condition, HandlerStatus, NodeCapacity, NodeTaint, NodeUsage, SandboxNode, SandboxNodeStatus,
    Tier, Time,
};
use hearth_core::conditions::{ConditionStatus, find_condition, set_condition};
use hearth_cri::ImageStore;
use hearth_sys::machine::{Resource, pressure};
use hearth_telemetry::ErrorChain;
use k8s_openapi::api::core::v1::{Node, Taint};
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::{Client, Error};
use serde_json::json;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use crate::assignment::{AssignmentStatus, MassDisappearance};
use crate::host::ContainerdState;
use crate::pod::{PodManager, PodPhase};
use crate::reporter::merge_patch;

/// The least time between two writes.
const SPACING: Duration = Duration::from_secs(1);
/// How often what no event tells is looked at.
const LOOK: Duration = Duration::from_secs(15);
/// How soon a write that failed is tried again.
const AGAIN: Duration = Duration::from_secs(3);
/// How long one call may take.
const DEADLINE: Duration = Duration::from_secs(5);

/// What does not change while the daemon runs.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    pub(crate) node_name: String,
    pub(crate) pod_cidr: String,
    pub(crate) endpoint: String,
    pub(crate) fingerprint: String,
    pub(crate) boot_id: String,
    pub(crate) capacity: NodeCapacity,
    /// Of a fake node, which is no Node of the cluster and has no machine that could be under pressure.
    pub(crate) fake: Option<Marks>,
}

/// By what a node is chosen or avoided.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Marks {
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) taints: Vec<NodeTaint>,
}

/// What does.
#[derive(Clone, Debug)]
pub(crate) struct Sources {
    pub(crate) pods: PodManager,
    pub(crate) images: Arc<dyn ImageStore>,
    pub(crate) containerd: watch::Receiver<ContainerdState>,
    pub(crate) handlers: Vec<HandlerStatus>,
    pub(crate) assignment: AssignmentStatus,
    /// Why nothing new is begun for want of room on the disk.
    pub(crate) pressure: watch::Receiver<Option<String>>,
}

/// Keeps the SandboxNode.
#[derive(Debug)]
pub(crate) struct Presence {
    api: Api<SandboxNode>,
    nodes: Api<Node>,
    facts: Facts,
    sources: Sources,
    confirmations: watch::Sender<u64>,
    /// Status as the API server has it.
    written: Option<SandboxNodeStatus>,
    images: Vec<String>,
    /// Labels and taints as last copied.
    marks: Option<Marks>,
}

impl Presence {
    pub(crate) fn new(
        client: &Client,
        facts: Facts,
        sources: Sources,
        confirmations: watch::Sender<u64>,
    ) -> Self {
        Self {
            api: Api::all(client.clone()),
            nodes: Api::all(client.clone()),
            facts,
            sources,
            confirmations,
            written: None,
            images: Vec::new(),
            marks: None,
        }
    }

    /// Keeps it until `stop` is cancelled.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut changes = self.sources.pods.changes();
        let mut containerd = self.sources.containerd.clone();
        let mut mass = self.sources.assignment.mass.clone();
        let mut pressure = self.sources.pressure.clone();
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut complete = true;
        loop {
            // Cancel-safe: each arm waits for a value that stays where it is until it is taken.
            let look = tokio::select! {
                () = stop.cancelled() => return,
                () = sleep(AGAIN), if !complete => false,
                _ = looks.tick() => true,
                _ = changes.next() => false,
                changed = containerd.changed() => if changed.is_err() { return } else { false },
                changed = mass.changed() => if changed.is_err() { return } else { false },
                changed = pressure.changed() => if changed.is_err() { return } else { false },
            };
            let next = Instant::now() + SPACING;
            let work = async {
                if look {
                    self.look().await;
                }
                self.write().await
            };
            // Cancel-safe: a write that is dropped is made anew by the next daemon.
            tokio::select! {
                () = stop.cancelled() => return,
                written = work => complete = written,
            }
            // What changes meanwhile is one write later.
            tokio::select! {
                () = stop.cancelled() => return,
                () = sleep_until(next) => {}
            }
        }
    }

    /// Looks at what no event tells.
    async fn look(&mut self) {
        if let Ok(Ok(images)) = timeout(DEADLINE, self.sources.images.list_images()).await {
            self.images = images
                .into_iter()
                .flat_map(|image| image.repo_tags)
                .collect();
            self.images.sort();
        }
        match self.facts.fake.clone() {
            Some(marks) => self.copy(marks).await,
            None => self.look_at_node().await,
        }
        if self.sources.assignment.mass.borrow().is_some() {
            self.look_for_confirmation().await;
        }
    }

    async fn look_at_node(&mut self) {
        match timeout(DEADLINE, self.nodes.get_opt(&self.facts.node_name)).await {
            Ok(Ok(Some(node))) => self.copy(marks_of(node)).await,
            // A machine that is no Node of the cluster has no labels or taints to copy.
            Ok(Ok(None)) => {}
            Ok(Err(error)) => {
                tracing::warn!(error = %ErrorChain(&error), "cannot read the Node");
            }
            Err(_) => tracing::warn!(deadline = ?DEADLINE, "reading the Node took too long"),
        }
    }

    /// A person confirms a mass disappearance by an annotation, which is taken away when it is acted on: one left over
    /// from the last time must not confirm the next.
    async fn look_for_confirmation(&self) {
        let name = &self.facts.node_name;
        let own = timeout(DEADLINE, self.api.get_metadata_opt(name)).await;
        let Ok(Ok(Some(own))) = own else { return };
        let annotations = own.metadata.annotations.unwrap_or_default();
        if !annotations.contains_key(annotation::CONFIRM_DISAPPEARANCE) {
            return;
        }
        let patch = json!({"metadata": {"annotations": {annotation::CONFIRM_DISAPPEARANCE: null}}});
        if self.patch_or_create(&patch).await.is_some() {
            self.confirmations.send_modify(|count| *count += 1);
        }
    }

    /// Copies labels and taints.
    async fn copy(&mut self, marks: Marks) {
        if self.marks.as_ref() == Some(&marks) {
            return;
        }
        let patch = json!({"metadata": {"labels": marks.labels}, "spec": {"taints": marks.taints}});
        if self.patch_or_create(&patch).await.is_some() {
            self.marks = Some(marks);
        }
    }

    /// Writes what changed of the status. Whether the API server has all of it.
    async fn write(&mut self) -> bool {
        if self.written.is_none() {
            let Some(own) = self.patch_or_create(&json!({})).await else {
                return false;
            };
            self.written = Some(own.status.unwrap_or_default());
        }
        let status = self.status();
        let Some(patch) = self.changes_to(&status) else {
            return true;
        };
        let (params, patch) = (
            PatchParams::default(),
            Patch::Merge(json!({ "status": patch })),
        );
        let write = self
            .api
            .patch_status(&self.facts.node_name, &params, &patch);
        match timeout(DEADLINE, write).await {
            Ok(Ok(_)) => {
                self.written = Some(status);
                return true;
            }
            Ok(Err(error)) => {
                tracing::warn!(error = %ErrorChain(&error), "cannot write the SandboxNode");
            }
            Err(_) => tracing::warn!(deadline = ?DEADLINE, "writing the SandboxNode took too long"),
        }
        // It may have been written all the same, or the object may be gone: looked at before the next write.
        self.written = None;
        false
    }

    /// The merge patch that makes `status` of what was written last.
    fn changes_to(&self, status: &SandboxNodeStatus) -> Option<serde_json::Value> {
        let before = serde_json::to_value(&self.written).unwrap_or_default();
        let after = serde_json::to_value(status).unwrap_or_default();
        merge_patch(&before, &after)
    }

    /// Merges `patch` into the object, which is made if it is not there, and returns it.
    async fn patch_or_create(&self, patch: &serde_json::Value) -> Option<SandboxNode> {
        let name = &self.facts.node_name;
        let mut body = json!({"spec": {"podCIDR": self.facts.pod_cidr}});
        merge(&mut body, patch);
        let write = async {
            let patch = Patch::Merge(&body);
            match self.api.patch(name, &PatchParams::default(), &patch).await {
                Err(Error::Api(status)) if status.code == 404 => {
                    let mut object = body.clone();
                    let head = json!({
                        "apiVersion": "hearth.dev/v1alpha1", "kind": "SandboxNode", "metadata": {"name": name},
                    });
                    merge(&mut object, &head);
                    let object = serde_json::from_value(object).map_err(Error::SerdeError)?;
                    self.api.create(&PostParams::default(), &object).await
                }
                result => result,
            }
        };
        match timeout(DEADLINE * 2, write).await {
            Ok(Ok(object)) => return Some(object),
            Ok(Err(error)) => {
                tracing::warn!(error = %ErrorChain(&error), "cannot write the SandboxNode")
            }
            Err(_) => tracing::warn!("writing the SandboxNode took too long"),
        }
        None
    }

    fn status(&self) -> SandboxNodeStatus {
        let mut status = SandboxNodeStatus {
            endpoint: self.facts.endpoint.clone(),
            fingerprint: self.facts.fingerprint.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            boot_id: self.facts.boot_id.clone(),
            capacity: self.facts.capacity.clone(),
            usage: self.usage(),
            handlers: self.sources.handlers.clone(),
            images: self.images.clone(),
            pressure: self.pressures(),
            conditions: self
                .written
                .as_ref()
                .map(|written| written.conditions.clone())
                .unwrap_or_default(),
        };
        let mass = *self.sources.assignment.mass.borrow();
        set_conditions(
            &mut status.conditions,
            &self.sources.containerd.borrow(),
            mass.as_ref(),
        );
        let pressure = self.sources.pressure.borrow().clone();
        set_disk_condition(&mut status.conditions, pressure.as_deref());
        status
    }

    fn pressures(&self) -> BTreeMap<String, f64> {
        if self.facts.fake.is_some() {
            return BTreeMap::new();
        }
        pressures(self.written.as_ref().map(|written| &written.pressure))
    }

    fn usage(&self) -> NodeUsage {
        let mut usage = NodeUsage::default();
        for view in self.sources.pods.views() {
            if view.pod_uid.is_none() {
                continue;
            }
            usage.sandboxes += 1;
            match view.tier {
                Some(Tier::Running) => usage.running += 1,
                Some(Tier::Frozen | Tier::Reclaimed) => usage.frozen += 1,
                None => {}
            }
            if view.member && view.phase == PodPhase::Ready {
                usage.free_members += 1;
            }
            usage.milli_cpu += i64::try_from(view.requests.milli_cpu).unwrap_or(i64::MAX);
            usage.memory_bytes += i64::try_from(view.requests.memory_bytes).unwrap_or(i64::MAX);
            usage.storage_bytes += i64::try_from(view.requests.storage_bytes).unwrap_or(i64::MAX);
        }
        usage
    }
}

fn marks_of(node: Node) -> Marks {
    let taints = node.spec.and_then(|spec| spec.taints).unwrap_or_default();
    let taint = |taint: Taint| NodeTaint {
        key: taint.key,
        value: taint.value.unwrap_or_default(),
        effect: taint.effect,
    };
    Marks {
        labels: node.metadata.labels.unwrap_or_default(),
        taints: taints.into_iter().map(taint).collect(),
    }
}

/// While a starting daemon waits for containerd: says on a SandboxNode that is there already why it does not come up.
/// Never ends.
pub(crate) async fn say_why_not_ready(
    client: Client,
    node_name: &str,
    mut containerd: watch::Receiver<ContainerdState>,
) {
    let api: Api<SandboxNode> = Api::all(client);
    loop {
        let state = containerd.borrow_and_update().clone();
        if matches!(state, ContainerdState::Down { .. }) {
            match timeout(DEADLINE * 2, say(&api, node_name, &state)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    tracing::warn!(error = %ErrorChain(&error), "cannot write the SandboxNode");
                }
                Err(_) => tracing::warn!("writing the SandboxNode took too long"),
            }
        }
        if containerd.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

async fn say(
    api: &Api<SandboxNode>,
    node_name: &str,
    state: &ContainerdState,
) -> Result<(), Error> {
    let Some(own) = api.get_opt(node_name).await? else {
        return Ok(());
    };
    let mut conditions = own.status.unwrap_or_default().conditions;
    set_conditions(&mut conditions, state, None);
    let patch = Patch::Merge(json!({ "status": { "conditions": conditions } }));
    api.patch_status(node_name, &PatchParams::default(), &patch)
        .await
        .map(drop)
}

fn set_conditions(
    conditions: &mut Vec<Condition>,
    containerd: &ContainerdState,
    mass: Option<&MassDisappearance>,
) {
    let now = Time(jiff::Timestamp::now());
    let (status, reason, message) = match containerd {
        ContainerdState::Up { .. } => (ConditionStatus::True, "RuntimeReady", String::new()),
        ContainerdState::Starting => (
            ConditionStatus::False,
            "RuntimeStarting",
            "containerd is being started".to_owned(),
        ),
        ContainerdState::Down { reason, attempt } => (
            ConditionStatus::False,
            "RuntimeDown",
            format!("containerd does not serve: {reason}; attempt {attempt} to start it"),
        ),
    };
    set_condition(
        conditions,
        condition::READY,
        status,
        reason,
        message,
        None,
        &now,
    );
    let missing = match mass {
        Some(mass) => Some(format!(
            "{} of {} Sandboxes seem gone at once; nothing is torn down. If that is meant, annotate this SandboxNode with {}=yes",
            mass.missing,
            mass.of,
            annotation::CONFIRM_DISAPPEARANCE
        )),
        // Said only once there was something to say.
        None if find_condition(conditions, condition::MASS_DISAPPEARANCE).is_some() => None,
        None => return,
    };
    let (reason, message) = match &missing {
        Some(message) => ("ObjectsMissing", message.as_str()),
        None => ("ObjectsPresent", ""),
    };
    let status = ConditionStatus::from(missing.is_some());
    set_condition(
        conditions,
        condition::MASS_DISAPPEARANCE,
        status,
        reason,
        message,
        None,
        &now,
    );
}

/// Says whether the disk is nearly full.
fn set_disk_condition(conditions: &mut Vec<Condition>, pressure: Option<&str>) {
    let (status, reason) = match pressure {
        Some(_) => (ConditionStatus::True, "DiskNearlyFull"),
        None => (ConditionStatus::False, "DiskHasRoom"),
    };
    let message = pressure.unwrap_or_default();
    let now = Time(jiff::Timestamp::now());
    set_condition(
        conditions,
        condition::DISK_PRESSURE,
        status,
        reason,
        message,
        None,
        &now,
    );
}

/// Stall averages in whole steps of 5 %, so that noise does not make writes. A step is left only when the figure is
/// clearly outside of it.
fn pressures(before: Option<&BTreeMap<String, f64>>) -> BTreeMap<String, f64> {
    let mut figures = BTreeMap::new();
    for (name, resource) in [
        ("cpu", Resource::Cpu),
        ("memory", Resource::Memory),
        ("io", Resource::Io),
    ] {
        // A kernel without PSI has no figures.
        let Ok(Some(now)) = pressure(resource) else {
            continue;
        };
        let figure = f64::from(now.some.avg10);
        let before = before.and_then(|before| before.get(name)).copied();
        figures.insert(name.to_owned(), step(figure, before));
    }
    figures
}

fn step(figure: f64, before: Option<f64>) -> f64 {
    const STEP: f64 = 5.0;
    match before {
        Some(before) if (figure - before).abs() < STEP => before,
        _ => (figure / STEP).round() * STEP,
    }
}

/// Merges objects, as a JSON merge patch would.
fn merge(target: &mut serde_json::Value, patch: &serde_json::Value) {
    match (target, patch) {
        (serde_json::Value::Object(target), serde_json::Value::Object(patch)) => {
            for (key, value) in patch {
                merge(
                    target.entry(key.clone()).or_insert(serde_json::Value::Null),
                    value,
                );
            }
        }
        (target, patch) => patch.clone_into(target),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pressure_moves_in_steps_and_only_when_it_clearly_moved() {
        assert_eq!(step(12.0, None), 10.0);
        assert_eq!(step(14.9, Some(10.0)), 10.0);
        assert_eq!(step(15.1, Some(10.0)), 15.0);
        assert_eq!(step(0.0, Some(5.0)), 0.0);
    }

    #[test]
    fn a_node_without_its_runtime_is_not_ready_and_says_why() {
        let mut conditions = Vec::new();
        let down = ContainerdState::Down {
            reason: "it ended".to_owned(),
            attempt: 3,
        };
        set_conditions(&mut conditions, &down, None);
        let ready = find_condition(&conditions, condition::READY).unwrap();
        assert_eq!(
            (ready.status.as_str(), ready.reason.as_str()),
            ("False", "RuntimeDown")
        );
        assert_eq!(
            conditions.len(),
            1,
            "nothing is said of a disappearance that never was"
        );
    }
}
