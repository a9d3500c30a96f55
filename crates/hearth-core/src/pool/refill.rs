//! When a pool may grow: once its members have stopped going, and no faster than its rate.

use std::time::Duration;

/// How many members a pool may make in a second: at first as many at once as in a second, at least one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rate {
    interval: Duration,
    /// How much earlier than at even intervals a creation may be.
    ahead: Duration,
}

impl Rate {
    /// So many in a second. `None` for what is no rate: any number.
    pub(super) fn per_second(rate: f64) -> Option<Self> {
        if !rate.is_finite() || rate <= 0.0 {
            return None;
        }
        let interval = Duration::try_from_secs_f64(1.0 / rate).unwrap_or(Duration::MAX);
        Some(Self {
            interval,
            ahead: Duration::from_secs(1).saturating_sub(interval),
        })
    }
}

/// What a pool's growth depends on besides the number of its members. A creation that fails has been one all the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Refill {
    /// When the next creation is due at even intervals.
    due: Duration,
    /// Members at the last look, but for those that are being made.
    members: Option<usize>,
    /// When there were last fewer than before.
    dropped: Option<Duration>,
}

impl Refill {
    /// Notes how many members there are, but for those that are being made.
    pub(super) fn note(&mut self, members: usize, now: Duration) {
        if self.members.is_some_and(|before| members < before) {
            self.dropped = Some(now);
        }
        self.members = Some(members);
    }

    /// Until when none is made because one has gone less than `delay` ago.
    pub(super) fn held_until(&self, delay: Duration, now: Duration) -> Option<Duration> {
        let until = self.dropped?.saturating_add(delay);
        (until > now).then_some(until)
    }

    /// Until when none is made because of the rate.
    pub(super) fn limited_until(&self, rate: Rate, now: Duration) -> Option<Duration> {
        let until = self.due.saturating_sub(rate.ahead);
        (until > now).then_some(until)
    }

    /// Counts a creation.
    pub(super) fn spend(&mut self, rate: Rate, now: Duration) {
        self.due = self.due.max(now).saturating_add(rate.interval);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    /// How many creations the rate lets through at each of these times.
    fn made(rate: f64, times: &[u64]) -> Vec<usize> {
        let rate = Rate::per_second(rate).unwrap();
        let mut refill = Refill::default();
        let mut at_once = |now: Duration| {
            (0..1000)
                .take_while(|_| {
                    let free = refill.limited_until(rate, now).is_none();
                    if free {
                        refill.spend(rate, now);
                    }
                    free
                })
                .count()
        };
        times.iter().map(|time| at_once(MS(*time))).collect()
    }

    #[test]
    fn a_bucket_starts_full_and_fills_at_the_rate() {
        assert_eq!(made(10.0, &[0, 50, 100, 350, 9_000]), [10, 0, 1, 2, 10]);
        assert_eq!(made(2.5, &[0, 400, 60_000]), [2, 1, 2]);
        assert_eq!(made(0.5, &[0, 1_999, 2_000, 60_000]), [1, 0, 1, 1]);
        assert_eq!(made(10.0, &[60_000]), [10], "a pool that came late");
        assert_eq!(made(1e-300, &[0, u64::from(u32::MAX)]), [1, 0]);
    }

    #[test]
    fn what_is_no_rate_limits_nothing() {
        for rate in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert_eq!(Rate::per_second(rate), None, "{rate}");
        }
    }

    #[test]
    fn each_member_that_goes_holds_the_pool_back_anew() {
        let mut refill = Refill::default();
        let held = |refill: &Refill, now| refill.held_until(MS(1_000), MS(now));
        refill.note(0, MS(0));
        refill.note(3, MS(10));
        assert_eq!(held(&refill, 20), None, "growing is no loss");
        refill.note(2, MS(100));
        assert_eq!(held(&refill, 100), Some(MS(1_100)));
        refill.note(1, MS(600));
        refill.note(1, MS(700));
        assert_eq!(held(&refill, 1_200), Some(MS(1_600)));
        assert_eq!(held(&refill, 1_600), None);
        assert_eq!(refill.held_until(Duration::ZERO, MS(600)), None);
    }
}
