//! `hearthd`: arguments to configuration to run.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::{Args, Parser, Subcommand};
use hearth_node::cleanup::{CleanupConfig, cleanup};
use hearth_node::config::Config;
use hearth_node::daemon;
use hearth_telemetry::{ErrorChain, LogFormat, init_logging, shutdown_on_signal};
use tokio_util::sync::CancellationToken;

/// Runs the sandboxes of one node.
#[derive(Debug, Parser)]
#[command(name = "hearthd", version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    run: RunArgs,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Takes an instance off the machine: sandboxes, containerd, network, cgroups, directories. Harmless twice.
    Cleanup(CleanupArgs),
}

#[derive(Debug, Args)]
struct CleanupArgs {
    /// Instance id.
    #[arg(long, env = "HEARTH_INSTANCE", default_value = "node")]
    instance: String,
    /// As the daemon had it; default /var/lib/hearth/<instance>.
    #[arg(long, env = "HEARTH_ROOT_DIR")]
    root_dir: Option<PathBuf>,
    /// As the daemon had it; default /run/hearth/<instance>.
    #[arg(long, env = "HEARTH_RUN_DIR")]
    run_dir: Option<PathBuf>,
    /// Accepted for symmetry with the daemon's flags.
    #[arg(long, env = "HEARTH_BIN_DIR", hide = true)]
    bin_dir: Option<PathBuf>,
    /// Keeps the root directory: journal, images, logs.
    #[arg(long)]
    keep_data: bool,
}

#[derive(Debug, Args)]
struct RunArgs {
    /// Name of the node, as in its Node object.
    #[arg(long, env = "HEARTH_NODE_NAME", default_value = "")]
    node_name: String,
    /// 1 to 8 lower-case letters and digits; names everything of this instance on the machine.
    #[arg(long, env = "HEARTH_INSTANCE", default_value = "node")]
    instance: String,
    /// Kubeconfig file. Absent: the Pod's ServiceAccount.
    #[arg(long, env = "HEARTH_KUBECONFIG")]
    kubeconfig: Option<PathBuf>,
    /// What survives a reboot; default /var/lib/hearth/<instance>.
    #[arg(long, env = "HEARTH_ROOT_DIR")]
    root_dir: Option<PathBuf>,
    /// What does not; default /run/hearth/<instance>.
    #[arg(long, env = "HEARTH_RUN_DIR")]
    run_dir: Option<PathBuf>,
    /// Directory with containerd, containerd-shim-runc-v2, ctr, runc and the CNI plugins.
    #[arg(long, env = "HEARTH_BIN_DIR", default_value = "/opt/hearth/bin")]
    bin_dir: PathBuf,
    /// Directory of image archives that are imported at the start.
    #[arg(long, env = "HEARTH_IMAGES_DIR")]
    images_dir: Option<PathBuf>,
    /// Image of pause containers.
    #[arg(
        long,
        env = "HEARTH_PAUSE_IMAGE",
        default_value = "localhost/hearth-pause:dev"
    )]
    pause_image: String,
    /// Address of the node API.
    #[arg(long, env = "HEARTH_LISTEN", default_value = "0.0.0.0:10270")]
    listen: SocketAddr,
    /// host:port at which controllers reach the node API; default: where it listens.
    #[arg(long, env = "HEARTH_ADVERTISE_ADDRESS")]
    advertise_address: Option<String>,
    /// Address of /metrics, /healthz and /readyz.
    #[arg(long, env = "HEARTH_METRICS_LISTEN", default_value = "127.0.0.1:10271")]
    metrics_listen: SocketAddr,
    /// Addresses of pods.
    #[arg(long, env = "HEARTH_POD_CIDR", default_value = "10.88.0.0/16")]
    pod_cidr: String,
    /// Sandboxes that the node takes at most.
    #[arg(long, env = "HEARTH_MAX_SANDBOXES", default_value_t = 512)]
    max_sandboxes: u16,
    /// Pods that are made or torn down at once; default: the number of cores.
    #[arg(long, env = "HEARTH_MAX_PARALLEL_CREATES")]
    max_parallel_creates: Option<usize>,
    /// Most processes and threads in one sandbox; 0: no limit.
    #[arg(long, env = "HEARTH_PIDS_LIMIT", default_value_t = 1024)]
    pids_limit: u64,
    /// Namespace of the leader Lease.
    #[arg(long, env = "HEARTH_LEADER_NAMESPACE", default_value = hearth_api::constants::CONTROLLER_NAMESPACE)]
    leader_namespace: String,
    /// Name of the leader Lease.
    #[arg(long, env = "HEARTH_LEADER_LEASE", default_value = hearth_api::constants::LEADER_LEASE)]
    leader_lease: String,
    /// Seconds between renewals of the node's Lease.
    #[arg(long, env = "HEARTH_HEARTBEAT_SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    heartbeat_seconds: u32,
    /// `text` or `json`.
    #[arg(long, env = "HEARTH_LOG_FORMAT", default_value = "text")]
    log_format: LogFormat,
}

impl RunArgs {
    fn into_config(self) -> Config {
        // Taken apart completely: a flag that nobody uses does not compile.
        let Self {
            node_name,
            instance,
            kubeconfig: _,
            root_dir,
            run_dir,
            bin_dir,
            images_dir,
            pause_image,
            listen,
            advertise_address,
            metrics_listen,
            pod_cidr,
            max_sandboxes,
            max_parallel_creates,
            pids_limit,
            leader_namespace,
            leader_lease,
            heartbeat_seconds,
            log_format: _,
        } = self;
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Config {
            node_name,
            root_dir: root_dir.unwrap_or_else(|| default_dir("/var/lib/hearth", &instance)),
            run_dir: run_dir.unwrap_or_else(|| default_dir("/run/hearth", &instance)),
            instance,
            bin_dir,
            images_dir,
            pause_image,
            listen,
            advertise_address,
            metrics_listen,
            pod_cidr,
            max_sandboxes,
            max_parallel_creates: max_parallel_creates.unwrap_or(cores),
            pids_limit,
            leader_namespace,
            leader_lease,
            heartbeat: Duration::from_secs(u64::from(heartbeat_seconds)),
        }
    }
}

fn default_dir(parent: &str, instance: &str) -> PathBuf {
    PathBuf::from(parent).join(instance)
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    init_logging(cli.run.log_format, "info");
    match cli.command {
        Some(Command::Cleanup(args)) => clean_up(args),
        None => match serve(cli.run) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                tracing::error!(error = %ErrorChain(error.as_ref()), "hearthd ends");
                ExitCode::FAILURE
            }
        },
    }
}

fn clean_up(args: CleanupArgs) -> ExitCode {
    let CleanupArgs {
        instance,
        root_dir,
        run_dir,
        bin_dir: _,
        keep_data,
    } = args;
    let config = CleanupConfig {
        root_dir: root_dir.unwrap_or_else(|| default_dir("/var/lib/hearth", &instance)),
        run_dir: run_dir.unwrap_or_else(|| default_dir("/run/hearth", &instance)),
        instance,
        keep_data,
    };
    let errors = cleanup(&config);
    for error in &errors {
        tracing::error!(error = %ErrorChain(error), "not cleaned up");
    }
    if errors.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn serve(args: RunArgs) -> Result<()> {
    // Few threads: the daemon waits more than it computes, and each one costs memory next to the sandboxes.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(32)
        .enable_all()
        .build()
        .context("start the async runtime")?;
    runtime.block_on(async {
        let client = hearth_kube::client(&hearth_kube::config(args.kubeconfig.as_deref()).await?)?;
        let token = CancellationToken::new();
        let config = args.into_config();
        let daemon = async {
            let result = daemon::run(config, client, token.clone()).await;
            token.cancel();
            result
        };
        let (result, signals) = tokio::join!(daemon, shutdown_on_signal(token.clone()));
        signals.context("listen for signals")?;
        result.map_err(anyhow::Error::from)
    })
}
