//! `logs`.

use std::io::{self, Write as _};
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use hearth_proto::sandboxes::v1::{LogsRequest, LogsResponse, Stream};

use super::client::{Client, said};
use super::output;

#[derive(Debug, Args)]
pub(super) struct LogsArgs {
    /// NAMESPACE/NAME, or the UID of the Sandbox.
    sandbox: String,
    /// Name of the container; default: the only one, or the only one that runs.
    #[arg(short, long, default_value = "")]
    container: String,
    /// Goes on with what is written from now on, also after the container is started again, until the pod ends.
    #[arg(short, long)]
    follow: bool,
    /// The log from before the container was started again last.
    #[arg(short, long, conflicts_with = "follow")]
    previous: bool,
    /// Begins with so many of the last lines.
    #[arg(long, value_name = "LINES")]
    tail: Option<u64>,
}

pub(super) async fn logs(mut client: Client, args: LogsArgs) -> Result<ExitCode> {
    let LogsArgs {
        sandbox,
        container,
        follow,
        previous,
        tail,
    } = args;
    let request = LogsRequest {
        sandbox,
        container,
        follow,
        previous,
        tail,
    };
    // It lasts as long as there is something to follow; the daemon ends it with itself.
    let mut stream = client.logs(request).await.map_err(said)?.into_inner();
    while let Some(response) = stream.message().await.map_err(said)? {
        write(&response)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Writes to the stream that the container has written to.
fn write(response: &LogsResponse) -> io::Result<()> {
    match response.stream() {
        Stream::Stderr => io::stderr().lock().write_all(&response.data),
        Stream::Stdout | Stream::Unspecified => output::write(&response.data),
    }
}
