//! Services of Sandboxes, and the EndpointSlices that lead to their pods.
//!
//! A Service has the name of its Sandbox. There are no core Pods whose addresses its selector could find, so that the
//! addresses are in slices of our own. What is made of `spec.service` is decided here; so far nothing is.

mod facts;

pub use facts::{Endpoint, Port, ServiceRecord, SliceRecord, Surface};

use hearth_api::constants::message;

use crate::effects::{Outcome, Receipt, Subject};
use crate::ids::Key;
use crate::index::{Index, SandboxRecord, Task};

/// Looks at a Service, whether it is there or not: at what the Sandbox of its name wants, and makes it so.
pub(crate) fn reconcile(_index: &mut Index, _key: &Key) {}

/// Looks at an EndpointSlice of ours: whether it says where the pod of its Sandbox is, and makes it so.
pub(crate) fn reconcile_slice(_index: &mut Index, _key: &Key) {}

/// A Sandbox is there, has changed, or is gone: its Service is looked at.
pub(crate) fn sandbox_changed(index: &mut Index, sandbox: &Key) {
    let record = index.sandbox(sandbox);
    let wants_one = record.is_some_and(|record| record.service == Some(true));
    if wants_one || index.service(sandbox).is_some() {
        index.mark(Task::Object(Subject::Service(sandbox.clone())));
    }
}

/// A write of a Service or of an EndpointSlice came out.
pub(crate) fn written(index: &mut Index, receipt: &Receipt, outcome: Outcome) {
    index.object_written(receipt, outcome);
}

/// What `Ready` says of a Sandbox whose node says that it can be used, before its own status says so: the same as that
/// will, with the Service if it has one.
pub(crate) fn ready_message(_index: &Index, _sandbox: &SandboxRecord) -> &'static str {
    message::POD_READY
}
