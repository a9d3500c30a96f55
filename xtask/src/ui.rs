//! What the user sees while something takes long: one line when a step begins, one when it is
//! done with the time it took, and a sign of life in between.

use std::io::Write as _;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

/// A step that is still running after this long says so, and again after each further span.
const SIGN_OF_LIFE: Duration = Duration::from_secs(30);

/// Prints one line of ordinary progress.
pub(crate) fn note(text: impl AsRef<str>) {
    // A closed standard output (a pager that ended) is no reason to stop half-way.
    let _ = writeln!(std::io::stdout(), "    {}", text.as_ref());
}

/// Prints a heading that separates the phases of a longer command.
pub(crate) fn heading(text: impl AsRef<str>) {
    let _ = writeln!(std::io::stdout(), "==> {}", text.as_ref());
}

/// Prints something that the user should look at but that does not stop the command.
pub(crate) fn warn(text: impl AsRef<str>) {
    let _ = writeln!(std::io::stderr(), "warning: {}", text.as_ref());
}

/// Runs `work` as a step called `what` and prints how long it took.
pub(crate) fn step<T>(what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    note(format!("{what} ..."));
    let started = Instant::now();
    let result = with_sign_of_life(what, started, work);
    let took = duration(started.elapsed());
    match &result {
        Ok(_) => note(format!("{what}: done in {took}")),
        Err(_) => note(format!("{what}: FAILED after {took}")),
    }
    result
}

fn with_sign_of_life<T>(
    what: &str,
    started: Instant,
    work: impl FnOnce() -> Result<T>,
) -> Result<T> {
    thread::scope(|scope| {
        let (done, ended) = mpsc::channel::<()>();
        scope.spawn(move || {
            // Dropping `done` ends this thread at once.
            while let Err(RecvTimeoutError::Timeout) = ended.recv_timeout(SIGN_OF_LIFE) {
                note(format!(
                    "{what}: still at it ({})",
                    duration(started.elapsed())
                ));
            }
        });
        let result = work();
        drop(done);
        result
    })
}

/// Writes a duration the way a person would say it: `0.4s`, `12s`, `3m05s`.
pub(crate) fn duration(d: Duration) -> String {
    let seconds = d.as_secs();
    if seconds < 10 {
        format!("{:.1}s", d.as_secs_f64())
    } else if seconds < 60 {
        format!("{seconds}s")
    } else if seconds < 3600 {
        format!("{}m{:02}s", seconds / 60, seconds % 60)
    } else {
        format!("{}h{:02}m", seconds / 3600, seconds / 60 % 60)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_like_speech() {
        for (millis, expect) in [
            (0, "0.0s"),
            (440, "0.4s"),
            (12_000, "12s"),
            (185_000, "3m05s"),
            (3_660_000, "1h01m"),
        ] {
            assert_eq!(duration(Duration::from_millis(millis)), expect);
        }
    }
}
