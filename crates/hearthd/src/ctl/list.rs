//! `list` and `inspect`.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use hearth_proto::sandboxes::v1::{InspectRequest, ListRequest, Sandbox};
use jiff::Timestamp;

use super::client::{Client, LOOK, said, within};
use super::{output, table};

#[derive(Debug, Args)]
pub(super) struct ListArgs {
    /// All that is known of each, as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct InspectArgs {
    /// NAMESPACE/NAME, or the UID of the Sandbox.
    sandbox: String,
}

pub(super) async fn list(mut client: Client, args: &ListArgs) -> Result<ExitCode> {
    let answer = client.list(within(LOOK, ListRequest {})).await;
    let answer = answer.map_err(said)?.into_inner();
    if args.json {
        output::print_json(&answer)?;
    } else {
        output::print(&render(&answer.sandboxes, Timestamp::now()))?;
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn inspect(mut client: Client, args: InspectArgs) -> Result<ExitCode> {
    let request = InspectRequest {
        sandbox: args.sandbox,
    };
    let answer = client.inspect(within(LOOK, request)).await;
    output::print_json(&answer.map_err(said)?.into_inner())?;
    Ok(ExitCode::SUCCESS)
}

fn render(sandboxes: &[Sandbox], now: Timestamp) -> String {
    let rows: Vec<_> = sandboxes.iter().map(|sandbox| row(sandbox, now)).collect();
    table::render(
        [
            "SANDBOX", "PHASE", "TIER", "OWNER", "HANDLER", "IPS", "AGE", "MESSAGE",
        ],
        &rows,
    )
}

fn row(sandbox: &Sandbox, now: Timestamp) -> [String; 8] {
    let owner = if sandbox.member {
        "<member>".to_owned()
    } else {
        sandbox.owner_key.clone()
    };
    [
        format!("{}/{}", sandbox.namespace, sandbox.name),
        sandbox.phase.clone(),
        sandbox.tier.clone(),
        owner,
        sandbox.handler.clone(),
        sandbox.pod_ips.join(","),
        age(&sandbox.created_at, now),
        // What has lines would break the table.
        sandbox.message.replace('\n', " "),
    ]
}

/// How long ago that was, in the largest whole unit; empty when it is not known.
fn age(then: &str, now: Timestamp) -> String {
    let Ok(then) = then.parse::<Timestamp>() else {
        return String::new();
    };
    // A clock that was set back makes nothing younger than new.
    let seconds = now.duration_since(then).as_secs().max(0);
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7_200 => format!("{}m", seconds / 60),
        7_200..172_800 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        "2026-11-23T10:00:00Z".parse().unwrap()
    }

    #[test]
    fn a_row_says_who_has_the_sandbox() {
        let mut member = Sandbox {
            namespace: "default".into(),
            name: "pool-1".into(),
            phase: "Ready".into(),
            tier: "Frozen".into(),
            member: true,
            handler: "runc".into(),
            pod_ips: vec!["10.88.0.2".into()],
            created_at: "2026-11-23T09:59:30.5Z".into(),
            ..Sandbox::default()
        };
        let mut bound = member.clone();
        (bound.member, bound.owner_key) = (false, "claim-uid".into());
        member.message = "one\ntwo".into();
        let expect = "\
SANDBOX          PHASE   TIER     OWNER       HANDLER   IPS         AGE   MESSAGE
default/pool-1   Ready   Frozen   <member>    runc      10.88.0.2   29s   one two
default/pool-1   Ready   Frozen   claim-uid   runc      10.88.0.2   29s   -
";
        assert_eq!(render(&[member, bound], now()), expect);
    }

    #[test]
    fn ages_have_one_unit() {
        for (then, expect) in [
            ("2026-11-23T10:00:05Z", "0s"),
            ("2026-11-23T09:58:01Z", "119s"),
            ("2026-11-23T09:00:00Z", "60m"),
            ("2026-11-22T10:00:00Z", "24h"),
            ("2026-11-01T10:00:00Z", "22d"),
            ("", ""),
        ] {
            assert_eq!(age(then, now()), expect, "{then}");
        }
    }
}
