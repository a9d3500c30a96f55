//! Running the host's tools with an end in sight.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::event::PollFlags;
use rustix::fs::MemfdFlags;
use rustix::process::{Pid, PidfdFlags};

use crate::wait::{Deadline, wait_any};

/// How much of a tool's complaints is kept.
const STDERR_KEPT: usize = 2000;

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
        status: ExitStatus,
        /// The end of what it wrote to standard error.
        stderr: String,
    },
    /// It was not asked, because the value cannot be part of its input.
    #[error("{value:?} is not a valid {what}")]
    Invalid {
        /// What the value stands for.
        what: &'static str,
        /// The value.
        value: String,
    },
}

/// Runs a tool with `input` and returns its output.
pub(crate) fn run(
    program: &Path,
    args: &[&str],
    input: &str,
    within: Duration,
) -> Result<String, CommandError> {
    let failed = |source: io::Error| CommandError::Run {
        program: program.to_owned(),
        source,
    };
    let deadline = Deadline::after(within);
    // Files in memory instead of pipes: nobody has to read and write at the same time.
    let stdin = memory_file("stdin", input).map_err(failed)?;
    let mut stdout = memory_file("stdout", "").map_err(failed)?;
    let mut stderr = memory_file("stderr", "").map_err(failed)?;
    let mut child = Command::new(program)
        .args(args)
        .stdin(stdin)
        .stdout(Stdio::from(stdout.try_clone().map_err(failed)?))
        .stderr(Stdio::from(stderr.try_clone().map_err(failed)?))
        .spawn()
        .map_err(failed)?;
    let ended = wait_for_exit(&child, deadline);
    if !matches!(ended, Ok(true)) {
        // It may have ended meanwhile, and then there is nothing to kill.
        let _ = child.kill();
    }
    let status = child.wait().map_err(failed)?;
    if !ended.map_err(failed)? {
        return Err(CommandError::Timeout {
            program: program.to_owned(),
            within,
        });
    }
    if !status.success() {
        let text = read_back(&mut stderr).map_err(failed)?;
        let stderr = tail(text.trim(), STDERR_KEPT).to_owned();
        return Err(CommandError::Failed {
            program: program.to_owned(),
            status,
            stderr,
        });
    }
    read_back(&mut stdout).map_err(failed)
}

fn memory_file(name: &str, content: &str) -> io::Result<File> {
    let mut file = File::from(rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC)?);
    file.write_all(content.as_bytes())?;
    file.seek(SeekFrom::Start(0))?;
    Ok(file)
}

fn wait_for_exit(child: &Child, deadline: Deadline) -> io::Result<bool> {
    let pidfd = rustix::process::pidfd_open(Pid::from_child(child), PidfdFlags::empty())?;
    wait_any(&[pidfd.as_fd()], PollFlags::IN, deadline)
}

fn read_back(file: &mut File) -> io::Result<String> {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The last `length` bytes or a little less, cut between characters.
fn tail(text: &str, length: usize) -> &str {
    let start = text.len().saturating_sub(length);
    (start..=text.len())
        .find(|at| text.is_char_boundary(*at))
        .map_or(text, |at| &text[at..])
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(30);

    #[test]
    fn input_goes_in_and_output_comes_out() {
        let big = "x".repeat(1 << 20);
        assert_eq!(run(Path::new("cat"), &[], &big, LONG).unwrap(), big);
    }

    #[test]
    fn a_failure_has_the_tools_words() {
        let error = run(
            Path::new("sh"),
            &["-c", "echo no luck >&2; exit 3"],
            "",
            LONG,
        )
        .unwrap_err();
        assert!(error.to_string().contains("no luck"), "{error}");
    }

    #[test]
    fn a_tool_that_does_not_end_is_killed() {
        let error = run(Path::new("sleep"), &["1000"], "", Duration::from_millis(20)).unwrap_err();
        assert!(matches!(error, CommandError::Timeout { .. }), "{error:?}");
    }

    #[test]
    fn a_tool_that_does_not_exist_is_named() {
        let error = run(Path::new("no-such-tool"), &[], "", LONG).unwrap_err();
        assert_eq!(error.to_string(), "run no-such-tool");
    }

    #[test]
    fn tails_are_cut_between_characters() {
        assert_eq!(tail("abcdef", 3), "def");
        assert_eq!(tail("aé", 1), "");
        assert_eq!(tail("ab", 9), "ab");
    }
}
