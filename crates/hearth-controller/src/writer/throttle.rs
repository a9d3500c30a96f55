//! How many writes may go in a second: client-side throttling, as client-go has it with a QPS and a burst.

use std::time::Duration;

use tokio::time::Instant;

/// So many writes in a second, and so many at once after a pause.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// Between two writes.
    interval: Duration,
    /// How far writes may be ahead of one each interval.
    slack: Duration,
}

impl Rate {
    /// `per_second` writes on average, up to `burst` at once. None when `per_second` is not above 0, which means any
    /// number.
    #[must_use]
    pub fn new(per_second: f64, burst: usize) -> Option<Self> {
        if !(per_second.is_finite() && per_second > 0.0) {
            return None;
        }
        let interval = Duration::try_from_secs_f64(per_second.recip()).ok()?;
        let ahead = u32::try_from(burst.saturating_sub(1)).unwrap_or(u32::MAX);
        Some(Self {
            interval,
            slack: interval.saturating_mul(ahead),
        })
    }
}

/// When the next write may go. Nobody's turn is kept for anybody: which write it is is found out when it may go.
#[derive(Debug)]
pub(super) struct Throttle {
    rate: Rate,
    /// When the next write would go if they came one each interval.
    next: Instant,
}

impl Throttle {
    pub(super) fn new(rate: Rate, now: Instant) -> Self {
        Self { rate, next: now }
    }

    /// Until when no write may go; `None` when one may go now.
    pub(super) fn blocked_until(&self, now: Instant) -> Option<Instant> {
        let at = self.next.checked_sub(self.rate.slack);
        at.filter(|at| *at > now)
    }

    /// A write goes.
    pub(super) fn spend(&mut self, now: Instant) {
        let due = self.next.max(now);
        self.next = due.checked_add(self.rate.interval).unwrap_or(due);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_rate_is_no_limit() {
        for per_second in [-1.0, 0.0, f64::NAN, f64::INFINITY] {
            assert_eq!(Rate::new(per_second, 10), None, "{per_second}");
        }
        assert!(
            Rate::new(f64::MIN_POSITIVE, 10).is_none(),
            "never is no rate"
        );
    }

    /// After how many milliseconds so many writes go that all come at `begin`.
    fn gone(throttle: &mut Throttle, writes: usize, begin: Instant) -> Vec<u128> {
        let mut now = begin;
        let mut write = || {
            now = throttle.blocked_until(now).unwrap_or(now);
            throttle.spend(now);
            (now - begin).as_millis()
        };
        (0..writes).map(|_| write()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_goes_at_once_and_the_rest_at_the_rate() {
        let start = Instant::now();
        let mut throttle = Throttle::new(Rate::new(4.0, 3).unwrap(), start);
        assert_eq!(gone(&mut throttle, 6, start), [0, 0, 0, 250, 500, 750]);
        let later = start + Duration::from_secs(60);
        assert_eq!(
            gone(&mut throttle, 4, later),
            [0, 0, 0, 250],
            "a pause gives no more than the burst"
        );
    }
}
