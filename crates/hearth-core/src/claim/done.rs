//! What follows when a claim's writes are done: counting, Events.

use hearth_api::constants::reason;

use super::event;
use crate::effects::{ClaimLabels, Observation};
use crate::ids::Key;
use crate::index::{ClaimRecord, Index, created_by};

/// The claim's status was written and the record shows it.
pub(crate) fn status_written(index: &mut Index, key: &Key) {
    let now = index.now;
    let Some(claim) = index.claims.get_mut(key) else {
        return;
    };
    let expired = claim.reason() == Some(reason::CLAIM_EXPIRED);
    let expires = !std::mem::replace(&mut claim.expiry_told, expired) && expired;
    if expires && index.settings.claim_events {
        let note = "Claim expired".to_owned();
        event(index, key, reason::CLAIM_EXPIRED, "Claim Expired", note);
    }
    let Some(claim) = index.claims.get_mut(key) else {
        return;
    };
    if !claim.is_ready() || claim.ready_counted {
        return;
    }
    claim.ready_counted = true;
    if claim.noted.ready {
        return;
    }
    let warm = claim.launch_type.is_none() && claim.sandbox != claim.key.name;
    if warm {
        claim.launch_type = Some("warm");
    }
    claim.ready_at = Some(now.wall);
    let observed = now.mono.saturating_sub(claim.first_seen);
    let (requested_at, admitted_at) = (claim.requested_at, claim.admitted_at);
    let labels = labels(index, key, true);
    index.observe(Observation::ClaimReady {
        labels,
        observed,
        requested_at,
        admitted_at,
        at: now.wall,
    });
}

/// The member is the claim's.
pub(crate) fn adopted(index: &mut Index, sandbox: &Key) {
    let Some(key) = index.claim_of_sandbox(sandbox) else {
        return;
    };
    let ready = index.claims.get(&key).is_some_and(ClaimRecord::is_ready);
    let labels = labels(index, &key, ready);
    index.observe(Observation::Claimed { labels });
    if index.settings.claim_events {
        let note = format!("Adopted warm pool Sandbox \"{}\"", sandbox.name);
        event(index, &key, "SandboxAdopted", "Adoption", note);
    }
}

/// A Sandbox was made for the claim.
pub(crate) fn provisioned(index: &mut Index, key: &Key, sandbox: &Key) {
    if let Some(claim) = index.claims.get_mut(key) {
        claim.launch_type = Some("cold");
    }
    let labels = labels(index, key, false);
    index.observe(Observation::Claimed { labels });
    if index.settings.claim_events {
        let note = format!("Created Sandbox \"{}\"", sandbox.name);
        event(index, key, "SandboxProvisioned", "Provisioning", note);
    }
}

fn labels(index: &Index, key: &Key, ready: bool) -> ClaimLabels {
    let Some(claim) = index.claims.get(key) else {
        return ClaimLabels::default();
    };
    let template = index
        .pools
        .get(&claim.pool_key())
        .map(|pool| pool.template.clone())
        .unwrap_or_default();
    let cold = claim.launch_type == Some("cold") || claim.sandbox == claim.key.name;
    ClaimLabels {
        namespace: key.namespace.clone(),
        template,
        launch_type: if cold { "cold" } else { "warm" },
        pool: claim.spec.warm_pool_ref.name.clone(),
        ready,
        created_by: created_by(claim.created_by.as_deref()),
    }
}
