//! Where the parts of the daemon meet: each part says what it needs as a trait, and here is who provides it.

use async_trait::async_trait;
use hearth_api::{Sandbox, SandboxStatus, Time};
use hearth_core::ids::{Key, SandboxUid};

use crate::assignment::AssignedPods;
use crate::journal::{Batch, Journal};
use crate::pod::{Changes, PodManager, PodRecord, RecordError, RecordStore};
use crate::reporter::StatusSource;

impl AssignedPods for PodManager {
    fn wish(&self, uid: &SandboxUid, sandbox: &Sandbox) {
        self.set_desired(uid, self.desired(sandbox));
    }

    fn known(&self) -> Vec<(SandboxUid, Key)> {
        let views = self.views();
        views
            .iter()
            .map(|view| (view.uid.clone(), view.key.clone()))
            .collect()
    }
}

/// What the pods of a node have to report.
#[derive(Clone, Debug)]
pub(crate) struct PodStatus {
    pub(crate) pods: PodManager,
    pub(crate) node_name: String,
}

impl StatusSource for PodStatus {
    type Changes = Changes;

    fn status(
        &self,
        uid: &SandboxUid,
        previous: &SandboxStatus,
        now: &Time,
    ) -> Option<(SandboxStatus, bool)> {
        let view = self.pods.view(uid)?;
        Some((view.status(previous, &self.node_name, now), view.member))
    }

    fn changes(&self) -> Changes {
        self.pods.changes()
    }
}

/// Records of pods in the journal, as JSON: fields may be added with a default.
#[async_trait]
impl RecordStore for Journal {
    async fn put(&self, record: &PodRecord) -> Result<(), RecordError> {
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| RecordError {
            uid: record.uid.clone(),
            source,
        };
        let bytes = serde_json::to_vec(record).map_err(|error| failed(error.into()))?;
        let batch = Batch::new().put_sandbox(record.uid.clone(), bytes);
        self.commit(batch)
            .await
            .map(drop)
            .map_err(|error| failed(error.into()))
    }

    async fn delete(&self, uid: &SandboxUid) -> Result<(), RecordError> {
        self.commit(Batch::new().remove_sandbox(uid.clone()))
            .await
            .map(drop)
            .map_err(|error| RecordError {
                uid: uid.clone(),
                source: error.into(),
            })
    }
}
