//! A terminal that a test types at.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::fs::{Mode, OFlags, open};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};
use tokio::io::AsyncReadExt as _;
use tokio::time::timeout;

/// The side of a terminal at which a person sits.
#[derive(Debug)]
pub struct Pty {
    master: File,
    output: tokio::fs::File,
    /// What was shown and not asked for yet.
    shown: String,
}

impl Pty {
    /// A terminal of this size, and the side at which programs run.
    ///
    /// # Errors
    /// When the system has none left.
    pub fn open(columns: u16, rows: u16) -> Result<(Self, OwnedFd)> {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).context("open a terminal")?;
        grantpt(&master)?;
        unlockpt(&master)?;
        let name = ptsname(&master, Vec::new())?;
        let programs = open(&name, OFlags::RDWR | OFlags::NOCTTY, Mode::empty())?;
        let master = File::from(master);
        let pty = Self {
            output: tokio::fs::File::from_std(master.try_clone()?),
            master,
            shown: String::new(),
        };
        pty.resize(columns, rows)?;
        Ok((pty, programs))
    }

    /// Changes its size, as a window does.
    ///
    /// # Errors
    /// The system's.
    pub fn resize(&self, columns: u16, rows: u16) -> Result<()> {
        let size = Winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&self.master, size).context("resize the terminal")
    }

    /// Types.
    ///
    /// # Errors
    /// The system's.
    pub fn type_keys(&self, keys: &str) -> Result<()> {
        let mut master = &self.master;
        master.write_all(keys.as_bytes()).context("type")
    }

    /// Waits until `text` is shown after all that was waited for before.
    ///
    /// # Errors
    /// When that does not happen within `limit`, or no program is at the terminal any more.
    pub async fn until(&mut self, text: &str, limit: Duration) -> Result<()> {
        let read = async {
            let mut block = [0; 4096];
            loop {
                if let Some(at) = self.shown.find(text) {
                    self.shown.drain(..at + text.len());
                    return Ok(());
                }
                match self.output.read(&mut block).await {
                    Ok(read) if read > 0 => {
                        let read = String::from_utf8_lossy(&block[..read]);
                        self.shown.push_str(&read);
                    }
                    // What Linux says when the last program has left.
                    Ok(_) | Err(_) => bail!("{text:?} was not shown but {:?}", self.shown),
                }
            }
        };
        match timeout(limit, read).await {
            Ok(read) => read,
            Err(_elapsed) => bail!(
                "{text:?} was not shown within {limit:?} but {:?}",
                self.shown
            ),
        }
    }

    /// Whether keys are shown and lines edited, as on a terminal that nobody has changed.
    ///
    /// # Errors
    /// The system's.
    pub fn is_cooked(&self) -> Result<bool> {
        let modes = tcgetattr(&self.master)?.local_modes;
        Ok(modes.contains(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG))
    }
}
