//! What the node of a Sandbox is told because it stands in the status that the node writes: its Service, and what cannot be
//! done for it.
//!
//! So far nothing is told.

use crate::ids::Key;
use crate::index::Index;
use crate::status::ServiceFact;

/// What a node is told of one of its Sandboxes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attachment {
    /// Its Service.
    pub service: ServiceFact,
    /// What cannot be done for it, in words; `None`: nothing.
    pub fault: Option<String>,
}

/// Notes what cannot be done for a Sandbox that a live node owns; `None`: nothing stands in its way any more.
pub(crate) fn set_fault(_index: &mut Index, _sandbox: &Key, _fault: Option<String>) {}
