//! When a container that exited is started again, and when a step that failed is tried again.

use std::time::Duration;

use crate::podspec::RestartPolicy;

const FIRST_DELAY: Duration = Duration::from_secs(10);
const LONGEST_DELAY: Duration = Duration::from_secs(300);
/// A container that ran for this long starts over with its delays.
const RUN_THAT_FORGIVES: Duration = Duration::from_secs(600);

/// How often a container had to be started again lately.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Restarts {
    in_a_row: u32,
}

impl Restarts {
    /// The container exited after it `ran_for` so long: how long to wait before it is started again. The first time not
    /// at all, then 10 s, doubling up to 5 min; a run of 10 min forgives.
    #[must_use]
    pub fn after_exit(self, ran_for: Duration) -> (Self, Duration) {
        let in_a_row = if ran_for >= RUN_THAT_FORGIVES {
            0
        } else {
            self.in_a_row
        };
        let delay = match in_a_row.checked_sub(1) {
            None => Duration::ZERO,
            Some(doublings) => doubled(FIRST_DELAY, doublings, LONGEST_DELAY),
        };
        (
            Self {
                in_a_row: in_a_row.saturating_add(1),
            },
            delay,
        )
    }
}

/// `first` doubled so many times, at most `longest`.
#[must_use]
pub fn doubled(first: Duration, doublings: u32, longest: Duration) -> Duration {
    1_u32
        .checked_shl(doublings)
        .and_then(|factor| first.checked_mul(factor))
        .map_or(longest, |delay| delay.min(longest))
}

/// Whether a container that exited with `code` is started again.
#[must_use]
pub fn restarts(policy: RestartPolicy, code: i32) -> bool {
    match policy {
        RestartPolicy::Always => true,
        RestartPolicy::OnFailure => code != 0,
        RestartPolicy::Never => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_five_minutes() {
        let mut restarts = Restarts::default();
        let mut seconds = Vec::new();
        for _ in 0..9 {
            let (next, delay) = restarts.after_exit(Duration::from_secs(1));
            restarts = next;
            seconds.push(delay.as_secs());
        }
        assert_eq!(seconds, [0, 10, 20, 40, 80, 160, 300, 300, 300]);
    }

    #[test]
    fn a_long_run_forgives() {
        let (restarts, _) = Restarts { in_a_row: 5 }.after_exit(Duration::from_secs(599));
        assert_eq!(restarts.in_a_row, 6);
        let (restarts, delay) = restarts.after_exit(Duration::from_secs(600));
        assert_eq!((restarts.in_a_row, delay), (1, Duration::ZERO));
    }

    #[test]
    fn doubling_never_overflows() {
        let (first, longest) = (Duration::from_secs(1), Duration::from_secs(60));
        for (doublings, expect) in [
            (0, 1),
            (1, 2),
            (5, 32),
            (6, 60),
            (31, 60),
            (32, 60),
            (u32::MAX, 60),
        ] {
            assert_eq!(
                doubled(first, doublings, longest).as_secs(),
                expect,
                "{doublings}"
            );
        }
    }

    #[test]
    fn the_policy_decides() {
        for (policy, code, expect) in [
            (RestartPolicy::Always, 0, true),
            (RestartPolicy::Always, 1, true),
            (RestartPolicy::OnFailure, 0, false),
            (RestartPolicy::OnFailure, 1, true),
            (RestartPolicy::Never, 0, false),
            (RestartPolicy::Never, 1, false),
        ] {
            assert_eq!(restarts(policy, code), expect, "{policy:?} {code}");
        }
    }
}
