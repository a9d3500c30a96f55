//! The terminal that this command runs in.

use std::io::{self, IsTerminal as _};

use anyhow::{Result, bail};
use hearth_proto::sandboxes::v1::TerminalSize;
use rustix::stdio;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

/// What is assumed of a terminal that does not say how large it is.
const USUAL: TerminalSize = TerminalSize {
    width: 80,
    height: 24,
};

/// The terminal in raw mode: keys go through as they are, Ctrl-C among them. It is as it was once this is dropped.
#[derive(Debug)]
pub(super) struct Raw {
    before: Termios,
}

impl Raw {
    /// Changes the mode of the terminal.
    pub(super) fn enter() -> io::Result<Self> {
        let before = tcgetattr(stdio::stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(stdio::stdin(), OptionalActions::Drain, &raw)?;
        Ok(Self { before })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // A terminal that is gone needs no mode.
        let _ = tcsetattr(stdio::stdin(), OptionalActions::Drain, &self.before);
    }
}

/// Refuses to go on without a terminal.
pub(super) fn check() -> Result<()> {
    if io::stdin().is_terminal() {
        return Ok(());
    }
    bail!("stdin is not a terminal, and -t needs one: leave -t out")
}

/// How large the terminal is now.
pub(super) fn size() -> TerminalSize {
    match tcgetwinsize(stdio::stdin()) {
        Ok(size) if size.ws_col > 0 && size.ws_row > 0 => TerminalSize {
            width: size.ws_col.into(),
            height: size.ws_row.into(),
        },
        _ => USUAL,
    }
}
