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
    let Some(pool) = index.pools.get(key) else {
        return;
    };
    let grace = grace(index, pool);
    let patience = index.settings.unheard_grace.min(grace);
    let retire = |index: &mut Index, id: u64| index.doom_id(id, Leaving::Retire);
    give_up(index, key, Members::longest_awaited, grace, retire);
    give_up(index, key, Members::longest_unheard, patience, retire);
}

/// Gives up members whose node has been lost for as long as a member may take to get ready.
pub(super) fn write_off(index: &mut Index, key: &Key) {
    let Some(pool) = index.pools.get(key) else {
        return;
    };
    let grace = grace(index, pool);
    give_up(index, key, Members::longest_lost, grace, Index::write_off);
}

/// Gives up members that have been in a state for longer than `grace`, the one first that has been so for `longest`, and
/// looks again when the next has been.
fn give_up(
    index: &mut Index,
    key: &Key,
    longest: fn(&Members) -> Option<(SignedDuration, u64)>,
    grace: Duration,
    one: fn(&mut Index, u64),
) {
    let now = index.now.mono;
    while let Some((since, id)) = members(index, key).and_then(longest) {
        let due = after(since, grace);
        if now < due {
            index.wake(Subject::Pool(key.clone()), due);
            break;
        }
        one(index, id);
    }
}

/// A moment that may lie before the clock's start, and some time: at the earliest at the start.
fn after(since: SignedDuration, time: Duration) -> Duration {
    let time = SignedDuration::try_from(time).unwrap_or(SignedDuration::MAX);
    Duration::try_from(since.saturating_add(time)).unwrap_or(Duration::ZERO)
}

/// Looks after members that no node can take or that cannot be made for want of the template: tells users once that has
/// been so for the grace period and when it is over, and tries again from time to time.
pub(super) fn hold(index: &mut Index, key: &Key) {
    let now = index.now.mono;
    let Some(pool) = index.pools.get(key) else {
        return;
    };
    let stuck = Stuck::of(index, pool);
    let recheck = index.settings.unschedulable_recheck;
    let Some(pool) = index.pools.get_mut(key) else {
        return;
    };
    if stuck.members() == 0 {
        let told = std::mem::take(&mut pool.held).told;
        if told && !pool.refusals.is_told() {
            progressing(index, key);
        }
        return;
    }
    let held = &mut pool.held;
    held.unmade_since = (stuck.unmade > 0).then(|| held.unmade_since.unwrap_or(now));
    let unmade_due = held.unmade_since.map(|since| since + stuck.grace);
    let due = stuck.unplaced_due.into_iter().chain(unmade_due).min();
    let overdue = due.is_some_and(|due| due <= now);
    let tell = overdue && !held.told;
    held.told |= overdue;
    let recheck_now = held.recheck_at.is_some_and(|at| at <= now);
    if recheck_now || held.recheck_at.is_none() {
        held.recheck_at = Some(now + recheck);
    }
    let next = held
        .recheck_at
        .into_iter()
        .chain(due.filter(|due| *due > now));
    for at in next {
        index.wake(Subject::Pool(key.clone()), at);
    }
    if recheck_now {
        look_again(index, key);
    }
    if tell {
        not_progressing(index, key, stuck.note());
    }
}

/// Members that a pool waits for in vain.
#[derive(Debug)]
struct Stuck {
    replicas: usize,
    grace: Duration,
    /// The template that is not there.
    template: Option<String>,
    /// Why no node takes one more.
    unplaceable: Option<String>,
    /// So many cannot be made.
    unmade: usize,
    /// So many have no node.
    unplaced: usize,
    /// When the first of these has been so for the grace period.
    unplaced_due: Option<Duration>,
}

impl Stuck {
    fn of(index: &Index, pool: &PoolRecord) -> Self {
        let grace = grace(index, pool);
        let template = index.template_of(pool).is_none();
        let template = template.then(|| pool.template.clone());
        let unplaceable = pool.unplaceable.clone();
        let unmade = if template.is_some() || unplaceable.is_some() {
            missing(index, pool)
        } else {
            0
        };
        let members = index.members_of(&pool.uid);
        let longest = members.and_then(Members::longest_unplaced);
        Self {
            replicas: pool.replicas,
            grace,
            template,
            unplaceable,
            unmade,
            unplaced: members.map_or(0, |members| members.count(Class::Unplaced)),
            unplaced_due: longest.map(|(since, _)| after(since, grace)),
        }
    }

    fn members(&self) -> usize {
        self.unmade + self.unplaced
    }

    /// Upstream's words, and the reason, which not every pool has a member to show on.
    fn note(&self) -> String {
        if let Some(template) = self.template.as_ref().filter(|_| self.unmade > 0) {
            return format!("SandboxTemplate \"{template}\" not found");
        }
        let (held, replicas) = (self.members(), self.replicas);
        let grace = go_duration(self.grace);
        let why = self.unplaceable.as_ref();
        let why = why.map_or_else(String::new, |why| format!(": {why}"));
        format!(
            "{held}/{replicas} sandboxes are unschedulable past the {grace} readiness grace period; holding them instead \
             of replacing (replacements would be equally unschedulable){why}"
        )
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

pub(super) fn not_progressing(index: &mut Index, key: &Key, note: String) {
    event(index, key, "WarmPoolNotProgressing", true, note);
}

pub(super) fn progressing(index: &mut Index, key: &Key) {
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
