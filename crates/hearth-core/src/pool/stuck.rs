//! Members that do not get ready: those that a new one may do better than are replaced; those that no node can take are
//! held, because a new one would fare no better, and users are told.

use std::time::Duration;

use jiff::SignedDuration;

use super::{event, members, missing};
use crate::effects::Subject;
use crate::ids::Key;
use crate::index::{Class, Index, Leaving, Members, PoolRecord};

/// What is known of members that no node can take.
#[derive(Clone, Debug, Default)]
pub(crate) struct Held {
    /// Since when some cannot be made for want of a node.
    unmade_since: Option<Duration>,
    /// Whether users were told.
    told: bool,
    /// When they are looked at again though nothing has changed.
    recheck_at: Option<Duration>,
}

fn grace(index: &Index, pool: &PoolRecord) -> Duration {
    pool.readiness_grace
        .unwrap_or(index.settings.readiness_grace)
}

/// Replaces members that have not become ready in time.
pub(super) fn replace(index: &mut Index, key: &Key) {
    let now = index.now.mono;
    let Some(pool) = index.pools.get(key) else {
        return;
    };
    let grace = grace(index, pool);
    let patience = index.settings.unheard_grace.min(grace);
    for (longest, grace) in [
        (Members::longest_awaited as fn(&Members) -> _, grace),
        (Members::longest_unheard, patience),
    ] {
        while let Some((since, id)) = members(index, key).and_then(longest) {
            let due = after(since, grace);
            if now < due {
                index.wake(Subject::Pool(key.clone()), due);
                break;
            }
            index.doom_id(id, Leaving::Retire);
        }
    }
}

/// A moment that may lie before the clock's start, and some time: at the earliest at the start.
fn after(since: SignedDuration, time: Duration) -> Duration {
    let time = SignedDuration::try_from(time).unwrap_or(SignedDuration::MAX);
    Duration::try_from(since.saturating_add(time)).unwrap_or(Duration::ZERO)
}

/// Looks after members that no node can take: tells users once they have been so for the grace period and when that is
/// over, and tries them again from time to time.
pub(super) fn hold(index: &mut Index, key: &Key) {
    let now = index.now.mono;
    let Some(pool) = index.pools.get(key) else {
        return;
    };
    let grace = grace(index, pool);
    let members = index.members_of(&pool.uid);
    let unplaced = members.map_or(0, |members| members.count(Class::Unplaced));
    let longest = members.and_then(Members::longest_unplaced);
    let (why, unmade) = match &pool.unplaceable {
        Some(why) => (format!(": {why}"), missing(index, pool)),
        None => (String::new(), 0),
    };
    let (held, replicas) = (unplaced + unmade, pool.replicas);
    let recheck = index.settings.unschedulable_recheck;
    let Some(pool) = index.pools.get_mut(key) else {
        return;
    };
    if held == 0 {
        if std::mem::take(&mut pool.held).told {
            progressing(index, key);
        }
        return;
    }
    pool.held.unmade_since = (unmade > 0).then(|| pool.held.unmade_since.unwrap_or(now));
    let unplaced_due = longest.map(|(since, _)| after(since, grace));
    let unmade_due = pool.held.unmade_since.map(|since| since + grace);
    let due = unplaced_due.into_iter().chain(unmade_due).min();
    let overdue = due.is_some_and(|due| due <= now);
    let tell = overdue && !pool.held.told;
    pool.held.told |= overdue;
    let recheck_at = *pool.held.recheck_at.get_or_insert(now + recheck);
    let recheck_now = recheck_at <= now;
    if recheck_now {
        pool.held.recheck_at = Some(now + recheck);
    }
    let next = if recheck_now {
        now + recheck
    } else {
        recheck_at
    };
    index.wake(Subject::Pool(key.clone()), next);
    if let Some(due) = due.filter(|due| *due > now) {
        index.wake(Subject::Pool(key.clone()), due);
    }
    if recheck_now {
        look_again(index, key);
    }
    if tell {
        let grace = go_duration(grace);
        let note = format!(
            "{held}/{replicas} sandboxes are unschedulable past the {grace} readiness grace period; holding them instead \
             of replacing (replacements would be equally unschedulable){why}"
        );
        not_progressing(index, key, note);
    }
}

/// Has a place sought again for the members that have none.
fn look_again(index: &mut Index, key: &Key) {
    let unplaced: Vec<Key> = super::in_classes(index, key, &[Class::Unplaced])
        .into_iter()
        .map(|(_, record)| record.key.clone())
        .collect();
    unplaced.iter().for_each(|key| index.mark_sandbox(key));
}

/// Remembers why no members can be made, and tells users when that begins, changes and ends.
pub(crate) fn set_refused(index: &mut Index, key: &Key, why: Option<String>) {
    let Some(pool) = index.pools.get_mut(key) else {
        return;
    };
    let before = std::mem::replace(&mut pool.refused, why.clone());
    match (before, why) {
        (before, Some(why)) if before.as_ref() != Some(&why) => not_progressing(index, key, why),
        (Some(_), None) => progressing(index, key),
        _ => {}
    }
}

fn not_progressing(index: &mut Index, key: &Key, note: String) {
    event(index, key, "WarmPoolNotProgressing", true, note);
}

fn progressing(index: &mut Index, key: &Key) {
    let note = "Warm pool is progressing again".to_owned();
    event(index, key, "WarmPoolProgressing", false, note);
}

/// As Go writes durations: `5m0s`.
fn go_duration(duration: Duration) -> String {
    let (seconds, millis) = (duration.as_secs(), duration.subsec_millis());
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let fraction = match millis {
        0 => String::new(),
        millis => format!(".{millis:03}").trim_end_matches('0').to_owned(),
    };
    match (hours, minutes, seconds) {
        (0, 0, 0) if millis > 0 => format!("{millis}ms"),
        (0, 0, _) => format!("{seconds}{fraction}s"),
        (0, _, _) => format!("{minutes}m{seconds}{fraction}s"),
        _ => format!("{hours}h{minutes}m{seconds}{fraction}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_as_go_does() {
        for (millis, text) in [
            (0, "0s"),
            (250, "250ms"),
            (1_500, "1.5s"),
            (30_000, "30s"),
            (300_000, "5m0s"),
            (90_000, "1m30s"),
            (3_600_000, "1h0m0s"),
        ] {
            assert_eq!(go_duration(Duration::from_millis(millis)), text);
        }
    }

    #[test]
    fn a_wait_that_began_before_the_clock_did_ends_when_it_should() {
        let since = SignedDuration::from_secs(-200);
        assert_eq!(
            after(since, Duration::from_secs(300)),
            Duration::from_secs(100)
        );
        assert_eq!(after(since, Duration::from_secs(30)), Duration::ZERO);
    }
}
