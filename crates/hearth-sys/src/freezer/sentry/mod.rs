//! Pausing a gVisor sandbox by its Sentry's own word.
//!
//! A gVisor sandbox must not be frozen by its cgroup: in the systrap platform the freeze interrupts the notice by which
//! a stub hands a system call to the Sentry, and the Sentry kills the stub and with it the application. So the Sentry is
//! asked to stop its tasks; its own threads go on.
//!
//! Two properties of the Sentry decide how it is asked. Pauses nest: two of them need two resumes. And a resume without
//! a pause is a panic, which ends the sandbox. So a request of which the outcome is not known is never sent again: its
//! answer is waited for on the connection that it went out on, or the Sentry is looked at first.

mod control;
mod look;
#[cfg(test)]
mod tests;

use std::ffi::OsStr;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use parking_lot::Mutex;

use super::{FreezeError, Freezer, Method, UNDO};
use crate::wait::Deadline;

use control::{Answer, Call};
use look::View;

const PAUSE: &str = "containerManager.Pause";
const RESUME: &str = "containerManager.Resume";
const STACKS: &str = "debug.Stacks";

/// How long is waited before the first look for a pause that was sent and has not begun; doubles with each, because a look
/// has the Sentry dump the stacks of all its goroutines.
const LOOK_AGAIN: Duration = Duration::from_millis(5);
/// The longest wait between two such looks.
const LOOK_AGAIN_AT_MOST: Duration = Duration::from_millis(160);
/// How long a look may take where nobody has said how long.
const LOOK_WITHIN: Duration = Duration::from_secs(2);

/// The freezer of one gVisor sandbox.
#[derive(Debug)]
pub struct SentryFreezer {
    socket: PathBuf,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    known: Known,
    /// What was sent and not answered.
    pending: Option<(Request, Call)>,
    /// Whether a pause was undone that had not ended, so that it may still wait for its tasks.
    hung: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Known {
    #[default]
    Nothing,
    Running,
    Paused,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Request {
    Pause,
    Resume,
}

impl SentryFreezer {
    /// The freezer of the Sentry whose control socket this is: `<runsc's root>/<namespace>/runsc-<sandbox id>.sock`.
    #[must_use]
    pub fn new(socket: PathBuf) -> Self {
        Self {
            socket,
            inner: Mutex::default(),
        }
    }

    fn failed(&self, action: &'static str, source: io::Error) -> FreezeError {
        if control::is_gone(&source) {
            return FreezeError::Gone {
                path: self.socket.clone(),
            };
        }
        FreezeError::Io {
            action,
            path: self.socket.clone(),
            source,
        }
    }

    fn not_thawed(&self, within: Duration) -> FreezeError {
        FreezeError::NotThawed {
            path: self.socket.clone(),
            within,
        }
    }

    fn refused(&self, answer: Answer) -> FreezeError {
        FreezeError::Refused {
            path: self.socket.clone(),
            message: answer.err,
        }
    }

    fn send(&self, method: &str) -> Result<Call, FreezeError> {
        Call::send(&self.socket, method).map_err(|source| self.failed("ask", source))
    }

    /// Looks at the Sentry's tasks; `None` when it did not answer in time.
    fn look(&self, deadline: Deadline) -> Result<Option<View>, FreezeError> {
        let mut call = self.send(STACKS)?;
        let answer = call.answer(deadline);
        match answer.map_err(|source| self.failed("look at", source))? {
            None => Ok(None),
            Some(answer) if answer.success => {
                Ok(Some(View::of(answer.result.as_str().unwrap_or_default())))
            }
            Some(answer) => Err(self.refused(answer)),
        }
    }

    fn not_frozen(&self, within: Duration) -> FreezeError {
        FreezeError::NotFrozen {
            path: self.socket.clone(),
            within,
        }
    }

    fn stuck(&self, freeze: FreezeError, thaw: FreezeError) -> FreezeError {
        FreezeError::Stuck {
            path: self.socket.clone(),
            freeze: Box::new(freeze),
            thaw: Box::new(thaw),
        }
    }

    /// Finds out whether the tasks run, where that is not known. A look takes its own time: what it takes is not lost to
    /// the pause.
    fn find_out(&self, inner: &mut Inner) -> Result<(), FreezeError> {
        if inner.known != Known::Nothing && !inner.hung {
            return Ok(());
        }
        let view = self.look(Deadline::after(LOOK_WITHIN))?;
        let view = view.ok_or_else(|| FreezeError::Silent {
            path: self.socket.clone(),
        })?;
        inner.saw(view);
        if view.pausing {
            return Err(FreezeError::Wedged {
                path: self.socket.clone(),
            });
        }
        Ok(())
    }

    /// Pauses. On an error the tasks may be stopped, where it was sent and not answered.
    fn pause(&self, inner: &mut Inner, within: Duration) -> Result<(), FreezeError> {
        self.find_out(inner)?;
        if inner.known == Known::Paused {
            return Ok(());
        }
        let call = self.send(PAUSE)?;
        inner.known = Known::Nothing;
        let (_, call) = inner.pending.insert((Request::Pause, call));
        let answer = call.answer(Deadline::after(within));
        let Some(answer) = answer.map_err(|source| self.failed("pause", source))? else {
            return Err(self.not_frozen(within));
        };
        inner.pending = None;
        if !answer.success {
            // It says so before it does anything.
            inner.known = Known::Running;
            return Err(self.refused(answer));
        }
        inner.known = Known::Paused;
        Ok(())
    }

    /// Sees to it that the tasks run, whatever was sent before.
    fn resume(&self, inner: &mut Inner, within: Duration) -> Result<(), FreezeError> {
        let deadline = Deadline::after(within);
        let mut patience = LOOK_AGAIN;
        loop {
            match inner.pending.take() {
                Some((request, call)) => {
                    if !self.settle(inner, request, call, patience, deadline)? && deadline.passed()
                    {
                        return Err(self.not_thawed(within));
                    }
                    patience = LOOK_AGAIN_AT_MOST.min(patience * 2);
                }
                None => match inner.known {
                    Known::Running => return Ok(()),
                    Known::Paused => {
                        let call = self.send(RESUME)?;
                        inner.known = Known::Nothing;
                        inner.pending = Some((Request::Resume, call));
                    }
                    Known::Nothing => {
                        let view = self.look(deadline)?;
                        inner.saw(view.ok_or_else(|| self.not_thawed(within))?);
                    }
                },
            }
        }
    }

    /// Finds out what became of a request; `false` when that cannot be found out yet, and then it stays pending. A pause
    /// is looked for when it was not answered within `patience`.
    fn settle(
        &self,
        inner: &mut Inner,
        request: Request,
        mut call: Call,
        patience: Duration,
        deadline: Deadline,
    ) -> Result<bool, FreezeError> {
        // A pause that has not ended by now may never end.
        let patience = match request {
            Request::Pause => Deadline::after(patience.min(deadline.left())),
            Request::Resume => deadline,
        };
        match call.answer(patience) {
            Ok(Some(answer)) => {
                inner.known = match (request, answer.success) {
                    (Request::Pause, true) => Known::Paused,
                    (Request::Resume, true) => Known::Running,
                    // Work that follows a resume may fail after the tasks run.
                    (_, false) => Known::Nothing,
                };
                return Ok(true);
            }
            Err(error) if control::is_closed(&error) => {
                inner.known = Known::Nothing;
                return Ok(true);
            }
            Err(source) => return Err(self.failed("wait for", source)),
            Ok(None) => inner.pending = Some((request, call)),
        }
        if request == Request::Pause
            && let Some(view) = self.look(deadline)?
            && (view.pausing || view.is_paused())
        {
            // It has begun, so that it can be undone.
            inner.pending = None;
            inner.hung = true;
            inner.known = Known::Paused;
            return Ok(true);
        }
        Ok(false)
    }
}

impl Inner {
    /// Nothing is pending, and this is what a look has shown.
    fn saw(&mut self, view: View) {
        self.hung = view.pausing;
        self.known = match view.is_to_be_resumed() {
            true => Known::Paused,
            false => Known::Running,
        };
    }
}

impl Freezer for SentryFreezer {
    fn method(&self) -> Method {
        Method::Sentry
    }

    fn remembers(&self, sandbox: &str) -> bool {
        let name = self.socket.file_name().and_then(OsStr::to_str);
        let id = name.and_then(|name| name.strip_prefix("runsc-")?.strip_suffix(".sock"));
        id == Some(sandbox)
    }

    fn freeze(&self, within: Duration) -> Result<(), FreezeError> {
        let mut inner = self.inner.lock();
        if inner.pending.is_some() {
            match self.resume(&mut inner, within) {
                Ok(()) => {}
                Err(gone @ FreezeError::Gone { .. }) => return Err(gone),
                Err(thaw) => return Err(self.stuck(self.not_frozen(within), thaw)),
            }
        }
        let Err(failure) = self.pause(&mut inner, within) else {
            return Ok(());
        };
        // No pause was sent, or it was refused: there is nothing to undo.
        if inner.pending.is_none() && inner.known != Known::Paused {
            return Err(failure);
        }
        match self.resume(&mut inner, within.max(UNDO)) {
            Ok(()) | Err(FreezeError::Gone { .. }) => Err(failure),
            Err(thaw) => Err(self.stuck(failure, thaw)),
        }
    }

    fn thaw(&self, within: Duration) -> Result<(), FreezeError> {
        let mut inner = self.inner.lock();
        match self.resume(&mut inner, within) {
            Err(FreezeError::Gone { .. }) => Ok(()),
            result => result,
        }
    }

    fn is_frozen(&self) -> Result<bool, FreezeError> {
        let mut inner = self.inner.lock();
        let view = match self.look(Deadline::after(LOOK_WITHIN)) {
            Err(FreezeError::Gone { .. }) => return Ok(false),
            view => view?.ok_or_else(|| FreezeError::Silent {
                path: self.socket.clone(),
            })?,
        };
        let paused = view.is_paused();
        if inner.pending.is_none() && inner.known == Known::Nothing && paused {
            inner.known = Known::Paused;
        }
        Ok(paused)
    }
}
