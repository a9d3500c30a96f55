//! What the ladder knows of one sandbox.

use std::net::Ipv4Addr;
use std::time::Duration;

use hearth_api::{OperatingMode, Tier};
use hearth_core::idle::{Clock, IdleRules, Standing, freeze_again};
use hearth_core::ids::PodUid;

use super::reclaim::Trial;
use crate::pod::{Footing, PodPhase};

/// What the ladder knows of one sandbox.
#[derive(Debug)]
pub(super) struct Seat {
    pub(super) pod: PodUid,
    pub(super) rules: IdleRules,
    pub(super) clock: Clock,
    pub(super) address: Option<Ipv4Addr>,
    /// Whether the kernel counts its packets, or is about to.
    pub(super) counted: bool,
    bell: Bell,
    /// It was compared with what the kernel has, is not armed, and why it stands still is for the API to say.
    missing: bool,
    pub(super) trial: Trial,
    /// How often it could not be frozen since somebody used it.
    failed_rests: u32,
    /// It is not frozen before this, because it could not be before.
    rests_not_before: Duration,
}

/// Whether packets to a sandbox are announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bell {
    /// They are not.
    Silent,
    /// They may be, by an earlier daemon's word; what came since is not known.
    Unproven,
    /// They are.
    Armed,
}

/// How many seats have a bell that something is to be done about, so that none is looked for among all of them in vain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) armed: usize,
    pub(super) unproven: usize,
}

impl Tally {
    fn of(&mut self, bell: Bell) -> Option<&mut usize> {
        match bell {
            Bell::Silent => None,
            Bell::Unproven => Some(&mut self.unproven),
            Bell::Armed => Some(&mut self.armed),
        }
    }
}

impl Seat {
    /// Whether its packets are announced.
    pub(super) fn bell(&self) -> Bell {
        self.bell
    }

    /// It is not armed by the kernel's word, and nobody has said why its processes stand still.
    pub(super) fn miss(&mut self) {
        self.missing = true;
    }

    /// Whether that is so, as far as it was compared.
    pub(super) fn is_missing(&self) -> bool {
        self.missing
    }

    /// Sets that, and keeps the tally of all seats. One that goes is silent first.
    pub(super) fn set_bell(&mut self, bell: Bell, tally: &mut Tally) {
        if let Some(count) = tally.of(self.bell) {
            *count -= 1;
        }
        if let Some(count) = tally.of(bell) {
            *count += 1;
        }
        self.bell = bell;
        self.missing = false;
    }

    pub(super) fn new(pod: PodUid) -> Self {
        Self {
            pod,
            rules: IdleRules::default(),
            clock: Clock::default(),
            address: None,
            counted: false,
            bell: Bell::Silent,
            missing: false,
            trial: Trial::Due,
            failed_rests: 0,
            rests_not_before: Duration::ZERO,
        }
    }

    /// Takes in how often it could not be frozen so far.
    pub(super) fn note_failed_rests(&mut self, failures: u32, now: Duration) {
        if self.failed_rests != failures {
            self.failed_rests = failures;
            self.rests_not_before = now + freeze_again(failures);
        }
    }

    /// Whether freezing it is worth a try now, as far as the last one is concerned.
    pub(super) fn may_try_rest(&self, now: Duration) -> bool {
        now >= self.rests_not_before
    }

    /// When it is to be looked at next: while its processes run by the pace of its rules, even when they are about to
    /// be frozen, and after that only when time alone brings something about.
    pub(super) fn next_look(&self, now: Duration) -> Option<Duration> {
        if self.counted && !self.clock.stands_still() {
            return self.rules.pace().map(|pace| now + pace);
        }
        // Without its rule, or before its time, a try that was put off is nothing to wait for: the moment that it was put
        // off to would lie in the past for ever.
        let again = match self.trial {
            _ if !self.clock.reclaims(&self.rules, now) => None,
            Trial::Due => Some(now),
            Trial::NotBefore(at) => Some(at.max(now)),
            Trial::Queued | Trial::Over => None,
        };
        let by_time = self.clock.next(&self.rules, now);
        again.into_iter().chain(by_time).min()
    }

    /// Whether its memory may be given back now, as far as the last try is concerned.
    pub(super) fn may_try(&self, now: Duration) -> bool {
        match self.trial {
            Trial::Due => true,
            Trial::NotBefore(at) => now >= at,
            Trial::Queued | Trial::Over => false,
        }
    }
}

/// How a sandbox stands on the ladder.
pub(super) fn standing(footing: &Footing) -> Standing {
    let view = &footing.view;
    let frozen = matches!(view.tier, Some(Tier::Frozen | Tier::Reclaimed));
    let alive = view.phase == PodPhase::Ready && view.tier.is_some();
    match view.operating_mode() {
        _ if !alive => Standing::Away,
        OperatingMode::Suspended => Standing::Away,
        OperatingMode::Running if !view.member => match frozen {
            true if footing.resting => Standing::Resting,
            // It is being thawed.
            true => Standing::Away,
            false => Standing::Running { held: footing.held },
        },
        OperatingMode::Running | OperatingMode::Frozen if frozen => Standing::Kept,
        OperatingMode::Running | OperatingMode::Frozen => Standing::Away,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bells_are_tallied() {
        let mut tally = Tally::default();
        let mut seats = [0, 1].map(|_| Seat::new(PodUid::from("p")));
        for (seat, bell, armed, unproven) in [
            (0, Bell::Armed, 1, 0),
            (1, Bell::Armed, 2, 0),
            (1, Bell::Armed, 2, 0),
            (0, Bell::Unproven, 1, 1),
            (0, Bell::Silent, 1, 0),
            (0, Bell::Silent, 1, 0),
            (1, Bell::Silent, 0, 0),
        ] {
            seats[seat].set_bell(bell, &mut tally);
            assert_eq!(seats[seat].bell(), bell);
            assert_eq!(tally, Tally { armed, unproven }, "{seat} {bell:?}");
        }
    }

    #[test]
    fn a_try_that_was_put_off_is_waited_for_only_while_its_rule_wants_it() {
        let secs = Duration::from_secs;
        let mut seat = Seat::new(PodUid::from("p"));
        seat.clock.look(Standing::Resting, 0, secs(100));
        seat.rules.reclaim_after = Some(secs(10));
        seat.trial = Trial::NotBefore(secs(140));
        assert_eq!(seat.next_look(secs(105)), Some(secs(110)));
        assert_eq!(seat.next_look(secs(120)), Some(secs(140)));
        assert_eq!(seat.next_look(secs(141)), Some(secs(141)), "it is due");
        seat.rules.reclaim_after = Some(secs(1_000));
        assert_eq!(seat.next_look(secs(141)), Some(secs(1_100)));
        seat.rules.reclaim_after = None;
        assert_eq!(seat.next_look(secs(141)), None);
        seat.rules.reclaim_after = Some(secs(10));
        for trial in [Trial::Queued, Trial::Over] {
            seat.trial = trial;
            assert_eq!(seat.next_look(secs(141)), None, "{trial:?}");
        }
    }
}
