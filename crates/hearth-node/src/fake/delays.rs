//! How long things take at a fake runtime.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use hearth_core::idle::parse_duration;
use hearth_cri::Operation;
use hearth_cri::fake::FakeRuntime;
use thiserror::Error;

/// What can take time at a fake runtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Making a pod sandbox.
    RunSandbox,
    /// Making a container.
    Create,
    /// Starting a container.
    Start,
    /// Freezing a pod.
    Freeze,
    /// Thawing a pod.
    Thaw,
}

impl Step {
    const ALL: [(Self, &'static str); 5] = [
        (Self::RunSandbox, "run-sandbox"),
        (Self::Create, "create"),
        (Self::Start, "start"),
        (Self::Freeze, "freeze"),
        (Self::Thaw, "thaw"),
    ];
}

/// How long one step takes: `STEP=DURATION`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delay {
    /// The step.
    pub step: Step,
    /// How long it takes.
    pub takes: Duration,
}

/// A text that is no [`Delay`].
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{text:?} is no STEP=DURATION: {problem}")]
pub struct DelayError {
    text: String,
    problem: &'static str,
}

impl FromStr for Delay {
    type Err = DelayError;

    fn from_str(text: &str) -> Result<Self, DelayError> {
        let wrong = |problem| DelayError {
            text: text.to_owned(),
            problem,
        };
        let (name, takes) = text
            .split_once('=')
            .ok_or_else(|| wrong("there is no = in it"))?;
        let step = Step::ALL.into_iter().find(|(_, known)| *known == name);
        let (step, _) = step.ok_or_else(|| {
            wrong("the step must be one of run-sandbox, create, start, freeze and thaw")
        })?;
        let takes = parse_duration(takes)
            .filter(|takes| *takes <= LONGEST)
            .ok_or_else(|| wrong("the duration must be such as 1.5ms, and at most 1m"))?;
        Ok(Self { step, takes })
    }
}

/// Beyond this each call would end by its deadline.
const LONGEST: Duration = Duration::from_secs(60);

/// How long each step takes; none of them any time by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Delays {
    run_sandbox: Duration,
    create: Duration,
    start: Duration,
    freezer: FreezerDelays,
}

/// How long a pod takes to be frozen and thawed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct FreezerDelays {
    pub(crate) freeze: Duration,
    pub(crate) thaw: Duration,
}

impl FromIterator<Delay> for Delays {
    /// The last of several for one step counts.
    fn from_iter<I: IntoIterator<Item = Delay>>(delays: I) -> Self {
        let mut all = Self::default();
        for Delay { step, takes } in delays {
            let place = match step {
                Step::RunSandbox => &mut all.run_sandbox,
                Step::Create => &mut all.create,
                Step::Start => &mut all.start,
                Step::Freeze => &mut all.freezer.freeze,
                Step::Thaw => &mut all.freezer.thaw,
            };
            *place = takes;
        }
        all
    }
}

impl fmt::Display for Delays {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            run_sandbox,
            create,
            start,
            freezer: FreezerDelays { freeze, thaw },
        } = self;
        write!(
            f,
            "run-sandbox {run_sandbox:?}, create {create:?}, start {start:?}, freeze {freeze:?}, thaw {thaw:?}"
        )
    }
}

impl Delays {
    /// Slows the calls of a runtime down.
    pub(super) fn slow(&self, runtime: &FakeRuntime) {
        for (op, takes) in [
            (Operation::RunPodSandbox, self.run_sandbox),
            (Operation::CreateContainer, self.create),
            (Operation::StartContainer, self.start),
        ] {
            runtime.delay(op, takes);
        }
    }

    /// Those of freezers.
    pub(super) fn freezer(&self) -> FreezerDelays {
        self.freezer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_are_read_and_the_last_of_a_step_counts() {
        let delays: Delays = ["create=20ms", "thaw=0.25ms", "create=1s"]
            .iter()
            .map(|text| text.parse::<Delay>().unwrap())
            .collect();
        let expect = Delays {
            create: Duration::from_secs(1),
            freezer: FreezerDelays {
                thaw: Duration::from_micros(250),
                ..FreezerDelays::default()
            },
            ..Delays::default()
        };
        assert_eq!(delays, expect);
        assert_eq!(
            delays.to_string(),
            "run-sandbox 0ns, create 1s, start 0ns, freeze 0ns, thaw 250µs"
        );
    }

    #[test]
    fn what_is_no_delay_is_told_with_what_would_be_one() {
        for (text, says) in [
            ("thaw", "there is no ="),
            ("melt=1s", "run-sandbox, create, start, freeze and thaw"),
            ("thaw=1", "such as 1.5ms"),
            ("thaw=-1s", "such as 1.5ms"),
            ("create=2m", "at most 1m"),
        ] {
            let error = text.parse::<Delay>().unwrap_err().to_string();
            assert!(error.contains(text) && error.contains(says), "{error}");
        }
    }
}
