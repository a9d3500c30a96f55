//! From flags to what the controller is started with.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use hearth_controller::sessions::SessionSettings;
use hearth_controller::writer::{Rate, WriterSettings};
use hearth_controller::{CertificateSource, ControllerConfig, WebhookSettings, own_namespace};
use hearth_core::index::Settings;
use hearth_core::lease::LeaseTiming;
use hearth_telemetry::LogFormat;
use thiserror::Error;

use crate::flags::Flags;
use crate::go_values::FlagValue;

/// Shortest time that a leader may lead after its last renewal, in seconds: it must renew within two thirds of it.
const SHORTEST_LEASE: i64 = 3;
/// Most workers of all kinds before upstream finds them too many.
const MANY_WORKERS: i64 = 1000;

/// A flag with a value that it must not have.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{flag} {rule}; it is {value}")]
pub(crate) struct Invalid {
    flag: &'static str,
    rule: &'static str,
    value: String,
}

/// Checks what the form of a value does not say.
///
/// # Errors
/// The first flag with a value that it must not have.
pub(crate) fn validate(flags: &Flags) -> Result<(), Invalid> {
    const POSITIVE: &str = "must be greater than 0";
    const POSITIVE_TIME: &str = "must be a positive duration";
    const NOT_EMPTY: &str = "cannot be empty";
    let rate = flags.sandbox_warm_pool_max_refill_rate;
    let grace = flags.sandbox_warm_pool_readiness_grace_period;
    let recheck = flags.sandbox_warm_pool_unschedulable_recheck_interval;
    let window = flags.sandbox_write_behind_window;
    let zero = crate::go_values::GoDuration::ZERO;
    let workers = [
        (
            "sandbox-concurrent-workers",
            flags.sandbox_concurrent_workers,
        ),
        (
            "sandbox-claim-concurrent-workers",
            flags.sandbox_claim_concurrent_workers,
        ),
        (
            "sandbox-warm-pool-concurrent-workers",
            flags.sandbox_warm_pool_concurrent_workers,
        ),
    ];
    for (flag, count) in workers {
        check(count > 0, flag, POSITIVE, &count)?;
    }
    check(
        !flags.webhook_cert_name.trim().is_empty(),
        "webhook-cert-name",
        NOT_EMPTY,
        &flags.webhook_cert_name,
    )?;
    check(
        !flags.webhook_key_name.trim().is_empty(),
        "webhook-key-name",
        NOT_EMPTY,
        &flags.webhook_key_name,
    )?;
    check(
        host(flags).is_some(),
        "webhook-host",
        "must be an IP address",
        &flags.webhook_host,
    )?;
    check(
        port(flags).is_some(),
        "webhook-port",
        "must be a port",
        &flags.webhook_port,
    )?;
    check(
        grace > zero,
        "sandbox-warm-pool-readiness-grace-period",
        POSITIVE_TIME,
        &grace,
    )?;
    check(
        recheck > zero,
        "sandbox-warm-pool-unschedulable-recheck-interval",
        POSITIVE_TIME,
        &recheck,
    )?;
    check(
        flags.sandbox_warm_pool_max_batch_size > 0,
        "sandbox-warm-pool-max-batch-size",
        POSITIVE,
        &flags.sandbox_warm_pool_max_batch_size,
    )?;
    check(
        rate.is_finite() && rate >= 0.0,
        "sandbox-warm-pool-max-refill-rate",
        "must be a finite value >= 0 (0 disables pacing)",
        &rate,
    )?;
    check(
        window >= zero,
        "sandbox-write-behind-window",
        "must be >= 0 (0 disables write-behind coalescing)",
        &window,
    )?;
    check(
        flags.kube_api_burst > 0,
        "kube-api-burst",
        POSITIVE,
        &flags.kube_api_burst,
    )?;
    check(
        flags.api_connections >= 1,
        "api-connections",
        "must be greater than or equal to 1",
        &flags.api_connections,
    )?;
    check(
        flags.lease_duration_seconds >= SHORTEST_LEASE
            && u32::try_from(flags.lease_duration_seconds).is_ok(),
        "lease-duration-seconds",
        "must be a number of seconds from 3 on",
        &flags.lease_duration_seconds,
    )
}

fn check(
    holds: bool,
    flag: &'static str,
    rule: &'static str,
    value: &impl FlagValue,
) -> Result<(), Invalid> {
    if holds {
        return Ok(());
    }
    Err(Invalid {
        flag,
        rule,
        value: value.show(),
    })
}

/// The kubeconfig, if one was given.
pub(crate) fn kubeconfig(flags: &Flags) -> Option<PathBuf> {
    (!flags.kubeconfig.is_empty()).then(|| PathBuf::from(&flags.kubeconfig))
}

/// How log lines look.
pub(crate) fn log_format(flags: &Flags) -> LogFormat {
    let format = flags.log_format.0.or(flags.zap_encoder.0);
    format.unwrap_or_default()
}

/// What the controller is started with. Claims may set labels of `label_domains` on pods; when there are none, of the
/// default ones.
///
/// # Errors
/// A flag with a value that it must not have.
pub(crate) fn build(
    flags: &Flags,
    label_domains: Vec<String>,
) -> Result<ControllerConfig, Invalid> {
    validate(flags)?;
    let workers = flags
        .sandbox_concurrent_workers
        .saturating_add(flags.sandbox_claim_concurrent_workers)
        .saturating_add(flags.sandbox_warm_pool_concurrent_workers)
        .saturating_add(flags.sandbox_template_concurrent_workers);
    if workers > MANY_WORKERS {
        tracing::warn!(
            workers,
            "more workers than upstream advises; here they have no effect"
        );
    }
    let namespace = Some(&flags.leader_election_namespace).filter(|given| !given.is_empty());
    let identity = Some(&flags.leader_election_identity).filter(|given| !given.is_empty());
    let duration = Duration::from_secs(flags.lease_duration_seconds.unsigned_abs());
    Ok(ControllerConfig {
        kubeconfig: kubeconfig(flags),
        connections: NonZeroUsize::new(positive(flags.api_connections))
            .unwrap_or(NonZeroUsize::MIN),
        lease_namespace: namespace.cloned().unwrap_or_else(own_namespace),
        lease_name: hearth_api::constants::LEADER_LEASE.to_owned(),
        lease_timing: LeaseTiming {
            duration,
            renew_deadline: duration * 2 / 3,
            retry_period: duration / 8,
        },
        identity: identity
            .cloned()
            .unwrap_or_else(|| format!("{}_{}", host_name(), uuid::Uuid::new_v4())),
        metrics_address: flags.metrics_bind_address.address(),
        health_address: flags.health_probe_bind_address.address(),
        webhook: webhook(flags),
        settings: settings(flags, label_domains),
        follow_domains_in: None,
        sessions: SessionSettings::default(),
        writer: WriterSettings {
            rate: Rate::new(flags.kube_api_qps, positive(flags.kube_api_burst)),
            ..WriterSettings::default()
        },
    })
}

/// Where the webhook listens: on an address, or, without one, on all.
fn host(flags: &Flags) -> Option<IpAddr> {
    if flags.webhook_host.is_empty() {
        return Some(Ipv4Addr::UNSPECIFIED.into());
    }
    flags.webhook_host.parse().ok()
}

fn port(flags: &Flags) -> Option<u16> {
    let port = u16::try_from(flags.webhook_port).ok();
    port.filter(|port| *port != 0)
}

/// The webhook, if there is to be one.
fn webhook(flags: &Flags) -> Option<WebhookSettings> {
    if !flags.enable_webhook {
        return None;
    }
    let certificate = if flags.manage_webhook_certs {
        CertificateSource::Managed {
            namespace: flags.webhook_namespace.clone(),
            service: flags.webhook_service_name.clone(),
        }
    } else {
        let directory = match flags.webhook_cert_dir.as_str() {
            "" => std::env::temp_dir().join("k8s-webhook-server/serving-certs"),
            directory => PathBuf::from(directory),
        };
        CertificateSource::Files {
            certificate: directory.join(&flags.webhook_cert_name),
            key: directory.join(&flags.webhook_key_name),
        }
    };
    Some(WebhookSettings {
        // Both were found to be well.
        address: SocketAddr::new(host(flags)?, port(flags)?),
        certificate,
    })
}

fn settings(flags: &Flags, label_domains: Vec<String>) -> Settings {
    let default = Settings::default();
    let rate = flags.sandbox_warm_pool_max_refill_rate;
    Settings {
        cluster_domain: flags.cluster_domain.clone(),
        batch: positive(flags.sandbox_warm_pool_max_batch_size),
        refill_rate: (rate > 0.0).then_some(rate),
        replenish_delay: flags.sandbox_warm_pool_replenish_delay.or_zero(),
        unschedulable_recheck: flags
            .sandbox_warm_pool_unschedulable_recheck_interval
            .or_zero(),
        readiness_grace: flags.sandbox_warm_pool_readiness_grace_period.or_zero(),
        starting_wait: flags.sandbox_claim_warm_candidate_grace_period.or_zero(),
        allowed_label_domains: if label_domains.is_empty() {
            default.allowed_label_domains.clone()
        } else {
            label_domains
        },
        claim_annotations: !flags.disable_claim_observability_annotations,
        claim_events: !flags.disable_claim_events,
        sandbox_events: !flags.disable_sandbox_events,
        member_events: flags.sandbox_events_for_members && !flags.disable_sandbox_events,
        trace_contexts: flags.enable_tracing,
        warm_pool_eviction: flags.enable_warm_pool_eviction,
        ..default
    }
}

/// A number that was found to be above 0.
fn positive(number: i64) -> usize {
    usize::try_from(number).unwrap_or(1)
}

/// The Pod's or machine's name: for people who read the Lease.
fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map(|name| name.trim().to_owned())
        .unwrap_or_else(|_| "controller".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flags::Options;

    fn built(args: &[&str]) -> Result<ControllerConfig, Invalid> {
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        let options = Options::parse(&args, |_| None).unwrap();
        build(options.flags(), Vec::new())
    }

    #[test]
    fn without_flags_the_rules_have_their_defaults() {
        let config = built(&[]).unwrap();
        let expected = Settings {
            sandbox_events: true,
            ..Settings::default()
        };
        assert_eq!(config.settings, expected);
        assert_eq!(config.connections, NonZeroUsize::MIN);
        assert_eq!(config.lease_namespace, own_namespace());
        assert!(config.writer.rate.is_none(), "nothing is throttled");
        assert!(!config.identity.is_empty());
    }

    #[test]
    fn flags_reach_the_rules() {
        let config = built(&[
            "--cluster-domain=example.org",
            "--sandbox-warm-pool-max-batch-size=5",
            "--sandbox-warm-pool-max-refill-rate=2.5",
            "--sandbox-warm-pool-replenish-delay=20s",
            "--sandbox-warm-pool-unschedulable-recheck-interval=2m",
            "--sandbox-warm-pool-readiness-grace-period=10m",
            "--sandbox-claim-warm-candidate-grace-period=0",
            "--enable-warm-pool-eviction=false",
            "--disable-claim-events",
            "--disable-claim-observability-annotations",
            "--sandbox-events-for-members",
            "--enable-tracing",
            "--api-connections=4",
            "--metrics-bind-address=0",
            "--leader-election-namespace=elsewhere",
            "--leader-election-identity=me",
        ])
        .unwrap();
        let expected = Settings {
            cluster_domain: "example.org".into(),
            batch: 5,
            refill_rate: Some(2.5),
            replenish_delay: Duration::from_secs(20),
            unschedulable_recheck: Duration::from_secs(120),
            readiness_grace: Duration::from_secs(600),
            starting_wait: Duration::ZERO,
            warm_pool_eviction: false,
            claim_events: false,
            claim_annotations: false,
            sandbox_events: true,
            member_events: true,
            trace_contexts: true,
            ..Settings::default()
        };
        assert_eq!(config.settings, expected);
        assert_eq!(config.connections.get(), 4);
        assert_eq!(config.metrics_address, None);
        assert_eq!(config.lease_namespace, "elsewhere");
        assert_eq!(config.identity, "me");
    }

    #[test]
    fn there_is_a_webhook_only_if_asked_for() {
        assert_eq!(built(&["--webhook-port=9444"]).unwrap().webhook, None);
        let managed = built(&["--enable-webhook"]).unwrap().webhook;
        let expected = WebhookSettings {
            address: "0.0.0.0:9443".parse().unwrap(),
            certificate: CertificateSource::Managed {
                namespace: "agent-sandbox-system".to_owned(),
                service: "agent-sandbox-webhook-service".to_owned(),
            },
        };
        assert_eq!(managed, Some(expected));
        let own = built(&[
            "--enable-webhook",
            "--webhook-host=127.0.0.1",
            "--webhook-port=9444",
            "--manage-webhook-certs=false",
            "--webhook-cert-dir=/certs",
            "--webhook-key-name=key.pem",
        ]);
        let expected = WebhookSettings {
            address: "127.0.0.1:9444".parse().unwrap(),
            certificate: CertificateSource::Files {
                certificate: "/certs/tls.crt".into(),
                key: "/certs/key.pem".into(),
            },
        };
        assert_eq!(own.unwrap().webhook, Some(expected));
    }

    #[test]
    fn values_that_upstream_refuses_are_refused() {
        for (arg, expected) in [
            (
                "--sandbox-warm-pool-max-batch-size=0",
                "sandbox-warm-pool-max-batch-size must be greater than 0; it is 0",
            ),
            (
                "--sandbox-concurrent-workers=-1",
                "sandbox-concurrent-workers must be greater than 0; it is -1",
            ),
            (
                "--sandbox-warm-pool-max-refill-rate=NaN",
                "sandbox-warm-pool-max-refill-rate must be a finite value >= 0 (0 disables pacing); it is NaN",
            ),
            (
                "--sandbox-warm-pool-max-refill-rate=-1",
                "sandbox-warm-pool-max-refill-rate must be a finite value >= 0 (0 disables pacing); it is -1",
            ),
            (
                "--sandbox-write-behind-window=-1s",
                "sandbox-write-behind-window must be >= 0 (0 disables write-behind coalescing); it is -1s",
            ),
            (
                "--kube-api-burst=0",
                "kube-api-burst must be greater than 0; it is 0",
            ),
            (
                "--api-connections=0",
                "api-connections must be greater than or equal to 1; it is 0",
            ),
            (
                "--sandbox-warm-pool-readiness-grace-period=0",
                "sandbox-warm-pool-readiness-grace-period must be a positive duration; it is 0s",
            ),
            (
                "--webhook-cert-name= ",
                "webhook-cert-name cannot be empty; it is  ",
            ),
            ("--webhook-port=0", "webhook-port must be a port; it is 0"),
            (
                "--webhook-port=65536",
                "webhook-port must be a port; it is 65536",
            ),
            (
                "--webhook-host=localhost",
                "webhook-host must be an IP address; it is localhost",
            ),
            (
                "--lease-duration-seconds=2",
                "lease-duration-seconds must be a number of seconds from 3 on; it is 2",
            ),
        ] {
            let error = built(&[arg]).map(|_| ()).unwrap_err();
            assert_eq!(error.to_string(), expected, "{arg}");
        }
    }

    #[test]
    fn log_format_goes_before_zap_s() {
        let format = |args: &[&str]| {
            let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
            log_format(Options::parse(&args, |_| None).unwrap().flags())
        };
        assert_eq!(format(&[]), LogFormat::Text);
        assert_eq!(format(&["--zap-encoder=json"]), LogFormat::Json);
        assert_eq!(
            format(&["--zap-encoder=json", "--log-format=text"]),
            LogFormat::Text
        );
    }
}
