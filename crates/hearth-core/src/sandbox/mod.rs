//! The life of one sandbox on its node, as a pure state machine.
//!
//! [`step`] takes what has happened into the facts ([`State`]), compares them with what is wanted ([`Desired`]) and
//! says what to do next ([`Effect`]). At most one [`Op`] is under way at a time, probes aside. The phase is derived from
//! the facts in each step, so that it can never disagree with them.
//!
//! What holds, whatever happens in whatever order (the tests play it through):
//!
//! * The pod's uid is recorded before anything is made under it; the record goes after everything else is gone.
//! * An operation that failed is tried again from where it failed, after a back-off of its own: another that fails
//!   meanwhile does not cut it short. One whose outcome is unknown is
//!   settled by listing what the runtime has under the pod's uid and attempt; what is not found is made under the next
//!   attempt, and what turns up late under an older one is removed.
//! * Nothing that needs live processes is done to a frozen pod: it is thawed first. Stopping always is such a thing.
//! * A pod is frozen only while nobody holds it and no probe runs, and is reported frozen only when it was confirmed.
//! * No ordinary container starts before each init container has ended well in the same CRI sandbox.
//! * A pod that was bound with variables is not ready before each container that they are for was made with them. None of
//!   these starts while the one that it takes the place of has a process; what is left of that goes when there is time.
//! * The time that counts for a pod's deadline is the time in which it was claimed and its processes ran, and no other.
//! * Once a pod is being stopped it is never used again: a resume makes a new incarnation.

mod deadline;
mod decide;
mod derive;
mod env;
mod failures;
mod fold;
mod look;
mod op;
mod phase;
mod state;

#[cfg(test)]
mod plans;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod world;

use std::time::Duration;

pub use failures::{Failure, Failures};
pub use look::{SeenContainer, SeenLife, SeenSandbox, Sighting};
pub use op::{Effect, Event, Learned, NewPod, Op, Outcome, Priority, Step, Stray};
pub use phase::{CreateStep, Phase, StopStep};
pub use state::{
    ActiveTime, Container, Contents, Desired, Doom, Ended, Goal, HookState, Life, Observed, Pod,
    Predecessor, Prepared, Residency, SandboxFact, Stage, State, Unsettled,
};

/// Takes in what was observed and says what to do next. `now` is the time since any fixed moment of this process.
#[must_use]
pub fn step(
    state: &State,
    observed: &Observed,
    desired: &Desired,
    now: Duration,
) -> (State, Vec<Effect>) {
    let mut next = state.clone();
    next.keep_time(observed.residency, now);
    next.keep_active_time(observed.residency, desired, now);
    next.fold(&observed.event, desired, observed.residency, now);
    let effects = next.act(observed.residency, desired, now);
    (next, effects)
}
