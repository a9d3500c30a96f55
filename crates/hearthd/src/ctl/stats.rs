//! `stats`.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use hearth_proto::sandboxes::v1::{SandboxStats, StatsRequest};

use super::client::{Client, LOOK, said, within};
use super::{output, table};

#[derive(Debug, Args)]
pub(super) struct StatsArgs {
    /// NAMESPACE/NAME, or the UID of the Sandbox; default: all that have a pod.
    #[arg(default_value = "", hide_default_value = true)]
    sandbox: String,
    /// In bytes and microseconds, as JSON.
    #[arg(long)]
    json: bool,
}

pub(super) async fn stats(mut client: Client, args: StatsArgs) -> Result<ExitCode> {
    let StatsArgs { sandbox, json } = args;
    let answer = client.stats(within(LOOK, StatsRequest { sandbox })).await;
    let answer = answer.map_err(said)?.into_inner();
    if json {
        output::print_json(&answer)?;
    } else {
        output::print(&render(&answer.sandboxes))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn render(sandboxes: &[SandboxStats]) -> String {
    let rows: Vec<_> = sandboxes.iter().map(row).collect();
    table::render(
        [
            "SANDBOX",
            "TIER",
            "CPU",
            "MEMORY",
            "WORKING SET",
            "SWAP",
            "TASKS",
        ],
        &rows,
    )
}

fn row(stats: &SandboxStats) -> [String; 7] {
    [
        format!("{}/{}", stats.namespace, stats.name),
        stats.tier.clone(),
        cpu_time(stats.cpu_micros),
        mebibytes(stats.memory_bytes),
        mebibytes(stats.working_set_bytes),
        mebibytes(stats.swap_bytes),
        stats.tasks.to_string(),
    ]
}

/// In seconds, to the millisecond.
fn cpu_time(micros: u64) -> String {
    format!("{}.{:03}s", micros / 1_000_000, micros / 1000 % 1000)
}

/// In MiB, to a tenth.
fn mebibytes(bytes: u64) -> String {
    let tenths = bytes.saturating_mul(10) >> 20;
    format!("{}.{}Mi", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_has_what_people_can_read() {
        let stats = SandboxStats {
            namespace: "default".into(),
            name: "a".into(),
            tier: "Frozen".into(),
            cpu_micros: 61_042_999,
            memory_bytes: 7 << 20,
            working_set_bytes: (1 << 20) + (1 << 19),
            tasks: 3,
            swap_bytes: 5 << 20,
            ..SandboxStats::default()
        };
        let expect = "\
SANDBOX     TIER     CPU       MEMORY   WORKING SET   SWAP    TASKS
default/a   Frozen   61.042s   7.0Mi    1.5Mi         5.0Mi   3
";
        assert_eq!(render(&[stats]), expect);
    }
}
