//! A claim without a Sandbox in its status that has been given one all the same: an earlier controller had not finished,
//! or somebody took the status away.
//!
//! The upstream controller names the Sandbox in an annotation of the claim, earlier releases of it in a label, before it
//! makes it the claim's and before the status says so.

use crate::ids::Key;
use crate::index::{ClaimRecord, Index, Members, SandboxRecord};

/// The Sandbox that the claim controls already: the one that was assigned to it, or another. The one of its own name is
/// looked at for itself.
pub(super) fn own<'a>(index: &'a Index, claim: &ClaimRecord) -> Option<&'a SandboxRecord> {
    let is_own = |sandbox: &SandboxRecord| {
        sandbox.exists()
            && !sandbox.deleting
            && sandbox.leaving.is_none()
            && sandbox.claim_uid() == Some(claim.uid.as_str())
    };
    if let Some(sandbox) = assigned(index, claim).filter(|sandbox| is_own(sandbox)) {
        return Some(sandbox);
    }
    if index.sandbox(&claim.key).is_some_and(is_own) {
        return None;
    }
    let controlled = index.sandboxes_of_claim(&claim.uid).into_iter();
    controlled
        .filter_map(|id| index.sandboxes.get(&id))
        .find(|sandbox| is_own(sandbox))
}

/// The member that was assigned to the claim, if it can have it now. It is bound in preference to others.
pub(super) fn member<'a>(
    index: &'a Index,
    claim: &ClaimRecord,
    members: &Members,
) -> Option<&'a SandboxRecord> {
    assigned(index, claim).filter(|sandbox| members.is_pickable(sandbox.id))
}

/// Whether what was assigned to the claim is, or may still become, its Sandbox.
pub(super) fn is_live(index: &Index, claim: &ClaimRecord) -> bool {
    let pool = index.pools.get(&claim.pool_key());
    assigned(index, claim).is_some_and(|sandbox| {
        let of_its_pool = pool.is_some_and(|pool| sandbox.pool_uid() == Some(pool.uid.as_str()));
        sandbox.claim_uid() == Some(claim.uid.as_str()) || of_its_pool
    })
}

fn assigned<'a>(index: &'a Index, claim: &ClaimRecord) -> Option<&'a SandboxRecord> {
    let name = claim.assigned()?;
    index.sandbox(&Key::new(claim.key.namespace.clone(), name))
}
