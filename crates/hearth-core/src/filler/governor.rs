//! How many creations run at once.

use std::time::Duration;

/// Shares of time lost to a shortage, in percent, that count as strain: then fewer run at once.
const MEMORY_STRAIN: f64 = 10.0;
const IO_STRAIN: f64 = 40.0;
const CPU_STRAIN: f64 = 95.0;
/// Below these the machine is calm, and one more may be tried. Between calm and strain nothing changes.
const MEMORY_CALM: f64 = 2.0;
const IO_CALM: f64 = 20.0;
const CPU_CALM: f64 = 60.0;
/// A processor that is always wanted is no strain as long as creations do not take this many times as long as they did
/// at best: two of them on two cores keep both busy, and that is what the cores are for.
const SLOW: f64 = 2.0;
/// The same where the kernel does not say what is short.
const SLOW_BLINDLY: f64 = 3.0;
const FAST_BLINDLY: f64 = 1.5;
/// The best time grows by this share with each sample, because a pod's start takes longer the more pods there are.
const FORGET: f64 = 0.02;
/// After it was lowered it is not raised for this long.
const RESPITE: Duration = Duration::from_secs(20);

/// Between how many and how many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// At least so many, whatever the machine's state.
    pub least: usize,
    /// At most so many.
    pub most: usize,
}

/// Shares of time lost to a shortage since the last sample, in percent.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Stalls {
    /// Some task waited for a processor.
    pub cpu: f64,
    /// Some task waited for memory.
    pub memory: f64,
    /// All tasks waited for the disk.
    pub io: f64,
}

/// What was observed since the last sample.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// When, since any fixed moment.
    pub at: Duration,
    /// What was short; `None` where the kernel does not measure it.
    pub stalls: Option<Stalls>,
    /// Mean time of the creations that ended; `None` when none did.
    pub took: Option<Duration>,
    /// Whether more would run if they could.
    pub wanted: bool,
}

/// Finds out how many creations run at once.
///
/// It begins with one for each core, goes up by one while the machine is calm and more are wanted, and down by a quarter
/// under strain.
#[derive(Clone, Debug)]
pub struct Governor {
    bounds: Bounds,
    limit: usize,
    /// The shortest mean time of late, in seconds.
    best: Option<f64>,
    lowered: Option<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Calm,
    Busy,
    Strained,
}

impl Governor {
    /// Begins with one for each core, within the bounds.
    #[must_use]
    pub fn new(bounds: Bounds, cores: usize) -> Self {
        let least = bounds.least.max(1);
        let bounds = Bounds {
            least,
            most: bounds.most.max(least),
        };
        Self {
            bounds,
            limit: cores.clamp(bounds.least, bounds.most),
            best: None,
            lowered: None,
        }
    }

    /// How many may run at once.
    #[must_use]
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Takes a sample into account.
    pub fn observe(&mut self, sample: &Sample) {
        let state = self.judge(sample);
        let rested = self
            .lowered
            .is_none_or(|at| sample.at.saturating_sub(at) >= RESPITE);
        match state {
            State::Strained => {
                let lower = self.limit - self.limit.div_ceil(4);
                self.limit = lower.max(self.bounds.least);
                self.lowered = Some(sample.at);
            }
            State::Calm if sample.wanted && rested => {
                self.limit = (self.limit + 1).min(self.bounds.most);
            }
            State::Calm | State::Busy => {}
        }
    }

    fn judge(&mut self, sample: &Sample) -> State {
        let slowness = sample.took.map(|took| self.slowness(took.as_secs_f64()));
        let is = |times: f64| slowness.is_some_and(|slowness| slowness > times);
        let Some(Stalls { cpu, memory, io }) = sample.stalls else {
            return match slowness {
                _ if is(SLOW_BLINDLY) => State::Strained,
                Some(slowness) if slowness < FAST_BLINDLY => State::Calm,
                _ => State::Busy,
            };
        };
        let starved = cpu > CPU_STRAIN && is(SLOW);
        if memory > MEMORY_STRAIN || io > IO_STRAIN || starved {
            State::Strained
        } else if memory < MEMORY_CALM && io < IO_CALM && cpu < CPU_CALM {
            State::Calm
        } else {
            State::Busy
        }
    }

    /// How many times as long as at best.
    fn slowness(&mut self, took: f64) -> f64 {
        let best = self
            .best
            .map_or(took, |best| (best * (1.0 + FORGET)).min(took));
        self.best = Some(best);
        if best > 0.0 { took / best } else { 1.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BOUNDS: Bounds = Bounds { least: 1, most: 8 };

    fn governor() -> Governor {
        Governor::new(BOUNDS, 4)
    }

    fn sample(second: u64, stalls: Stalls, millis: u64) -> Sample {
        Sample {
            at: Duration::from_secs(second),
            stalls: Some(stalls),
            took: Some(Duration::from_millis(millis)),
            wanted: true,
        }
    }

    fn cpu(cpu: f64) -> Stalls {
        Stalls {
            cpu,
            ..Stalls::default()
        }
    }

    #[test]
    fn it_begins_with_the_cores_within_the_bounds() {
        for (least, most, cores, expect) in [
            (1, 8, 4, 4),
            (1, 2, 4, 2),
            (6, 8, 4, 6),
            (0, 0, 4, 1),
            (3, 1, 1, 3),
        ] {
            let limit = Governor::new(Bounds { least, most }, cores).limit();
            assert_eq!(limit, expect, "{least}..={most} with {cores}");
        }
    }

    #[test]
    fn it_goes_up_while_it_is_calm_and_more_are_wanted() {
        let mut governor = governor();
        for (second, expect) in [(2, 5), (4, 6), (6, 7), (8, 8), (10, 8)] {
            governor.observe(&sample(second, cpu(30.0), 200));
            assert_eq!(governor.limit(), expect);
        }
        let mut idle = self::governor();
        idle.observe(&Sample {
            wanted: false,
            ..sample(2, cpu(0.0), 200)
        });
        assert_eq!(idle.limit(), 4);
    }

    #[test]
    fn busy_cores_alone_are_no_strain_but_slow_creations_on_them_are() {
        let mut governor = governor();
        governor.observe(&sample(2, cpu(99.0), 200));
        governor.observe(&sample(4, cpu(99.0), 350));
        assert_eq!(governor.limit(), 4);
        governor.observe(&sample(6, cpu(99.0), 450));
        assert_eq!(governor.limit(), 3);
        governor.observe(&sample(8, cpu(70.0), 450));
        assert_eq!(governor.limit(), 3, "slow for another reason");
    }

    #[test]
    fn memory_and_disk_count_whatever_the_times_are() {
        for stalls in [
            Stalls {
                memory: 20.0,
                ..Stalls::default()
            },
            Stalls {
                io: 60.0,
                ..Stalls::default()
            },
        ] {
            let mut governor = Governor::new(BOUNDS, 8);
            for (second, expect) in [(2, 6), (4, 4), (6, 3), (8, 2), (10, 1), (12, 1)] {
                governor.observe(&sample(second, stalls, 200));
                assert_eq!(governor.limit(), expect, "{stalls:?}");
            }
        }
    }

    #[test]
    fn after_strain_it_rests_before_it_goes_up_again() {
        let mut governor = governor();
        let strain = Stalls {
            io: 60.0,
            ..Stalls::default()
        };
        governor.observe(&sample(100, strain, 200));
        for (second, expect) in [(102, 3), (119, 3), (120, 4)] {
            governor.observe(&sample(second, cpu(10.0), 200));
            assert_eq!(governor.limit(), expect, "at {second}");
        }
    }

    #[test]
    fn without_the_kernel_s_word_the_times_decide() {
        let mut governor = governor();
        let blind = |millis| Sample {
            stalls: None,
            ..sample(2, Stalls::default(), millis)
        };
        governor.observe(&blind(100));
        assert_eq!(governor.limit(), 5);
        governor.observe(&blind(200));
        assert_eq!(governor.limit(), 5);
        governor.observe(&blind(400));
        assert_eq!(governor.limit(), 3);
    }

    fn any_sample() -> impl Strategy<Value = (u64, Option<Stalls>, Option<u64>, bool)> {
        let percent = || 0.0..100.0_f64;
        let stalls = (percent(), percent(), percent()).prop_map(|(cpu, memory, io)| Stalls {
            cpu,
            memory,
            io,
        });
        (
            0..30_u64,
            prop::option::of(stalls),
            prop::option::of(0..5000_u64),
            any::<bool>(),
        )
    }

    proptest! {
        #[test]
        fn it_keeps_to_its_bounds_and_moves_by_one_step_at_a_time(
            samples in prop::collection::vec(any_sample(), 1..100),
            least in 0..4_usize,
            most in 0..10_usize,
            cores in 1..64_usize,
        ) {
            let mut governor = Governor::new(Bounds { least, most }, cores);
            let mut at = Duration::ZERO;
            for (pause, stalls, took, wanted) in samples {
                at += Duration::from_secs(pause);
                let before = governor.limit();
                governor.observe(&Sample { at, stalls, took: took.map(Duration::from_millis), wanted });
                let after = governor.limit();
                prop_assert!(after >= least.max(1) && after <= most.max(least).max(1));
                prop_assert!(after <= before + 1 && after >= before - before.div_ceil(4));
                prop_assert!(wanted || after <= before);
            }
        }

        /// Under a load that does not change it comes to rest: it does not go up and down.
        #[test]
        fn it_does_not_swing_under_a_steady_load((_, stalls, took, wanted) in any_sample()) {
            let mut governor = Governor::new(BOUNDS, 4);
            let mut limits = Vec::new();
            for second in 0..200 {
                let took = took.map(Duration::from_millis);
                governor.observe(&Sample { at: Duration::from_secs(2 * second), stalls, took, wanted });
                limits.push(governor.limit());
            }
            let up = limits.is_sorted();
            let down = limits.iter().rev().is_sorted();
            prop_assert!(up || down, "{limits:?}");
        }
    }
}
