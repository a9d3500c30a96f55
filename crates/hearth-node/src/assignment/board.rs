//! What the API server has of each sandbox of this node, as far as status reports need it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use hearth_api::SandboxStatus;
use hearth_core::ids::{Key, SandboxUid};
use parking_lot::Mutex;
use tokio::sync::Notify;

/// One Sandbox object.
#[derive(Clone, Debug)]
pub struct Posted {
    /// Its name.
    pub key: Key,
    /// Its uid: another one than the sandbox's when it was created again for a pod that outlived its object.
    pub object_uid: String,
    /// Its version.
    pub resource_version: String,
    /// Its generation.
    pub generation: i64,
    /// Its status.
    pub status: SandboxStatus,
    /// Why it cannot be read as a Sandbox.
    pub invalid: Option<String>,
}

/// All Sandbox objects of this node. Written by the watch and by whoever gets a newer version in an answer.
#[derive(Clone, Debug, Default)]
pub struct Board {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    posted: HashMap<SandboxUid, Posted>,
    changed: HashSet<SandboxUid>,
}

impl Board {
    /// The object as it is now. An older version than the one known changes nothing.
    pub fn post(&self, uid: SandboxUid, posted: Posted) {
        let mut state = self.inner.state.lock();
        if let Some(known) = state.posted.get(&uid)
            && known.object_uid == posted.object_uid
            && is_older(&posted.resource_version, &known.resource_version)
        {
            return;
        }
        state.posted.insert(uid.clone(), posted);
        state.changed.insert(uid);
        drop(state);
        self.inner.changed.notify_one();
    }

    /// The object is not there any more.
    pub fn withdraw(&self, uid: &SandboxUid) {
        self.inner.state.lock().posted.remove(uid);
    }

    /// The object.
    #[must_use]
    pub fn get(&self, uid: &SandboxUid) -> Option<Posted> {
        self.inner.state.lock().posted.get(uid).cloned()
    }

    /// Whether the object is there.
    #[must_use]
    pub fn contains(&self, uid: &SandboxUid) -> bool {
        self.inner.state.lock().posted.contains_key(uid)
    }

    /// Uids of all objects.
    #[must_use]
    pub fn uids(&self) -> HashSet<SandboxUid> {
        self.inner.state.lock().posted.keys().cloned().collect()
    }

    /// Waits for objects that changed. Has one reader. Cancel-safe.
    pub async fn changed(&self) -> HashSet<SandboxUid> {
        loop {
            let changed = std::mem::take(&mut self.inner.state.lock().changed);
            if !changed.is_empty() {
                return changed;
            }
            // A change between the look and this is kept as a permit.
            self.inner.changed.notified().await;
        }
    }
}

/// Whether one resourceVersion is older than another, which decimal ones of one kind can say.
fn is_older(version: &str, than: &str) -> bool {
    match (version.parse::<u64>(), than.parse::<u64>()) {
        (Ok(version), Ok(than)) => version < than,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn posted(version: &str, object_uid: &str) -> Posted {
        Posted {
            key: Key::new("ns", "a"),
            object_uid: object_uid.to_owned(),
            resource_version: version.to_owned(),
            generation: 1,
            status: SandboxStatus::default(),
            invalid: None,
        }
    }

    #[test]
    fn a_late_event_does_not_undo_a_newer_answer() {
        let board = Board::default();
        let uid = SandboxUid::from("a");
        let check = |version, object_uid, expected: &str| {
            board.post(uid.clone(), posted(version, object_uid));
            assert_eq!(board.get(&uid).unwrap().resource_version, expected);
        };
        check("9", "a", "9");
        check("8", "a", "9");
        check("10", "a", "10");
        check("3", "b", "3");
    }

    #[tokio::test]
    async fn changes_are_named_once_however_often_they_happen() {
        let board = Board::default();
        for version in ["1", "2", "3"] {
            board.post(SandboxUid::from("a"), posted(version, "a"));
        }
        board.post(SandboxUid::from("b"), posted("1", "b"));
        assert_eq!(board.changed().await.len(), 2);
        let mut quiet = std::pin::pin!(board.changed());
        assert!(futures::poll!(quiet.as_mut()).is_pending());
        board.post(SandboxUid::from("a"), posted("4", "a"));
        assert_eq!(quiet.await.len(), 1);
    }
}
