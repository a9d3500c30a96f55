//! What is known of a sandbox, for status, inventory and metrics.

use std::sync::Arc;

use hearth_api::{OperatingMode, PhaseTimes, SandboxStatus, Tier, Time};
use hearth_core::attachments::Attachment;
use hearth_core::idle::IdleRules;
use hearth_core::ids::{Key, PodUid, SandboxUid};
use hearth_core::podspec::Refusal;
use hearth_core::status::{self, Facts, PodFacts, Refused};

use super::record::PodRecord;
use super::show;

/// What is known of one sandbox at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct PodView {
    /// The Sandbox object.
    pub uid: SandboxUid,
    /// Its name.
    pub key: Key,
    /// `metadata.generation` of the wish that is being followed; `None` while only the journal is known.
    pub generation: Option<i64>,
    /// Whether it is an unclaimed pool member.
    pub member: bool,
    /// This incarnation of the pod.
    pub pod_uid: Option<PodUid>,
    /// Where it is in its life.
    pub phase: PodPhase,
    /// How much of it is resident; `None` without a pod. Never `Frozen` unless the kernel confirmed it.
    pub tier: Option<Tier>,
    /// Addresses of the pod.
    pub pod_ips: Vec<String>,
    /// The CRI handler.
    pub handler: String,
    /// How its pods are frozen; empty when they are not.
    pub freeze_method: String,
    /// What stands in the way; empty when nothing does.
    pub message: String,
    /// Where the time of the last start or wake went.
    pub phases: PhaseTimes,
    /// What its pod asks for.
    pub requests: Requests,
    /// What becomes of it when nobody uses it; `None` while the API was not heard.
    pub idle: Option<IdleRules>,
    /// Whether it has been idle for so long that it is to be suspended.
    pub asks_suspension: bool,
    /// What only the status needs.
    pub for_status: ForStatus,
}

/// What a pod asks for; zero without a pod.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Requests {
    /// CPU in thousandths of a core.
    pub milli_cpu: u64,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// Ephemeral storage in bytes.
    pub storage_bytes: u64,
}

/// What only the status of the Sandbox needs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ForStatus {
    pub(super) mode: OperatingMode,
    pub(super) expired: bool,
    pub(super) certain: bool,
    pub(super) refusal: Option<Arc<Refusal>>,
    pub(super) cannot_freeze: Option<String>,
    pub(super) phase: Option<status::PodPhase>,
    pub(super) ready: bool,
    pub(super) to_freeze: bool,
    pub(super) service: Option<bool>,
    pub(super) attachment: Attachment,
}

/// Where a sandbox is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PodPhase {
    /// Nothing was made yet, or it is being made.
    Pending,
    /// All containers were started, but not all are ready.
    NotReady,
    /// Ready; `tier` says whether the processes run.
    Ready,
    /// Being stopped, to be suspended or removed.
    Stopping,
    /// No pod, on purpose: suspended, or expired.
    Stopped,
    /// A step failed and is tried again after a back-off, or the specification was refused.
    Failed,
    /// The outcome of an operation is being found out.
    Unknown,
    /// All containers have ended.
    Finished,
}

impl PodView {
    /// What the journal alone says of a sandbox, before anybody has looked at the runtime.
    #[must_use]
    pub fn of_record(record: &PodRecord) -> Self {
        let mut view = show::nothing(&record.uid, &record.key, false);
        view.member = record.member;
        view.pod_uid = record.pod.as_ref().map(|pod| pod.uid.clone());
        view.message = "containerd has not answered yet: this is what the journal says".to_owned();
        view
    }

    /// It is not ready, whatever was said of it before.
    pub(super) fn not_ready(&mut self) {
        if self.phase == PodPhase::Ready {
            self.phase = PodPhase::NotReady;
        }
        self.for_status.ready = false;
    }

    /// Whether the API wants it to run, as far as it was heard.
    #[must_use]
    pub fn operating_mode(&self) -> OperatingMode {
        self.for_status.mode
    }

    /// Whether it is to be frozen, now or once it is ready: wanted so by the API, or by its pool.
    #[must_use]
    pub fn shall_be_frozen(&self) -> bool {
        self.for_status.to_freeze
    }

    /// The status of the Sandbox, all that the node writes of it. `previous` is the one it has: what the node does not
    /// write is kept from there, and so is the whole while the node has not found out what there is.
    #[must_use]
    pub fn status(&self, previous: &SandboxStatus, node_name: &str, now: &Time) -> SandboxStatus {
        let facts = self.facts(previous, node_name);
        status::status(previous, &self.key.name, &facts, now)
    }

    fn facts(&self, previous: &SandboxStatus, node_name: &str) -> Facts {
        let ForStatus {
            mode,
            expired,
            certain,
            refusal,
            cannot_freeze,
            phase,
            ready,
            to_freeze: _,
            service,
            attachment,
        } = &self.for_status;
        let pod = self
            .pod_uid
            .clone()
            .zip(*phase)
            .map(|(uid, phase)| PodFacts {
                uid,
                phase,
                ready: *ready,
                ips: self.pod_ips.clone(),
                tier: self.tier,
            });
        Facts {
            generation: self.generation,
            mode: *mode,
            expired: *expired,
            certain: *certain,
            refusal: refusal.as_ref().map(|refusal| Refused {
                why: refusal.to_string(),
                cause: refusal.cause,
            }),
            cannot_freeze: cannot_freeze.clone(),
            pod,
            node_name: node_name.to_owned(),
            handler: self.handler.clone(),
            freeze_method: self.freeze_method.clone(),
            message: self.message.clone(),
            phases: self.phases.clone(),
            service: attachment.service.clone().or_as_written(previous, *service),
            fault: attachment.fault.clone(),
        }
    }
}
