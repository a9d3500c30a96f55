//! What claims depend on beside their Sandboxes: once they have one, it follows the template that it was made from; and what
//! they may add is the operator's to say.

use std::sync::Arc;

use super::{ClaimRecord, Index, PoolRecord, SandboxRecord};
use crate::effects::Now;
use crate::ids::Key;
use crate::pool::Template;

impl Index {
    /// The template that a Sandbox follows: the one that it was made from, wherever its pool has moved on to, and that of
    /// the pool once the first is gone.
    pub(crate) fn template_followed(
        &self,
        sandbox: &SandboxRecord,
        pool: &PoolRecord,
    ) -> Option<Arc<Template>> {
        let of_pool = self.template_of(pool);
        let namespace = &sandbox.key.namespace;
        let own = match &sandbox.detail {
            Some(detail) => {
                let key = Key::new(namespace.clone(), detail.template.clone());
                self.templates.get(&key).cloned()
            }
            // Of a member only the hash of the template's name is kept.
            None => {
                let is_it = |template: &Template| *template.ref_hash == *sandbox.template_ref_hash;
                let known = of_pool.clone().filter(|template| is_it(template));
                known.or_else(|| {
                    let mut all = self.templates.iter();
                    let found = all.find(|(key, of)| key.namespace == *namespace && is_it(of));
                    found.map(|(_, template)| Arc::clone(template))
                })
            }
        };
        own.or(of_pool)
    }

    /// Marks those of a pool: it came or went, or has another template now.
    pub(super) fn mark_bound(&mut self, pool: &Key) {
        self.mark_answered(|_, claim| {
            claim.key.namespace == pool.namespace && claim.spec.warm_pool_ref.name == pool.name
        });
    }

    /// Marks those whose Sandbox follows a template, or would if that were there: it came, went or has changed.
    pub(super) fn mark_followers(&mut self, template: &Key) {
        self.mark_answered(|index, claim| {
            if claim.key.namespace != template.namespace {
                return false;
            }
            let sandbox = Key::new(claim.key.namespace.clone(), claim.sandbox.clone());
            let detail = index.sandbox(&sandbox).and_then(|it| it.detail.as_ref());
            let pool = index.pools.get(&claim.pool_key());
            detail.is_some_and(|detail| detail.template == template.name)
                || pool.is_some_and(|pool| pool.template == template.name)
        });
    }

    /// From now on claims may add labels of these domains to their pods, and of no others.
    pub fn allow_label_domains(&mut self, domains: Vec<String>, now: Now) {
        self.now = now;
        if self.settings.allowed_label_domains == domains {
            return;
        }
        self.settings.allowed_label_domains = domains;
        let claims = self.claims.values().filter(|claim| claim.adds_metadata());
        let keys: Vec<_> = claims.map(|claim| claim.key.clone()).collect();
        keys.iter().for_each(|key| self.mark_claim(key));
    }

    /// There is no list of them, because such changes are rare. But for who begins to lead: while it lists, all of them
    /// come at once, and afterwards it looks at every claim anyway.
    fn mark_answered(&mut self, depends: impl Fn(&Self, &ClaimRecord) -> bool) {
        if !self.is_leading() {
            return;
        }
        let claims = self.claims.values().filter(|claim| claim.is_answered());
        let claims = claims.filter(|claim| depends(self, claim));
        let keys: Vec<_> = claims.map(|claim| claim.key.clone()).collect();
        keys.iter().for_each(|key| self.mark_claim(key));
    }
}
