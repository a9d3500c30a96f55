//! What the journal keeps for the next daemon.

use std::path::PathBuf;

use hearth_core::ids::{Fence, SandboxUid};
use serde::{Deserialize, Serialize};

use super::DaemonError;
use crate::journal::{Batch, Contents, Found, Journal, JournalMetrics, Opened};
use crate::pod::{Adopted, PodRecord};
use crate::server::LeaderRecord;

/// The journal's key of the leader that was known last.
const META_LEADER: &str = "leader";

/// The leader as the journal keeps it.
#[derive(Debug, Serialize, Deserialize)]
struct KeptLeader {
    fingerprint: String,
    version: u64,
}

/// Opens the journal in `root` and says in the log how it was found.
pub(crate) async fn open_journal(
    root: PathBuf,
    metrics: JournalMetrics,
) -> Result<Opened, DaemonError> {
    let opened = tokio::task::spawn_blocking(move || Journal::open(&root, metrics))
        .await
        .map_err(|source| DaemonError::Abandoned {
            what: "opening the journal",
            source,
        })?
        .map_err(DaemonError::Journal)?;
    match &opened.found {
        Found::New => tracing::info!("a new journal"),
        Found::Whole => tracing::info!(
            sandboxes = opened.contents.sandboxes.len(),
            binds = opened.contents.bindings.binds.len(),
            "the journal is whole"
        ),
        Found::Rebuilt { aside, reason } => tracing::error!(
            aside = %aside.display(),
            reason,
            binds = opened.contents.bindings.binds.len(),
            "the journal was damaged and is rebuilt from the bind files; members that nobody is known to hold are destroyed"
        ),
    }
    Ok(opened)
}

/// The pods of the journal. A record that cannot be read is left out: its pod, if there is one, is destroyed, for nobody
/// can tell whose it is.
pub(crate) fn adopted(contents: &Contents) -> Vec<Adopted> {
    let read = |(uid, bytes): (&SandboxUid, &Vec<u8>)| match serde_json::from_slice::<PodRecord>(
        bytes,
    ) {
        Ok(record) => {
            let bindings = &contents.bindings;
            Some(Adopted {
                record,
                bound: bindings.binds.contains_key(uid),
                env: bindings.envs.get(uid).cloned(),
            })
        }
        Err(error) => {
            tracing::error!(sandbox = %uid, %error, "a record of the journal cannot be read; its pod is destroyed");
            None
        }
    };
    contents.sandboxes.iter().filter_map(read).collect()
}

pub(crate) fn known_leader(contents: &Contents) -> Option<LeaderRecord> {
    let kept: KeptLeader = serde_json::from_slice(contents.meta.get(META_LEADER)?).ok()?;
    Some(LeaderRecord {
        fingerprint: kept.fingerprint.parse().ok()?,
        version: Fence(kept.version),
    })
}

/// Keeps the leader for the next daemon, which may start while the API server is away; or that nobody leads who may be let
/// in. Losing it costs a read of the Lease.
pub(crate) fn keep_leader(journal: &Journal, leader: Option<&LeaderRecord>) {
    let Some(leader) = leader else {
        let _ = journal.submit(Batch::new().remove_meta(META_LEADER));
        return;
    };
    let kept = KeptLeader {
        fingerprint: leader.fingerprint.to_string(),
        version: leader.version.0,
    };
    if let Ok(bytes) = serde_json::to_vec(&kept) {
        let _ = journal.submit(Batch::new().put_meta(META_LEADER, bytes));
    }
}
