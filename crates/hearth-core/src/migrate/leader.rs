//! Who leads, and what may be done while it does.

use hearth_api::constants::annotation;
use k8s_openapi::api::coordination::v1::Lease;
use thiserror::Error;

use super::{Phase, Target};

/// Who holds the leader Lease, which both controllers have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Leader {
    /// Nobody.
    Nobody,
    /// A controller of ours, by its identity.
    Hearth(String),
    /// Another one.
    Other(String),
}

/// Why nothing is done.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    /// To Hearth, while the other controller leads.
    #[error(
        "the leader Lease is held by {0:?}, which is no controller of Hearth's and would make the Pods again: scale the \
         Deployment of the agent-sandbox controller to 0, deploy Hearth's, and run this again once that leads"
    )]
    NotHearth(String),
    /// To Hearth, while nobody leads.
    #[error(
        "nobody holds the leader Lease, and somebody has to end the Pods: deploy Hearth's controller and run this again \
         once it leads"
    )]
    NobodyLeads,
    /// To upstream, while that leads already.
    #[error(
        "the leader Lease is held by {0:?}, which is no controller of Hearth's: it makes Pods for what Hearth still runs. \
         Scale its Deployment to 0, and run this again with Hearth's controller at work"
    )]
    UpstreamLeads(String),
}

/// Who holds the Lease, if its holder is alive.
#[must_use]
pub fn leader(lease: &Lease) -> Leader {
    let spec = lease.spec.as_ref();
    let holder = spec.and_then(|spec| spec.holder_identity.clone());
    let Some(holder) = holder.filter(|holder| !holder.is_empty()) else {
        return Leader::Nobody;
    };
    let annotations = lease.metadata.annotations.as_ref();
    let ours = annotations.and_then(|all| all.get(annotation::LEADER_IDENTITY));
    if ours == Some(&holder) {
        Leader::Hearth(holder)
    } else {
        Leader::Other(holder)
    }
}

/// What can be done towards the target while that one leads.
///
/// # Errors
/// When nothing can, and what to do about it.
pub fn phase(target: Target, leader: &Leader) -> Result<Phase, Refusal> {
    match (target, leader) {
        (Target::Hearth, Leader::Hearth(_)) => Ok(Phase::ToHearth),
        (Target::Hearth, Leader::Other(holder)) => Err(Refusal::NotHearth(holder.clone())),
        (Target::Hearth, Leader::Nobody) => Err(Refusal::NobodyLeads),
        (Target::Upstream, Leader::Hearth(_)) => Ok(Phase::Drain),
        (Target::Upstream, Leader::Other(holder)) => Err(Refusal::UpstreamLeads(holder.clone())),
        (Target::Upstream, Leader::Nobody) => Ok(Phase::HandOver),
    }
}
