//! The end of a Sandbox whose time is over.

use std::time::Duration;

use hearth_api::ShutdownPolicy;

use super::{Decision, is_owned_by_live_node, words};
use crate::expiry::{sleep_towards, time_left};
use crate::index::{Index, Leaving, SandboxRecord};

/// What becomes of a Sandbox whose time is over; `None` while it is not.
///
/// A live node has torn its pod down by itself, and says so. Of a node that does not answer nobody knows, but the Sandbox
/// is over wherever its pod may be: the node ends that when it is back.
pub(super) fn over(index: &Index, record: &SandboxRecord) -> Option<Decision> {
    let detail = record.detail.as_ref()?;
    if time_left(detail.shutdown_time?, index.now.wall).is_some() {
        return None;
    }
    Some(match detail.shutdown_policy {
        ShutdownPolicy::Delete => Decision::Leave(Leaving::Delete),
        ShutdownPolicy::Retain if is_owned_by_live_node(index, record) => Decision::Rest,
        ShutdownPolicy::Retain => words::expired(index, record),
    })
}

/// When to look at the clock again, monotonic; `None` for a Sandbox that has no end.
pub(super) fn next_look(index: &Index, record: &SandboxRecord) -> Option<Duration> {
    let end = record.detail.as_ref()?.shutdown_time?;
    sleep_towards(end, index.now.wall).map(|left| index.now.mono + left)
}
