//! The arithmetic of pools: how many members there should be, which ones must go, and when it is time to do so.
//!
//! Members that are being deleted still count when new ones are made, so that there are never more than the pool asks
//! for. Making and deleting yields to claims, because it costs them CPU on the API server and on the nodes; a pool that
//! is nearly empty does not yield, and none yields for ever.

mod canonical;
mod member;
mod names;
mod template;

#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::time::Duration;

use hearth_api::constants::label;
use hearth_api::{SandboxWarmPoolStatus, UpdateStrategyType};
use serde_json::json;

pub(crate) use canonical::canonical;
pub(crate) use member::create_again;
pub(crate) use names::Suffixes;
pub use template::Template;

use crate::effects::{Body, Effect, EventNote, Intent, Lane, Subject};
use crate::ids::Key;
use crate::index::{Class, Index, Leaving, Members, PoolRecord, SandboxRecord};
use crate::names::name_hash;

/// Most members made in one look at a pool; the others get their turn in between.
const AT_ONCE: usize = 16;

/// Looks at a pool and collects what must be done.
pub(crate) fn reconcile(index: &mut Index, key: &Key) {
    let Some(pool) = index.pools.get(key) else {
        return;
    };
    if !pool.deleting {
        remove_lost(index, key);
        match yields_until(index, key) {
            Some(at) => index.wake(Subject::Pool(key.clone()), at),
            None => {
                replace_stale(index, key);
                replace_stuck(index, key);
                remove_excess(index, key);
                fill(index, key);
            }
        }
    }
    write_status(index, key);
}

/// Until when creations and deletions of the pool wait for claims to be quiet.
fn yields_until(index: &mut Index, key: &Key) -> Option<Duration> {
    let now = index.now.mono;
    let settings = &index.settings;
    let quiet_at = index
        .last_claim_activity
        .map(|at| at + settings.quiet)
        .filter(|at| *at > now);
    let longest = settings.longest_yield;
    let ready = members(index, key).map_or(0, Members::ready);
    let pool = index.pools.get_mut(key)?;
    let Some(quiet_at) = quiet_at else {
        pool.yielding_since = None;
        return None;
    };
    if ready <= (pool.replicas / 8).max(1) {
        return None;
    }
    let since = *pool.yielding_since.get_or_insert(now);
    (now < since + longest).then_some(quiet_at)
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
        record
            .node
            .as_ref()
            .and_then(|n| index.nodes.get(n))
            .is_some_and(|n| n.registered)
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
const UNCLAIMED: [Class; 6] = [
    Class::Unplaced,
    Class::Unheard,
    Class::Starting,
    Class::Ready,
    Class::Away,
    Class::Failed,
];

/// Under `Recreate`, members that no longer are what the template says.
fn replace_stale(index: &mut Index, key: &Key) {
    let Some(pool) = index.pools.get_mut(key) else {
        return;
    };
    if !pool.check_stale {
        return;
    }
    pool.check_stale = false;
    if pool.strategy != UpdateStrategyType::Recreate {
        return;
    }
    let Some(template) = index
        .pools
        .get(key)
        .and_then(|pool| index.template_of(pool))
    else {
        return;
    };
    let stale: Vec<_> = in_classes(index, key, &UNCLAIMED)
        .into_iter()
        .filter(|(_, record)| is_stale(record, &template))
        .map(|(_, record)| record.id)
        .collect();
    // What is being made or bound just now is looked at again when it is neither.
    let undecided = members(index, key)
        .is_some_and(|m| m.count(Class::Creating) + m.count(Class::Reserved) > 0);
    if let Some(pool) = index.pools.get_mut(key) {
        pool.check_stale = undecided;
    }
    stale
        .into_iter()
        .for_each(|id| index.doom_id(id, Leaving::Retire));
}

fn is_stale(record: &SandboxRecord, template: &Template) -> bool {
    *record.template_ref_hash != *template.ref_hash
        || (*record.template_hash != *template.blueprint_hash
            && record.semantics != template.semantics)
}

/// Members that have not become ready in time.
fn replace_stuck(index: &mut Index, key: &Key) {
    let now = index.now.mono;
    let Some(pool) = index.pools.get(key) else {
        return;
    };
    let grace = pool
        .readiness_grace
        .unwrap_or(index.settings.readiness_grace);
    let patience = index.settings.unheard_grace.min(grace);
    for (longest, grace) in [
        (Members::longest_awaited as fn(&Members) -> _, grace),
        (Members::longest_unheard, patience),
    ] {
        while let Some((since, id)) = members(index, key).and_then(longest) {
            if now < since + grace {
                index.wake(Subject::Pool(key.clone()), since + grace);
                break;
            }
            index.doom_id(id, Leaving::Retire);
        }
    }
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
    let going: Vec<_> = candidates
        .into_iter()
        .take(excess)
        .map(|(_, record)| record.id)
        .collect();
    going
        .into_iter()
        .for_each(|id| index.doom_id(id, Leaving::Retire));
}

/// How many members may be made now.
fn missing(index: &Index, pool: &PoolRecord) -> usize {
    let members = index.members_of(&pool.uid);
    let there = members.map_or(0, |m| m.active() + m.count(Class::Leaving));
    pool.replicas.saturating_sub(there)
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
    index.members_of(&pool.uid).map_or(0, Members::ready) <= (pool.replicas / 8).max(1)
}

fn fill(index: &mut Index, key: &Key) {
    let now = index.now.mono;
    let Some(pool) = index.pools.get(key) else {
        return;
    };
    let Some(template) = index.template_of(pool) else {
        return;
    };
    // Not at the first that found a place: a full cluster regains room one by one, and would say so each time.
    if missing(index, pool) == 0 {
        set_unplaceable(index, key, None);
        return;
    }
    let room = room(index, pool);
    if room == 0 {
        return;
    }
    if let Some(at) = pool.retry.blocked_until(now) {
        index.wake(Subject::Pool(key.clone()), at);
        return;
    }
    for _ in 0..room.min(AT_ONCE) {
        match index.place_one_of(&key.namespace, &template) {
            Ok(node) => {
                member::create(index, key, &template, Some(&node));
            }
            Err(refused) => {
                // One member without a node tells users what is missing, and is placed when it comes. For mere lack
                // of room there is nothing to tell.
                let waiting = members(index, key)
                    .map_or(0, |m| m.count(Class::Unplaced) + m.count(Class::Creating));
                if !refused.is_lack_of_room() && waiting == 0 {
                    member::create(index, key, &template, None);
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

/// Remembers why the pool cannot grow, and tells users when that begins and ends.
fn set_unplaceable(index: &mut Index, key: &Key, why: Option<String>) {
    let Some(pool) = index.pools.get_mut(key) else {
        return;
    };
    let before = std::mem::replace(&mut pool.unplaceable, why.clone());
    match (before, why) {
        (None, Some(why)) => not_progressing(index, key, why),
        (Some(_), None) => progressing(index, key, "every member has found a node"),
        _ => {}
    }
}

/// Remembers why no members can be made, and tells users when that begins, changes and ends.
pub(crate) fn set_refused(index: &mut Index, key: &Key, why: Option<String>) {
    let Some(pool) = index.pools.get_mut(key) else {
        return;
    };
    let before = std::mem::replace(&mut pool.refused, why.clone());
    match (before, why) {
        (before, Some(why)) if before.as_ref() != Some(&why) => not_progressing(index, key, why),
        (Some(_), None) => progressing(index, key, "members are made again"),
        _ => {}
    }
}

fn not_progressing(index: &mut Index, key: &Key, why: String) {
    event(index, key, "WarmPoolNotProgressing", true, why);
}

fn progressing(index: &mut Index, key: &Key, note: &str) {
    event(index, key, "WarmPoolProgressing", false, note.to_owned());
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
        action: "Refilling",
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
    let patch = json!({"status": &status});
    if let Some(pool) = index.pools.get_mut(key) {
        pool.status_sent = Some(now);
        pool.writing = Some(status);
    }
    index.write(
        Subject::Pool(key.clone()),
        &uid,
        Intent::PoolStatus,
        Lane::Refill,
        Body::MergeStatus(patch),
    );
}
