//! Whose a Service is, and whether a Sandbox may have it. The texts are upstream's.

use super::ServiceRecord;
use crate::controller_ref::ControllerRef;
use crate::index::SandboxRecord;
pub(super) use crate::ownership::Ownership;
use crate::ownership::{self, Offer};

/// `spec.clusterIP` of a headless Service.
const HEADLESS: &str = "None";

/// Upstream's word for it.
const WHAT: &str = "service";

pub(super) fn of<'a>(service: &'a ServiceRecord, sandbox: &SandboxRecord) -> Ownership<'a> {
    Ownership::of(service.controller.as_ref(), sandbox)
}

/// What is said of a Service that somebody else controls.
pub(super) fn foreign(owner: &ControllerRef, sandbox: &str) -> String {
    ownership::foreign(WHAT, sandbox, owner, sandbox)
}

/// Why a Service that nobody controls cannot become the Sandbox's; `None` when it can.
pub(super) fn obstacle(service: &ServiceRecord, sandbox: &str) -> Option<String> {
    let offer = Offer {
        adoptable: service.adoptable,
        name_hash: service.name_hash.as_deref(),
    };
    let headless = || {
        let address = &service.cluster_ip;
        (!address.is_empty() && address != HEADLESS).then(|| {
            format!(
                "cannot adopt service \"{sandbox}\": ClusterIP is \"{address}\" (expected \"{HEADLESS}\", field is \
                 immutable)"
            )
        })
    };
    offer.obstacle(WHAT, sandbox, sandbox).or_else(headless)
}
