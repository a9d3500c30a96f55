//! What an operator can choose, and the figures behind the rules.

use std::time::Duration;

use crate::placement::Strategy;

/// Settings of the controller's rules.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// How nodes are chosen.
    pub strategy: Strategy,
    /// DNS domain of the cluster, the end of the names of Services.
    pub cluster_domain: String,
    /// Most creations of one pool under way at once.
    pub batch: usize,
    /// Most creations of one pool in a second, on average; none: any number.
    pub refill_rate: Option<f64>,
    /// A pool whose members go is filled again once none has gone for this long.
    pub replenish_delay: Duration,
    /// How often a pool whose members have no node is looked at again though nothing has changed.
    pub unschedulable_recheck: Duration,
    /// How long a member may take to become ready, unless its pool says otherwise.
    pub readiness_grace: Duration,
    /// How long a node whose stream is open may say nothing of a member: it may have retired it for an earlier leader,
    /// and asking it again is safe.
    pub unheard_grace: Duration,
    /// How long a claim waits for a member that is starting before it gets a Sandbox of its own.
    pub starting_wait: Duration,
    /// How long it waits for members whose node's stream is down for the moment.
    pub away_wait: Duration,
    /// How long it waits for a member that is being made when no node has room for a Sandbox of its own.
    pub room_wait: Duration,
    /// Creations and deletions of pools wait until claims have been quiet for this long ...
    pub quiet: Duration,
    /// ... but not longer than this.
    pub longest_yield: Duration,
    /// Least time between two status writes of one pool.
    pub pool_status_interval: Duration,
    /// A node whose heartbeat is older, and whose stream is down, is lost.
    pub node_grace: Duration,
    /// A new leader waits this long for the inventories of nodes before it declares them unreachable.
    pub inventory_wait: Duration,
    /// How long a claim keeps its readiness while its node says ready and the Sandbox's status does not.
    pub status_lag: Duration,
    /// How long a cold claim stays silent while its Sandbox starts, to save a write that nobody needs.
    pub cold_silence: Duration,
    /// Domains of labels that claims may set on pods.
    pub allowed_label_domains: Vec<String>,
    /// Whether claims get the annotations for observers.
    pub claim_annotations: bool,
    /// Whether claims get Events.
    pub claim_events: bool,
    /// Whether Sandboxes get Events about their pods.
    pub sandbox_events: bool,
    /// Whether unclaimed members get them too.
    pub member_events: bool,
    /// Whether claims without a trace context get one.
    pub trace_contexts: bool,
    /// Whether members carry `safe-to-evict: "true"`.
    pub warm_pool_eviction: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            strategy: Strategy::Spread,
            cluster_domain: "cluster.local".into(),
            batch: 300,
            refill_rate: None,
            replenish_delay: Duration::ZERO,
            unschedulable_recheck: Duration::from_secs(60),
            readiness_grace: Duration::from_secs(300),
            unheard_grace: Duration::from_secs(30),
            starting_wait: Duration::from_secs(2),
            away_wait: Duration::from_secs(5),
            room_wait: Duration::from_secs(60),
            quiet: Duration::from_millis(400),
            longest_yield: Duration::from_secs(15),
            pool_status_interval: Duration::from_millis(500),
            node_grace: Duration::from_secs(40),
            inventory_wait: Duration::from_secs(5),
            status_lag: Duration::from_secs(5),
            cold_silence: Duration::from_secs(1),
            allowed_label_domains: vec!["sandbox.users.io".into()],
            claim_annotations: true,
            claim_events: true,
            sandbox_events: true,
            member_events: false,
            trace_contexts: false,
            warm_pool_eviction: true,
        }
    }
}
