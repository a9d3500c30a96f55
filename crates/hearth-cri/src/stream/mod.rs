//! Commands, consoles and ports of a running pod: what lasts, and has two directions.
//!
//! A CRI runtime answers `Exec`, `Attach` and `PortForward` with the address of its streaming server, where the session is
//! had. [`StreamRuntime`] is that without the address; [`CriClient`] speaks the server's protocol, [`FakeRuntime`] hands
//! the other end of each session to a test.
//!
//! [`CriClient`]: crate::CriClient
//! [`FakeRuntime`]: crate::fake::FakeRuntime

mod client;
mod spdy;
mod status;
#[cfg(test)]
mod tests;

use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;

use crate::CriError;

/// What a command is run with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecOptions {
    /// The program and its arguments.
    pub command: Vec<String>,
    /// Whether it gets input. Without, its stdin is empty.
    pub stdin: bool,
    /// Whether it runs on a terminal, where its stderr is its stdout.
    pub terminal: bool,
}

/// How a container is attached to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttachOptions {
    /// Whether its process gets input, if it was made to take any.
    pub stdin: bool,
    /// Whether it was made with a terminal.
    pub terminal: bool,
}

/// Size of a terminal, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TerminalSize {
    /// Columns.
    pub width: u16,
    /// Rows.
    pub height: u16,
}

/// What goes into a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// Bytes for stdin, or for the connection.
    Data(Bytes),
    /// No more bytes will come.
    End,
    /// The terminal has another size now.
    Resize(TerminalSize),
}

/// What comes out of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// From stdout, or from the connection.
    Out(Bytes),
    /// From stderr.
    Err(Bytes),
    /// The command has ended with this code, and all its output came before. A shell's code for a signal is 128 and the
    /// signal's number.
    Exited(i32),
}

/// The direction into a session. Dropped together with [`SessionOutput`], the session is given up: the process sees the
/// end of its input and is otherwise left alone.
#[async_trait]
pub trait SessionInput: Send + fmt::Debug {
    /// Sends one part; waits when the other side does not take it. What a session has no place for, such as input for a
    /// command without stdin, is dropped. Not cancel-safe: a part may have been sent in part.
    async fn send(&mut self, input: Input) -> Result<(), CriError>;
}

/// The direction out of a session. Nobody who does not ask for more gets more: the process waits.
#[async_trait]
pub trait SessionOutput: Send + fmt::Debug {
    /// The next part; `None` once the session has ended in order. Cancel-safe.
    async fn next(&mut self) -> Result<Option<Output>, CriError>;
}

/// A session that has begun.
#[derive(Debug)]
pub struct Session {
    /// Into it.
    pub input: Box<dyn SessionInput>,
    /// Out of it.
    pub output: Box<dyn SessionOutput>,
}

/// Begins sessions. Each call ends within its deadline; how long the session lasts is the caller's concern.
#[async_trait]
pub trait StreamRuntime: Send + Sync + fmt::Debug {
    /// Runs a command in a running container. Its last output is [`Output::Exited`].
    async fn exec(&self, container_id: &str, options: ExecOptions) -> Result<Session, CriError>;

    /// Attaches to the main process of a running container: its input, and what it writes from now on. Whoever attaches and
    /// does not read holds up the container and its log.
    async fn attach(&self, container_id: &str, options: AttachOptions)
    -> Result<Session, CriError>;

    /// Connects to a TCP port at the localhost of a sandbox's network namespace. When one side has ended its direction, the
    /// other may take a second for the rest. That nobody listens there is the first error of the session's output.
    async fn port_forward(&self, sandbox_id: &str, port: u16) -> Result<Session, CriError>;
}
