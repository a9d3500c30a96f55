//! `exec` and `attach`.

use std::io::{self, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Args;
use hearth_proto::sandboxes::v1::{
    AttachRequest, AttachStart, ExecRequest, ExecStart, ExecSyncRequest, attach_request,
    exec_request,
};
use tokio_stream::wrappers::ReceiverStream;

use super::client::{Client, LOOK, said, within};
use super::console::{Console, exit_code};
use super::{output, terminal};

#[derive(Debug, Args)]
pub(super) struct ExecArgs {
    /// NAMESPACE/NAME, or the UID of the Sandbox.
    sandbox: String,
    /// Name of the container; default: the only one, or the only one that runs.
    #[arg(short, long, default_value = "")]
    container: String,
    /// Gives the command this command's stdin. Without, its stdin is empty.
    #[arg(short = 'i', long)]
    stdin: bool,
    /// Runs the command on a terminal: keys go to it as they are typed, and its window has this one's size.
    #[arg(short, long)]
    tty: bool,
    /// Kills the command after so long. It gets no input then, and what it writes comes when it has ended.
    #[arg(long, value_name = "SECONDS", conflicts_with_all = ["stdin", "tty"], value_parser = clap::value_parser!(u32).range(1..=86_400))]
    timeout: Option<u32>,
    /// The program and its arguments; no shell.
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct AttachArgs {
    /// NAMESPACE/NAME, or the UID of the Sandbox.
    sandbox: String,
    /// Name of the container; default: the only one, or the only one that runs.
    #[arg(short, long, default_value = "")]
    container: String,
    /// Gives the container this command's stdin; its spec must set stdin.
    #[arg(short = 'i', long)]
    stdin: bool,
    /// Keys go to the container as they are typed, and its terminal has this one's size; its spec must set tty.
    #[arg(short, long)]
    tty: bool,
}

pub(super) async fn exec(mut client: Client, args: ExecArgs) -> Result<ExitCode> {
    let ExecArgs {
        sandbox,
        container,
        stdin,
        tty,
        timeout,
        command,
    } = args;
    if let Some(timeout_seconds) = timeout {
        let request = ExecSyncRequest {
            sandbox,
            container,
            command,
            timeout_seconds,
        };
        return exec_sync(client, request).await;
    }
    let terminal = size(tty)?;
    let start = ExecStart {
        sandbox,
        container,
        command,
        stdin,
        terminal,
    };
    let first = ExecRequest {
        part: Some(exec_request::Part::Start(start)),
    };
    let (console, requests) = Console::new(first, stdin, tty);
    let answer = client.exec(ReceiverStream::new(requests)).await;
    let code = console.talk(answer.map_err(said)?.into_inner()).await?;
    code.map(exit_code)
        .context("the session has ended before the command did")
}

async fn exec_sync(mut client: Client, request: ExecSyncRequest) -> Result<ExitCode> {
    let limit = Duration::from_secs(request.timeout_seconds.into()) + LOOK;
    let done = client.exec_sync(within(limit, request)).await;
    let done = done.map_err(said)?.into_inner();
    output::write(&done.stdout)?;
    io::stderr().lock().write_all(&done.stderr)?;
    Ok(exit_code(done.exit_code))
}

pub(super) async fn attach(mut client: Client, args: AttachArgs) -> Result<ExitCode> {
    let AttachArgs {
        sandbox,
        container,
        stdin,
        tty,
    } = args;
    let terminal = size(tty)?;
    let start = AttachStart {
        sandbox,
        container,
        stdin,
        terminal,
    };
    let first = AttachRequest {
        part: Some(attach_request::Part::Start(start)),
    };
    let (console, requests) = Console::new(first, stdin, tty);
    let answer = client.attach(ReceiverStream::new(requests)).await;
    console.talk(answer.map_err(said)?.into_inner()).await?;
    Ok(ExitCode::SUCCESS)
}

/// The terminal's size, if one is asked for.
fn size(tty: bool) -> Result<Option<hearth_proto::sandboxes::v1::TerminalSize>> {
    if !tty {
        return Ok(None);
    }
    terminal::check()?;
    Ok(Some(terminal::size()))
}
