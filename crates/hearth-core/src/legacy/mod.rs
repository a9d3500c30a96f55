//! Pods that the agent-sandbox controller made before this one led: a Sandbox has one of them or a sandbox on a node of
//! ours, never both.
//!
//! So far they are only watched.

mod facts;

pub use facts::PodRecord;

use crate::effects::{Outcome, Receipt};
use crate::ids::Key;
use crate::index::{Index, SandboxRecord};

/// Looks at a Pod: whether it is one of a Sandbox that wants none any more.
pub(crate) fn reconcile(_index: &mut Index, _key: &Key) {}

/// Whether a Sandbox without a node must not get one, because a Pod of it is still there.
pub(crate) fn holds_back(_index: &Index, _sandbox: &SandboxRecord) -> bool {
    false
}

/// The deletion of a Pod came out.
pub(crate) fn written(index: &mut Index, receipt: &Receipt, outcome: Outcome) {
    index.object_written(receipt, outcome);
}
