//! How many writes may go in a second: client-side throttling, as client-go has it with a QPS and a burst.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::{Instant, sleep_until};

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

/// Gives each write its turn, in the order in which they ask.
#[derive(Debug)]
pub(super) struct Throttle {
    rate: Rate,
    /// When the next write would go if they came one each interval.
    next: Mutex<Instant>,
}

impl Throttle {
    pub(super) fn new(rate: Rate, now: Instant) -> Self {
        Self {
            rate,
            next: Mutex::new(now),
        }
    }

    /// Waits until a write may go. Cancel-safe: a turn that was not waited for is lost, no more.
    pub(super) async fn turn(&self) {
        let now = Instant::now();
        let at = {
            let mut next = self.next.lock();
            let due = (*next).max(now);
            *next = due.checked_add(self.rate.interval).unwrap_or(due);
            due.checked_sub(self.rate.slack)
        };
        if let Some(at) = at.filter(|at| *at > now) {
            sleep_until(at).await;
        }
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

    #[tokio::test(start_paused = true)]
    async fn a_burst_goes_at_once_and_the_rest_at_the_rate() {
        let start = Instant::now();
        let throttle = Throttle::new(Rate::new(4.0, 3).unwrap(), start);
        let mut gone = Vec::new();
        for _ in 0..6 {
            throttle.turn().await;
            gone.push(start.elapsed().as_millis() / 10 * 10);
        }
        assert_eq!(gone, [0, 0, 0, 250, 500, 750]);
        tokio::time::advance(Duration::from_secs(60)).await;
        let start = Instant::now();
        gone.clear();
        for _ in 0..4 {
            throttle.turn().await;
            gone.push(start.elapsed().as_millis() / 10 * 10);
        }
        assert_eq!(gone, [0, 0, 0, 250], "a pause gives no more than the burst");
    }
}
