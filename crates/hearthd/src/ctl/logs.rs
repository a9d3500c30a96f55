//! `logs`.

use std::io::{self, Write as _};
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use hearth_proto::sandboxes::v1::logs_request::Since;
use hearth_proto::sandboxes::v1::{LogsRequest, LogsResponse, Stream};
use jiff::{SignedDuration, Timestamp};

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
    /// Begins with what was written so long ago, like 30s, 5m or 1h30m.
    #[arg(long, value_name = "DURATION", value_parser = milliseconds)]
    since: Option<u64>,
    /// Begins with what was written then or after, in RFC 3339: 2026-01-02T03:04:05Z.
    #[arg(long, value_name = "TIME", conflicts_with = "since", value_parser = nanoseconds)]
    since_time: Option<i64>,
}

/// Milliseconds of a duration.
fn milliseconds(text: &str) -> Result<u64, String> {
    let duration: SignedDuration = text
        .parse()
        .map_err(|error: jiff::Error| error.to_string())?;
    if !duration.is_positive() {
        return Err("must be more than nothing".to_owned());
    }
    u64::try_from(duration.as_millis()).map_err(|error| error.to_string())
}

/// Nanoseconds since 1970 of a time.
fn nanoseconds(text: &str) -> Result<i64, String> {
    let time: Timestamp = text
        .parse()
        .map_err(|error: jiff::Error| error.to_string())?;
    i64::try_from(time.as_nanosecond()).map_err(|error| error.to_string())
}

pub(super) async fn logs(mut client: Client, args: LogsArgs) -> Result<ExitCode> {
    let LogsArgs {
        sandbox,
        container,
        follow,
        previous,
        tail,
        since,
        since_time,
    } = args;
    let since = since.map(Since::SinceMs);
    let since_time = since_time.map(Since::SinceUnixNs);
    let request = LogsRequest {
        sandbox,
        container,
        follow,
        previous,
        tail,
        since: since.or(since_time),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_as_for_kubectl() {
        for (text, ms) in [
            ("5s", Some(5_000)),
            ("2m", Some(120_000)),
            ("1h30m", Some(5_400_000)),
            ("1.5h", Some(5_400_000)),
            ("250ms", Some(250)),
            ("0s", None),
            ("-5s", None),
            ("5", None),
            ("soon", None),
            ("", None),
        ] {
            assert_eq!(milliseconds(text).ok(), ms, "{text}");
        }
    }

    #[test]
    fn times_are_those_of_rfc_3339() {
        for (text, nanos) in [
            ("1970-01-01T00:00:01Z", Some(1_000_000_000)),
            ("1970-01-01T02:00:00.000000001+02:00", Some(1)),
            ("1970-01-01", None),
            ("9999-01-01T00:00:00Z", None),
            ("now", None),
        ] {
            assert_eq!(nanoseconds(text).ok(), nanos, "{text}");
        }
    }
}
