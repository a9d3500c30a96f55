//! The supervisor process.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open, pidfd_send_signal};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use super::backoff::Backoff;
use super::{STARTED, Spec, Status, status_file};
use crate::process::{ProcessId, wait_readable};
use crate::system;

/// Keeps the program of `spec_file` running until told to end.
pub(crate) fn supervise(spec_file: &Path) -> Result<()> {
    let spec: Spec = system::read_json(spec_file)?
        .with_context(|| format!("{} is not there", spec_file.display()))?;
    let run = spec_file
        .parent()
        .with_context(|| format!("{} has no directory", spec_file.display()))?;
    // Detached from the terminal of whoever called; it fails only for a process group's leader,
    // and then there is no terminal to leave.
    let _ = rustix::process::setsid();
    let mut supervisor = Supervisor::new(spec, run)?;
    supervisor.keep_running()
}

struct Supervisor {
    spec: Spec,
    status_file: PathBuf,
    status: Status,
    log: File,
    /// Readable once it was told to end.
    orders: UnixStream,
    backoff: Backoff,
}

/// One run of the program.
struct Run {
    child: Child,
    end: OwnedFd,
    since: Instant,
}

enum Event {
    Ended,
    ToldToEnd,
}

impl Supervisor {
    fn new(spec: Spec, run: &Path) -> Result<Self> {
        let orders = receive_orders().context("cannot receive signals")?;
        let own = i32::try_from(std::process::id()).context("own pid is out of range")?;
        let supervisor = ProcessId::of(own).context("cannot find myself in /proc")?;
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(&spec.log)
            .with_context(|| format!("cannot open {}", spec.log.display()))?;
        let status = Status {
            supervisor,
            child: None,
            started_at: 0,
            restarts: 0,
            last_exit: None,
            argv: spec.argv.clone(),
            env: spec.env.clone(),
        };
        Ok(Self {
            status_file: status_file(run, &spec.name),
            spec,
            status,
            log,
            orders,
            backoff: Backoff::new(),
        })
    }

    fn keep_running(&mut self) -> Result<()> {
        // The very first start is answered: a program that cannot be started at all is an error
        // of whoever called, not something to try for ever.
        let mut run = self.start()?;
        let _ = writeln!(std::io::stdout(), "{STARTED}");
        loop {
            match self.wait(&run)? {
                Event::ToldToEnd => return self.finish(run),
                Event::Ended => {
                    let ran = run.since.elapsed();
                    let exit = run.child.wait().context("cannot collect the program")?;
                    self.ended(&exit, ran);
                    match self.start_again(ran)? {
                        Some(next) => run = next,
                        None => return Ok(()),
                    }
                }
            }
        }
    }

    /// Starts the program after a pause, again and again if need be; `None` when told to end.
    fn start_again(&mut self, mut ran: Duration) -> Result<Option<Run>> {
        loop {
            let pause = self.backoff.after_run(ran);
            self.say(&format!("starting again in {:.1} s", pause.as_secs_f64()));
            if wait_readable(&self.orders, pause).context("cannot wait")? {
                self.say("told to end");
                return Ok(None);
            }
            self.status.restarts += 1;
            match self.start() {
                Ok(run) => return Ok(Some(run)),
                Err(error) => self.say(&format!("{error:#}")),
            }
            ran = Duration::ZERO;
        }
    }

    fn start(&mut self) -> Result<Run> {
        let (program, args) = self.spec.argv.split_first().context("argv is empty")?;
        let output = |log: &File| log.try_clone().context("cannot share the log");
        let child = Command::new(program)
            .args(args)
            .env_clear()
            .envs(&self.spec.env)
            .current_dir(&self.spec.root)
            .stdin(Stdio::null())
            .stdout(output(&self.log)?)
            .stderr(output(&self.log)?)
            // A signal to the supervisor's group is an order to the supervisor alone.
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {program}"))?;
        let pid = i32::try_from(child.id()).context("pid is out of range")?;
        // The child is not collected yet, so the pid is still its own.
        let end = Pid::from_raw(pid).context("pid is zero").and_then(|pid| {
            pidfd_open(pid, PidfdFlags::empty()).context("cannot open the program's process")
        })?;
        // Already dead is fine: the next wait will tell.
        self.status.child = ProcessId::of(pid);
        self.status.started_at = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());
        self.record();
        self.say(&format!("started, pid {pid}"));
        Ok(Run {
            child,
            end,
            since: Instant::now(),
        })
    }

    /// Waits for whichever comes first.
    fn wait(&self, run: &Run) -> Result<Event> {
        loop {
            let mut fds = [
                PollFd::new(&self.orders, PollFlags::IN),
                PollFd::new(&run.end, PollFlags::IN),
            ];
            match poll(&mut fds, None) {
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error).context("cannot wait for the program"),
            }
            // An order wins over an end: there is no point in starting again.
            if !fds[0].revents().is_empty() {
                return Ok(Event::ToldToEnd);
            }
            if !fds[1].revents().is_empty() {
                return Ok(Event::Ended);
            }
        }
    }

    fn ended(&mut self, exit: &ExitStatus, ran: Duration) {
        let how = match (exit.code(), exit.signal()) {
            (Some(code), _) => format!("exit code {code}"),
            (None, Some(signal)) => format!("signal {signal}"),
            (None, None) => exit.to_string(),
        };
        self.say(&format!("ended by {how} after {:.1} s", ran.as_secs_f64()));
        self.status.child = None;
        self.status.last_exit = Some(how);
        self.record();
    }

    /// Ends the program, and then there is nothing left to do.
    fn finish(&mut self, mut run: Run) -> Result<()> {
        self.say("told to end");
        let grace = Duration::from_millis(self.spec.grace_ms);
        signal(&run.end, rustix::process::Signal::TERM)?;
        if !wait_readable(&run.end, grace).context("cannot wait for the program")? {
            self.say("did not end by SIGTERM, killing it");
            signal(&run.end, rustix::process::Signal::KILL)?;
        }
        let exit = run.child.wait().context("cannot collect the program")?;
        self.ended(&exit, run.since.elapsed());
        Ok(())
    }

    /// Writes the status. A full disk must not end the program, or keep it from being started: it
    /// can be found by its mark as well.
    fn record(&mut self) {
        if let Err(error) = system::write_json(&self.status_file, &self.status) {
            self.say(&format!("{error:#}"));
        }
    }

    /// Writes a line of its own into the program's log.
    fn say(&mut self, text: &str) {
        let line = format!("[supervisor of {}] {text}\n", self.spec.name);
        // Nobody is left to be told.
        let _ = self.log.write_all(line.as_bytes());
    }
}

/// A socket that becomes readable when this process is told to end. The signals are handled rather
/// than blocked: children would inherit a mask, and be deaf to the order themselves.
fn receive_orders() -> std::io::Result<UnixStream> {
    let (orders, sender) = UnixStream::pair()?;
    for signal in [SIGTERM, SIGINT, SIGHUP] {
        signal_hook::low_level::pipe::register(signal, sender.try_clone()?)?;
    }
    Ok(orders)
}

fn signal(process: &OwnedFd, signal: rustix::process::Signal) -> Result<()> {
    match pidfd_send_signal(process, signal) {
        Ok(()) | Err(Errno::SRCH) => Ok(()),
        Err(error) => Err(error).context("cannot signal the program"),
    }
}
