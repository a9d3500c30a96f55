//! `exec`, `freeze` and `thaw`.

use std::io::{self, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use hearth_proto::local::v1::{ExecRequest, FreezeRequest, ThawRequest};

use super::client::{Client, LOOK, said, within};
use super::output;

#[derive(Debug, Args)]
pub(super) struct ExecArgs {
    /// NAMESPACE/NAME, or the UID of the Sandbox.
    sandbox: String,
    /// Name of the container; default: the only one, or the only one that runs.
    #[arg(short, long, default_value = "")]
    container: String,
    /// How long the command may run until it is killed.
    #[arg(long, value_name = "SECONDS", default_value_t = 600, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    timeout: u32,
    /// The program and its arguments. It gets no input, and what it writes comes when it has ended.
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct FreezeArgs {
    /// NAMESPACE/NAME, or the UID of the Sandbox.
    sandbox: String,
}

#[derive(Debug, Args)]
pub(super) struct ThawArgs {
    /// NAMESPACE/NAME, or the UID of the Sandbox.
    sandbox: String,
    /// How long to hold it thawed. Ending this command ends it sooner.
    #[arg(long = "for", value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    hold: u32,
}

pub(super) async fn exec(mut client: Client, args: ExecArgs) -> Result<ExitCode> {
    let ExecArgs {
        sandbox,
        container,
        timeout,
        command,
    } = args;
    let limit = Duration::from_secs(timeout.into()) + LOOK;
    let request = ExecRequest {
        sandbox,
        container,
        command,
        timeout_seconds: timeout,
    };
    let done = client.exec(within(limit, request)).await.map_err(said)?;
    let done = done.into_inner();
    output::write(&done.stdout)?;
    io::stderr().lock().write_all(&done.stderr)?;
    Ok(exit_code(done.exit_code))
}

/// The command's exit code as ours. One that no process can have is a failure, whatever it was.
fn exit_code(code: i32) -> ExitCode {
    u8::try_from(code).map_or(ExitCode::FAILURE, ExitCode::from)
}

pub(super) async fn freeze(mut client: Client, args: FreezeArgs) -> Result<ExitCode> {
    let FreezeArgs { sandbox } = args;
    let request = FreezeRequest {
        sandbox: sandbox.clone(),
    };
    client.freeze(within(LOOK, request)).await.map_err(said)?;
    output::print(&format!("{sandbox} is frozen\n"))?;
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn thaw(mut client: Client, args: ThawArgs) -> Result<ExitCode> {
    let ThawArgs { sandbox, hold } = args;
    let request = ThawRequest {
        sandbox: sandbox.clone(),
        hold_seconds: hold,
    };
    let limit = Duration::from_secs(hold.into()) + LOOK;
    let answer = client.thaw(within(limit, request)).await.map_err(said)?;
    let mut stream = answer.into_inner();
    while let Some(thawed) = stream.message().await.map_err(said)? {
        output::print(&format!(
            "{sandbox} runs since {} µs after it was asked to, and is held so for {hold} s\n",
            thawed.thaw_us
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}
