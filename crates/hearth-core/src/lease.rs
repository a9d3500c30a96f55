//! Who leads, decided from one Lease object.
//!
//! Ages run on the reader's own monotonic clock from the moment a renewal was *seen*. The times inside the Lease were
//! written by somebody else's wall clock and are only compared for having changed.

use std::time::Duration;

/// How long leadership lasts and how it is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseTiming {
    /// How long a holder leads after its last renewal.
    pub duration: Duration,
    /// How long the holder goes on acting without a renewal. Shorter than `duration`, so that it has stopped before
    /// anybody else may start.
    pub renew_deadline: Duration,
    /// Time between tries.
    pub retry_period: Duration,
}

impl Default for LeaseTiming {
    /// Upstream's figures.
    fn default() -> Self {
        Self {
            duration: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry_period: Duration::from_secs(2),
        }
    }
}

/// A Lease as read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeaseRecord {
    /// `spec.holderIdentity`; empty when nobody holds it.
    pub holder: String,
    /// `spec.renewTime` as text: only compared.
    pub renewed: String,
    /// `spec.leaseDurationSeconds` as the holder wrote it.
    pub duration: Duration,
    /// `spec.leaseTransitions`.
    pub transitions: i32,
    /// `metadata.resourceVersion`: a write names it, so that only one of two candidates wins.
    pub resource_version: String,
}

/// What to do about the Lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaseAction {
    /// There is none: create it.
    Create,
    /// Take it over: nobody holds it, or the holder has been silent for longer than its lease.
    Acquire,
    /// It is ours: renew it.
    Renew,
    /// Somebody else holds it: look again after this time at the latest.
    Wait(Duration),
}

/// Remembers when a Lease was last seen to change.
#[derive(Clone, Debug, Default)]
pub struct LeaseObserver {
    seen: Option<(LeaseRecord, Duration)>,
}

impl LeaseObserver {
    /// What `me` should do about `lease` at `now` (monotonic).
    ///
    /// `leading` is whether the caller leads since an acquisition of its own. A Lease that names us while we do not is
    /// from a former life; it is acquired anew, which makes a new fence.
    pub fn evaluate(
        &mut self,
        lease: Option<LeaseRecord>,
        me: &str,
        leading: bool,
        timing: LeaseTiming,
        now: Duration,
    ) -> LeaseAction {
        let Some(lease) = lease else {
            self.seen = None;
            return LeaseAction::Create;
        };
        let since = match &self.seen {
            Some((before, since))
                if before.holder == lease.holder && before.renewed == lease.renewed =>
            {
                *since
            }
            _ => now,
        };
        self.seen = Some((lease.clone(), since));
        if lease.holder == me {
            return if leading {
                LeaseAction::Renew
            } else {
                LeaseAction::Acquire
            };
        }
        if lease.holder.is_empty() {
            return LeaseAction::Acquire;
        }
        // A holder that wrote no duration, or an absurdly short one, still gets ours.
        let duration = lease.duration.max(timing.duration);
        let silent = now.saturating_sub(since);
        if silent >= duration {
            LeaseAction::Acquire
        } else {
            LeaseAction::Wait((duration - silent).min(timing.retry_period))
        }
    }
}

/// Whether a leader whose last successful renewal was *sent* at `sent` may still act.
#[must_use]
pub fn may_act(sent: Duration, timing: LeaseTiming, now: Duration) -> bool {
    now.saturating_sub(sent) < timing.renew_deadline
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMING: LeaseTiming = LeaseTiming {
        duration: Duration::from_secs(15),
        renew_deadline: Duration::from_secs(10),
        retry_period: Duration::from_secs(2),
    };

    fn held(holder: &str, renewed: &str) -> Option<LeaseRecord> {
        Some(LeaseRecord {
            holder: holder.into(),
            renewed: renewed.into(),
            duration: Duration::from_secs(15),
            transitions: 1,
            resource_version: "7".into(),
        })
    }

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_missing_or_free_lease_is_taken() {
        let mut observer = LeaseObserver::default();
        assert_eq!(
            observer.evaluate(None, "me", false, TIMING, s(0)),
            LeaseAction::Create
        );
        assert_eq!(
            observer.evaluate(held("", "t"), "me", false, TIMING, s(0)),
            LeaseAction::Acquire
        );
    }

    #[test]
    fn a_lease_of_a_former_life_is_acquired_and_not_renewed() {
        let mut observer = LeaseObserver::default();
        assert_eq!(
            observer.evaluate(held("me", "t"), "me", false, TIMING, s(0)),
            LeaseAction::Acquire
        );
        assert_eq!(
            observer.evaluate(held("me", "t"), "me", true, TIMING, s(0)),
            LeaseAction::Renew
        );
    }

    #[test]
    fn a_holder_is_silent_only_after_we_watched_it_be_silent() {
        let mut observer = LeaseObserver::default();
        // The renew time may be an hour old by its own clock: the wait starts when we first see it.
        assert_eq!(
            observer.evaluate(held("other", "old"), "me", false, TIMING, s(100)),
            LeaseAction::Wait(s(2))
        );
        assert_eq!(
            observer.evaluate(held("other", "old"), "me", false, TIMING, s(114)),
            LeaseAction::Wait(s(1))
        );
        assert_eq!(
            observer.evaluate(held("other", "new"), "me", false, TIMING, s(114)),
            LeaseAction::Wait(s(2))
        );
        assert_eq!(
            observer.evaluate(held("other", "new"), "me", false, TIMING, s(128)),
            LeaseAction::Wait(s(1))
        );
        assert_eq!(
            observer.evaluate(held("other", "new"), "me", false, TIMING, s(129)),
            LeaseAction::Acquire
        );
    }

    #[test]
    fn a_leader_stops_before_another_may_start() {
        assert!(may_act(s(0), TIMING, s(9)));
        assert!(!may_act(s(0), TIMING, s(10)));
        assert!(TIMING.renew_deadline < TIMING.duration);
    }
}
