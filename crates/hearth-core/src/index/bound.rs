//! Claims that have a Sandbox and depend on their pool and its template all the same: those that add metadata to the pod,
//! which the template may contradict.

use super::{ClaimRecord, Index};
use crate::ids::Key;

impl Index {
    /// Marks those of a pool: it came or went, or its template did or has changed. There is no list of them, because
    /// that is rare.
    pub(super) fn mark_bound(&mut self, pool: &Key) {
        let depends = |claim: &&ClaimRecord| {
            claim.is_answered()
                && claim.adds_metadata()
                && claim.key.namespace == pool.namespace
                && claim.spec.warm_pool_ref.name == pool.name
        };
        let claims = self.claims.values().filter(depends);
        let keys: Vec<_> = claims.map(|claim| claim.key.clone()).collect();
        keys.iter().for_each(|key| self.mark_claim(key));
    }
}
