//! When and how fast the memory of a frozen pod is given back, and whether that was worth it.
//!
//! It is written to swap or zram, which costs CPU and IO that running sandboxes may need: a little at a time, with pauses
//! much longer than the work, and not at all while the machine is short of memory or swap.

use std::collections::BTreeMap;
use std::time::Duration;

/// How much is asked for at once, in bytes.
pub const PORTION: u64 = 4 << 20;
/// How soon a pod is tried again that was not reclaimed because of the machine.
pub const TRY_AGAIN: Duration = Duration::from_secs(30);

/// Of each stretch of time at most this share is spent on reclaiming: one part in so many. The kernel counts the work as
/// a stall for want of memory, so that this is also how much of the pressure can be our own.
const SHARE: u32 = 8;
/// Share of time, in per cent, in which tasks may wait for memory or IO. Twice what can be our own.
const MOST_STALL: f32 = 25.0;
/// So much of the swap is left to others: one part in so many.
const SWAP_LEFT: u64 = 8;
/// A pod counts as reclaimed when so much of its memory is gone: one part in so many.
const WORTH_IT: u64 = 4;
/// Pods with less memory, in bytes, say nothing of their handler: what cannot go is most of what they have.
const TELLING: u64 = 8 << 20;
/// After so many pods in a row that kept their memory a handler's pods are not reclaimed any more.
const GIVE_UP: u32 = 3;

/// The machine, as far as it matters here.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Machine {
    /// Swap in all, zram included, in bytes.
    pub swap_total: u64,
    /// Of it free.
    pub swap_free: u64,
    /// Share of the last ten seconds in which a task waited for memory or for IO, the larger of both, in per cent; `None`
    /// where the kernel does not measure it.
    pub stall: Option<f32>,
}

/// Why nothing is reclaimed now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Brake {
    /// There is no swap.
    NoSwap,
    /// The swap is needed by others.
    SwapFull,
    /// Tasks wait for memory or IO.
    Pressure,
}

impl Brake {
    /// As a metric label.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::NoSwap => "no_swap",
            Self::SwapFull => "swap_full",
            Self::Pressure => "pressure",
        }
    }
}

impl Machine {
    /// What stands in the way of reclaiming now.
    #[must_use]
    pub fn brake(&self) -> Option<Brake> {
        if self.swap_total == 0 {
            return Some(Brake::NoSwap);
        }
        if self.swap_free < PORTION || self.swap_free < self.swap_total / SWAP_LEFT {
            return Some(Brake::SwapFull);
        }
        self.stall
            .is_some_and(|stall| stall > MOST_STALL)
            .then_some(Brake::Pressure)
    }
}

/// How long to wait after a portion that took so long, so that no more than `rate` bytes go in a second.
#[must_use]
pub fn pause(bytes: u64, took: Duration, rate: u64) -> Duration {
    let whole = Duration::from_micros(bytes.saturating_mul(1_000_000) / rate.max(1));
    whole.saturating_sub(took).max(took * (SHARE - 1))
}

/// What a pod holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// In memory, in bytes.
    pub resident: u64,
    /// In swap, in bytes.
    pub swapped: u64,
}

/// Whether enough of a pod's memory has gone.
#[must_use]
pub fn is_reclaimed(before: Held, after: Held) -> bool {
    let held = before.resident.saturating_add(before.swapped);
    let gone = held.saturating_sub(after.resident);
    gone > 0 && gone >= held / WORTH_IT
}

/// What reclaiming has shown of each runtime handler so far.
#[derive(Clone, Debug, Default)]
pub struct Trials {
    in_vain: BTreeMap<String, u32>,
}

impl Trials {
    /// Notes how it went with a pod of this handler.
    pub fn note(&mut self, handler: &str, before: Held, after: Held) {
        if is_reclaimed(before, after) {
            self.in_vain.remove(handler);
        } else if before.resident >= TELLING {
            *self.in_vain.entry(handler.to_owned()).or_default() += 1;
        }
    }

    /// Whether pods of this handler are worth a try.
    #[must_use]
    pub fn are_worth_it(&self, handler: &str) -> bool {
        self.in_vain
            .get(handler)
            .is_none_or(|in_vain| *in_vain < GIVE_UP)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn nothing_is_reclaimed_at_the_cost_of_others() {
        let calm = Machine {
            swap_total: 1024 * MIB,
            swap_free: 1024 * MIB,
            stall: Some(1.0),
        };
        for (machine, expect) in [
            (calm, None),
            (
                Machine {
                    stall: None,
                    ..calm
                },
                None,
            ),
            (
                Machine {
                    stall: Some(25.1),
                    ..calm
                },
                Some(Brake::Pressure),
            ),
            (
                Machine {
                    swap_free: 127 * MIB,
                    ..calm
                },
                Some(Brake::SwapFull),
            ),
            (
                Machine {
                    swap_total: 6 * MIB,
                    swap_free: 3 * MIB,
                    ..calm
                },
                Some(Brake::SwapFull),
            ),
            (Machine::default(), Some(Brake::NoSwap)),
        ] {
            assert_eq!(machine.brake(), expect, "{machine:?}");
        }
    }

    #[test]
    fn the_rate_is_kept_and_work_is_followed_by_a_longer_pause() {
        let ms = Duration::from_millis;
        let check = |took, expect| assert_eq!(pause(4 * MIB, took, 64 * MIB), expect);
        check(Duration::ZERO, Duration::from_micros(62_500));
        check(ms(5), Duration::from_micros(57_500));
        check(ms(100), ms(700));
        assert_eq!(pause(0, ms(1), 0), ms(7));
    }

    #[test]
    fn a_pod_is_reclaimed_when_a_quarter_of_it_has_gone() {
        let held = |resident, swapped| Held { resident, swapped };
        for (before, after, expect) in [
            (held(100, 0), held(75, 25), true),
            (held(100, 0), held(76, 24), false),
            (held(100, 0), held(110, 0), false),
            // Page cache that is dropped goes nowhere.
            (held(100, 0), held(50, 0), true),
            // Most had gone before a daemon that was restarted came.
            (held(10, 90), held(10, 90), true),
            (held(0, 0), held(0, 0), false),
        ] {
            assert_eq!(is_reclaimed(before, after), expect, "{before:?} {after:?}");
        }
    }

    #[test]
    fn a_handler_whose_pods_keep_their_memory_is_given_up() {
        let mut trials = Trials::default();
        let big = Held {
            resident: 100 * MIB,
            swapped: 0,
        };
        let small = Held {
            resident: MIB,
            swapped: 0,
        };
        let gone = Held::default();
        for _ in 0..5 {
            trials.note("runsc", small, small);
        }
        trials.note("runsc", big, big);
        trials.note("runsc", big, big);
        trials.note("runsc", big, gone);
        trials.note("runsc", big, big);
        trials.note("runsc", big, big);
        assert!(trials.are_worth_it("runsc"));
        trials.note("runsc", big, big);
        assert!(!trials.are_worth_it("runsc"));
        assert!(trials.are_worth_it("runc"));
    }
}
