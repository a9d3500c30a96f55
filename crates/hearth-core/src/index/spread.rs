//! How many claimed Sandboxes of each template each node has: claims on a pool go to where fewer of its kind are, so that
//! the end of one node costs few of them.

use std::collections::HashMap;

use super::{Index, Members, SandboxRecord};
use crate::ids::{Key, NodeName};

/// Claimed Sandboxes by template and node.
#[derive(Debug, Default)]
pub(super) struct Spread {
    claimed: HashMap<Key, HashMap<NodeName, usize>>,
    /// What each of them counts as.
    places: HashMap<u64, (Key, NodeName)>,
}

impl Spread {
    /// How many Sandboxes of a template each node has.
    fn of(&self, template: &Key) -> HashMap<NodeName, usize> {
        self.claimed.get(template).cloned().unwrap_or_default()
    }

    fn add(&mut self, template: &Key, node: &NodeName) -> usize {
        let nodes = self.claimed.entry(template.clone()).or_default();
        let count = nodes.entry(node.clone()).or_default();
        *count += 1;
        *count
    }

    fn subtract(&mut self, template: &Key, node: &NodeName) -> usize {
        let Some(nodes) = self.claimed.get_mut(template) else {
            return 0;
        };
        let left = nodes.get(node).map_or(0, |count| count.saturating_sub(1));
        if left > 0 {
            nodes.insert(node.clone(), left);
        } else {
            nodes.remove(node);
            if nodes.is_empty() {
                self.claimed.remove(template);
            }
        }
        left
    }
}

/// Template and node of a claimed Sandbox.
fn place(record: &SandboxRecord) -> Option<(&str, &NodeName)> {
    record.claim_uid()?;
    let detail = record.detail.as_ref()?;
    Some((detail.template.as_str(), record.node.as_ref()?))
}

impl Index {
    /// Counts a Sandbox where it is by now, or not any more.
    pub(super) fn recount(&mut self, id: u64) {
        let record = self.sandboxes.get(&id);
        let wanted = record.and_then(|record| Some((record, place(record)?)));
        let known = self.spread.places.get(&id);
        let is_the_same = match (known, &wanted) {
            (Some((template, node)), Some((record, (name, wanted)))) => {
                template.namespace == record.key.namespace
                    && template.name == *name
                    && node == *wanted
            }
            (known, wanted) => known.is_none() && wanted.is_none(),
        };
        if is_the_same {
            return;
        }
        let wanted = wanted.map(|(record, (template, node))| {
            let template = Key::new(record.key.namespace.clone(), template);
            (template, node.clone())
        });
        if let Some((template, node)) = self.spread.places.remove(&id) {
            let left = self.spread.subtract(&template, &node);
            self.tell_pools(&template, &node, left);
        }
        if let Some((template, node)) = wanted {
            let count = self.spread.add(&template, &node);
            self.tell_pools(&template, &node, count);
            self.spread.places.insert(id, (template, node));
        }
    }

    fn tell_pools(&mut self, template: &Key, node: &NodeName, claimed: usize) {
        let pools = self.pools.values().filter(|pool| {
            pool.key.namespace == template.namespace && pool.template == template.name
        });
        for pool in pools {
            if let Some(members) = self.members.get_mut(&pool.uid) {
                members.set_claimed(node, claimed);
            }
        }
    }

    /// The set of a pool's members, made if there are none yet.
    pub(super) fn members_mut(&mut self, pool_uid: &str) -> &mut Members {
        let claimed = if self.members.contains_key(pool_uid) {
            None
        } else {
            let pool = self.pool_by_uid(pool_uid);
            pool.map(|pool| self.spread.of(&pool.template_key()))
        };
        let members = self.members.entry(pool_uid.to_owned()).or_default();
        if let Some(claimed) = claimed {
            members.replace_claimed(claimed);
        }
        members
    }

    /// The pool is new, or has another template: the claimed Sandboxes of that one count.
    pub(super) fn respread(&mut self, pool: &Key) {
        let Some(pool) = self.pools.get(pool) else {
            return;
        };
        if let Some(members) = self.members.get_mut(&pool.uid) {
            members.replace_claimed(self.spread.of(&pool.template_key()));
        }
    }
}
