//! How long one sandbox has been idle, and frozen.

use std::time::Duration;

use super::IdleRules;

/// CPU time in a second that an idle program may use: timers, garbage collectors and runtimes are never quite still. A
/// hundredth of a core.
const NOISE_PER_SECOND: Duration = Duration::from_millis(10);

/// How a sandbox stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// No time counts: it has no pod, is not ready, belongs to a pool, is kept frozen by its mode, or ends.
    Away,
    /// Its processes run, and it is ready.
    Running {
        /// Whether somebody needs its processes now: an exec, a bind.
        held: bool,
    },
    /// Its processes stand still because it was idle.
    Resting,
    /// Its processes stand still for another reason.
    Kept,
}

/// What a sandbox has used so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// CPU time of the pod.
    pub cpu: Duration,
    /// Unicast packets to the pod, but for the node's own probes.
    pub packets: u64,
}

/// Where a sandbox belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rung {
    /// Its processes run.
    Running,
    /// Its processes stand still.
    Frozen,
    /// It has no pod.
    Suspended,
}

/// Tells how long a sandbox has been idle, and how long frozen.
///
/// Idle time runs while the sandbox is ready and nothing happens in it, and goes on while it stands still because of
/// that. It starts anew with every use, and after any time that does not count: in a pool, or frozen by its mode. All
/// times are counted from one fixed moment, and never go back.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Clock {
    idle_since: Option<Duration>,
    frozen_since: Option<Duration>,
    /// How often somebody had begun or ceased to need the processes.
    uses: u64,
    last: Option<(Duration, Reading)>,
}

impl Clock {
    /// Takes in how the sandbox stands. `uses` goes up whenever somebody begins or ceases to need its processes.
    pub fn look(&mut self, standing: Standing, uses: u64, now: Duration) {
        let used = std::mem::replace(&mut self.uses, uses) != uses;
        match standing {
            Standing::Away => {
                (self.idle_since, self.frozen_since, self.last) = (None, None, None);
            }
            Standing::Running { held } => {
                if self.frozen_since.take().is_some() {
                    // A rate over time in which nothing could run would be too low.
                    self.last = None;
                }
                if used || held || self.idle_since.is_none() {
                    self.idle_since = Some(now);
                }
            }
            Standing::Resting => {
                self.frozen_since.get_or_insert(now);
                self.idle_since.get_or_insert(now);
                self.last = None;
            }
            Standing::Kept => {
                // It ran meanwhile, however short: its memory is in use again.
                if used {
                    self.frozen_since = None;
                }
                self.frozen_since.get_or_insert(now);
                (self.idle_since, self.last) = (None, None);
            }
        }
    }

    /// Takes in what a running sandbox has used so far, and says whether it was used since the last time. Of what was
    /// before the first reading, or the first after a thaw, nothing is known: that counts as use.
    pub fn read(&mut self, reading: Reading, now: Duration) -> bool {
        let before = self.last.replace((now, reading));
        let used = before.is_none_or(|(at, before)| is_use(at, before, now, reading));
        if used && self.idle_since.is_some() {
            self.idle_since = Some(now);
        }
        used
    }

    /// How long it has been idle.
    #[must_use]
    pub fn idle_for(&self, now: Duration) -> Duration {
        self.idle_since
            .map_or(Duration::ZERO, |since| now.saturating_sub(since))
    }

    /// Whether its processes stand still, so that there is nothing to read.
    #[must_use]
    pub fn stands_still(&self) -> bool {
        self.frozen_since.is_some()
    }

    /// How long it has been frozen.
    #[must_use]
    pub fn frozen_for(&self, now: Duration) -> Duration {
        self.frozen_since
            .map_or(Duration::ZERO, |since| now.saturating_sub(since))
    }

    /// Where the sandbox belongs by its rules.
    #[must_use]
    pub fn rung(&self, rules: &IdleRules, now: Duration) -> Rung {
        let over = |after: Option<Duration>| {
            self.idle_since.is_some() && after.is_some_and(|after| self.idle_for(now) >= after)
        };
        if over(rules.suspend_after) {
            Rung::Suspended
        } else if over(rules.freeze_after) {
            Rung::Frozen
        } else {
            Rung::Running
        }
    }

    /// Whether the memory of the frozen sandbox is to be given back.
    #[must_use]
    pub fn reclaims(&self, rules: &IdleRules, now: Duration) -> bool {
        self.frozen_since.is_some()
            && rules
                .reclaim_after
                .is_some_and(|after| self.frozen_for(now) >= after)
    }

    /// When the next rule runs out by time alone: of a frozen sandbox, which needs no looks in between.
    #[must_use]
    pub fn next(&self, rules: &IdleRules, now: Duration) -> Option<Duration> {
        let at = |since: Option<Duration>, after: Option<Duration>| Some(since? + after?);
        let frozen = self.frozen_since?;
        [
            at(Some(frozen), rules.reclaim_after),
            at(self.idle_since, rules.suspend_after),
        ]
        .into_iter()
        .flatten()
        .filter(|at| *at > now)
        .min()
    }
}

/// Whether more happened between two readings than happens in an idle sandbox.
fn is_use(at: Duration, before: Reading, now: Duration, reading: Reading) -> bool {
    let noise = NOISE_PER_SECOND.mul_f64(now.saturating_sub(at).as_secs_f64());
    // A counter that went back was made anew: what it had counted is not known.
    reading.packets != before.packets
        || reading.cpu < before.cpu
        || reading.cpu.saturating_sub(before.cpu) > noise.max(NOISE_PER_SECOND / 10)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RUNS: Standing = Standing::Running { held: false };
    const HELD: Standing = Standing::Running { held: true };

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn rules() -> IdleRules {
        IdleRules {
            freeze_after: Some(s(10)),
            reclaim_after: Some(s(20)),
            suspend_after: Some(s(60)),
        }
    }

    fn reading(cpu_ms: u64, packets: u64) -> Reading {
        Reading {
            cpu: Duration::from_millis(cpu_ms),
            packets,
        }
    }

    #[test]
    fn an_idle_sandbox_goes_down_the_ladder() {
        let (rules, mut clock) = (rules(), Clock::default());
        clock.look(RUNS, 0, s(100));
        for (at, rung) in [
            (100, Rung::Running),
            (109, Rung::Running),
            (110, Rung::Frozen),
        ] {
            clock.read(reading(1, 1), s(at));
            assert_eq!(clock.rung(&rules, s(at)), rung, "{at}");
        }
        clock.look(Standing::Resting, 0, s(112));
        assert_eq!(clock.next(&rules, s(112)), Some(s(132)));
        assert!(!clock.reclaims(&rules, s(131)) && clock.reclaims(&rules, s(132)));
        assert_eq!(clock.next(&rules, s(132)), Some(s(160)));
        assert_eq!(clock.rung(&rules, s(159)), Rung::Frozen);
        assert_eq!(clock.rung(&rules, s(160)), Rung::Suspended);
        assert_eq!(clock.next(&rules, s(160)), None);
    }

    #[test]
    fn every_use_starts_the_time_anew() {
        let check = |why: &str, use_it: &dyn Fn(&mut Clock)| {
            let mut clock = Clock::default();
            clock.look(RUNS, 0, s(0));
            clock.read(reading(0, 0), s(0));
            use_it(&mut clock);
            assert_eq!(clock.idle_for(s(30)), s(25), "{why}");
        };
        check("CPU", &|clock| assert!(clock.read(reading(51, 0), s(5))));
        check("a packet", &|clock| {
            assert!(clock.read(reading(0, 1), s(5)))
        });
        check("an exec that has begun and ended", &|clock| {
            clock.look(RUNS, 2, s(5))
        });
        check("an exec that goes on", &|clock| clock.look(HELD, 0, s(5)));
        check("a counter that went back", &|clock| {
            clock.last = Some((s(0), reading(0, 9)));
            assert!(clock.read(reading(0, 8), s(5)));
        });
        check("no longer ready", &|clock| {
            clock.look(Standing::Away, 0, s(4));
            clock.look(RUNS, 0, s(5));
        });
        check("woken", &|clock| {
            clock.look(Standing::Resting, 0, s(3));
            clock.look(RUNS, 1, s(5));
        });
        check("frozen by its mode", &|clock| {
            clock.look(Standing::Kept, 0, s(3));
            clock.look(RUNS, 0, s(5));
        });
    }

    #[test]
    fn noise_is_no_use() {
        let mut clock = Clock::default();
        clock.look(RUNS, 0, s(0));
        clock.read(reading(0, 0), s(0));
        assert!(!clock.read(reading(50, 0), s(5)), "a hundredth of a core");
        assert!(!clock.read(reading(51, 0), s(5)), "next to no time");
        assert_eq!(clock.idle_for(s(5)), s(5));
        // The time that it stood still does not dilute what it did after.
        clock.look(Standing::Resting, 0, s(6));
        clock.look(RUNS, 1, s(1000));
        clock.read(reading(60, 0), s(1000));
        assert!(clock.read(reading(80, 0), s(1001)));
        assert!(!clock.read(reading(80, 0), s(1002)));
    }

    #[test]
    fn time_in_a_pool_or_frozen_by_its_mode_is_no_idle_time() {
        let (rules, mut clock) = (rules(), Clock::default());
        for standing in [Standing::Kept, Standing::Away] {
            clock.look(standing, 0, s(0));
            assert_eq!(clock.rung(&rules, s(1_000)), Rung::Running, "{standing:?}");
        }
        clock.look(Standing::Kept, 0, s(0));
        assert!(
            clock.reclaims(&rules, s(20)),
            "but its memory is given back"
        );
    }

    #[test]
    fn what_was_thawed_between_two_looks_is_frozen_from_then_on() {
        let (rules, mut clock) = (rules(), Clock::default());
        clock.look(Standing::Kept, 0, s(0));
        clock.look(Standing::Kept, 0, s(20));
        assert!(clock.reclaims(&rules, s(20)));
        // An exec that began and ended.
        clock.look(Standing::Kept, 2, s(25));
        assert_eq!(clock.frozen_for(s(25)), s(0));
        assert!(!clock.reclaims(&rules, s(44)) && clock.reclaims(&rules, s(45)));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Wait(u64),
        Cpu(u64),
        Packet,
        Use,
        Rest,
        Keep,
        Leave,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            6 => (1_u64..8).prop_map(Step::Wait),
            1 => (0_u64..400).prop_map(Step::Cpu),
            1 => Just(Step::Packet),
            1 => Just(Step::Use),
            1 => Just(Step::Rest),
            1 => Just(Step::Keep),
            1 => Just(Step::Leave),
        ];
        prop::collection::vec(step, 1..60)
    }

    proptest! {
        /// Whatever happens: a sandbox belongs further down only when nothing but noise was seen for as long as the rule
        /// says, and one in which nothing happens for that long does.
        #[test]
        fn the_rung_is_as_long_ago_as_the_last_use(steps in steps()) {
            let (rules, mut clock) = (rules(), Clock::default());
            let (mut now, mut uses, mut used) = (0, 0, reading(0, 0));
            let mut standing = RUNS;
            let mut last_use = 0;
            for step in steps {
                match step {
                    Step::Wait(seconds) => now += seconds,
                    Step::Cpu(ms) if standing == RUNS => used.cpu += Duration::from_millis(ms),
                    Step::Packet if standing == RUNS => used.packets += 1,
                    Step::Use => {
                        uses += 1;
                        standing = RUNS;
                    }
                    Step::Rest if standing == RUNS && clock.rung(&rules, s(now)) > Rung::Running => {
                        standing = Standing::Resting;
                    }
                    Step::Keep => standing = Standing::Kept,
                    Step::Leave => standing = Standing::Away,
                    _ => continue,
                }
                let before = clock.clone();
                clock.look(standing, uses, s(now));
                let seen = standing == RUNS && clock.read(used, s(now));
                let fresh = before.idle_since.is_none() || before.uses != uses;
                if seen || fresh || !matches!(standing, Standing::Running { .. } | Standing::Resting) {
                    last_use = now;
                }
                let counts = matches!(standing, Standing::Running { .. } | Standing::Resting);
                let expect = match now - last_use {
                    _ if !counts => Rung::Running,
                    60.. => Rung::Suspended,
                    10.. => Rung::Frozen,
                    _ => Rung::Running,
                };
                prop_assert_eq!(clock.rung(&rules, s(now)), expect, "{:?} at {}", clock, now);
            }
        }
    }
}
