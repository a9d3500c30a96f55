//! Members of which no pod can be made, as their status says, and pools whose members can never be ready: users are told
//! why, of one of them, and when that is over.

use std::collections::BTreeMap;

use super::members;
use super::stuck::{not_progressing, progressing};
use crate::ids::Key;
use crate::index::Index;

/// Such members of a pool, and what was said of them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Refusals {
    /// Why, by member. One that is tried again stays here until it is ready or gone.
    by_member: BTreeMap<u64, String>,
    /// Why none is made at all.
    of_all: Option<String>,
    /// What users were told last; none once they were told that it is over.
    told: Option<String>,
}

/// What users are to be told.
#[derive(Debug, PartialEq)]
enum News {
    Refused(String),
    Over,
}

impl Refusals {
    /// Whether users were told why none can be made, and not yet that this is over.
    pub(super) fn is_told(&self) -> bool {
        self.told.is_some()
    }

    /// What is new: nothing as long as what was told is true of any member, however many others there are. Of several
    /// that of all is told, or else that of the oldest.
    fn news(&mut self, any_is_ready: bool) -> Option<News> {
        let mut all = self.of_all.iter().chain(self.by_member.values());
        let first = all.clone().next();
        if all.any(|why| self.told.as_ref() == Some(why)) {
            return None;
        }
        match first {
            Some(why) => {
                self.told = Some(why.clone());
                Some(News::Refused(why.clone()))
            }
            None if any_is_ready => self.told.take().map(|_| News::Over),
            None => None,
        }
    }
}

/// The status of a Sandbox says this of why no pod can be made of it.
pub(crate) fn note_refusal(index: &mut Index, id: u64, why: Option<String>) {
    let Some(record) = index.sandboxes.get(&id) else {
        return;
    };
    let is_ready = record.ready.is_some_and(|ready| ready.is_true);
    let pool = record.pool_uid().and_then(|uid| index.pool_by_uid(uid));
    let Some(key) = pool.map(|pool| pool.key.clone()) else {
        return;
    };
    let Some(pool) = index.pools.get_mut(&key) else {
        return;
    };
    let refusals = &mut pool.refusals.by_member;
    match why {
        Some(why) => drop(refusals.insert(id, why)),
        None if is_ready => drop(refusals.remove(&id)),
        None => {}
    }
    tell(index, &key, is_ready);
}

/// A Sandbox is no member of the pool any more.
pub(crate) fn forget_refusal(index: &mut Index, id: u64, pool_uid: &str) {
    let is_refused = |pool: &&crate::index::PoolRecord| pool.refusals.by_member.contains_key(&id);
    let pool = index.pool_by_uid(pool_uid).filter(is_refused);
    let Some(key) = pool.map(|pool| pool.key.clone()) else {
        return;
    };
    if let Some(pool) = index.pools.get_mut(&key) {
        pool.refusals.by_member.remove(&id);
    }
    tell_of(index, &key);
}

/// The pool makes members, or none for this reason.
pub(super) fn note_of_all(index: &mut Index, key: &Key, why: Option<String>) {
    if let Some(pool) = index.pools.get_mut(key) {
        pool.refusals.of_all = why;
    }
    tell_of(index, key);
}

fn tell_of(index: &mut Index, key: &Key) {
    let any_is_ready = members(index, key).is_some_and(|members| members.ready() > 0);
    tell(index, key, any_is_ready);
}

fn tell(index: &mut Index, key: &Key, any_is_ready: bool) {
    if !index.is_leading() {
        return;
    }
    let pool = index.pools.get_mut(key);
    match pool.and_then(|pool| pool.refusals.news(any_is_ready)) {
        Some(News::Refused(why)) => not_progressing(index, key, why),
        Some(News::Over) => progressing(index, key),
        None => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_several_the_oldest_is_told_and_no_other_while_that_is_true() {
        let mut refusals = Refusals::default();
        let refused = |why: &str| Some(News::Refused(why.to_owned()));
        assert_eq!(refusals.news(true), None, "nothing was ever wrong");
        refusals.by_member.insert(2, "b".to_owned());
        assert_eq!(refusals.news(true), refused("b"));
        refusals.by_member.insert(1, "a".to_owned());
        assert_eq!(refusals.news(true), None, "b is true as well");
        refusals.by_member.insert(3, "b".to_owned());
        refusals.by_member.remove(&2);
        assert_eq!(refusals.news(true), None, "and still is");
        refusals.by_member.remove(&3);
        assert_eq!(refusals.news(true), refused("a"));
        refusals.of_all = Some("all".to_owned());
        assert_eq!(refusals.news(true), None, "a is true as well");
        refusals.by_member.remove(&1);
        assert_eq!(refusals.news(true), refused("all"));
        refusals.of_all = None;
        refusals.by_member.insert(1, "a".to_owned());
        assert_eq!(refusals.news(true), refused("a"));
        refusals.by_member.remove(&1);
        assert_eq!(refusals.news(false), None, "nobody knows whether it is");
        assert_eq!(refusals.news(true), Some(News::Over));
        assert_eq!(refusals.news(true), None);
    }
}
