//! The flags of the controller: all that the agent-sandbox controller has, and ours.
//!
//! What a flag is set to comes from the command line, else from the environment where it has a variable, else from the
//! ConfigMap where that may set it, else it is the default.

use std::collections::{BTreeMap, BTreeSet};

use thiserror::Error;

use crate::go_flags::{self, FlagSet, UsageError};
use crate::go_values::{BindAddress, Encoding, FlagValue, GoDuration, LogLevel};

/// Makes the struct of flags, with what is known of each: its name, and its field, type and default.
macro_rules! flags {
    ($($(#[doc = $usage:literal])+ $name:literal, $field:ident: $kind:ty = $default:expr;)+) => {
        /// What the flags are set to.
        #[derive(Clone, Debug, PartialEq)]
        pub(crate) struct Flags {
            $($(#[doc = $usage])+ pub(crate) $field: $kind,)+
        }

        impl Default for Flags {
            fn default() -> Self {
                Self { $($field: $default,)+ }
            }
        }

        impl Flags {
            /// What `-help` shows.
            fn usage(&self) -> String {
                let mut text = String::new();
                $(describe(
                    &mut text,
                    $name,
                    <$kind as FlagValue>::KIND,
                    &[$($usage),+],
                    &self.$field.show(),
                );)+
                text
            }

            /// The name as it stands in this program.
            fn name(name: &str) -> Option<&'static str> {
                match name {
                    $($name => Some($name),)+
                    _ => None,
                }
            }

            /// What a flag is set to, as text.
            fn show(&self, name: &str) -> Option<String> {
                match name {
                    $($name => Some(self.$field.show()),)+
                    _ => None,
                }
            }
        }

        impl FlagSet for Flags {
            fn is_switch(&self, name: &str) -> Option<bool> {
                match name {
                    $($name => Some(<$kind as FlagValue>::IS_SWITCH),)+
                    _ => None,
                }
            }

            fn set(&mut self, name: &str, text: &str) -> Result<(), String> {
                match name {
                    $($name => self.$field = <$kind as FlagValue>::parse(text)?,)+
                    _ => return Err("there is no such flag".to_owned()),
                }
                Ok(())
            }
        }
    };
}

/// One flag in the form of Go's usage text.
fn describe(text: &mut String, name: &str, kind: &str, usage: &[&str], default: &str) {
    text.push_str(format!("  -{name} {kind}").trim_end());
    text.push_str("\n    \t");
    let usage: Vec<_> = usage.iter().map(|line| line.trim()).collect();
    text.push_str(&usage.join(" "));
    if !matches!(default, "" | "false") {
        text.push_str(&format!(" (default {default})"));
    }
    text.push('\n');
}

flags! {
    /// Print the version and end.
    "version", version: bool = false;
    /// Kubeconfig file. Empty: the Pod's ServiceAccount.
    "kubeconfig", kubeconfig: String = String::new();
    /// DNS domain of the cluster, the end of the names of Services.
    "cluster-domain", cluster_domain: String = "cluster.local".to_owned();
    /// Address of /metrics: ip:port, :port for all addresses, 0 for none.
    "metrics-bind-address", metrics_bind_address: BindAddress = BindAddress::port(8080);
    /// Address of /healthz and /readyz: ip:port, :port for all addresses, 0 for none.
    "health-probe-bind-address", health_probe_bind_address: BindAddress = BindAddress::port(8081);
    /// Leader election is always on: the nodes know the leader by its Lease.
    "leader-elect", leader_elect: bool = true;
    /// Namespace of the leader Lease. Empty: that of the Pod. The nodes must be told of another one than
    /// agent-sandbox-system.
    "leader-election-namespace", leader_election_namespace: String = String::new();
    /// Our name in the leader Lease. A process with the name of a dead leader leads at once instead of when the Lease
    /// runs out, so only give one that no two living processes can have: in a Deployment the Pod's name and uid,
    /// because the kubelet starts a container again only when it has ended. Empty: host name and a random part.
    "leader-election-identity", leader_election_identity: String = String::new();
    /// Seconds that a leader leads after its last renewal.
    "lease-duration-seconds", lease_duration_seconds: i64 = 15;
    /// Claims, pools and templates are always served.
    "extensions", extensions: bool = true;
    /// Give claims that have no trace context one, and hand it on to their Sandboxes. Spans are not exported.
    "enable-tracing", enable_tracing: bool = false;

    /// Most writes in a second, on average. Not above 0: any number.
    "kube-api-qps", kube_api_qps: f64 = -1.0;
    /// Most writes at once after a pause, with kube-api-qps.
    "kube-api-burst", kube_api_burst: i64 = 10;
    /// Connections to the API server for all but watches, which have one of their own.
    "api-connections", api_connections: i64 = 1;
    /// Watches always have a connection of their own.
    "separate-watch-connection", separate_watch_connection: bool = false;
    /// Watches are always limited to what is ours where labels say so.
    "cache-label-selectors", cache_label_selectors: bool = false;
    /// Without effect: one loop decides about everything.
    "sandbox-concurrent-workers", sandbox_concurrent_workers: i64 = 100;
    /// Without effect: one loop decides about everything.
    "sandbox-claim-concurrent-workers", sandbox_claim_concurrent_workers: i64 = 50;
    /// Without effect: one loop decides about everything.
    "sandbox-warm-pool-concurrent-workers", sandbox_warm_pool_concurrent_workers: i64 = 1;
    /// Without effect: one loop decides about everything.
    "sandbox-template-concurrent-workers", sandbox_template_concurrent_workers: i64 = 1;

    /// Most creations of one pool under way at once.
    "sandbox-warm-pool-max-batch-size", sandbox_warm_pool_max_batch_size: i64 = 300;
    /// A pool whose members go is filled again once none has gone for this long.
    "sandbox-warm-pool-replenish-delay", sandbox_warm_pool_replenish_delay: GoDuration = GoDuration::ZERO;
    /// Most creations of one pool in a second, on average. 0: any number.
    "sandbox-warm-pool-max-refill-rate", sandbox_warm_pool_max_refill_rate: f64 = 0.0;
    /// How long a member may take to become ready before it is replaced, unless its pool says otherwise.
    "sandbox-warm-pool-readiness-grace-period", sandbox_warm_pool_readiness_grace_period: GoDuration = GoDuration::from_secs(300);
    /// How often a pool whose members have no node is looked at again though nothing has changed.
    "sandbox-warm-pool-unschedulable-recheck-interval", sandbox_warm_pool_unschedulable_recheck_interval: GoDuration = GoDuration::from_secs(60);
    /// Pods of pools may be evicted by a cluster autoscaler.
    "enable-warm-pool-eviction", enable_warm_pool_eviction: bool = true;
    /// How long a claim waits for a member that is starting before it gets a Sandbox of its own.
    "sandbox-claim-warm-candidate-grace-period", sandbox_claim_warm_candidate_grace_period: GoDuration = GoDuration::from_secs(2);

    /// Sandboxes get no Events about their pods.
    "disable-sandbox-events", disable_sandbox_events: bool = false;
    /// Members of pools that no claim has get those Events too.
    "sandbox-events-for-members", sandbox_events_for_members: bool = false;
    /// Claims get no Events.
    "disable-claim-events", disable_claim_events: bool = false;
    /// Claims get no annotations for observers.
    "disable-claim-observability-annotations", disable_claim_observability_annotations: bool = false;
    /// Without effect: writes to one object are always made one out of those that wait.
    "sandbox-write-behind-window", sandbox_write_behind_window: GoDuration = GoDuration::ZERO;

    /// Convert objects between v1alpha1 and v1beta1, for clusters whose CRDs have both.
    "enable-webhook", enable_webhook: bool = false;
    /// IP address of the webhook. Empty: all of the machine or Pod.
    "webhook-host", webhook_host: String = String::new();
    /// Port of the webhook.
    "webhook-port", webhook_port: i64 = 9443;
    /// Directory of the webhook's certificate, if manage-webhook-certs is false. Empty:
    /// k8s-webhook-server/serving-certs in the directory for temporary files.
    "webhook-cert-dir", webhook_cert_dir: String = String::new();
    /// File of the webhook's certificate.
    "webhook-cert-name", webhook_cert_name: String = "tls.crt".to_owned();
    /// File of the webhook's key.
    "webhook-key-name", webhook_key_name: String = "tls.key".to_owned();
    /// Service of the webhook.
    "webhook-service-name", webhook_service_name: String = "agent-sandbox-webhook-service".to_owned();
    /// Namespace of the webhook's Service.
    "webhook-namespace", webhook_namespace: String = "agent-sandbox-system".to_owned();
    /// Make the webhook's certificates, renew them, and have the CRDs trust them.
    "manage-webhook-certs", manage_webhook_certs: bool = true;

    /// Without effect: there is no Go runtime to profile.
    "enable-pprof", enable_pprof: bool = false;
    /// Without effect: there is no Go runtime to profile.
    "enable-pprof-debug", enable_pprof_debug: bool = false;
    /// Without effect: there is no Go runtime to profile.
    "pprof-block-profile-rate", pprof_block_profile_rate: i64 = 1_000_000;
    /// Without effect: there is no Go runtime to profile.
    "pprof-mutex-profile-fraction", pprof_mutex_profile_fraction: i64 = 10;

    /// How log lines look: text or json. Empty: as zap-encoder says.
    "log-format", log_format: Encoding = Encoding(None);
    /// How log lines look: json or console. Empty: console.
    "zap-encoder", zap_encoder: Encoding = Encoding(None);
    /// How much is logged: debug, info, error, panic, or a number above 0. The variable RUST_LOG goes before it.
    "zap-log-level", zap_log_level: LogLevel = LogLevel::Info;
    /// Without effect: logs have no stack traces.
    "zap-stacktrace-level", zap_stacktrace_level: String = String::new();
    /// Without effect: times in logs are always RFC 3339.
    "zap-time-encoding", zap_time_encoding: String = String::new();
    /// Without effect: use zap-log-level and zap-encoder.
    "zap-devel", zap_devel: bool = false;
}

/// Flags that have an environment variable: `HEARTH_` and the name in capitals.
const FROM_ENVIRONMENT: [&str; 8] = [
    "kubeconfig",
    "leader-election-namespace",
    "leader-election-identity",
    "metrics-bind-address",
    "health-probe-bind-address",
    "cluster-domain",
    "lease-duration-seconds",
    "log-format",
];

/// Flags that the ConfigMap may set: those that upstream's may.
const TUNABLE: [&str; 21] = [
    "pprof-block-profile-rate",
    "pprof-mutex-profile-fraction",
    "kube-api-qps",
    "kube-api-burst",
    "api-connections",
    "separate-watch-connection",
    "sandbox-concurrent-workers",
    "sandbox-claim-concurrent-workers",
    "sandbox-warm-pool-concurrent-workers",
    "sandbox-template-concurrent-workers",
    "sandbox-warm-pool-max-batch-size",
    "sandbox-warm-pool-replenish-delay",
    "sandbox-warm-pool-max-refill-rate",
    "sandbox-claim-warm-candidate-grace-period",
    "sandbox-warm-pool-readiness-grace-period",
    "sandbox-warm-pool-unschedulable-recheck-interval",
    "enable-warm-pool-eviction",
    "disable-sandbox-events",
    "disable-claim-events",
    "disable-claim-observability-annotations",
    "sandbox-write-behind-window",
];

const ONE_LOOP: &str = "one loop decides about everything, and nothing waits for a worker";
const NO_GO: &str = "there is no Go runtime to profile; use perf";
const NO_WEBHOOK: &str = "enable-webhook is false, so there is no webhook";
const MANAGED: &str =
    "manage-webhook-certs is true, so the certificate is in a Secret and in no file";
const UNMANAGED: &str = "manage-webhook-certs is false, so no certificate is made for this name";

/// Flags that do nothing here, or less than elsewhere, and why.
const WITHOUT_EFFECT: [(&str, &str); 26] = [
    (
        "leader-elect",
        "leader election is always on: the nodes know the leader by its Lease",
    ),
    (
        "extensions",
        "claims, pools and templates are always served",
    ),
    (
        "enable-tracing",
        "trace contexts are handed on, but no spans are exported",
    ),
    (
        "separate-watch-connection",
        "watches always have a connection of their own",
    ),
    (
        "cache-label-selectors",
        "watches are always limited to what is ours where labels say so",
    ),
    ("sandbox-concurrent-workers", ONE_LOOP),
    ("sandbox-claim-concurrent-workers", ONE_LOOP),
    ("sandbox-warm-pool-concurrent-workers", ONE_LOOP),
    ("sandbox-template-concurrent-workers", ONE_LOOP),
    (
        "sandbox-write-behind-window",
        "what waits to be written to one object is always written at once",
    ),
    ("webhook-host", NO_WEBHOOK),
    ("webhook-port", NO_WEBHOOK),
    ("webhook-cert-dir", NO_WEBHOOK),
    ("webhook-cert-name", NO_WEBHOOK),
    ("webhook-key-name", NO_WEBHOOK),
    ("webhook-service-name", NO_WEBHOOK),
    ("webhook-namespace", NO_WEBHOOK),
    ("manage-webhook-certs", NO_WEBHOOK),
    ("enable-pprof", NO_GO),
    ("enable-pprof-debug", NO_GO),
    ("pprof-block-profile-rate", NO_GO),
    ("pprof-mutex-profile-fraction", NO_GO),
    ("zap-stacktrace-level", "logs have no stack traces"),
    ("zap-time-encoding", "times in logs are always RFC 3339"),
    ("zap-devel", "use zap-log-level and zap-encoder"),
    ("zap-encoder", "log-format says otherwise"),
];

/// Flags that are about the webhook.
const WEBHOOK: [&str; 8] = [
    "webhook-host",
    "webhook-port",
    "webhook-cert-dir",
    "webhook-cert-name",
    "webhook-key-name",
    "webhook-service-name",
    "webhook-namespace",
    "manage-webhook-certs",
];

/// A value in the ConfigMap that its flag cannot have.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("the ConfigMap's key {key:?} has the value {value:?}: {fault}")]
pub(crate) struct TuningError {
    key: String,
    value: String,
    fault: String,
}

/// What the ConfigMap did.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Tuned {
    /// Keys that set their flag.
    pub(crate) applied: Vec<String>,
    /// Keys that set nothing: there is no such flag, or it is the command line's alone.
    pub(crate) skipped: Vec<String>,
}

/// The flags, and which of them were given.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Options {
    flags: Flags,
    given: BTreeSet<&'static str>,
    /// Arguments behind the last flag, which mean nothing.
    surplus: Vec<String>,
}

impl FlagSet for Options {
    fn is_switch(&self, name: &str) -> Option<bool> {
        self.flags.is_switch(name)
    }

    fn set(&mut self, name: &str, text: &str) -> Result<(), String> {
        self.flags.set(name, text)?;
        self.given.extend(Flags::name(name));
        Ok(())
    }
}

impl Options {
    /// From the arguments, without the program's name, and the environment.
    ///
    /// # Errors
    /// When one of them makes no sense.
    pub(crate) fn parse(
        args: &[String],
        environment: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, UsageError> {
        let mut options = Self::default();
        options.surplus = go_flags::parse(&mut options, args)?.to_vec();
        for name in FROM_ENVIRONMENT {
            let variable = variable(name);
            let Some(value) = environment(&variable).filter(|_| !options.given.contains(name))
            else {
                continue;
            };
            options
                .set(name, &value)
                .map_err(|fault| UsageError::Environment {
                    variable,
                    value,
                    fault,
                })?;
        }
        Ok(options)
    }

    /// What the flags are set to.
    pub(crate) fn flags(&self) -> &Flags {
        &self.flags
    }

    /// Sets flags that were not given to what the ConfigMap's data says. Keys that begin with `_` or `.` are notes for
    /// people.
    ///
    /// # Errors
    /// At a value that its flag cannot have.
    pub(crate) fn tune(
        &mut self,
        data: &BTreeMap<String, String>,
        elsewhere: &[&str],
    ) -> Result<Tuned, TuningError> {
        let mut tuned = Tuned::default();
        for (key, value) in data {
            if key.starts_with(['_', '.']) || elsewhere.contains(&key.as_str()) {
                continue;
            }
            if !TUNABLE.contains(&key.as_str()) {
                tuned.skipped.push(key.clone());
                continue;
            }
            if self.given.contains(key.as_str()) {
                continue;
            }
            let value = value.trim();
            self.flags.set(key, value).map_err(|fault| TuningError {
                key: key.clone(),
                value: value.to_owned(),
                fault,
            })?;
            tuned.applied.push(key.clone());
        }
        Ok(tuned)
    }

    /// Arguments that mean nothing.
    pub(crate) fn surplus(&self) -> &[String] {
        &self.surplus
    }

    /// Flags that are set to something that has no effect, and why.
    pub(crate) fn without_effect(&self) -> Vec<(&'static str, &'static str)> {
        let default = Flags::default();
        let differs = |name: &str| self.flags.show(name) != default.show(name);
        let mut found: Vec<_> = WITHOUT_EFFECT
            .into_iter()
            .filter(|(name, _)| differs(name))
            .collect();
        if self.flags.log_format.0.is_none() {
            found.retain(|(name, _)| *name != "zap-encoder");
        }
        if self.flags.enable_webhook {
            found.retain_mut(|(name, why)| match self.idle_in_the_webhook(name) {
                Some(reason) => {
                    *why = reason;
                    true
                }
                None => !WEBHOOK.contains(name),
            });
        }
        found
    }

    /// Why a flag of the webhook does nothing though there is one.
    fn idle_in_the_webhook(&self, name: &str) -> Option<&'static str> {
        let managed = self.flags.manage_webhook_certs;
        match name {
            "webhook-cert-dir" | "webhook-cert-name" | "webhook-key-name" if managed => {
                Some(MANAGED)
            }
            "webhook-service-name" | "webhook-namespace" if !managed => Some(UNMANAGED),
            _ => None,
        }
    }
}

/// The environment variable of a flag.
fn variable(name: &str) -> String {
    format!("HEARTH_{}", name.to_uppercase().replace('-', "_"))
}

/// What `-help` says, and what follows a command line that makes no sense.
pub(crate) fn usage() -> String {
    format!(
        "Usage of agent-sandbox-controller:\n{}\nagent-sandbox-controller migrate -help: moving to and from the \
         agent-sandbox controller\n",
        Flags::default().usage()
    )
}

#[cfg(test)]
mod tests;
