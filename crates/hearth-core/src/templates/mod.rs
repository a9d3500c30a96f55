//! What belongs to a SandboxTemplate as an object: its label, and the NetworkPolicy of its sandboxes.
//!
//! So far neither is written. What is made of a template for its Sandboxes is in [`crate::pool::Template`].

mod facts;

pub use facts::PolicyRecord;

use crate::effects::{Outcome, Receipt, Subject};
use crate::ids::Key;
use crate::index::{Index, Task};

/// Looks at a template, whether it is there or not: at its label and at the NetworkPolicy that it wants.
pub(crate) fn reconcile(_index: &mut Index, _key: &Key) {}

/// Looks at a NetworkPolicy, whether it is there or not: at whom it belongs to, and at what that wants of it.
pub(crate) fn reconcile_policy(_index: &mut Index, _key: &Key) {}

/// A template is there, has changed, or is gone.
pub(crate) fn changed(index: &mut Index, key: &Key) {
    index.mark(Task::Object(Subject::Template(key.clone())));
}

/// A write of a template or of a NetworkPolicy came out.
pub(crate) fn written(index: &mut Index, receipt: &Receipt, outcome: Outcome) {
    index.object_written(receipt, outcome);
}
