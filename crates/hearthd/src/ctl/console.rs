//! What is common to commands and consoles: this command's stdin, terminal and output on one side, a session on the other.

use std::io::{self, Read as _, Write as _};
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use hearth_proto::sandboxes::v1::{
    AttachRequest, AttachResponse, ExecRequest, ExecResponse, TerminalSize, attach_request,
    attach_response, exec_request, exec_response,
};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tonic::Streaming;
use tonic::codegen::Bytes;

use super::client::said;
use super::output;
use super::terminal::{self, Raw};

/// How much is read from stdin at once.
const READ: usize = 32 << 10;
/// Requests that may wait.
const OUTGOING: usize = 4;

/// What is said to a session after its first request.
pub(super) trait Input: Send + 'static {
    fn stdin(bytes: Bytes) -> Self;
    fn resize(size: TerminalSize) -> Self;
}

impl Input for ExecRequest {
    fn stdin(bytes: Bytes) -> Self {
        let part = Some(exec_request::Part::Stdin(bytes));
        Self { part }
    }

    fn resize(size: TerminalSize) -> Self {
        let part = Some(exec_request::Part::Resize(size));
        Self { part }
    }
}

impl Input for AttachRequest {
    fn stdin(bytes: Bytes) -> Self {
        let part = Some(attach_request::Part::Stdin(bytes));
        Self { part }
    }

    fn resize(size: TerminalSize) -> Self {
        let part = Some(attach_request::Part::Resize(size));
        Self { part }
    }
}

/// What a session says.
pub(super) enum Output {
    Out(Bytes),
    Err(Bytes),
    Exited(i32),
}

/// What comes from a session.
pub(super) trait Answer {
    /// What it says; `None` when that is nothing that is known here.
    fn output(self) -> Option<Output>;
}

impl Answer for ExecResponse {
    fn output(self) -> Option<Output> {
        Some(match self.part? {
            exec_response::Part::Stdout(bytes) => Output::Out(bytes),
            exec_response::Part::Stderr(bytes) => Output::Err(bytes),
            exec_response::Part::ExitCode(code) => Output::Exited(code),
        })
    }
}

impl Answer for AttachResponse {
    fn output(self) -> Option<Output> {
        Some(match self.part? {
            attach_response::Part::Stdout(bytes) => Output::Out(bytes),
            attach_response::Part::Stderr(bytes) => Output::Err(bytes),
        })
    }
}

/// This side of a session.
#[derive(Debug)]
pub(super) struct Console<Q> {
    pub(super) requests: mpsc::Sender<Q>,
    pub(super) stdin: bool,
    pub(super) terminal: bool,
}

impl<Q: Input> Console<Q> {
    /// A console, and the requests that it makes, of which `first` is the first.
    pub(super) fn new(first: Q, stdin: bool, terminal: bool) -> (Self, mpsc::Receiver<Q>) {
        let (requests, receiver) = mpsc::channel(OUTGOING);
        // There is room, and the receiver is here.
        let _ = requests.try_send(first);
        let console = Self {
            requests,
            stdin,
            terminal,
        };
        (console, receiver)
    }

    /// Talks until the session has ended. Says the exit code, if it was told one.
    pub(super) async fn talk(self, mut answers: Streaming<impl Answer>) -> Result<Option<i32>> {
        // Only now: what kept the session from beginning is better read on a terminal as it was. And only with keys that
        // go somewhere: Ctrl-C would do nothing.
        let raw = (self.terminal && self.stdin).then(Raw::enter).transpose();
        let _raw = raw.context("change the mode of the terminal")?;
        let mut terminated = listen(SignalKind::terminate())?;
        let mut hung_up = listen(SignalKind::hangup())?;
        let listen_on = async {
            let mut code = None;
            while let Some(answer) = answers.message().await.map_err(said)? {
                match answer.output() {
                    Some(Output::Out(bytes)) => {
                        off_thread(move || output::write(&bytes)).await?;
                    }
                    Some(Output::Err(bytes)) => {
                        off_thread(move || io::stderr().lock().write_all(&bytes)).await?;
                    }
                    Some(Output::Exited(exited)) => code = Some(exited),
                    None => {}
                }
            }
            anyhow::Ok(code)
        };
        // Whichever ends it, the other is not needed any more, and the terminal is as it was.
        tokio::select! {
            ended = listen_on => ended,
            failed = self.speak() => Err(failed),
            _ = terminated.recv() => anyhow::bail!("terminated"),
            _ = hung_up.recv() => anyhow::bail!("the terminal is gone"),
        }
    }

    /// Sends what is typed, and how large the terminal is. Ends only when it fails.
    async fn speak(self) -> anyhow::Error {
        match self.try_speak().await {
            Ok(()) => std::future::pending().await,
            Err(error) => error,
        }
    }

    async fn try_speak(self) -> Result<()> {
        let mut resized = listen(SignalKind::window_change())?;
        let (sender, mut typed) = mpsc::channel(OUTGOING);
        let mut reads = self.stdin;
        if reads {
            // A read cannot be called off: it ends with this process at the latest.
            tokio::task::spawn_blocking(move || read_stdin(&sender));
        }
        // The end of the requests is the end of the input.
        while reads || self.terminal {
            // Cancel-safe: both only wait.
            let request = tokio::select! {
                block = typed.recv(), if reads => match block.transpose().context("read stdin")? {
                    Some(bytes) => Q::stdin(bytes),
                    None => {
                        reads = false;
                        continue;
                    }
                },
                Some(()) = resized.recv(), if self.terminal => Q::resize(terminal::size()),
                else => break,
            };
            if self.requests.send(request).await.is_err() {
                // The session has ended; what it says of that is read elsewhere.
                return Ok(());
            }
        }
        Ok(())
    }
}

/// Reads stdin to its end, or until nobody wants it any more.
fn read_stdin(sender: &mpsc::Sender<io::Result<Bytes>>) {
    let mut block = vec![0; READ];
    loop {
        let read = match io::stdin().lock().read(&mut block) {
            Ok(0) => return,
            Ok(read) => Ok(Bytes::copy_from_slice(&block[..read])),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => Err(error),
        };
        let is_last = read.is_err();
        if sender.blocking_send(read).is_err() || is_last {
            return;
        }
    }
}

/// Writes where nothing else has to wait: whoever reads may be slow.
async fn off_thread(write: impl FnOnce() -> io::Result<()> + Send + 'static) -> io::Result<()> {
    let written = tokio::task::spawn_blocking(write).await;
    written.unwrap_or_else(|abandoned| Err(io::Error::other(abandoned)))
}

fn listen(kind: SignalKind) -> Result<Signal> {
    signal(kind).context("listen for signals")
}

/// The command's exit code as ours. One that no process can have is a failure, whatever it was.
pub(super) fn exit_code(code: i32) -> ExitCode {
    u8::try_from(code).map_or(ExitCode::FAILURE, ExitCode::from)
}
