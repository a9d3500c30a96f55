//! The guest while it runs.

use std::io::{BufRead as _, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::image::Image;
use crate::paths::Layout;
use crate::process;
use crate::supervise;
use crate::ui;

/// How the last line begins.
const VERDICT: &str = "hearth-guest: ";
/// Where hearthd's log is, which comes over the third serial port.
const HEARTHD_LOG: &str = "guest-hearthd";
/// How many lines of a log are shown when the guest fails.
const TAIL: usize = 40;

/// Boots the guest, shows what it prints, and waits for its verdict.
pub(super) fn run(
    layout: &Layout,
    image: &Image,
    disk: &Path,
    node_api: u16,
    limit: Duration,
) -> Result<()> {
    let deadline = Instant::now() + limit;
    let console = layout.log("guest-console");
    let child = qemu(layout, image, disk, node_api, &console)
        .spawn()
        .context("cannot run qemu-system-x86_64")?;
    let mut guest = Guest(child);
    let lines = guest.lines()?;
    let hearthd = || log_end("hearthd's log", &layout.log(HEARTHD_LOG));
    let both = || format!("{}\n{}", log_end("its console", &console), hearthd());
    match verdict(&lines, deadline, ui::note) {
        Verdict::Passed => Ok(()),
        Verdict::Failed => bail!(
            "tests failed in the guest; what they printed is above; {}",
            hearthd()
        ),
        Verdict::Late => bail!(
            "the guest was not done within {}; {}",
            ui::duration(limit),
            both()
        ),
        Verdict::Ended => bail!("the guest ended without a verdict; {}", both()),
    }
}

/// What came of the guest.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// All tests passed.
    Passed,
    /// Tests failed.
    Failed,
    /// It was not done in time.
    Late,
    /// It ended before it was done.
    Ended,
}

/// Passes on what the guest prints until it comes to a verdict, or the deadline is over, however much it prints.
fn verdict(lines: &Receiver<String>, deadline: Instant, mut show: impl FnMut(String)) -> Verdict {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Verdict::Late;
        }
        match lines.recv_timeout(left) {
            Ok(line) => match line.strip_prefix(VERDICT) {
                Some("passed") => return Verdict::Passed,
                Some(_) => return Verdict::Failed,
                None => show(line),
            },
            Err(RecvTimeoutError::Timeout) => return Verdict::Late,
            Err(RecvTimeoutError::Disconnected) => return Verdict::Ended,
        }
    }
}

/// The end of a log, with what it is of.
fn log_end(what: &str, log: &Path) -> String {
    format!("the end of {what}:\n{}", supervise::log_tail(log, TAIL))
}

fn qemu(layout: &Layout, image: &Image, disk: &Path, node_api: u16, console: &Path) -> Command {
    let mut command = Command::new("qemu-system-x86_64");
    command
        // Both are there on any machine; what virtualises in hardware may not be.
        .args([
            "-accel",
            "tcg,thread=multi",
            "-cpu",
            "max",
            "-smp",
            "2",
            "-m",
            "3G",
        ])
        .args([
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-no-reboot",
        ])
        .arg("-kernel")
        .arg(&image.kernel)
        .arg("-initrd")
        .arg(&image.initrd)
        .args([
            "-append",
            // What defends against the hardware, of which there is none, costs most under emulation.
            "root=/dev/vda rw console=ttyS0 net.ifnames=0 quiet mitigations=off no5lvl nokaslr audit=0",
        ])
        // The image of the cache stays as it is.
        .args(["-drive", &drive(&image.disk, "snapshot=on")])
        .args(["-drive", &drive(disk, "cache=unsafe")])
        .args(["-device", "virtio-rng-pci"])
        .arg("-netdev")
        .arg(format!(
            "user,id=net,hostfwd=tcp:127.0.0.1:{node_api}-:{node_api}"
        ))
        .args(["-device", "virtio-net-pci,netdev=net,romfile="])
        .arg("-serial")
        .arg(format!("file:{}", console.display()))
        .args(["-serial", "stdio"])
        .arg("-serial")
        .arg(format!("file:{}", layout.log(HEARTHD_LOG).display()))
        // By this mark `down` finds it, should this process be killed.
        .env(process::MARK, layout.root())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit());
    command
}

fn drive(file: &Path, option: &str) -> String {
    format!("file={},if=virtio,format=raw,{option}", file.display())
}

/// A running guest, which ends with this value.
struct Guest(Child);

impl Guest {
    /// What it prints, line by line.
    fn lines(&mut self) -> Result<Receiver<String>> {
        let output = self.0.stdout.take().context("the guest has no output")?;
        // Whoever does not read for so long holds the guest up.
        let (sender, receiver) = mpsc::sync_channel(256);
        thread::spawn(move || forward(output, |line| sender.send(line).is_ok()));
        Ok(receiver)
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // Its disks are thrown away, so nothing is lost by not turning it off.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Passes lines on until there are none, or nobody wants them. A serial line has what it has: bytes
/// that are no text are shown as such.
fn forward(output: impl Read, mut to: impl FnMut(String) -> bool) {
    let mut reader = BufReader::new(output);
    let mut line = Vec::new();
    loop {
        line.clear();
        match reader.read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) => {
                let text = String::from_utf8_lossy(&line);
                if !to(text.trim_end_matches(['\r', '\n']).to_owned()) {
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_whole_and_without_their_ends() {
        let mut seen = Vec::new();
        forward(&b"one\r\ntwo\n\xfflast"[..], |line| {
            seen.push(line);
            true
        });
        assert_eq!(seen, ["one", "two", "\u{fffd}last"]);
    }

    #[test]
    fn reading_ends_when_nobody_listens() {
        let mut seen = 0;
        forward(&b"a\nb\nc\n"[..], |_| {
            seen += 1;
            seen < 2
        });
        assert_eq!(seen, 2);
    }

    /// What comes of a guest that prints these lines and ends, and how many of them are shown.
    fn judged(lines: &[&str], deadline: Instant) -> (Verdict, usize) {
        let (sender, receiver) = mpsc::sync_channel(lines.len());
        for line in lines {
            sender.send((*line).to_owned()).unwrap();
        }
        drop(sender);
        let mut shown = 0;
        let verdict = verdict(&receiver, deadline, |_| shown += 1);
        (verdict, shown)
    }

    #[test]
    fn the_verdict_is_the_guests_own() {
        let deadline = Instant::now() + Duration::from_secs(60);
        for (lines, expect) in [
            (["a", "hearth-guest: passed", "b"], (Verdict::Passed, 1)),
            (["a", "hearth-guest: FAILED", "b"], (Verdict::Failed, 1)),
            (["a", "b", "c"], (Verdict::Ended, 3)),
        ] {
            assert_eq!(judged(&lines, deadline), expect, "{lines:?}");
        }
    }

    #[test]
    fn a_guest_that_keeps_printing_is_late_all_the_same() {
        assert_eq!(judged(&["a", "b"], Instant::now()), (Verdict::Late, 0));
    }
}
