//! When sandboxes and claims end.

use std::time::Duration;

use hearth_api::{ClaimLifecycle, ClaimShutdownPolicy, Condition, Time};
use jiff::Timestamp;

use crate::conditions::find_condition;

/// Longest time to sleep towards a wall-clock deadline before looking again: the wall clock may be set.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);

/// How long until `deadline` by the wall clock; `None` when it has come.
#[must_use]
pub fn time_left(deadline: Timestamp, now: Timestamp) -> Option<Duration> {
    let left = deadline.duration_since(now);
    if left.is_zero() || left.is_negative() {
        return None;
    }
    Some(Duration::try_from(left).unwrap_or(LONGEST_SLEEP))
}

/// [`time_left`], cut to what may be slept at once.
#[must_use]
pub fn sleep_towards(deadline: Timestamp, now: Timestamp) -> Option<Duration> {
    time_left(deadline, now).map(|left| left.min(LONGEST_SLEEP))
}

/// When a claim expires: at its shutdown time, or `ttlSecondsAfterFinished` after its sandbox finished, whichever
/// comes first. `None`: never, as far as is known now.
#[must_use]
pub fn claim_deadline(
    lifecycle: Option<&ClaimLifecycle>,
    conditions: &[Condition],
) -> Option<Timestamp> {
    let lifecycle = lifecycle?;
    let shutdown = lifecycle.shutdown_time.as_ref().map(|Time(at)| *at);
    let finished = find_condition(conditions, hearth_api::constants::condition::FINISHED)
        .filter(|condition| condition.status == "True")
        .zip(lifecycle.ttl_seconds_after_finished)
        .and_then(|(condition, ttl)| {
            condition
                .last_transition_time
                .0
                .checked_add(jiff::SignedDuration::from_secs(i64::from(ttl)))
                .ok()
        });
    match (shutdown, finished) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

/// What becomes of an expired claim.
#[must_use]
pub fn claim_policy(lifecycle: Option<&ClaimLifecycle>) -> ClaimShutdownPolicy {
    lifecycle.map_or(ClaimShutdownPolicy::Retain, |lifecycle| {
        lifecycle.shutdown_policy
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn finished(second: i64) -> Condition {
        Condition {
            last_transition_time: Time(at(second)),
            message: String::new(),
            observed_generation: None,
            reason: "PodSucceeded".into(),
            status: "True".into(),
            type_: "Finished".into(),
        }
    }

    #[test]
    fn the_earlier_of_shutdown_and_ttl_counts() {
        let lifecycle = |shutdown: Option<i64>, ttl| ClaimLifecycle {
            shutdown_time: shutdown.map(|s| Time(at(s))),
            ttl_seconds_after_finished: ttl,
            ..ClaimLifecycle::default()
        };
        for (lifecycle, conditions, expect) in [
            (None, vec![finished(10)], None),
            (Some(lifecycle(None, None)), vec![finished(10)], None),
            (Some(lifecycle(Some(50), None)), vec![], Some(50)),
            (Some(lifecycle(None, Some(5))), vec![], None),
            (Some(lifecycle(None, Some(5))), vec![finished(10)], Some(15)),
            (Some(lifecycle(None, Some(0))), vec![finished(10)], Some(10)),
            (
                Some(lifecycle(Some(12), Some(5))),
                vec![finished(10)],
                Some(12),
            ),
            (
                Some(lifecycle(Some(50), Some(5))),
                vec![finished(10)],
                Some(15),
            ),
        ] {
            assert_eq!(
                claim_deadline(lifecycle.as_ref(), &conditions),
                expect.map(at),
                "{lifecycle:?}"
            );
        }
    }

    #[test]
    fn sleeps_are_short_enough_to_notice_a_changed_clock() {
        assert_eq!(sleep_towards(at(10), at(10)), None);
        assert_eq!(sleep_towards(at(10), at(11)), None);
        assert_eq!(sleep_towards(at(12), at(10)), Some(Duration::from_secs(2)));
        assert_eq!(sleep_towards(at(100_000), at(10)), Some(LONGEST_SLEEP));
    }
}
