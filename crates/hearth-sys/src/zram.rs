//! A swap device in memory, for tests of what needs swap. hearthd itself makes none: that is for whoever sets up the host.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::command;

/// How long a tool may take.
const TOOL_LIMIT: Duration = Duration::from_secs(60);
/// Where devices are made and taken away.
const CONTROL: &str = "/sys/class/zram-control";

/// A zram device that is used as swap for as long as this lives.
#[derive(Debug)]
pub struct Zram {
    number: String,
}

impl Zram {
    /// Makes one of so many bytes and swaps to it.
    ///
    /// # Errors
    /// When this kernel has no zram, this is not root, or `mkswap` or `swapon` fails.
    pub fn new(bytes: u64) -> io::Result<Self> {
        let number = fs::read_to_string(Path::new(CONTROL).join("hot_add"))?;
        let zram = Self {
            number: number.trim().to_owned(),
        };
        fs::write(zram.file("disksize"), bytes.to_string())?;
        zram.run("mkswap")?;
        zram.run("swapon")?;
        Ok(zram)
    }

    fn file(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/sys/block/zram{}/{name}", self.number))
    }

    fn run(&self, tool: &str) -> io::Result<()> {
        let device = format!("/dev/zram{}", self.number);
        let done = command::run(Path::new(tool), &[&device], "", TOOL_LIMIT);
        done.map(drop).map_err(io::Error::other)
    }
}

impl Drop for Zram {
    fn drop(&mut self) {
        // A test has nobody to tell; what stays behind is seen by the next look at /proc/swaps.
        let _ = self.run("swapoff");
        let _ = fs::write(self.file("reset"), "1");
        let _ = fs::write(Path::new(CONTROL).join("hot_remove"), &self.number);
    }
}
