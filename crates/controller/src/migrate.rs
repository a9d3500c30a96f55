//! `agent-sandbox-controller migrate`: moves a cluster's objects from the agent-sandbox controller to this one and back.

use std::io::Write as _;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use hearth_api::constants::LEADER_LEASE;
use hearth_controller::migrate::{self, MigrateConfig, MigrateError, Migrated};
use hearth_controller::own_namespace;
use hearth_core::migrate::{Phase, Target};
use hearth_telemetry::ErrorChain;

use crate::USAGE;
use crate::go_flags::{self, FlagSet, UsageError};
use crate::go_values::{FlagValue, GoDuration};

/// The first argument that leads here.
pub(crate) const COMMAND: &str = "migrate";

/// Nothing was begun, because the wrong controller leads.
const REFUSED: u8 = 3;

const HELP: &str = "\
Usage: agent-sandbox-controller migrate --to=hearth|upstream [flags]

Moves Sandboxes, pools and volumes from the agent-sandbox controller to Hearth's, or back. It goes as far as it can while
that controller leads which does, says what became of each object, and goes on from there when it is run again.

  -to string
    \tWhich controller the objects are to be for: hearth or upstream
  -dry-run
    \tSay what would be done first about each object, and write nothing
  -namespace string
    \tOnly objects of this namespace. Empty: of all, and the versions that objects are stored in as well
  -batch int
    \tSo many objects at once (default 10)
  -timeout duration
    \tHow long one object may take (default 5m0s)
  -kubeconfig string
    \tKubeconfig file. Empty: the Pod's ServiceAccount
  -leader-election-namespace string
    \tNamespace of the leader Lease. Empty: that of the Pod, else agent-sandbox-system

It ends with 0 when nothing is left to do, 1 when something is blocked or has failed, 2 when the command line makes no
sense, 3 when the wrong controller leads.
";

/// What the flags are set to.
#[derive(Clone, Debug, PartialEq)]
struct Options {
    to: Option<Target>,
    dry_run: bool,
    namespace: String,
    batch: NonZeroUsize,
    timeout: Duration,
    kubeconfig: String,
    lease_namespace: String,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            to: None,
            dry_run: false,
            namespace: String::new(),
            batch: NonZeroUsize::MIN.saturating_add(9),
            timeout: Duration::from_secs(300),
            kubeconfig: String::new(),
            lease_namespace: String::new(),
        }
    }
}

impl FlagSet for Options {
    fn is_switch(&self, name: &str) -> Option<bool> {
        match name {
            "dry-run" => Some(true),
            "to"
            | "namespace"
            | "batch"
            | "timeout"
            | "kubeconfig"
            | "leader-election-namespace" => Some(false),
            _ => None,
        }
    }

    fn set(&mut self, name: &str, text: &str) -> Result<(), String> {
        match name {
            "dry-run" => self.dry_run = bool::parse(text)?,
            "to" => {
                let target = Target::of(text);
                self.to = Some(target.ok_or("it must be hearth or upstream")?);
            }
            "namespace" => text.clone_into(&mut self.namespace),
            "batch" => {
                let number = usize::try_from(i64::parse(text)?).ok();
                let number = number.and_then(NonZeroUsize::new);
                self.batch = number.ok_or("it must be greater than 0")?;
            }
            "timeout" => {
                self.timeout = GoDuration::parse(text)?.or_zero();
                if self.timeout.is_zero() {
                    return Err("it must be greater than 0".to_owned());
                }
            }
            "kubeconfig" => text.clone_into(&mut self.kubeconfig),
            "leader-election-namespace" => text.clone_into(&mut self.lease_namespace),
            _ => return Err("there is no such flag".to_owned()),
        }
        Ok(())
    }
}

/// Why a command line cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum ArgumentError {
    #[error(transparent)]
    Usage(#[from] UsageError),
    #[error("unexpected argument {0:?}")]
    Surplus(String),
    #[error("-to must be given: hearth or upstream")]
    NoTarget,
}

fn config(args: &[String]) -> Result<MigrateConfig, ArgumentError> {
    let mut options = Options::default();
    // More is done here than a controller that is started does: an argument that is not understood may be what matters.
    if let Some(surplus) = go_flags::parse(&mut options, args)?.first() {
        return Err(ArgumentError::Surplus(surplus.clone()));
    }
    let given = |text: String| Some(text).filter(|text| !text.is_empty());
    Ok(MigrateConfig {
        target: options.to.ok_or(ArgumentError::NoTarget)?,
        kubeconfig: given(options.kubeconfig).map(PathBuf::from),
        lease_namespace: given(options.lease_namespace).unwrap_or_else(own_namespace),
        lease_name: LEADER_LEASE.to_owned(),
        dry_run: options.dry_run,
        namespace: given(options.namespace),
        batch: options.batch,
        timeout: options.timeout,
    })
}

/// Runs the command with the arguments behind its name.
pub(crate) fn main(args: &[String]) -> ExitCode {
    let config = match config(args) {
        Ok(config) => config,
        Err(ArgumentError::Usage(UsageError::Help)) => {
            eprint!("{HELP}");
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprint!("{error}\n{HELP}");
            return ExitCode::from(USAGE);
        }
    };
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("cannot start the async runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    let mut say = |line: &str| {
        // Nobody reads on: what is begun is finished all the same, and can be run again to be told of.
        let _ = writeln!(std::io::stdout(), "{line}");
    };
    match runtime.block_on(migrate::run(&config, &mut say)) {
        Ok(migrated) => {
            say(&migrated.summary.to_string());
            if let Some(next) = next_step(&config, &migrated) {
                say(next);
            }
            if migrated.summary.is_fine() {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            }
        }
        Err(error) => {
            eprintln!("{}", ErrorChain(&error));
            match error {
                MigrateError::Refused(_) => ExitCode::from(REFUSED),
                _ => ExitCode::FAILURE,
            }
        }
    }
}

/// What the operator is to do next.
fn next_step(config: &MigrateConfig, migrated: &Migrated) -> Option<&'static str> {
    if config.dry_run {
        return None;
    }
    if !migrated.summary.is_fine() {
        return Some(
            "Not everything is done: see to what is blocked or has failed, and run this again.",
        );
    }
    match migrated.phase {
        Phase::ToHearth => None,
        Phase::Drain => Some(
            "All is suspended. Now scale Hearth's controller to 0 and run this again to hand the objects over.",
        ),
        Phase::HandOver => Some("All is handed over. Now start the agent-sandbox controller."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(args: &[&str]) -> Result<MigrateConfig, ArgumentError> {
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        config(&args)
    }

    #[test]
    fn flags_are_read_in_go_s_syntax() {
        let config = parsed(&["--to=hearth"]).unwrap();
        assert_eq!(config.target, Target::Hearth);
        assert_eq!((config.dry_run, config.namespace), (false, None));
        assert_eq!(config.batch.get(), 10);
        assert_eq!(config.timeout, Duration::from_secs(300));
        let config = parsed(&[
            "-to",
            "upstream",
            "--dry-run",
            "--namespace",
            "n",
            "--batch=3",
            "-timeout=90s",
            "--kubeconfig",
            "/k",
            "--leader-election-namespace=system",
        ])
        .unwrap();
        assert_eq!(config.target, Target::Upstream);
        assert!(config.dry_run);
        assert_eq!(config.namespace.as_deref(), Some("n"));
        assert_eq!((config.batch.get(), config.timeout.as_secs()), (3, 90));
        assert_eq!(config.kubeconfig, Some(PathBuf::from("/k")));
        assert_eq!(config.lease_namespace, "system");
    }

    #[test]
    fn a_command_line_that_makes_no_sense_moves_nothing() {
        for (args, word) in [
            (vec![], "-to must be given"),
            (vec!["--to=elsewhere"], "hearth or upstream"),
            (vec!["--to=hearth", "--batch=0"], "greater than 0"),
            (vec!["--to=hearth", "--batch=-1"], "greater than 0"),
            (vec!["--to=hearth", "--batch=x"], "parse error"),
            (vec!["--to=hearth", "--timeout=0"], "greater than 0"),
            (vec!["--to=hearth", "--everything"], "not defined"),
            (vec!["--to=hearth", "now"], "unexpected argument"),
        ] {
            let error = parsed(&args).unwrap_err().to_string();
            assert!(error.contains(word), "{args:?}: {error}");
        }
        let help = parsed(&["-help"]).unwrap_err();
        assert_eq!(help, ArgumentError::Usage(UsageError::Help));
    }

    #[test]
    fn the_help_names_each_flag() {
        for flag in [
            "to",
            "dry-run",
            "namespace",
            "batch",
            "timeout",
            "kubeconfig",
            "leader-election-namespace",
        ] {
            assert!(Options::default().is_switch(flag).is_some(), "{flag}");
            assert!(HELP.contains(&format!("  -{flag}")), "{flag}");
        }
    }
}
