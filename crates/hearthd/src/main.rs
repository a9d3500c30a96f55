//! `hearthd`: arguments to configuration to run.

mod ctl;
mod fake;
mod storage;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::{Args, Parser, Subcommand};
use hearth_node::cleanup::{CleanupConfig, cleanup};
use hearth_node::config::{Config, Grant};
use hearth_node::daemon;
use hearth_node::fake::{Connections, FakeConfig};
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
    /// Asks the daemon of this machine what it knows, as crictl asks containerd. For root.
    Ctl(ctl::CtlArgs),
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
    /// Directory with containerd, ctr, the CNI plugins, and the runtimes with their shims.
    #[arg(long, env = "HEARTH_BIN_DIR", default_value = "/opt/hearth/bin")]
    bin_dir: PathBuf,
    /// CRI handlers that this node has, of runc, runsc (gVisor) and kata. Absent: runc, and those whose programs are in the
    /// bin directory.
    #[arg(long, env = "HEARTH_HANDLERS", value_delimiter = ',')]
    handlers: Vec<String>,
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
    /// Pods that are made or torn down at once, at most; how many really are follows the machine's state. Default: twice
    /// the number of cores.
    #[arg(long, env = "HEARTH_MAX_PARALLEL_CREATES")]
    max_parallel_creates: Option<usize>,
    /// Pods that are made or torn down at once to fill pools and to clean up, at least, whatever the machine's state.
    #[arg(long, env = "HEARTH_MIN_PARALLEL_CREATES", default_value_t = 1)]
    min_parallel_creates: usize,
    /// Most processes and threads in one sandbox; 0: no limit.
    #[arg(long, env = "HEARTH_PIDS_LIMIT", default_value_t = 1024)]
    pids_limit: u64,
    /// What pods may have beyond what every pod may, in the words of a PodSpec: privileged, hostNetwork, hostPID, hostIPC,
    /// hostPath=PATH (it and all below), sysctl=NAME (or NAME*). May be given several times. Absent: nothing.
    #[arg(
        long,
        env = "HEARTH_ALLOW",
        value_delimiter = ',',
        value_name = "FIELD[=VALUE]"
    )]
    allow: Vec<Grant>,
    /// The first of the node's user and group ids for pods with hostUsers: false, which have 65536 each; a multiple of
    /// that, above all that the node uses otherwise. Absent: one that follows from the instance id.
    #[arg(long, env = "HEARTH_USERNS_FIRST_ID")]
    userns_first_id: Option<u32>,
    /// Memory of frozen sandboxes that is moved to swap in a second, in MiB, for those whose spec.idle.reclaimAfter is over;
    /// 0: none.
    #[arg(long, env = "HEARTH_RECLAIM_MIB_PER_SECOND", default_value_t = 64)]
    reclaim_mib_per_second: u32,
    /// Address of the cluster's resolver, for pods with dnsPolicy ClusterFirst; may be given several times. Absent: they
    /// have the node's.
    #[arg(long, env = "HEARTH_CLUSTER_DNS", value_delimiter = ',')]
    cluster_dns: Vec<IpAddr>,
    /// Domain of the cluster.
    #[arg(long, env = "HEARTH_CLUSTER_DOMAIN", default_value = "cluster.local")]
    cluster_domain: String,
    /// host:port at which sandboxes are told to find the API server (KUBERNETES_SERVICE_HOST and the like). Absent: as
    /// hearthd itself is told, when it runs in a Pod.
    #[arg(long, env = "HEARTH_KUBERNETES_SERVICE", value_parser = host_port)]
    kubernetes_service: Option<(String, u16)>,
    /// Namespace of the leader Lease.
    #[arg(long, env = "HEARTH_LEADER_NAMESPACE", default_value = hearth_api::constants::CONTROLLER_NAMESPACE)]
    leader_namespace: String,
    /// Name of the leader Lease.
    #[arg(long, env = "HEARTH_LEADER_LEASE", default_value = hearth_api::constants::LEADER_LEASE)]
    leader_lease: String,
    /// Seconds between renewals of the node's Lease.
    #[arg(long, env = "HEARTH_HEARTBEAT_SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    heartbeat_seconds: u32,
    #[command(flatten)]
    storage: storage::StorageArgs,
    /// `text` or `json`.
    #[arg(long, env = "HEARTH_LOG_FORMAT", default_value = "text")]
    log_format: LogFormat,
    #[command(flatten)]
    fake: fake::FakeArgs,
}

impl RunArgs {
    fn into_work(self) -> Work {
        // Taken apart completely: a flag that nobody uses does not compile.
        let Self {
            node_name,
            instance,
            kubeconfig: _,
            root_dir,
            run_dir,
            bin_dir,
            handlers,
            images_dir,
            pause_image,
            listen,
            advertise_address,
            metrics_listen,
            pod_cidr,
            max_sandboxes,
            max_parallel_creates,
            min_parallel_creates,
            pids_limit,
            allow,
            userns_first_id,
            reclaim_mib_per_second,
            cluster_dns,
            cluster_domain,
            kubernetes_service,
            leader_namespace,
            leader_lease,
            heartbeat_seconds,
            storage,
            log_format: _,
            fake,
        } = self;
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let first_user_id =
            userns_first_id.unwrap_or_else(|| hearth_node::config::first_user_id(&instance));
        let config = Config {
            node_name,
            root_dir: root_dir.unwrap_or_else(|| default_dir("/var/lib/hearth", &instance)),
            run_dir: run_dir.unwrap_or_else(|| default_dir("/run/hearth", &instance)),
            instance,
            bin_dir,
            handlers,
            images_dir,
            pause_image,
            listen,
            advertise_address,
            metrics_listen,
            pod_cidr,
            max_sandboxes,
            max_parallel_creates: max_parallel_creates
                .unwrap_or_else(|| (2 * cores).max(min_parallel_creates)),
            min_parallel_creates,
            pids_limit,
            allow,
            first_user_id,
            reclaim_rate: u64::from(reclaim_mib_per_second) << 20,
            cluster_dns,
            cluster_domain,
            kubernetes_service: kubernetes_service.or_else(own_service),
            leader_namespace,
            leader_lease,
            heartbeat: Duration::from_secs(u64::from(heartbeat_seconds)),
            storage: storage.into_config(),
        };
        match fake.into_config(&config) {
            Some(fake) => Work::FakeNodes(Box::new(fake)),
            None => Work::Node(Box::new(config)),
        }
    }
}

/// What this process is to be.
enum Work {
    /// The daemon of this machine.
    Node(Box<Config>),
    /// Nodes without machines.
    FakeNodes(Box<FakeConfig>),
}

/// `host:port`; an IPv6 address in brackets.
fn host_port(text: &str) -> Result<(String, u16), String> {
    let wrong = || format!("{text:?} is not host:port, such as 10.96.0.1:443 or [fd00::1]:443");
    let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    let port = port.parse().map_err(|_| wrong())?;
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    if bare.is_empty() || (bare.contains(':') && bare == host) {
        return Err(wrong());
    }
    Ok((bare.to_owned(), port))
}

/// Where this process is told that the API server is.
fn own_service() -> Option<(String, u16)> {
    let host = std::env::var("KUBERNETES_SERVICE_HOST").ok()?;
    let port = std::env::var("KUBERNETES_SERVICE_PORT").ok()?;
    Some((host, port.parse().ok()?)).filter(|(host, _)| !host.is_empty())
}

fn default_dir(parent: &str, instance: &str) -> PathBuf {
    PathBuf::from(parent).join(instance)
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match cli.command {
        Some(Command::Cleanup(args)) => {
            init_logging(cli.run.log_format, "info");
            clean_up(args)
        }
        // Its output is what was asked for, and no log.
        Some(Command::Ctl(args)) => ctl::main(args),
        None => {
            init_logging(cli.run.log_format, "info");
            run(cli.run)
        }
    }
}

fn run(args: RunArgs) -> ExitCode {
    match serve(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = %ErrorChain(error.as_ref()), "hearthd ends");
            ExitCode::FAILURE
        }
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
    // Few threads: the daemon waits more than it computes, and each one costs memory next to the sandboxes. Freezes of fake
    // nodes may have to wait on threads, all of them at once.
    let blocking = if args.fake.are_wanted() { 256 } else { 32 };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(blocking)
        .enable_all()
        .build()
        .context("start the async runtime")?;
    runtime.block_on(async {
        let api_server = hearth_kube::config(args.kubeconfig.as_deref()).await?;
        let connect = || hearth_kube::client(&api_server);
        let token = CancellationToken::new();
        let served = async {
            match args.into_work() {
                Work::Node(config) => daemon::run(*config, connect()?, token.clone()).await?,
                Work::FakeNodes(config) => {
                    fake::raise_open_files();
                    let connections = Connections::open(config.nodes, connect)?;
                    hearth_node::fake::run(*config, connections, token.clone()).await?;
                }
            }
            anyhow::Ok(())
        };
        let work = async {
            let result = served.await;
            token.cancel();
            result
        };
        let (result, signals) = tokio::join!(work, shutdown_on_signal(token.clone()));
        signals.context("listen for signals")?;
        result
    })
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::apps::v1::DaemonSet;

    use super::*;

    /// Flags that there are, with values that can be used, and ports and directories that agree with them.
    #[test]
    fn the_daemonset_starts_hearthd() {
        let text = include_str!("../../../deploy/node/daemonset.yaml");
        let set: serde_json::Value = serde_saphyr::from_str(text).unwrap();
        let set: DaemonSet = serde_json::from_value(set).unwrap();
        let pod = set.spec.unwrap().template.spec.unwrap();
        let [container] = pod.containers.as_slice() else {
            panic!("{} containers", pod.containers.len());
        };
        let args = container.args.iter().flatten().map(|arg| {
            arg.replace("$(NODE_NAME)", "n")
                .replace("$(NODE_IP)", "192.0.2.7")
        });
        let args: Vec<String> = std::iter::once("hearthd".to_owned()).chain(args).collect();
        assert!(!args.iter().any(|arg| arg.contains("$(")), "{args:?}");
        let Work::Node(config) = Cli::try_parse_from(&args).unwrap().run.into_work() else {
            panic!("{args:?} start fake nodes");
        };
        config.check().unwrap();

        let port = |name: &str| {
            let mut ports = container.ports.iter().flatten();
            let port = ports.find(|port| port.name.as_deref() == Some(name));
            port.map(|port| port.container_port)
        };
        assert_eq!(port("node-api"), Some(i32::from(config.listen.port())));
        let metrics = Some(i32::from(config.metrics_listen.port()));
        assert_eq!(port("metrics"), metrics);
        for directory in [&config.root_dir, &config.run_dir] {
            let mut mounts = container.volume_mounts.iter().flatten();
            let mount = mounts.find(|mount| directory.starts_with(&mount.mount_path));
            // What pods mount there must be seen by the node.
            let propagation = mount.and_then(|mount| mount.mount_propagation.as_deref());
            assert_eq!(
                propagation,
                Some("Bidirectional"),
                "{}",
                directory.display()
            );
        }
    }

    #[test]
    fn the_chart_gives_flags_that_there_are() {
        let template = include_str!("../../../deploy/helm/hearth/templates/node.yaml");
        let command = <Cli as clap::CommandFactory>::command();
        let known: Vec<_> = command
            .get_arguments()
            .filter_map(clap::Arg::get_long)
            .collect();
        let words = template.split(|c: char| !c.is_ascii_lowercase() && c != '-');
        let flags = words.filter_map(|word| word.strip_prefix("--"));
        let flags: Vec<_> = flags.filter(|flag| !flag.is_empty()).collect();
        assert!(flags.len() > 8, "{flags:?}");
        for flag in flags {
            assert!(known.contains(&flag), "--{flag}");
        }
    }

    #[test]
    fn an_address_has_a_host_and_a_port() {
        for (text, expect) in [
            ("10.96.0.1:443", Some(("10.96.0.1", 443))),
            ("kube.example:6443", Some(("kube.example", 6443))),
            ("[fd00::1]:443", Some(("fd00::1", 443))),
            ("fd00::1:443", None),
            ("10.96.0.1", None),
            (":443", None),
            ("a:port", None),
        ] {
            let expect = expect.map(|(host, port)| (host.to_owned(), port));
            assert_eq!(host_port(text).ok(), expect, "{text}");
        }
    }
}
