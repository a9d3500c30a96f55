//! What the controller counts: upstream's metrics under upstream's names, with buckets that begin where Hearth lives,
//! and its own under `hearth_controller_`.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64};
use std::time::Duration;

use hearth_core::effects::{ClaimLabels, Lane, NodeReply, NodeRequest, Observation, Outcome};
use hearth_core::index::Sort;
use hearth_kube::OnResponse;
use hearth_telemetry::LATENCY_BUCKETS;
use http::StatusCode;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use crate::writer::Written;

/// Upper bounds in milliseconds for claims: upstream's, and below its lowest (100 ms) the ones that matter here.
const CLAIM_BUCKETS_MS: [f64; 25] = [
    1.0, 2.5, 5.0, 7.5, 10.0, 15.0, 20.0, 30.0, 50.0, 75.0, 100.0, 250.0, 500.0, 750.0, 1000.0,
    1250.0, 1500.0, 2000.0, 2500.0, 5000.0, 10000.0, 30000.0, 60000.0, 120_000.0, 240_000.0,
];
/// Upper bounds in milliseconds for the creation of Sandboxes: upstream's.
const CREATION_BUCKETS_MS: [f64; 14] = [
    50.0, 100.0, 250.0, 500.0, 1000.0, 2500.0, 5000.0, 10000.0, 30000.0, 60000.0, 120_000.0,
    240_000.0, 300_000.0, 600_000.0,
];

/// What upstream's metrics say of a template that is not known, or of none.
const NO_TEMPLATE: &str = "__unknown__";

type HistogramFamily<L> = Family<L, Histogram, fn() -> Histogram>;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LaunchLabels {
    launch_type: &'static str,
    sandbox_template: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CreationLabels {
    namespace: String,
    launch_type: &'static str,
    sandbox_template: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ClaimCountLabels {
    namespace: String,
    sandbox_template: String,
    launch_type: &'static str,
    warmpool_name: String,
    pod_condition: &'static str,
    created_by: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SandboxLabels {
    namespace: String,
    ready_condition: bool,
    expired: bool,
    launch_type: &'static str,
    sandbox_template: String,
    owned_by: &'static str,
    created_by: &'static str,
    operating_mode: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LeaseLabels {
    name: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RestLabels {
    code: String,
    method: String,
    host: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PickLabels {
    namespace: String,
    pool: String,
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    request: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WriteLabels {
    lane: LaneLabel,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LaneLabels {
    lane: LaneLabel,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct LaneLabel(Lane);

impl fmt::Debug for LaneLabel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(lane_name(self.0))
    }
}

impl EncodeLabelValue for LaneLabel {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        lane_name(self.0).encode(encoder)
    }
}

fn lane_name(lane: Lane) -> &'static str {
    match lane {
        Lane::Answer => "answer",
        Lane::Adopt => "adopt",
        Lane::Refill => "refill",
        Lane::Observe => "observe",
    }
}

/// The controller's metrics; cheap to clone.
#[derive(Clone, Debug)]
pub struct Metrics {
    claim_admitted: HistogramFamily<LaunchLabels>,
    claim_observed: HistogramFamily<LaunchLabels>,
    claim_requested: HistogramFamily<LaunchLabels>,
    creation: HistogramFamily<CreationLabels>,
    claims: Family<ClaimCountLabels, Counter>,
    sandboxes: Family<SandboxLabels, Gauge<i64, AtomicI64>>,
    picks: Family<PickLabels, Counter>,
    requests: HistogramFamily<RequestLabels>,
    writes: HistogramFamily<WriteLabels>,
    write_wait: HistogramFamily<LaneLabels>,
    queue: Gauge<i64, AtomicI64>,
    leading: Gauge<i64, AtomicI64>,
    /// The same under client-go's name.
    lease: Gauge<i64, AtomicI64>,
    rest: Family<RestLabels, Counter>,
    events_dropped: Counter<u64, AtomicU64>,
}

impl Metrics {
    /// Registers all metrics. `lease` is the name of the leader Lease.
    #[must_use]
    pub fn register(registry: &mut Registry, lease: &str) -> Self {
        let leases: Family<LeaseLabels, Gauge<i64, AtomicI64>> = Family::default();
        let lease = leases.get_or_create_owned(&LeaseLabels {
            name: lease.to_owned(),
        });
        registry.register(
            "leader_election_master_status",
            "1 while this process holds the Lease of this name",
            leases,
        );
        let metrics = Self {
            claim_admitted: Family::new_with_constructor(claim_histogram),
            claim_observed: Family::new_with_constructor(claim_histogram),
            claim_requested: Family::new_with_constructor(claim_histogram),
            creation: Family::new_with_constructor(|| Histogram::new(CREATION_BUCKETS_MS)),
            claims: Family::default(),
            sandboxes: Family::default(),
            picks: Family::default(),
            requests: Family::new_with_constructor(seconds_histogram),
            writes: Family::new_with_constructor(seconds_histogram),
            write_wait: Family::new_with_constructor(seconds_histogram),
            queue: Gauge::default(),
            leading: Gauge::default(),
            lease,
            rest: Family::default(),
            events_dropped: Counter::default(),
        };
        metrics.register_upstream(registry);
        metrics.register_own(registry.sub_registry_with_prefix("hearth_controller"));
        metrics
    }

    fn register_upstream(&self, registry: &mut Registry) {
        registry.register(
            "agent_sandbox_claim_startup_latency_ms",
            "Milliseconds from the claim's admission (annotation webhook-first-observed-at) to Ready",
            self.claim_admitted.clone(),
        );
        registry.register(
            "agent_sandbox_claim_controller_startup_latency_ms",
            "Milliseconds from the controller's first sight of the claim to Ready",
            self.claim_observed.clone(),
        );
        registry.register(
            "agent_sandbox_client_claim_startup_latency_ms",
            "Milliseconds from the client's request (annotation client-first-requested-at, client clock) to Ready",
            self.claim_requested.clone(),
        );
        registry.register(
            "agent_sandbox_creation_latency_ms",
            "Milliseconds from the creation of a Sandbox to Ready; the API server counts in seconds",
            self.creation.clone(),
        );
        // The encoder appends `_total`.
        registry.register(
            "agent_sandbox_claim_creation",
            "Claims that got a Sandbox",
            self.claims.clone(),
        );
        registry.register(
            "agent_sandboxes",
            "Sandboxes by what they are and say",
            self.sandboxes.clone(),
        );
        let build = Info::new(vec![
            ("git_version", env!("CARGO_PKG_VERSION")),
            (
                "git_commit",
                option_env!("HEARTH_GIT_COMMIT").unwrap_or("unknown"),
            ),
            (
                "build_date",
                option_env!("HEARTH_BUILD_DATE").unwrap_or("unknown"),
            ),
            ("go_version", "none"),
            ("compiler", "rustc"),
            ("platform", concat!("linux/", env!("HEARTH_TARGET_ARCH"))),
        ]);
        // Of client-go; the encoder appends `_total`.
        registry.register(
            "rest_client_requests",
            "Requests to the API server by status, method and host",
            self.rest.clone(),
        );
        // The encoder appends `_info`.
        registry.register("agent_sandbox_build", "Version of the controller", build);
    }

    fn register_own(&self, registry: &mut Registry) {
        registry.register(
            "picks",
            "Picks of a member, by pool and whether one was ready",
            self.picks.clone(),
        );
        registry.register_with_unit(
            "node_request",
            "Time from a request to a node to its reply",
            Unit::Seconds,
            self.requests.clone(),
        );
        registry.register_with_unit(
            "write",
            "Time from sending a write to the API server's response",
            Unit::Seconds,
            self.writes.clone(),
        );
        registry.register_with_unit(
            "write_wait",
            "Time that a write waited in its lane",
            Unit::Seconds,
            self.write_wait.clone(),
        );
        registry.register(
            "queue_depth",
            "Objects that wait to be looked at",
            self.queue.clone(),
        );
        registry.register(
            "leading",
            "1 while this process leads",
            self.leading.clone(),
        );
        registry.register(
            "events_dropped",
            "Kubernetes Events dropped for want of room",
            self.events_dropped.clone(),
        );
    }

    /// Counts what the rules observed.
    pub fn observe(&self, observation: &Observation) {
        match observation {
            Observation::Claimed { labels } => {
                self.claims.get_or_create(&count_labels(labels)).inc();
            }
            Observation::ClaimReady {
                labels,
                observed,
                requested_at,
                admitted_at,
                at,
            } => {
                let launch = LaunchLabels {
                    launch_type: labels.launch_type,
                    sandbox_template: template_label(&labels.template),
                };
                self.claim_observed
                    .get_or_create(&launch)
                    .observe(milliseconds(*observed));
                for (since, family) in [
                    (requested_at, &self.claim_requested),
                    (admitted_at, &self.claim_admitted),
                ] {
                    // A client whose clock is ahead gives no sample rather than a negative one.
                    let elapsed =
                        since.and_then(|since| Duration::try_from(at.duration_since(since)).ok());
                    if let Some(elapsed) = elapsed {
                        family.get_or_create(&launch).observe(milliseconds(elapsed));
                    }
                }
            }
            Observation::SandboxReady {
                namespace,
                launch_type,
                template,
                since_creation,
            } => {
                let labels = CreationLabels {
                    namespace: namespace.clone(),
                    launch_type,
                    sandbox_template: template_label(template),
                };
                self.creation
                    .get_or_create(&labels)
                    .observe(milliseconds(*since_creation));
            }
            Observation::Pick { pool, hit } => {
                let labels = PickLabels {
                    namespace: pool.namespace.clone(),
                    pool: pool.name.clone(),
                    result: if *hit { "hit" } else { "miss" },
                };
                self.picks.get_or_create(&labels).inc();
            }
        }
    }

    pub(crate) fn replied(&self, request: &NodeRequest, reply: &NodeReply, took: Duration) {
        let request = match request {
            NodeRequest::Bind { .. } => "bind",
            NodeRequest::Release { .. } => "release",
            NodeRequest::Retire { .. } => "retire",
            NodeRequest::MakeVolume { .. } => "make_volume",
            NodeRequest::WipeVolume { .. } => "wipe_volume",
        };
        let outcome = match reply {
            NodeReply::Bound { .. }
            | NodeReply::Released(_)
            | NodeReply::Retired
            | NodeReply::VolumeMade { .. }
            | NodeReply::VolumeWiped => "done",
            NodeReply::Refused(..) | NodeReply::RetireRefused | NodeReply::VolumeFailed(_) => {
                "refused"
            }
            NodeReply::NotSent => "not_sent",
            NodeReply::Unknown => "unknown",
        };
        self.requests
            .get_or_create(&RequestLabels { request, outcome })
            .observe(took.as_secs_f64());
    }

    pub(crate) fn written(&self, written: &Written) {
        let lane = LaneLabel(written.lane);
        let outcome = match &written.outcome {
            Outcome::Done(_) => "done",
            Outcome::Conflict => "conflict",
            Outcome::NotFound => "not_found",
            Outcome::Exists => "exists",
            Outcome::Rejected(_) => "rejected",
            Outcome::Unavailable(_) => "unavailable",
        };
        self.writes
            .get_or_create(&WriteLabels { lane, outcome })
            .observe(written.took.as_secs_f64());
        self.write_wait
            .get_or_create(&LaneLabels { lane })
            .observe(written.queued.as_secs_f64());
    }

    /// Sets how many Sandboxes there are of each sort.
    pub(crate) fn census(&self, counts: Vec<(Sort, u64)>) {
        // Replaced as a whole: a sort that has no Sandbox any more has no line either.
        self.sandboxes.clear();
        for (sort, count) in counts {
            let labels = SandboxLabels {
                namespace: sort.namespace,
                ready_condition: sort.ready,
                expired: sort.expired,
                launch_type: sort.launch_type,
                sandbox_template: template_label(&sort.template),
                owned_by: sort.owned_by,
                created_by: sort.created_by,
                operating_mode: sort.operating_mode,
            };
            self.sandboxes
                .get_or_create(&labels)
                .set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    pub(crate) fn queue_depth(&self, depth: usize) {
        self.queue.set(i64::try_from(depth).unwrap_or(i64::MAX));
    }

    /// Counts requests to the API server `host` as client-go does.
    pub(crate) fn on_response(&self, host: &str) -> OnResponse {
        let (rest, host) = (self.rest.clone(), host.to_owned());
        Arc::new(move |method, status| {
            let code = status.as_ref().map_or("<error>", StatusCode::as_str);
            let labels = RestLabels {
                code: code.to_owned(),
                method: method.as_str().to_owned(),
                host: host.clone(),
            };
            rest.get_or_create(&labels).inc();
        })
    }

    pub(crate) fn leading(&self) {
        self.leading.set(1);
        self.lease.set(1);
    }

    pub(crate) fn event_dropped(&self) {
        self.events_dropped.inc();
    }
}

fn template_label(template: &str) -> String {
    if template.is_empty() {
        return NO_TEMPLATE.to_owned();
    }
    template.to_owned()
}

fn count_labels(labels: &ClaimLabels) -> ClaimCountLabels {
    ClaimCountLabels {
        namespace: labels.namespace.clone(),
        sandbox_template: template_label(&labels.template),
        launch_type: labels.launch_type,
        warmpool_name: labels.pool.clone(),
        pod_condition: if labels.ready { "ready" } else { "not_ready" },
        created_by: labels.created_by,
    }
}

fn claim_histogram() -> Histogram {
    Histogram::new(CLAIM_BUCKETS_MS)
}

fn seconds_histogram() -> Histogram {
    Histogram::new(LATENCY_BUCKETS)
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;

    #[test]
    fn names_are_those_that_dashboards_ask_for() {
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry, "a-lease");
        let labels = ClaimLabels {
            namespace: "n".into(),
            template: "t".into(),
            launch_type: "warm",
            pool: "p".into(),
            ready: true,
            created_by: "unknown",
        };
        metrics.observe(&Observation::Claimed {
            labels: labels.clone(),
        });
        let ready = Observation::ClaimReady {
            labels,
            observed: Duration::from_millis(8),
            requested_at: None,
            admitted_at: None,
            at: jiff::Timestamp::UNIX_EPOCH,
        };
        metrics.observe(&ready);
        let sort = Sort {
            namespace: "n".into(),
            ready: true,
            launch_type: "warm",
            template: "t".into(),
            owned_by: "SandboxClaim",
            created_by: "unknown",
            operating_mode: "Running",
            ..Sort::default()
        };
        metrics.census(vec![(Sort::default(), 7)]);
        let bare = Sort {
            namespace: "bare".into(),
            launch_type: "cold",
            owned_by: "None",
            created_by: "unknown",
            operating_mode: "Running",
            ..Sort::default()
        };
        metrics.census(vec![(sort, 3), (bare, 1)]);
        metrics.leading();
        let on_response = metrics.on_response("10.0.0.1:443");
        on_response(&Method::PATCH, Some(StatusCode::CONFLICT));
        on_response(&Method::GET, None);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for line in [
            r#"agent_sandbox_claim_creation_total{namespace="n",sandbox_template="t",launch_type="warm",warmpool_name="p",pod_condition="ready",created_by="unknown"} 1"#,
            r#"agent_sandbox_claim_controller_startup_latency_ms_bucket{le="10.0",launch_type="warm",sandbox_template="t"} 1"#,
            "agent_sandbox_build_info{git_version=",
            r#"agent_sandboxes{namespace="n",ready_condition="true",expired="false",launch_type="warm",sandbox_template="t",owned_by="SandboxClaim",created_by="unknown",operating_mode="Running"} 3"#,
            r#"agent_sandboxes{namespace="bare",ready_condition="false",expired="false",launch_type="cold",sandbox_template="__unknown__",owned_by="None",created_by="unknown",operating_mode="Running"} 1"#,
            r#"rest_client_requests_total{code="409",method="PATCH",host="10.0.0.1:443"} 1"#,
            r#"rest_client_requests_total{code="<error>",method="GET",host="10.0.0.1:443"} 1"#,
            r#"leader_election_master_status{name="a-lease"} 1"#,
            "hearth_controller_queue_depth 0",
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
        assert!(
            !text.contains("} 7\n"),
            "what is counted no more has no line:\n{text}"
        );
    }
}
