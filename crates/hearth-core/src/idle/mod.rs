//! The ladder that a sandbox goes down while nobody uses it: running, frozen, reclaimed, suspended.
//!
//! [`IdleRules`] are what `spec.idle` asks for, a [`Clock`] tells how far down one sandbox is, and [`reclaim`] has the
//! rules by which memory is given back. Nothing here looks at anything: readings and time come in as arguments.

mod clock;
mod duration;
pub mod reclaim;

use std::time::Duration;

use hearth_api::IdlePolicy;

use crate::restart::doubled;

pub use clock::{Clock, Reading, Rung, Standing};
pub use duration::parse_duration;

/// The shortest time that can be asked for. Idleness is looked at at most once in this time.
pub const SHORTEST: Duration = Duration::from_secs(1);
/// The longest time between two looks.
const LONGEST_PACE: Duration = Duration::from_secs(15);
/// A rule is looked at so many times while it runs out.
const LOOKS_PER_RULE: u32 = 4;
/// The longest time until what could not be frozen is tried again.
const LONGEST_BACK_OFF: Duration = Duration::from_secs(60);

/// How long an idle sandbox is left running that could not be frozen so many times. It is looked at meanwhile as ever.
#[must_use]
pub fn freeze_again(failures: u32) -> Duration {
    match failures.checked_sub(1) {
        None => Duration::ZERO,
        Some(doublings) => doubled(SHORTEST, doublings, LONGEST_BACK_OFF),
    }
}

/// What `spec.idle` asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IdleRules {
    /// Idle time until the processes are frozen.
    pub freeze_after: Option<Duration>,
    /// Frozen time until memory is given back.
    pub reclaim_after: Option<Duration>,
    /// Idle time until the sandbox is suspended.
    pub suspend_after: Option<Duration>,
}

/// A field of `spec.idle` that cannot be honoured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadRule {
    /// Its name, below `spec.idle`.
    pub field: &'static str,
    /// Its value.
    pub value: String,
    /// What would be right.
    pub remedy: &'static str,
}

impl IdleRules {
    /// Reads what a Sandbox asks for; nothing where there is no policy.
    ///
    /// # Errors
    /// Every field that is no duration, or a shorter one than [`SHORTEST`].
    pub fn read(policy: Option<&IdlePolicy>) -> Result<Self, Vec<BadRule>> {
        let Some(policy) = policy else {
            return Ok(Self::default());
        };
        let mut bad = Vec::new();
        let mut rule = |field, value: &Option<String>| {
            let value = value.as_ref()?;
            let remedy = match parse_duration(value) {
                Some(time) if time >= SHORTEST => return Some(time),
                Some(_) => "must be at least 1s",
                None => "must be a duration such as 30s, 5m or 1h30m",
            };
            bad.push(BadRule {
                field,
                value: value.clone(),
                remedy,
            });
            None
        };
        let rules = Self {
            freeze_after: rule("freezeAfter", &policy.freeze_after),
            reclaim_after: rule("reclaimAfter", &policy.reclaim_after),
            suspend_after: rule("suspendAfter", &policy.suspend_after),
        };
        if bad.is_empty() { Ok(rules) } else { Err(bad) }
    }

    /// Whether idleness matters to it at all.
    #[must_use]
    pub fn watches(&self) -> bool {
        self.freeze_after.is_some() || self.suspend_after.is_some()
    }

    /// How often a running sandbox with these rules is looked at; `None`: not at all.
    #[must_use]
    pub fn pace(&self) -> Option<Duration> {
        let soonest = [self.freeze_after, self.suspend_after];
        let soonest = soonest.into_iter().flatten().min()?;
        Some((soonest / LOOKS_PER_RULE).clamp(SHORTEST, LONGEST_PACE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(freeze: &str, reclaim: &str, suspend: &str) -> IdlePolicy {
        let field = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        IdlePolicy {
            freeze_after: field(freeze),
            reclaim_after: field(reclaim),
            suspend_after: field(suspend),
        }
    }

    #[test]
    fn rules_are_read_and_what_cannot_be_one_is_named() {
        let secs = |s| Some(Duration::from_secs(s));
        assert_eq!(IdleRules::read(None), Ok(IdleRules::default()));
        let rules = IdleRules::read(Some(&policy("30s", "", "1h30m"))).unwrap();
        assert_eq!(
            (rules.freeze_after, rules.reclaim_after, rules.suspend_after),
            (secs(30), None, secs(5400))
        );
        let bad = IdleRules::read(Some(&policy("soon", "10ms", "2m"))).unwrap_err();
        let told: Vec<_> = bad.iter().map(|bad| (bad.field, bad.remedy)).collect();
        assert_eq!(
            told,
            [
                ("freezeAfter", "must be a duration such as 30s, 5m or 1h30m"),
                ("reclaimAfter", "must be at least 1s"),
            ]
        );
    }

    #[test]
    fn what_cannot_be_frozen_is_tried_ever_less_often_but_for_ever() {
        for (failures, seconds) in [(0, 0), (1, 1), (2, 2), (6, 32), (7, 60), (u32::MAX, 60)] {
            assert_eq!(freeze_again(failures), Duration::from_secs(seconds));
        }
    }

    #[test]
    fn the_pace_follows_the_soonest_rule_within_bounds() {
        for (freeze, suspend, pace) in [
            ("", "", None),
            ("1s", "", Some(1_000)),
            ("20s", "1h", Some(5_000)),
            ("", "10h", Some(15_000)),
        ] {
            let rules = IdleRules::read(Some(&policy(freeze, "5s", suspend))).unwrap();
            assert_eq!(rules.pace(), pace.map(Duration::from_millis), "{rules:?}");
            assert_eq!(rules.watches(), pace.is_some());
        }
    }
}
