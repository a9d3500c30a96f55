//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use jiff::{SignedDuration, Timestamp};

use crate::load::Pacing;

/// Measures claims, from POST to Ready as a watcher sees it, against any implementation of the agent-sandbox API.
#[derive(Debug, Parser)]
#[command(name = "hearth-bench", version)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) cluster: Cluster,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// How to reach the cluster.
#[derive(Debug, Args)]
pub(crate) struct Cluster {
    /// Kubeconfig file [default: as kubectl finds it]
    #[arg(long, global = true, env = "HEARTH_KUBECONFIG")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// Namespace of claims and pool
    #[arg(
        long,
        short,
        global = true,
        env = "HEARTH_NAMESPACE",
        default_value = "default"
    )]
    pub(crate) namespace: String,
    /// Connections to the API server, each carries up to 100 requests at once
    #[arg(long, global = true, env = "HEARTH_CONNECTIONS", default_value_t = 4)]
    pub(crate) connections: usize,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Claims one at a time
    One(Claims<One>),
    /// Claims at a rate, Poisson arrivals
    Rate(Claims<Rate>),
    /// Claims all at once
    Burst(Claims<Burst>),
    /// The floor of this cluster: one status patch per object, by a process that does nothing else
    #[command(subcommand)]
    Floor(Floor),
    /// Floor and claims in turn: ratios with their spread
    #[command(subcommand)]
    Compare(Compare),
    /// Filling a pool, against the same pods by bare CRI calls; on the node, as root, with no other pods on it
    Fill(FillArgs),
    /// Members by the thousand: what the controller takes, what a claim costs, and how long it is without a controller that
    /// was killed; with fake nodes, on the machine of the controller
    Scale(ScaleArgs),
    /// Binds on one fake node in this process, over its stream as a controller asks for them; needs no cluster
    Binds(BindsArgs),
    /// API writes per claim, counted in the API server's audit log
    Writes(Writes),
    /// Renders results files as Markdown
    Report(Report),
}

#[derive(Debug, Subcommand)]
pub(crate) enum Floor {
    /// Only answer, until a signal comes (what the other commands start by themselves)
    Serve {
        /// End when standard input ends
        #[arg(long, hide = true)]
        with_stdin: bool,
    },
    /// One at a time
    One(Plain<One>),
    /// At a rate
    Rate(Plain<Rate>),
    /// All at once
    Burst(Plain<Burst>),
}

#[derive(Debug, Subcommand)]
pub(crate) enum Compare {
    /// One at a time
    One(Compared<One>),
    /// At a rate
    Rate(Compared<Rate>),
    /// All at once
    Burst(Compared<Burst>),
}

/// A run of claims.
#[derive(Debug, Args)]
pub(crate) struct Claims<P: Args> {
    #[command(flatten)]
    pub(crate) pacing: P,
    #[command(flatten)]
    pub(crate) run: RunArgs,
    #[command(flatten)]
    pub(crate) pool: PoolArgs,
}

/// A run of the floor.
#[derive(Debug, Args)]
pub(crate) struct Plain<P: Args> {
    #[command(flatten)]
    pub(crate) pacing: P,
    #[command(flatten)]
    pub(crate) run: RunArgs,
}

/// A comparison.
#[derive(Debug, Args)]
pub(crate) struct Compared<P: Args> {
    #[command(flatten)]
    pub(crate) pacing: P,
    #[command(flatten)]
    pub(crate) run: RunArgs,
    #[command(flatten)]
    pub(crate) pool: PoolArgs,
    /// How often floor and claims alternate; fewer than 5 void the result
    #[arg(long, default_value_t = crate::verdict::ROUNDS)]
    pub(crate) rounds: usize,
    /// Ratio to the floor that was promised (p50; for a burst the time until all are ready)
    #[arg(long)]
    pub(crate) budget: Option<f64>,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct One {
    /// How many
    #[arg(long, default_value_t = 100)]
    count: usize,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct Rate {
    /// Arrivals a second
    #[arg(long, default_value_t = 10.0)]
    rate: f64,
    /// How long they arrive
    #[arg(long, default_value = "30s", value_parser = duration)]
    duration: Duration,
    /// Decides the arrivals
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct Burst {
    /// How many
    #[arg(long, default_value_t = 300)]
    count: usize,
}

/// What is told of all runs.
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// How long one claim may take before it counts as lost
    #[arg(long, default_value = "30s", value_parser = duration)]
    pub(crate) timeout: Duration,
    /// How long a claim is kept after its answer [default: until all are answered]
    #[arg(long, value_parser = duration)]
    pub(crate) dwell: Option<Duration>,
    /// How long the deletion of all claims may take
    #[arg(long, default_value = "120s", value_parser = duration)]
    pub(crate) release_timeout: Duration,
    #[command(flatten)]
    pub(crate) output: Output,
}

/// What becomes of the results, and what they say of themselves.
#[derive(Debug, Args)]
pub(crate) struct Output {
    /// Write the results with all samples to this file
    #[arg(long)]
    pub(crate) json: Option<PathBuf>,
    /// Title of the results
    #[arg(long)]
    pub(crate) title: Option<String>,
    /// Commit that is measured [default: what git says]
    #[arg(long)]
    pub(crate) commit: Option<String>,
}

/// The pool, and what is asked of its sandboxes.
#[derive(Debug, Args)]
pub(crate) struct PoolArgs {
    /// Pool that the claims name
    #[arg(long)]
    pub(crate) pool: String,
    /// Wait until the pool is whole before, and report when it is whole again afterwards (compare always does)
    #[arg(long)]
    pub(crate) wait_pool: bool,
    /// How long that may take
    #[arg(long, default_value = "10m", value_parser = duration)]
    pub(crate) pool_timeout: Duration,
    /// Also measure POST to the first HTTP answer of the sandbox on its pod address
    #[arg(long)]
    pub(crate) ttfi: bool,
    /// Variable that each claim sets, NAME=VALUE; the pool's template must allow it. May be given several times
    #[arg(long, value_parser = variable)]
    pub(crate) env: Vec<(String, String)>,
    /// Port of that answer
    #[arg(long, default_value_t = 8888)]
    pub(crate) port: u16,
    /// Path of that answer
    #[arg(long, default_value = "/")]
    pub(crate) path: String,
}

/// A pool that is filled.
#[derive(Debug, Args)]
pub(crate) struct FillArgs {
    /// The pool. Its size is changed, to nothing in the end
    #[arg(long)]
    pub(crate) pool: String,
    /// How many pods
    #[arg(long, default_value_t = 40)]
    pub(crate) count: usize,
    /// How many the bare loop makes at once. The node's --min-parallel-creates and --max-parallel-creates must be the same
    #[arg(long, default_value_t = 2)]
    pub(crate) parallel: usize,
    /// How often both alternate
    #[arg(long, default_value_t = crate::verdict::ROUNDS)]
    pub(crate) rounds: usize,
    /// Ratio to the bare loop that was promised
    #[arg(long)]
    pub(crate) budget: Option<f64>,
    /// Socket of the node's containerd
    #[arg(long)]
    pub(crate) cri: PathBuf,
    /// Handler of the bare pods
    #[arg(long, default_value = "runc")]
    pub(crate) handler: String,
    /// Image of the bare pods
    #[arg(long, default_value = "localhost/hearth-busybox:dev")]
    pub(crate) image: String,
    /// Parent cgroup of the bare pods
    #[arg(long, default_value = "/hearth-bench-fill")]
    pub(crate) cgroup_parent: String,
    /// How long one fill, or emptying the node, may take
    #[arg(long, default_value = "10m", value_parser = duration)]
    pub(crate) timeout: Duration,
    #[command(flatten)]
    pub(crate) output: Output,
    /// Command of the bare pods
    #[arg(last = true, default_values = ["httpd", "-f", "-p", "8888", "-h", "/www"])]
    pub(crate) command: Vec<String>,
}

/// A cluster that grows.
#[derive(Debug, Args)]
pub(crate) struct ScaleArgs {
    /// Members of all pools at which it is measured, rising
    #[arg(long, value_delimiter = ',', default_values_t = [100_usize, 1_000, 10_000])]
    pub(crate) members: Vec<usize>,
    /// Pools that they are in, equal parts; called scale-0 and so on, made and deleted
    #[arg(long, default_value_t = 4)]
    pub(crate) pools: usize,
    /// Least size of a PodSpec, in bytes
    #[arg(long, default_value_t = 2048)]
    pub(crate) spec_bytes: usize,
    /// Claims at each size, one at a time
    #[arg(long, default_value_t = 200)]
    pub(crate) claims: usize,
    /// How often the controller is killed at each size
    #[arg(long, default_value_t = 3)]
    pub(crate) restarts: usize,
    /// How long CPU time is taken while nothing is asked for
    #[arg(long, default_value = "30s", value_parser = duration)]
    pub(crate) rest: Duration,
    /// Name of the controller's process, of which the kernel keeps 15 bytes
    #[arg(long, default_value = "agent-sandbox-c")]
    pub(crate) controller: String,
    /// How long one claim may take before it counts as lost
    #[arg(long, default_value = "120s", value_parser = duration)]
    pub(crate) timeout: Duration,
    /// How long one change of the size may take
    #[arg(long, default_value = "60m", value_parser = duration)]
    pub(crate) fill_timeout: Duration,
    #[command(flatten)]
    pub(crate) output: Output,
}

/// Binds on one node.
#[derive(Debug, Args)]
pub(crate) struct BindsArgs {
    /// How many members, each of which is bound
    #[arg(long, default_value_t = 5_000, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) count: u16,
    /// Binds sent in a second; 0: all at once
    #[arg(long, default_value_t = 1_000.0)]
    pub(crate) rate: f64,
    /// Binds a second that were promised
    #[arg(long)]
    pub(crate) budget: Option<f64>,
    /// How long a step of the runtime takes, as hearthd's --fake-delay has it. May be given several times
    #[arg(long, value_name = "STEP=DURATION")]
    pub(crate) delay: Vec<hearth_node::fake::Delay>,
    /// Pods that are made at once
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) parallel: u16,
    /// Least size of a PodSpec, in bytes
    #[arg(long, default_value_t = 2048)]
    pub(crate) spec_bytes: usize,
    /// Where the journal is made; its disk is part of what is measured [default: the directory for temporary files]
    #[arg(long)]
    pub(crate) dir: Option<PathBuf>,
    /// How long each part may take: making the members, binding them
    #[arg(long, default_value = "10m", value_parser = duration)]
    pub(crate) timeout: Duration,
    #[command(flatten)]
    pub(crate) output: Output,
}

/// The audit log and what to count in it.
#[derive(Debug, Args)]
pub(crate) struct Writes {
    /// Audit log of the API server, JSON lines
    #[arg(long)]
    pub(crate) audit_log: PathBuf,
    /// Results file of a run: its time, its claims and their sandboxes. The writes before an answer need it
    #[arg(long, required_unless_present = "since")]
    pub(crate) run: Option<PathBuf>,
    /// Count from here on (RFC 3339) [default: start of the run]
    #[arg(long)]
    pub(crate) since: Option<Timestamp>,
    /// Count up to here [default: end of the run with --run, else of the log]
    #[arg(long)]
    pub(crate) until: Option<Timestamp>,
    /// Count only users that start so
    #[arg(long, default_value = "system:serviceaccount:")]
    pub(crate) user: String,
    /// Fail when a user group of ours has more writes than this before an answer
    #[arg(long)]
    pub(crate) limit: Option<usize>,
}

/// Which results to render and where.
#[derive(Debug, Args)]
pub(crate) struct Report {
    /// Results files, in the order of the report
    #[arg(required = true)]
    pub(crate) results: Vec<PathBuf>,
    /// Replace the generated part of this document [default: print]
    #[arg(long)]
    pub(crate) into: Option<PathBuf>,
}

/// What tells the pacing of a run.
pub(crate) trait Paced {
    /// The pacing asked for.
    fn pacing(&self) -> Pacing;
}

impl Paced for One {
    fn pacing(&self) -> Pacing {
        Pacing::One { count: self.count }
    }
}

impl Paced for Rate {
    fn pacing(&self) -> Pacing {
        Pacing::Rate {
            per_second: self.rate,
            duration: self.duration,
            seed: self.seed,
        }
    }
}

impl Paced for Burst {
    fn pacing(&self) -> Pacing {
        Pacing::Burst { count: self.count }
    }
}

/// `NAME=VALUE`.
fn variable(text: &str) -> Result<(String, String), String> {
    let (name, value) = text
        .split_once('=')
        .filter(|(name, _)| !name.is_empty())
        .ok_or_else(|| format!("{text:?} is not NAME=VALUE"))?;
    Ok((name.to_owned(), value.to_owned()))
}

/// `30s`, `500ms`, `2m 30s`.
fn duration(text: &str) -> Result<Duration, String> {
    let parsed: SignedDuration = text
        .parse()
        .map_err(|error: jiff::Error| error.to_string())?;
    Duration::try_from(parsed).map_err(|_| "a duration cannot be negative".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn durations_are_written_as_people_write_them() {
        let check = |text, millis: Option<u64>| {
            assert_eq!(
                duration(text).ok(),
                millis.map(Duration::from_millis),
                "{text}"
            )
        };
        check("30s", Some(30_000));
        check("500ms", Some(500));
        check("2m", Some(120_000));
        check("-1s", None);
        check("30", None);
    }

    #[test]
    fn a_variable_has_a_name_and_a_value() {
        assert_eq!(variable("A=b=c"), Ok(("A".into(), "b=c".into())));
        assert_eq!(variable("A="), Ok(("A".into(), String::new())));
        assert!(variable("A").is_err() && variable("=b").is_err());
    }

    #[test]
    fn pacing_follows_the_flags() {
        let cli = Cli::parse_from([
            "hearth-bench",
            "compare",
            "rate",
            "--pool=p",
            "--rate=45",
            "--duration=10s",
        ]);
        let Command::Compare(Compare::Rate(compared)) = cli.command else {
            panic!("{cli:?}")
        };
        let expect = Pacing::Rate {
            per_second: 45.0,
            duration: Duration::from_secs(10),
            seed: 1,
        };
        assert_eq!(compared.pacing.pacing(), expect);
    }
}
