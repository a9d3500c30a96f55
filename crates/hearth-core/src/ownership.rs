//! Whose an object is that has the name of one that a Sandbox makes, and whether the Sandbox may have it. The texts are
//! upstream's.

use hearth_api::constants::label;

use crate::controller_ref::ControllerRef;
use crate::index::SandboxRecord;
use crate::names::name_hash;

/// Whose an object is, to a Sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ownership<'a> {
    /// The Sandbox's.
    Own,
    /// Nobody controls it.
    Nobody,
    /// Somebody else's.
    Foreign(&'a ControllerRef),
}

impl<'a> Ownership<'a> {
    /// Of an object with this controller.
    pub(crate) fn of(controller: Option<&'a ControllerRef>, sandbox: &SandboxRecord) -> Self {
        match controller {
            None => Self::Nobody,
            Some(controller) if controller.uid == sandbox.uid.0 => Self::Own,
            Some(controller) => Self::Foreign(controller),
        }
    }
}

/// What is said of an object that somebody else controls; `what` is its kind, as upstream writes it.
pub(crate) fn foreign(what: &str, name: &str, owner: &ControllerRef, sandbox: &str) -> String {
    let ControllerRef {
        kind,
        name: owner,
        uid,
        ..
    } = owner;
    format!(
        "{what} \"{name}\" is owned by {kind}/{owner} (UID: {uid}), not by sandbox \"{sandbox}\""
    )
}

/// The labels of an object by which a Sandbox may take it over when nobody controls it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Offer<'a> {
    /// `adoptable` says so.
    pub(crate) adoptable: bool,
    /// `sandbox-name-hash`: of the Sandbox that it was made for.
    pub(crate) name_hash: Option<&'a str>,
}

impl Offer<'_> {
    /// Why the Sandbox cannot have it; `None` when it can.
    pub(crate) fn obstacle(&self, what: &str, name: &str, sandbox: &str) -> Option<String> {
        let is_offered = self.adoptable || self.name_hash == Some(name_hash(sandbox).as_str());
        (!is_offered).then(|| {
            format!(
                "cannot adopt unowned {what} \"{name}\": missing required pool authorization label (\"{}\") or sandbox \
                 tracking label (\"{}\")",
                label::ADOPTABLE,
                label::SANDBOX_NAME_HASH
            )
        })
    }
}
