//! Whose a Service is, and whether a Sandbox may have it. The texts are upstream's.

use hearth_api::constants::label;

use super::ServiceRecord;
use crate::controller_ref::ControllerRef;
use crate::index::SandboxRecord;
use crate::names::name_hash;

/// `spec.clusterIP` of a headless Service.
const HEADLESS: &str = "None";

/// Whose a Service is, to the Sandbox of its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ownership<'a> {
    /// The Sandbox's.
    Own,
    /// Nobody controls it.
    Nobody,
    /// Somebody else's.
    Foreign(&'a ControllerRef),
}

pub(super) fn of<'a>(service: &'a ServiceRecord, sandbox: &SandboxRecord) -> Ownership<'a> {
    match &service.controller {
        None => Ownership::Nobody,
        Some(controller) if controller.uid == sandbox.uid.0 => Ownership::Own,
        Some(controller) => Ownership::Foreign(controller),
    }
}

/// What is said of a Service that somebody else controls.
pub(super) fn foreign(owner: &ControllerRef, sandbox: &str) -> String {
    let ControllerRef {
        kind, name, uid, ..
    } = owner;
    format!(
        "service \"{sandbox}\" is owned by {kind}/{name} (UID: {uid}), not by sandbox \"{sandbox}\""
    )
}

/// Why a Service that nobody controls cannot become the Sandbox's; `None` when it can.
pub(super) fn obstacle(service: &ServiceRecord, sandbox: &str) -> Option<String> {
    let tracked = service.name_hash.as_ref() == Some(&name_hash(sandbox));
    if !service.adoptable && !tracked {
        return Some(format!(
            "cannot adopt unowned service \"{sandbox}\": missing required pool authorization label (\"{}\") or sandbox \
             tracking label (\"{}\")",
            label::ADOPTABLE,
            label::SANDBOX_NAME_HASH
        ));
    }
    let address = &service.cluster_ip;
    (!address.is_empty() && address != HEADLESS).then(|| {
        format!(
            "cannot adopt service \"{sandbox}\": ClusterIP is \"{address}\" (expected \"{HEADLESS}\", field is immutable)"
        )
    })
}
