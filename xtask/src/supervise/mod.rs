//! Long-running programs, each under a small detached supervisor that starts it again when it ends,
//! as systemd or a kubelet would.
//!
//! A supervisor is this very program, copied into the cluster's directory so that a rebuild of it
//! disturbs nothing. Beside the log there are two files for each program under `run/`: what is to
//! run (`<name>.spec.json`, written here) and what does (`<name>.json`, written by the supervisor).

mod backoff;
mod runner;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

use crate::paths::Layout;
use crate::process::{self, ProcessId};
use crate::system;

pub(crate) use runner::supervise;

/// What a supervisor prints once its program was started and recorded.
const STARTED: &str = "started";

/// A program to keep running.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Spec {
    /// Short name: of the log, the records and on the command line.
    pub(crate) name: String,
    /// Program and arguments.
    pub(crate) argv: Vec<String>,
    /// The whole environment of the program.
    pub(crate) env: BTreeMap<String, String>,
    /// What identifies the program file's contents; a rebuilt program has another one.
    pub(crate) program: String,
    /// Where it answers when asked whether it is well.
    pub(crate) health: Option<Health>,
    /// How long it may take to end after SIGTERM, in milliseconds.
    pub(crate) grace_ms: u64,
    /// Where output goes.
    pub(crate) log: PathBuf,
    /// The cluster's directory, which is also the working directory.
    pub(crate) root: PathBuf,
}

/// How to ask a program whether it is well.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Health {
    /// A plain HTTP GET on loopback that must say 200.
    Http { port: u16, path: String },
    /// A TCP port on loopback that must accept.
    Tcp { port: u16 },
}

impl Health {
    /// Asks once; the error is the reason why not.
    pub(crate) fn check(&self) -> Result<()> {
        let loopback = std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
        match self {
            Self::Http { port, path } => {
                let status = system::http_status((loopback, *port).into(), path)?;
                anyhow::ensure!(status == 200, "{path} says {status}");
            }
            Self::Tcp { port } => {
                std::net::TcpStream::connect_timeout(
                    &(loopback, *port).into(),
                    Duration::from_secs(2),
                )
                .with_context(|| format!("port {port} does not accept"))?;
            }
        }
        Ok(())
    }
}

impl Spec {
    /// A program with its arguments and the environment every program gets.
    pub(crate) fn new(
        layout: &Layout,
        name: &str,
        program: &Path,
        args: Vec<String>,
    ) -> Result<Self> {
        let mut argv = vec![program.display().to_string()];
        argv.extend(args);
        let mut env = BTreeMap::new();
        // Our own programs first, so that nothing of the machine's takes their place.
        let path = std::env::var("PATH").unwrap_or_else(|_| "/usr/sbin:/usr/bin:/sbin:/bin".into());
        env.insert("PATH".into(), format!("{}:{path}", layout.bin().display()));
        env.insert(
            "HOME".into(),
            std::env::var("HOME").unwrap_or_else(|_| "/".into()),
        );
        env.insert(process::MARK.into(), layout.root().display().to_string());
        Ok(Self {
            name: name.to_owned(),
            argv,
            env,
            program: fingerprint(program)?,
            health: None,
            grace_ms: 15_000,
            log: layout.log(name),
            root: layout.root().to_owned(),
        })
    }

    /// Adds how to ask whether it is well.
    pub(crate) fn with_health(mut self, health: Health) -> Self {
        self.health = Some(health);
        self
    }
}

/// Tells one build of a program from another without reading all of it.
fn fingerprint(program: &Path) -> Result<String> {
    let describe = || format!("cannot look at {}", program.display());
    let file = fs::canonicalize(program).with_context(describe)?;
    let meta = fs::metadata(&file).with_context(describe)?;
    Ok(format!(
        "{} {} {}.{:09}",
        file.display(),
        meta.size(),
        meta.mtime(),
        meta.mtime_nsec()
    ))
}

/// What a supervisor knows about its program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Status {
    /// The supervisor itself.
    pub(crate) supervisor: ProcessId,
    /// The program, while it runs.
    pub(crate) child: Option<ProcessId>,
    /// When the program was last started, in seconds after 1970.
    pub(crate) started_at: u64,
    /// How often it was started again.
    pub(crate) restarts: u32,
    /// How its last run ended.
    pub(crate) last_exit: Option<String>,
    /// Program and arguments, as they run.
    pub(crate) argv: Vec<String>,
    /// The environment, as it runs.
    pub(crate) env: BTreeMap<String, String>,
}

impl Status {
    /// Whether the supervisor lives. Its program may be between two runs.
    pub(crate) fn is_supervised(&self) -> bool {
        self.supervisor.is_alive()
    }
}

/// What [`start`] found and did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Started {
    /// It runs already, just so.
    Already,
    /// It was not running.
    Fresh,
    /// It ran another build, or with other arguments.
    Replaced,
}

fn spec_file(layout: &Layout, name: &str) -> PathBuf {
    layout.run().join(format!("{name}.spec.json"))
}

fn status_file(run: &Path, name: &str) -> PathBuf {
    run.join(format!("{name}.json"))
}

/// What is to run under `name`.
pub(crate) fn spec(layout: &Layout, name: &str) -> Result<Option<Spec>> {
    system::read_json(&spec_file(layout, name))
}

/// What runs under `name`.
pub(crate) fn status(layout: &Layout, name: &str) -> Result<Option<Status>> {
    system::read_json(&status_file(&layout.run(), name))
}

/// The names of everything that has a record, sorted.
pub(crate) fn names(layout: &Layout) -> Result<Vec<String>> {
    let entries = match fs::read_dir(layout.run()) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => {
            return Err(error).with_context(|| format!("cannot list {}", layout.run().display()));
        }
    };
    let mut names: Vec<_> = entries
        .filter_map(Result::ok)
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter_map(|file| file.strip_suffix(".spec.json").map(str::to_owned))
        .collect();
    names.sort();
    Ok(names)
}

/// Makes `spec` run: starts it, or replaces what runs when that is not the same.
pub(crate) fn start(layout: &Layout, spec: &Spec) -> Result<Started> {
    let before = self::spec(layout, &spec.name)?;
    let running = status(layout, &spec.name)?.is_some_and(|status| status.is_supervised());
    if running && before.as_ref() == Some(spec) {
        return Ok(Started::Already);
    }
    // Also when it does not run: a killed supervisor leaves its program behind.
    halt(layout, &spec.name)?;
    system::write_json(&spec_file(layout, &spec.name), spec)?;
    launch(layout, spec)?;
    Ok(if running {
        Started::Replaced
    } else {
        Started::Fresh
    })
}

/// Starts the supervisor and waits until it says that its program runs.
fn launch(layout: &Layout, spec: &Spec) -> Result<()> {
    system::create_dir(&layout.logs())?;
    let complaints = layout.log("supervise");
    let stderr = fs::File::options()
        .create(true)
        .append(true)
        .open(&complaints)
        .with_context(|| format!("cannot open {}", complaints.display()))?;
    let mut supervisor = Command::new(layout.program("xtask"))
        .arg("supervise")
        .arg(spec_file(layout, &spec.name))
        .env(process::MARK, layout.root())
        .current_dir(layout.root())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(stderr)
        .spawn()
        .with_context(|| format!("cannot start the supervisor of {}", spec.name))?;
    let mut answer = String::new();
    if let Some(stdout) = supervisor.stdout.take() {
        BufReader::new(stdout)
            .read_line(&mut answer)
            .with_context(|| format!("cannot read from the supervisor of {}", spec.name))?;
    }
    if answer.trim() != STARTED {
        bail!(
            "the supervisor of {} did not start it; its last words are in {}",
            spec.name,
            complaints.display()
        );
    }
    Ok(())
}

/// Ends the program and its supervisor, and forgets them.
pub(crate) fn stop(layout: &Layout, name: &str) -> Result<()> {
    halt(layout, name)?;
    system::remove(&spec_file(layout, name))
}

/// Ends the program and its supervisor, but keeps what is to run.
pub(crate) fn halt(layout: &Layout, name: &str) -> Result<()> {
    let Some(status) = status(layout, name)? else {
        return Ok(());
    };
    let grace = Duration::from_millis(spec(layout, name)?.map_or(15_000, |spec| spec.grace_ms));
    // The supervisor ends its program first; it needs a little longer than the program may.
    status
        .supervisor
        .end(grace + Duration::from_secs(5))
        .with_context(|| format!("cannot end the supervisor of {name}"))?;
    // Look again: it may have started its program once more in between. What an orphan is told
    // here the supervisor has normally told it already.
    let child = self::status(layout, name)?.and_then(|status| status.child);
    for process in child.into_iter().chain(status.child) {
        process
            .end(grace)
            .with_context(|| format!("cannot end {name}"))?;
    }
    system::remove(&status_file(&layout.run(), name))
}

/// Starts again what [`halt`] ended.
pub(crate) fn resume(layout: &Layout, name: &str) -> Result<()> {
    let spec = spec(layout, name)?.with_context(|| {
        format!("nothing is known under the name {name}; see `cargo xtask status`")
    })?;
    if status(layout, name)?.is_some_and(|status| status.is_supervised()) {
        return Ok(());
    }
    halt(layout, name)?;
    launch(layout, &spec)
}

/// Ends every process that carries the cluster's mark: what a killed `up` left without a record.
pub(crate) fn end_marked(layout: &Layout) -> Result<Vec<String>> {
    let mut ended = Vec::new();
    // A supervisor that is found after its program would start it again, hence until none is left.
    for _ in 0..5 {
        let marked = process::find(|pid| process::is_marked(pid, layout.root()))?;
        if marked.is_empty() {
            return Ok(ended);
        }
        for process in marked {
            let command = process::command_line(process.pid);
            // Empty: it ended along with one that was found before it.
            if !command.is_empty() {
                ended.push(command);
            }
            process.end(Duration::from_secs(10))?;
        }
    }
    bail!(
        "processes of this cluster keep coming back: {}",
        ended.join("; ")
    )
}

/// The last lines of a log.
pub(crate) fn log_tail(log: &Path, lines: usize) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let all: Vec<_> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}
