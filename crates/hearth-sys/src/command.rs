//! Running the host's tools with an end in sight.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// A tool that failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CommandError {
    /// It could not be started or spoken to.
    #[error("run {program}", program = .program.display())]
    Run {
        /// The program.
        program: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// It did not end in time and was killed.
    #[error("{program} did not end within {within:?}", program = .program.display())]
    Timeout {
        /// The program.
        program: PathBuf,
        /// The time it had.
        within: Duration,
    },
    /// It reported a failure.
    #[error("{program} failed ({status}): {stderr}", program = .program.display())]
    Failed {
        /// The program.
        program: PathBuf,
        /// How it ended.
        status: std::process::ExitStatus,
        /// The end of what it wrote to standard error.
        stderr: String,
    },
}
