//! `freeze` and `thaw`.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use hearth_proto::sandboxes::v1::{FreezeRequest, ThawRequest};

use super::client::{Client, LOOK, said, within};
use super::output;

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
