//! `agent-sandbox-controller`: arguments to configuration to run.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{ArgAction, Parser};
use hearth_controller::sessions::SessionSettings;
use hearth_controller::writer::WriterSettings;
use hearth_controller::{ControllerConfig, run};
use hearth_core::index::Settings;
use hearth_core::lease::LeaseTiming;
use hearth_telemetry::{ErrorChain, LogFormat, init_logging, shutdown_on_signal};
use tokio_util::sync::CancellationToken;

/// Assigns Sandboxes to nodes and answers claims.
#[derive(Debug, Parser)]
#[command(name = "agent-sandbox-controller", version)]
struct Args {
    /// Kubeconfig file. Absent: the Pod's ServiceAccount.
    #[arg(long, env = "HEARTH_KUBECONFIG")]
    kubeconfig: Option<PathBuf>,
    /// Namespace of the leader Lease.
    #[arg(long, env = "HEARTH_LEADER_ELECTION_NAMESPACE", default_value = hearth_api::constants::CONTROLLER_NAMESPACE)]
    leader_election_namespace: String,
    /// Our name in the leader Lease. A process with the name of a dead leader leads at once instead of when the Lease runs
    /// out, so only give one that no two living processes can have: in a Deployment the Pod's name and uid, because the
    /// kubelet starts a container again only when it has ended. Absent: host name and a random part.
    #[arg(long, env = "HEARTH_LEADER_ELECTION_IDENTITY", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    leader_election_identity: Option<String>,
    /// Accepted for upstream's manifests. Leader election is always on: the nodes know the leader by it.
    #[arg(long, default_value = "true", num_args = 0..=1, default_missing_value = "true", action = ArgAction::Set)]
    leader_elect: bool,
    /// Accepted for upstream's manifests. Claims, pools and templates are always served.
    #[arg(long, default_value = "true", num_args = 0..=1, default_missing_value = "true", action = ArgAction::Set)]
    extensions: bool,
    /// Address of /metrics; `:8080` means all addresses.
    #[arg(long, env = "HEARTH_METRICS_BIND_ADDRESS", default_value = ":8080", value_parser = go_address)]
    metrics_bind_address: SocketAddr,
    /// Address of /healthz and /readyz; `:8081` means all addresses.
    #[arg(long, env = "HEARTH_HEALTH_PROBE_BIND_ADDRESS", default_value = ":8081", value_parser = go_address)]
    health_probe_bind_address: SocketAddr,
    /// DNS domain of the cluster.
    #[arg(long, env = "HEARTH_CLUSTER_DOMAIN", default_value = "cluster.local")]
    cluster_domain: String,
    /// Most creations of one pool under way at once.
    #[arg(long, default_value_t = Settings::default().batch)]
    sandbox_warm_pool_max_batch_size: usize,
    /// Claims get no annotations for observers.
    #[arg(long)]
    disable_claim_observability_annotations: bool,
    /// Claims get no Events.
    #[arg(long)]
    disable_claim_events: bool,
    /// Seconds that a leader leads after its last renewal.
    #[arg(long, env = "HEARTH_LEASE_DURATION_SECONDS", default_value_t = 15, value_parser = clap::value_parser!(u32).range(3..))]
    lease_duration_seconds: u32,
    /// `text` or `json`.
    #[arg(long, env = "HEARTH_LOG_FORMAT", default_value = "text")]
    log_format: LogFormat,
}

/// An address in Go's form, where the host may be absent.
fn go_address(text: &str) -> Result<SocketAddr, String> {
    let full = if text.starts_with(':') {
        format!("0.0.0.0{text}")
    } else {
        text.to_owned()
    };
    full.parse()
        .map_err(|_| format!("{text:?} is not an address: use host:port or :port"))
}

impl Args {
    fn into_config(self) -> ControllerConfig {
        // Taken apart completely: a flag that nobody uses does not compile.
        let Self {
            kubeconfig,
            leader_election_namespace,
            leader_election_identity,
            leader_elect,
            extensions,
            metrics_bind_address,
            health_probe_bind_address,
            cluster_domain,
            sandbox_warm_pool_max_batch_size,
            disable_claim_observability_annotations,
            disable_claim_events,
            lease_duration_seconds,
            log_format: _,
        } = self;
        if !leader_elect || !extensions {
            tracing::warn!("--leader-elect=false and --extensions=false have no effect");
        }
        let identity = leader_election_identity
            .unwrap_or_else(|| format!("{}_{}", host_name(), uuid::Uuid::new_v4()));
        let duration = Duration::from_secs(u64::from(lease_duration_seconds));
        ControllerConfig {
            kubeconfig,
            lease_namespace: leader_election_namespace,
            lease_name: hearth_api::constants::LEADER_LEASE.to_owned(),
            lease_timing: LeaseTiming {
                duration,
                renew_deadline: duration * 2 / 3,
                retry_period: duration / 8,
            },
            identity,
            metrics_address: metrics_bind_address,
            health_address: health_probe_bind_address,
            settings: Settings {
                cluster_domain,
                batch: sandbox_warm_pool_max_batch_size.max(1),
                claim_annotations: !disable_claim_observability_annotations,
                claim_events: !disable_claim_events,
                ..Settings::default()
            },
            sessions: SessionSettings::default(),
            writer: WriterSettings::default(),
        }
    }
}

/// The Pod's or machine's name: for people who read the Lease.
fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map(|name| name.trim().to_owned())
        .unwrap_or_else(|_| "controller".to_owned())
}

fn main() -> ExitCode {
    let args = Args::parse();
    init_logging(args.log_format, "info");
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "cannot start the async runtime");
            return ExitCode::FAILURE;
        }
    };
    let config = args.into_config();
    let result = runtime.block_on(async {
        let token = CancellationToken::new();
        let controller = async {
            let result = run(config, token.clone()).await;
            // Nobody waits for a signal any more: a process that must not lead ends, and is started again.
            token.cancel();
            result
        };
        let (result, signals) = tokio::join!(controller, shutdown_on_signal(token.clone()));
        if let Err(error) = signals {
            tracing::error!(%error, "cannot listen for signals");
        }
        result
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = %ErrorChain(&error), "the controller ends");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_may_be_go_s() {
        assert_eq!(
            go_address(":8080"),
            Ok(SocketAddr::from(([0, 0, 0, 0], 8080)))
        );
        assert_eq!(
            go_address("127.0.0.1:0"),
            Ok(SocketAddr::from(([127, 0, 0, 1], 0)))
        );
        assert!(go_address("8080").is_err());
    }

    #[test]
    fn upstream_s_flags_are_taken_in_both_forms() {
        for args in [
            &["c", "--leader-elect=true", "--extensions"][..],
            &["c", "--extensions=true"],
        ] {
            Args::try_parse_from(args).unwrap();
        }
    }
}
