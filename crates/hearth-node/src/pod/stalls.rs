//! What the machine was short of.

use hearth_core::filler::Stalls;
use hearth_sys::machine::{Resource, pressure};
use tokio::time::Instant;

/// Microseconds in which something was short, since boot.
#[derive(Clone, Copy, Debug)]
struct Totals {
    at: Instant,
    cpu: u64,
    memory: u64,
    io: u64,
}

impl Totals {
    /// `None` where the kernel does not measure it.
    fn read() -> Option<Self> {
        let of = |resource| pressure(resource).ok().flatten();
        Some(Self {
            at: Instant::now(),
            cpu: of(Resource::Cpu)?.some.total_micros,
            memory: of(Resource::Memory)?.some.total_micros,
            io: of(Resource::Io)?.full.total_micros,
        })
    }
}

/// Says with each call what was short since the one before.
pub(super) fn since_last() -> impl FnMut() -> Option<Stalls> + Send {
    let mut before = Totals::read();
    move || {
        let now = Totals::read();
        let since = before.zip(now);
        before = now;
        since.map(|(before, now)| between(before, now))
    }
}

#[expect(clippy::cast_precision_loss, reason = "microseconds of a few seconds")]
fn between(before: Totals, now: Totals) -> Stalls {
    let passed = (now.at - before.at).as_secs_f64() * 1e6;
    let share = |before: u64, now: u64| {
        let stalled = now.saturating_sub(before) as f64;
        (100.0 * stalled / passed.max(1.0)).min(100.0)
    };
    Stalls {
        cpu: share(before.cpu, now.cpu),
        memory: share(before.memory, now.memory),
        io: share(before.io, now.io),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn shares_are_of_the_time_between() {
        let at = Instant::now();
        let totals = |at, cpu, memory, io| Totals {
            at,
            cpu,
            memory,
            io,
        };
        let before = totals(at, 1_000_000, 0, 70);
        let after = totals(at + Duration::from_secs(2), 2_000_000, 20_000, 70);
        let expect = Stalls {
            cpu: 50.0,
            memory: 1.0,
            io: 0.0,
        };
        assert_eq!(between(before, after), expect);
        assert_eq!(between(after, after), Stalls::default(), "no time at all");
    }
}
