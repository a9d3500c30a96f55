//! The arithmetic of pools: how many members there should be, which ones must go, and when it is time to do so.
//!
//! Members that are being deleted still count when new ones are made, so that there are never more than the pool asks
//! for. Making and deleting yields to claims, because it costs them CPU on the API server and on the nodes; a pool that
//! is nearly empty does not yield, a rollout does not, and none yields for ever.

mod canonical;
mod member;
mod membership;
mod names;
mod quantities;
mod refill;
mod refusals;
mod rollout;
mod stuck;
mod template;

#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::Duration;

use hearth_api::SandboxWarmPoolStatus;
use hearth_api::constants::label;
use serde_json::{Value, json};

pub(crate) use canonical::canonical;
pub(crate) use member::create_again;
pub(crate) use membership::{Membership, membership};
pub(crate) use names::{Suffixes, is_named_after};
pub(crate) use quantities::in_thousandths;
pub(crate) use refill::Refill;
pub(crate) use refusals::{Refusals, forget_refusal, note_refusal};
pub(crate) use rollout::{Rollout, is_stale_member};
pub(crate) use stuck::Held;
pub use template::Template;

use crate::effects::{Body, Effect, EventNote, Intent, Lane, Subject};
use crate::ids::{Key, NodeName};
use crate::index::{Class, Index, Leaving, Members, PoolRecord, SandboxRecord};
use crate::names::name_hash;
use crate::services;
use refill::Rate;

/// Most members made in one look at a pool; the others get their turn in between.
const AT_ONCE: usize = 16;
/// When a pool is looked at again whose members go in batches, should nothing tell that one has gone.
const FALLBACK: Duration = Duration::from_secs(30);

/// Looks at a pool and collects what must be done.
pub(crate) fn reconcile(index: &mut Index, key: &Key) {
    let Some(pool) = index.pools.get(key) else {
        return;
    };
    if !pool.deleting {
        remove_lost(index, key);
        stuck::write_off(index, key);
        rollout::advance(index, key);
        note_members(index, key);
        match yields_until(index, key) {
            Some(at) => index.wake(Subject::Pool(key.clone()), at),
            None => {
                stuck::replace(index, key);
                remove_excess(index, key);
                fill(index, key);
            }
        }
        stuck::hold(index, key);
    }
    write_status(index, key);
}

/// Notes how many members there are, to see when some have gone. One whose creation fails has never been there.
fn note_members(index: &mut Index, key: &Key) {
    let there = members(index, key).map_or(0, |m| m.active() - m.count(Class::Creating));
    let now = index.now.mono;
    if let Some(pool) = index.pools.get_mut(key) {
        pool.refill.note(there, now);
    }
}

/// Until when creations and deletions of the pool wait for claims to be quiet.
fn yields_until(index: &mut Index, key: &Key) -> Option<Duration> {
    let now = index.now.mono;
    let settings = &index.settings;
    let after_claims = index.last_claim_activity.map(|at| at + settings.quiet);
    // A replacement takes longer than claims have to be quiet, and it is the nodes' processors that it waits for.
    let quiet_at = after_claims
        .max(index.replacing_until)
        .filter(|at| *at > now);
    let longest = settings.longest_yield;
    let nearly_empty = is_nearly_empty(index, index.pools.get(key)?);
    let pool = index.pools.get_mut(key)?;
    let Some(quiet_at) = quiet_at else {
        pool.yielding_since = None;
        return None;
    };
    if nearly_empty {
        return None;
    }
    let since = *pool.yielding_since.get_or_insert(now);
    (now < since + longest).then_some(quiet_at)
}

/// How many members claims have a prospect of.
fn in_stock(members: &Members) -> usize {
    members.ready() - members.count(Class::Outdated)
}

fn members<'a>(index: &'a Index, pool: &Key) -> Option<&'a Members> {
    index
        .pools
        .get(pool)
        .and_then(|pool| index.members_of(&pool.uid))
}

/// The members in these classes, with the records.
fn in_classes<'a>(
    index: &'a Index,
    pool: &Key,
    classes: &[Class],
) -> Vec<(Class, &'a SandboxRecord)> {
    let Some(members) = members(index, pool) else {
        return Vec::new();
    };
    members
        .iter()
        .filter(|(_, standing)| classes.contains(&standing.class))
        .filter_map(|(id, standing)| Some((standing.class, index.sandboxes.get(&id)?)))
        .collect()
}

/// Members of nodes that no longer exist: nobody is left to ask.
fn remove_lost(index: &mut Index, key: &Key) {
    if members(index, key).is_none_or(|members| members.count(Class::Lost) == 0) {
        return;
    }
    let is_registered = |record: &SandboxRecord| {
        let node = index.node_of(record);
        node.is_some_and(|node| node.registered)
    };
    let gone: Vec<_> = in_classes(index, key, &[Class::Lost])
        .into_iter()
        .filter(|(_, record)| !is_registered(record))
        .map(|(_, record)| record.id)
        .collect();
    gone.into_iter()
        .for_each(|id| index.doom_id(id, Leaving::Delete));
}

/// The classes that may be asked to go.
const UNCLAIMED: [Class; 8] = [
    Class::Unplaced,
    Class::Foreign,
    Class::Unheard,
    Class::Starting,
    Class::Ready,
    Class::Outdated,
    Class::Away,
    Class::Failed,
];

/// How many of `wanted` members may be asked to go now: with those that are on their way no more than a batch. Those
/// that nobody can be asked about for the moment, and those whose object only waits for its pod, are on no way.
fn may_go(index: &Index, key: &Key, wanted: usize) -> usize {
    if wanted == 0 {
        return 0;
    }
    let is_going = |record: &SandboxRecord| {
        let node = index.node_of(record);
        !record.deleting && node.is_none_or(|node| node.synced)
    };
    let going = in_classes(index, key, &[Class::Leaving]);
    let going = going.iter().filter(|(_, record)| is_going(record)).count();
    wanted.min(index.settings.batch.saturating_sub(going))
}

/// More members than the pool asks for: those that are not ready go first, then the newest.
fn remove_excess(index: &mut Index, key: &Key) {
    let Some(pool) = index.pools.get(key) else {
        return;
    };
    let active = index.members_of(&pool.uid).map_or(0, Members::active);
    let Some(excess) = active
        .checked_sub(pool.replicas)
        .filter(|excess| *excess > 0)
    else {
        return;
    };
    let mut candidates = in_classes(index, key, &UNCLAIMED);
    candidates
        .sort_by_key(|(class, record)| (class.is_ready(), Reverse((record.created, record.id))));
    let going = candidates.into_iter().take(excess);
    let going: Vec<_> = going.map(|(_, record)| record.id).collect();
    retire(index, key, &going);
}

/// Asks as many of these to go, the first of them, as may go now, and says how many. The others have their turn later.
fn retire(index: &mut Index, key: &Key, members: &[u64]) -> usize {
    let batch = may_go(index, key, members.len());
    if batch < members.len() {
        index.wake(Subject::Pool(key.clone()), index.now.mono + FALLBACK);
    }
    for id in members.iter().take(batch) {
        index.doom_id(*id, Leaving::Retire);
    }
    batch
}

/// How many members may be made now. What is going, or is on a lost node, counts as long as its object is there; what has
/// lost its controller counts, because it becomes a member again or goes.
fn missing(index: &Index, pool: &PoolRecord) -> usize {
    let members = index.members_of(&pool.uid);
    let there = members.map_or(0, |m| {
        m.active() + m.count(Class::Leaving) + m.count(Class::Lost)
    });
    let orphans = index.orphans_of(pool);
    pool.replicas.saturating_sub(there + orphans)
}

fn room(index: &Index, pool: &PoolRecord) -> usize {
    let creating = index
        .members_of(&pool.uid)
        .map_or(0, |members| members.count(Class::Creating));
    let limit = if pool.yielding_since.is_some() && !is_nearly_empty(index, pool) {
        1
    } else {
        index.settings.batch
    };
    missing(index, pool).min(limit.min(pool.window).saturating_sub(creating))
}

fn is_nearly_empty(index: &Index, pool: &PoolRecord) -> bool {
    index.members_of(&pool.uid).map_or(0, in_stock) <= (pool.replicas / 8).max(1)
}

fn fill(index: &mut Index, key: &Key) {
    let now = index.now.mono;
    let Some(pool) = index.pools.get(key) else {
        return;
    };
    let Some(template) = index.template_of(pool) else {
        return;
    };
    let missing = missing(index, pool);
    // Its namespace's rules are about to be seen, and the pool is looked at then.
    if missing > 0 && !index.knows_namespace(&key.namespace) {
        return;
    }
    let refusal = refusal_of_all(index, pool, &template).filter(|_| missing > 0);
    let is_refused = refusal.is_some();
    refusals::note_of_all(index, key, refusal);
    // Not at the first that found a place: a full cluster regains room one by one, and would say so each time.
    if missing == 0 || is_refused {
        set_unplaceable(index, key, None);
        return;
    }
    let Some(pool) = index.pools.get(key) else {
        return;
    };
    let room = room(index, pool);
    if room == 0 {
        return;
    }
    let delay = index.settings.replenish_delay;
    let held = pool.refill.held_until(delay, now);
    if let Some(at) = held.max(pool.retry.blocked_until(now)) {
        index.wake(Subject::Pool(key.clone()), at);
        return;
    }
    let rate = index.settings.refill_rate.and_then(Rate::per_second);
    for _ in 0..room.min(AT_ONCE) {
        if let Some(at) = limited_until(index, key, rate) {
            index.wake(Subject::Pool(key.clone()), at);
            return;
        }
        match index.place_one_of(&key.namespace, &template) {
            Ok(node) => create(index, key, &template, Some(&node), rate),
            Err(refused) => {
                // One member without a node tells users what is missing, and is placed when it comes. For mere lack
                // of room there is nothing to tell.
                let waiting = members(index, key)
                    .map_or(0, |m| m.count(Class::Unplaced) + m.count(Class::Creating));
                if !refused.is_lack_of_room() && waiting == 0 {
                    create(index, key, &template, None, rate);
                }
                set_unplaceable(index, key, Some(refused.to_string()));
                return;
            }
        }
    }
    if room > AT_ONCE {
        index.mark_pool(key);
    }
}

/// Why no member could ever be ready: each node would refuse what the namespace forbids, and what no Service can be made of
/// waits for one.
fn refusal_of_all(index: &Index, pool: &PoolRecord, template: &Template) -> Option<String> {
    let forbidden = index.forbidden(&pool.template_key());
    let forbidden = forbidden.map(str::to_owned);
    forbidden.or_else(|| services::refusal_of_members(&pool.key.name, template))
}

/// Until when the pool makes none because of the rate.
fn limited_until(index: &Index, key: &Key, rate: Option<Rate>) -> Option<Duration> {
    let pool = index.pools.get(key)?;
    pool.refill.limited_until(rate?, index.now.mono)
}

fn create(
    index: &mut Index,
    key: &Key,
    template: &Arc<Template>,
    node: Option<&NodeName>,
    rate: Option<Rate>,
) {
    member::create(index, key, template, node);
    let now = index.now.mono;
    if let (Some(pool), Some(rate)) = (index.pools.get_mut(key), rate) {
        pool.refill.spend(rate, now);
    }
}

/// Remembers why the pool cannot grow.
fn set_unplaceable(index: &mut Index, key: &Key, why: Option<String>) {
    if let Some(pool) = index.pools.get_mut(key) {
        pool.unplaceable = why;
    }
}

fn event(index: &mut Index, key: &Key, reason: &'static str, warning: bool, note: String) {
    let Some(pool) = index.pools.get(key) else {
        return;
    };
    let (subject, uid) = (Subject::Pool(key.clone()), pool.uid.clone());
    let event = EventNote {
        subject,
        uid,
        warning,
        reason,
        action: "Reconciling",
        note,
    };
    index.push(Effect::Event(Box::new(event)));
}

fn write_status(index: &mut Index, key: &Key) {
    let now = index.now.mono;
    let Some(pool) = index.pools.get(key) else {
        return;
    };
    let (active, ready) =
        members(index, key).map_or((0, 0), |members| (members.active(), members.ready()));
    let status = SandboxWarmPoolStatus {
        replicas: i32::try_from(active).unwrap_or(i32::MAX),
        ready_replicas: i32::try_from(ready).unwrap_or(i32::MAX),
        selector: format!("{}={}", label::WARM_POOL, name_hash(&key.name)),
        observed_generation: Some(pool.generation),
    };
    if pool.writing.is_some() || status == pool.status {
        return;
    }
    let due = pool
        .status_sent
        .map_or(now, |sent| sent + index.settings.pool_status_interval);
    let urgent = status.observed_generation != pool.status.observed_generation;
    let blocked = pool.retry.blocked_until(now);
    if let Some(at) = blocked.or_else(|| (!urgent && due > now).then_some(due)) {
        index.wake(Subject::Pool(key.clone()), at);
        return;
    }
    let uid = pool.uid.clone();
    let patch = json!({"status": in_full(&status)});
    if let Some(pool) = index.pools.get_mut(key) {
        pool.status_sent = Some(now);
        pool.writing = Some(status);
        pool.written_from = pool.version;
    }
    index.write(
        Subject::Pool(key.clone()),
        &uid,
        Intent::PoolStatus,
        Lane::Refill,
        Body::MergeStatus(patch),
    );
}

/// The status with `null` for what it leaves out, so that a merge patch takes away what was there.
fn in_full(status: &SandboxWarmPoolStatus) -> Value {
    let count = |count: i32| (count != 0).then_some(count);
    json!({
        "replicas": count(status.replicas),
        "readyReplicas": count(status.ready_replicas),
        "selector": status.selector,
        "observedGeneration": status.observed_generation,
    })
}
