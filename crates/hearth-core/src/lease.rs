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
    /// What tells the holder's process from others of its name: the fingerprint of its certificate.
    pub mark: String,
}

/// A candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Me<'a> {
    /// Our `holderIdentity`. A process that is started again in the place of one that is certainly dead may have the
    /// dead one's.
    pub identity: &'a str,
    /// Ours alone; see [`LeaseRecord::mark`].
    pub mark: &'a str,
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
    /// We led and do not any more: this is the holder now, which may be empty or another process of our name.
    Lost(String),
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
    /// from a former life, which is over: it is acquired anew at once, which makes a new fence. Should two processes have
    /// one name against all promises, the later leads and the earlier sees a mark that is not its own.
    pub fn evaluate(
        &mut self,
        lease: Option<LeaseRecord>,
        me: Me<'_>,
        leading: bool,
        timing: LeaseTiming,
        now: Duration,
    ) -> LeaseAction {
        if leading {
            return match lease {
                Some(lease) if lease.holder == me.identity && lease.mark == me.mark => {
                    LeaseAction::Renew
                }
                lease => LeaseAction::Lost(lease.map(|lease| lease.holder).unwrap_or_default()),
            };
        }
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
        if lease.holder.is_empty() || lease.holder == me.identity {
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

    const ME: Me<'_> = Me {
        identity: "me",
        mark: "mark of me",
    };

    fn held(holder: &str, renewed: &str) -> Option<LeaseRecord> {
        Some(LeaseRecord {
            holder: holder.into(),
            renewed: renewed.into(),
            duration: Duration::from_secs(15),
            mark: format!("mark of {holder}"),
        })
    }

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_missing_or_free_lease_is_taken() {
        let mut observer = LeaseObserver::default();
        assert_eq!(
            observer.evaluate(None, ME, false, TIMING, s(0)),
            LeaseAction::Create
        );
        assert_eq!(
            observer.evaluate(held("", "t"), ME, false, TIMING, s(0)),
            LeaseAction::Acquire
        );
    }

    #[test]
    fn a_lease_of_a_former_life_is_acquired_and_not_renewed() {
        let mut observer = LeaseObserver::default();
        assert_eq!(
            observer.evaluate(held("me", "t"), ME, false, TIMING, s(0)),
            LeaseAction::Acquire
        );
        assert_eq!(
            observer.evaluate(held("me", "t"), ME, true, TIMING, s(0)),
            LeaseAction::Renew
        );
    }

    #[test]
    fn a_leader_that_finds_another_s_name_or_another_process_of_its_own_has_lost() {
        let mut observer = LeaseObserver::default();
        let mut look = |lease| observer.evaluate(lease, ME, true, TIMING, s(0));
        let lost = |holder: &str| LeaseAction::Lost(holder.to_owned());
        assert_eq!(look(None), lost(""));
        assert_eq!(look(held("", "t")), lost(""));
        assert_eq!(look(held("other", "t")), lost("other"));
        let mut namesake = held("me", "t");
        namesake
            .iter_mut()
            .for_each(|lease| lease.mark = "another's".into());
        assert_eq!(look(namesake), lost("me"));
        assert_eq!(look(held("me", "t")), LeaseAction::Renew);
    }

    #[test]
    fn a_holder_is_silent_only_after_we_watched_it_be_silent() {
        let mut observer = LeaseObserver::default();
        // The renew time may be an hour old by its own clock: the wait starts when we first see it.
        assert_eq!(
            observer.evaluate(held("other", "old"), ME, false, TIMING, s(100)),
            LeaseAction::Wait(s(2))
        );
        assert_eq!(
            observer.evaluate(held("other", "old"), ME, false, TIMING, s(114)),
            LeaseAction::Wait(s(1))
        );
        assert_eq!(
            observer.evaluate(held("other", "new"), ME, false, TIMING, s(114)),
            LeaseAction::Wait(s(2))
        );
        assert_eq!(
            observer.evaluate(held("other", "new"), ME, false, TIMING, s(128)),
            LeaseAction::Wait(s(1))
        );
        assert_eq!(
            observer.evaluate(held("other", "new"), ME, false, TIMING, s(129)),
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
