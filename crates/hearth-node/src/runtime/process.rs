//! containerd as a process.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use hearth_sys::cgroup::{Cgroup, CgroupTree};
use hearth_sys::spawn::{Daemon, spawn};
use hearth_sys::{Process, ProcessId, Signal};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::UnixDatagram;

use super::RuntimeError;
use crate::paths::Paths;

/// The log is emptied at a start when it is larger.
const LOG_MAX: u64 = 16 << 20;
/// Where the tools are that containerd and the CNI plugins call.
const SYSTEM_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// How containerd is started.
pub(super) struct Spec {
    daemon: Daemon,
}

impl Spec {
    pub(super) fn new(bin_dir: &Path, paths: &Paths, cgroup: Cgroup) -> Self {
        let path = format!("{}:{SYSTEM_PATH}", bin_dir.display());
        let notify = paths.notify_socket();
        Self {
            daemon: Daemon {
                program: bin_dir.join("containerd"),
                args: vec!["--config".into(), paths.containerd_config().into()],
                env: vec![
                    ("PATH".into(), path.into()),
                    ("NOTIFY_SOCKET".into(), notify.into()),
                    // Nothing is configured for tracing; without this the plugin tries a default address.
                    ("OTEL_SDK_DISABLED".into(), "true".into()),
                ],
                directory: paths.root().to_owned(),
                log: paths.containerd_log(),
                cgroup: Some(cgroup),
            },
        }
    }

    pub(super) fn spawn(self) -> Result<Containerd, RuntimeError> {
        if fs::metadata(&self.daemon.log).is_ok_and(|log| log.len() > LOG_MAX) {
            let emptied = fs::File::create(&self.daemon.log);
            emptied.map_err(|source| RuntimeError::File {
                action: "empty",
                path: self.daemon.log.clone(),
                source,
            })?;
        }
        Containerd::new(spawn(&self.daemon).map_err(RuntimeError::Spawn)?)
    }
}

/// A running containerd. Dropping it leaves it running.
#[derive(Debug)]
pub(super) struct Containerd {
    process: AsyncFd<Pidfd>,
}

/// A process, for tokio.
#[derive(Debug)]
struct Pidfd(Process);

impl AsRawFd for Pidfd {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl Containerd {
    fn new(process: Process) -> Result<Self, RuntimeError> {
        let pid = process.id().pid;
        #[expect(
            deprecated,
            reason = "its successor is unsafe, for types that replace their descriptor; Pidfd owns one and never does"
        )]
        let process = AsyncFd::with_interest(Pidfd(process), Interest::READABLE);
        let watch = |source| hearth_sys::ProcessError {
            action: "watch",
            pid,
            source,
        };
        Ok(Self {
            process: process.map_err(|error| RuntimeError::Process(watch(error)))?,
        })
    }

    /// The containerd of this instance, if one runs: it is in the supervisor cgroup and was started with our
    /// configuration. Must be called within a tokio runtime.
    pub(super) fn find(tree: &CgroupTree, config: &Path) -> Result<Option<Self>, RuntimeError> {
        for pid in tree
            .supervisor()
            .processes()
            .map_err(RuntimeError::Cgroup)?
        {
            let Some(id) = ProcessId::of(pid).map_err(RuntimeError::Process)? else {
                continue;
            };
            if !is_containerd(pid, config) {
                continue;
            }
            if let Some(process) = id.open().map_err(RuntimeError::Process)? {
                return Self::new(process).map(Some);
            }
        }
        Ok(None)
    }

    pub(super) fn pid(&self) -> i32 {
        self.process.get_ref().0.id().pid
    }

    /// Waits for its end and says how it ended. Cancel-safe.
    pub(super) async fn ended(&self) -> Result<String, RuntimeError> {
        let watch = |source| hearth_sys::ProcessError {
            action: "watch",
            pid: self.pid(),
            source,
        };
        // A pidfd stays readable once it is, so that everybody who asks hears of the end.
        let readable = self.process.readable().await;
        readable
            .map_err(|error| RuntimeError::Process(watch(error)))?
            .retain_ready();
        let status = self
            .process
            .get_ref()
            .0
            .reap()
            .map_err(RuntimeError::Process)?;
        // Whoever started it may have been an earlier daemon; then init has reaped it.
        Ok(status.map_or_else(
            || "an unknown status".to_owned(),
            |status| status.to_string(),
        ))
    }

    /// Asks it to end, and kills it when it does not.
    pub(super) async fn stop(&self, within: Duration) -> Result<(), RuntimeError> {
        let process = &self.process.get_ref().0;
        process
            .signal(Signal::TERM)
            .map_err(RuntimeError::Process)?;
        if let Ok(ended) = tokio::time::timeout(within, self.ended()).await {
            return ended.map(|_| ());
        }
        process
            .signal(Signal::KILL)
            .map_err(RuntimeError::Process)?;
        self.ended().await.map(|_| ())
    }
}

/// Whether the process is a containerd with this configuration.
fn is_containerd(pid: i32, config: &Path) -> bool {
    let Ok(cmdline) = fs::read(format!("/proc/{pid}/cmdline")) else {
        return false;
    };
    let mut args = cmdline.split(|&byte| byte == 0);
    let program = args.next().unwrap_or_default();
    let config = OsString::from(config);
    program.ends_with(b"/containerd") && args.any(|arg| arg == config.as_encoded_bytes())
}

/// Where containerd says that it is ready, in the way of sd_notify.
#[derive(Debug)]
pub(super) struct ReadySocket {
    socket: UnixDatagram,
    path: PathBuf,
}

impl ReadySocket {
    pub(super) fn bind(path: &Path) -> Result<Self, RuntimeError> {
        let fault = |source| RuntimeError::File {
            action: "listen on",
            path: path.to_owned(),
            source,
        };
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(fault(error)),
            _ => {}
        }
        Ok(Self {
            socket: UnixDatagram::bind(path).map_err(fault)?,
            path: path.to_owned(),
        })
    }

    /// Waits for the word.
    pub(super) async fn said(&mut self) -> Result<(), RuntimeError> {
        let mut message = [0; 512];
        loop {
            let length =
                self.socket
                    .recv(&mut message)
                    .await
                    .map_err(|source| RuntimeError::File {
                        action: "receive on",
                        path: self.path.clone(),
                        source,
                    })?;
            if message[..length]
                .split(|&byte| byte == b'\n')
                .any(|line| line == b"READY=1")
            {
                return Ok(());
            }
        }
    }
}

impl Drop for ReadySocket {
    fn drop(&mut self) {
        // Only a leftover name; the next bind removes it as well.
        let _ = fs::remove_file(&self.path);
    }
}
