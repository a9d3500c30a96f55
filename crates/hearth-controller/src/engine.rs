//! The loop around the index: what comes in changes the picture, and what the picture then wants is done.
//!
//! One task owns the [`Index`]; nothing else touches it and there is no lock. Inputs arrive on bounded channels from the
//! watches, the nodes' sessions, the writer and the confirmations. The loop itself never waits for IO: a request that
//! cannot be handed over at once comes back to the index as not sent.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use hearth_core::effects::{Effect, NodeReply, NodeRequest, Now, Outcome};
use hearth_core::ids::{Key, NodeName};
use hearth_core::index::{Endpoint, Index};
use hearth_core::legacy::PodRecord;
use hearth_core::placement::shape::Toleration;
use hearth_core::placement::{Amounts, RuntimeClass, quantity};
use hearth_core::services::{ServiceRecord, SliceRecord};
use hearth_core::templates::PolicyRecord;
use jiff::Timestamp;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::attachments::Attachments;
use crate::confirm::{Confirmed, Confirmer};
use crate::election::Leadership;
use crate::events::Events;
use crate::feeds;
use crate::locations::Locations;
use crate::metrics::Metrics;
use crate::namespaces;
use crate::sessions::{NodeInput, Outlets, Sessions};
use crate::supplies::Supplies;
use crate::volumes;
use crate::watches::{Change, Kind, WatchInput};
use crate::writer::{Writer, Written};

/// How many inputs of one channel are taken in before the picture is looked at: enough to see a burst as one, few enough
/// that an answer never waits long.
const BATCH: usize = 64;

/// How often it is said which kinds have not been listed while that keeps us from acting.
const UNLISTED_INTERVAL: Duration = Duration::from_secs(10);

/// Least time between two counts of Sandboxes in the metrics.
const CENSUS_INTERVAL: Duration = Duration::from_secs(1);

/// Where inputs come from.
#[derive(Debug)]
pub struct Inputs {
    /// Watches of the API server.
    pub watches: mpsc::Receiver<WatchInput>,
    /// Streams of the nodes.
    pub nodes: mpsc::Receiver<NodeInput>,
    /// Writes that ended.
    pub written: mpsc::Receiver<Written>,
    /// Reads that confirm which claims exist.
    pub confirmed: mpsc::Receiver<Confirmed>,
    /// Whether we lead.
    pub leadership: watch::Receiver<Leadership>,
    /// Domains of labels that claims may set; closed where nobody follows them.
    pub label_domains: watch::Receiver<Vec<String>>,
}

/// What only a leader has.
#[derive(Debug)]
pub struct Hands {
    /// Streams to the nodes.
    pub sessions: Sessions,
    /// Writes.
    pub writer: Writer,
    /// Publishes Events.
    pub events: Events,
    /// ConfigMaps and Secrets for the nodes.
    pub supplies: Supplies,
    /// Where nodes find the volumes of claims.
    pub locations: Locations,
    /// What belongs into the status of the nodes' sandboxes.
    pub attachments: Attachments,
}

impl Hands {
    /// What a node's session tells the node beside what it asks.
    fn outlets(&self, node: &NodeName) -> Outlets {
        Outlets {
            supplies: self.supplies.outlet(node),
            locations: self.locations.outlet(node),
            attachments: self.attachments.outlet(node),
        }
    }
}

/// Makes the hands of a leader, given its fence.
pub type MakeHands = Box<dyn FnOnce(hearth_core::ids::Fence) -> Hands + Send>;

/// The loop's state.
pub struct Engine {
    index: Index,
    started: Instant,
    /// Kinds whose first list is complete.
    listed: HashSet<Kind>,
    /// When it is said next which are not.
    unlisted_due: Instant,
    endpoints: HashMap<NodeName, Endpoint>,
    hands: Option<Hands>,
    make_hands: Option<MakeHands>,
    confirmer: Confirmer,
    metrics: Metrics,
    census_due: Instant,
}

/// Why the loop ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It was told to.
    Cancelled,
    /// The election ended: this process must not act any more.
    LeadershipGone,
    /// Nothing feeds it any more.
    InputsGone,
}

impl Engine {
    /// A loop with an empty picture. `seed` makes the names of new members unpredictable.
    #[must_use]
    pub fn new(
        settings: hearth_core::index::Settings,
        seed: u64,
        make_hands: MakeHands,
        confirmer: Confirmer,
        metrics: Metrics,
    ) -> Self {
        let started = Instant::now();
        let now = Now {
            wall: Timestamp::now(),
            mono: Duration::ZERO,
        };
        Self {
            index: Index::new(settings, seed, now),
            started,
            listed: HashSet::new(),
            unlisted_due: started + UNLISTED_INTERVAL,
            endpoints: HashMap::new(),
            hands: None,
            make_hands: Some(make_hands),
            confirmer,
            metrics,
            census_due: started,
        }
    }

    /// Runs until `token` is cancelled, or until a source of inputs ends: without it the picture would go stale.
    pub async fn run(mut self, mut inputs: Inputs, token: CancellationToken) -> End {
        let mut leadership = *inputs.leadership.borrow();
        loop {
            let deadline = self.deadline();
            let timer = async {
                match deadline {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            // Cancel-safe: each arm takes one message or none, and the timer is made anew each turn.
            tokio::select! {
                () = token.cancelled() => return End::Cancelled,
                Some(input) = inputs.nodes.recv() => self.node(input),
                Some(written) = inputs.written.recv() => self.written(written),
                Some(input) = inputs.watches.recv() => self.watched(input),
                Some(confirmed) = inputs.confirmed.recv() => self.confirmed(&confirmed),
                changed = inputs.leadership.changed() => match changed {
                    Ok(()) => leadership = *inputs.leadership.borrow_and_update(),
                    Err(_) => return End::LeadershipGone,
                },
                Ok(()) = inputs.label_domains.changed() => {
                    let domains = inputs.label_domains.borrow_and_update().clone();
                    let now = self.now();
                    self.index.allow_label_domains(domains, now);
                }
                () = timer => {}
                else => return End::InputsGone,
            }
            self.drain(&mut inputs);
            self.report_unlisted();
            self.lead(leadership);
            self.act();
        }
    }

    /// Takes in what else has arrived meanwhile.
    fn drain(&mut self, inputs: &mut Inputs) {
        for _ in 0..BATCH {
            let Ok(input) = inputs.nodes.try_recv() else {
                break;
            };
            self.node(input);
        }
        for _ in 0..BATCH {
            let Ok(written) = inputs.written.try_recv() else {
                break;
            };
            self.written(written);
        }
        for _ in 0..BATCH {
            let Ok(input) = inputs.watches.try_recv() else {
                break;
            };
            self.watched(input);
        }
    }

    /// Begins to act once we lead and every first list is complete: a picture with holes would be acted upon wrongly.
    fn lead(&mut self, leadership: Leadership) {
        let Leadership::Leader(fence) = leadership else {
            return;
        };
        if self.hands.is_some() || !self.all_listed() {
            return;
        }
        let Some(make_hands) = self.make_hands.take() else {
            return;
        };
        self.hands = Some(make_hands(fence));
        self.index.lead(self.now());
        // Sessions begin with all that their nodes are to know: it has to be there before them.
        for effect in self.index.take_effects() {
            self.perform(effect);
        }
        let Some(hands) = &mut self.hands else {
            return;
        };
        for (node, endpoint) in &self.endpoints {
            let outlets = hands.outlets(node);
            hands.sessions.set(node, endpoint.clone(), outlets);
        }
    }

    fn all_listed(&self) -> bool {
        self.listed.len() == Kind::ALL.len()
    }

    /// Says which kinds keep us from acting: one that we may not list would do so for ever.
    fn report_unlisted(&mut self) {
        let now = Instant::now();
        if self.all_listed() || now < self.unlisted_due {
            return;
        }
        self.unlisted_due = now + UNLISTED_INTERVAL;
        let kinds = Kind::ALL.iter().filter(|kind| !self.listed.contains(kind));
        let kinds: Vec<_> = kinds.collect();
        tracing::warn!(
            ?kinds,
            "nothing is done before these kinds have been listed"
        );
    }

    /// Looks at all that waits to be looked at and hands the effects over.
    fn act(&mut self) {
        loop {
            let now = self.now();
            let looked = self.index.step(now);
            let effects = self.index.take_effects();
            if !looked && effects.is_empty() {
                break;
            }
            effects.into_iter().for_each(|effect| self.perform(effect));
        }
        self.metrics.queue_depth(self.index.queue_depth());
        self.publish_census();
    }

    /// Publishes the counts of Sandboxes, not more often than anybody scrapes.
    fn publish_census(&mut self) {
        let now = Instant::now();
        if now < self.census_due {
            return;
        }
        if let Some(counts) = self.index.take_census() {
            self.metrics.census(counts);
            self.census_due = now + CENSUS_INTERVAL;
        }
    }

    /// When the loop must turn even if nothing comes in.
    fn deadline(&self) -> Option<Instant> {
        let rules = self.index.next_deadline().map(|at| self.started + at);
        let census = self.index.has_new_census().then_some(self.census_due);
        let unlisted = (!self.all_listed()).then_some(self.unlisted_due);
        rules.into_iter().chain(census).chain(unlisted).min()
    }

    fn perform(&mut self, effect: Effect) {
        let now = self.now();
        match effect {
            Effect::Ask { node, request } => {
                let unsent = match &self.hands {
                    Some(hands) => {
                        if matches!(request, NodeRequest::Bind { .. }) {
                            hands.writer.bind_sent();
                        }
                        hands.sessions.ask(&node, request).err()
                    }
                    None => Some(request),
                };
                if let Some(request) = unsent {
                    self.index
                        .on_reply(&node, &request, NodeReply::NotSent, now);
                }
            }
            Effect::Write(write) => {
                let unsent = match &self.hands {
                    Some(hands) => hands.writer.submit(*write).err(),
                    None => Some(write),
                };
                if let Some(write) = unsent {
                    let full = Outcome::Unavailable("too many writes are waiting".to_owned());
                    self.index.on_outcome(&write.receipt, full, now);
                }
            }
            Effect::Supply {
                node,
                config,
                wanted,
            } => {
                // Who begins to lead is told all of it.
                if let Some(hands) = &self.hands {
                    hands.supplies.set(&node, config, wanted);
                }
            }
            Effect::Tokens { owner, wanted } => {
                if let Some(hands) = &self.hands {
                    hands.supplies.set_tokens(&owner, wanted);
                }
            }
            Effect::Locate { node, claim, place } => {
                // Who begins to lead is told all of it.
                if let Some(hands) = &self.hands {
                    hands.locations.set(&node, claim, place);
                }
            }
            Effect::Attach {
                node,
                sandbox,
                attachment,
            } => {
                // Who begins to lead is told all of it.
                if let Some(hands) = &self.hands {
                    hands.attachments.set(&node, sandbox, attachment);
                }
            }
            Effect::ConfirmClaims { namespace } => self.confirmer.confirm(namespace),
            Effect::Event(note) => {
                // Events are for people: when too many wait, one is dropped and counted rather than anything held up.
                if !self
                    .hands
                    .as_ref()
                    .is_some_and(|hands| hands.events.queue(*note))
                {
                    self.metrics.event_dropped();
                }
            }
            Effect::Observe(observation) => self.metrics.observe(&observation),
        }
    }

    fn node(&mut self, input: NodeInput) {
        let now = self.now();
        match input {
            NodeInput::Up { node, inventory } => self.index.session_up(&node, inventory, now),
            NodeInput::Down { node } => self.index.session_down(&node, now),
            NodeInput::Member {
                node,
                reported,
                gone,
            } => self.index.member_event(&node, reported, gone, now),
            NodeInput::Reply {
                node,
                request,
                reply,
                took,
            } => {
                self.metrics.replied(&request, &reply, took);
                self.index.on_reply(&node, &request, reply, now);
            }
        }
    }

    fn written(&mut self, written: Written) {
        self.metrics.written(&written);
        if let Outcome::Rejected(message) = &written.outcome {
            tracing::warn!(receipt = ?written.receipt, message, "the API server rejected a write");
        }
        let now = self.now();
        self.index
            .on_outcome(&written.receipt, written.outcome, now);
    }

    fn confirmed(&mut self, confirmed: &Confirmed) {
        let now = self.now();
        self.index
            .claims_confirmed(&confirmed.namespace, confirmed.uids.as_ref(), now);
    }

    fn watched(&mut self, input: WatchInput) {
        let now = self.now();
        let kind = input.kind();
        if input.is_retain() {
            self.listed.insert(kind);
        }
        let index = &mut self.index;
        let supplies = self.hands.as_ref().map(|hands| &hands.supplies);
        match input {
            WatchInput::Claim(change) => match change {
                Change::Apply(claim) => index.apply_claim(*claim, now),
                Change::Delete { key, uid } => index.delete_claim(&key, &uid, now),
                Change::Retain(present) => index.retain_claims(&present, now),
                Change::Invalid { .. } | Change::Interrupted => {}
            },
            WatchInput::Sandbox(change) => match change {
                Change::Apply(sandbox) => index.apply_sandbox(*sandbox, now),
                Change::Delete { key, uid } => index.delete_sandbox(&key, &uid, now),
                Change::Retain(present) => index.retain_sandboxes(&present, now),
                Change::Invalid { .. } | Change::Interrupted => {}
            },
            WatchInput::Pool(change) => match change {
                Change::Apply(pool) => index.apply_pool(*pool, now),
                Change::Delete { key, uid } => index.delete_pool(&key, &uid, now),
                Change::Retain(present) => index.retain_pools(&present, now),
                Change::Invalid { .. } | Change::Interrupted => {}
            },
            WatchInput::Template(change) => match change {
                Change::Apply(template) => index.apply_template(*template, now),
                Change::Delete { key, uid } => index.delete_template(&key, &uid, now),
                Change::Retain(present) => index.retain_templates(&present, now),
                Change::Invalid { .. } | Change::Interrupted => {}
            },
            WatchInput::Node(change) => self.node_object(change, now),
            WatchInput::Heartbeat(change) => match change {
                Change::Apply(lease) => {
                    // A watch that broke may go on where it was, without a new list.
                    index.heartbeats_resumed(now);
                    let renewed = lease
                        .spec
                        .and_then(|spec| spec.renew_time)
                        .map(|time| time.0.to_string());
                    let name = lease.metadata.name.unwrap_or_default();
                    index.heartbeat(&name, &renewed.unwrap_or_default(), now);
                }
                Change::Retain(_) => index.heartbeats_resumed(now),
                Change::Interrupted => index.heartbeats_interrupted(now),
                Change::Delete { .. } | Change::Invalid { .. } => {}
            },
            WatchInput::RuntimeClass(change) => match change {
                Change::Apply(class) => {
                    let (name, class) = runtime_class(*class);
                    index.apply_runtime_class(name, class, now);
                }
                Change::Delete { key, .. } => index.delete_runtime_class(&key.name, now),
                Change::Retain(present) => {
                    let names = present.into_iter().map(|Key { name, .. }| name).collect();
                    index.retain_runtime_classes(&names, now);
                }
                Change::Invalid { .. } | Change::Interrupted => {}
            },
            WatchInput::VolumeClaim(change) => volumes::claim(index, change, now),
            WatchInput::Volume(change) => volumes::volume(index, change, now),
            WatchInput::StorageClass(change) => volumes::class(index, change, now),
            WatchInput::Service(change) => feeds::kept(index, change, ServiceRecord::of, now),
            WatchInput::EndpointSlice(change) => feeds::kept(index, change, SliceRecord::of, now),
            WatchInput::NetworkPolicy(change) => feeds::kept(index, change, PolicyRecord::of, now),
            WatchInput::Pod(change) => {
                feeds::kept(index, change, |pod| PodRecord::of(pod.metadata), now);
            }
            WatchInput::Namespace(change) => {
                namespaces::namespace(index, supplies, change, now);
            }
            WatchInput::LimitRange(change) => {
                namespaces::limit_range(index, supplies, change, now);
            }
        }
    }

    fn node_object(&mut self, change: Change<hearth_api::SandboxNode>, now: Now) {
        match change {
            Change::Apply(node) => {
                let Some((name, endpoint)) = self.index.apply_node(*node, now) else {
                    return;
                };
                if let Some(hands) = &mut self.hands {
                    let outlets = hands.outlets(&name);
                    hands.sessions.set(&name, endpoint.clone(), outlets);
                }
                self.endpoints.insert(name, endpoint);
            }
            // The session outlives the object: it still says whether the node lives, until the node's own end.
            Change::Delete { key, .. } => self.index.delete_node(&key.name, now),
            Change::Retain(present) => {
                let names = present.into_iter().map(|Key { name, .. }| name).collect();
                self.index.retain_nodes(&names, now);
            }
            Change::Invalid { .. } | Change::Interrupted => {}
        }
    }

    fn now(&self) -> Now {
        Now {
            wall: Timestamp::now(),
            mono: self.started.elapsed(),
        }
    }
}

/// The name of a RuntimeClass and what placement needs of it.
fn runtime_class(class: k8s_openapi::api::node::v1::RuntimeClass) -> (String, RuntimeClass) {
    let scheduling = class.scheduling.unwrap_or_default();
    let tolerations = scheduling.tolerations.unwrap_or_default();
    let fixed = class.overhead.and_then(|overhead| overhead.pod_fixed);
    let fixed = fixed.unwrap_or_default();
    let amount = |name: &str, read: fn(&str) -> Option<i64>| {
        // The API server lets in nothing that is no quantity.
        fixed.get(name).and_then(|amount| read(&amount.0))
    };
    let read = RuntimeClass {
        overhead: Amounts {
            sandboxes: 0,
            milli_cpu: amount("cpu", quantity::milli_value).unwrap_or(0),
            memory_bytes: amount("memory", quantity::value).unwrap_or(0),
            storage_bytes: amount("ephemeral-storage", quantity::value).unwrap_or(0),
        },
        handler: class.handler,
        node_selector: scheduling.node_selector.unwrap_or_default(),
        tolerations: tolerations
            .into_iter()
            .map(|toleration| Toleration {
                key: toleration.key.unwrap_or_default(),
                operator: toleration.operator.unwrap_or_default(),
                value: toleration.value.unwrap_or_default(),
                effect: toleration.effect.unwrap_or_default(),
            })
            .collect(),
    };
    (class.metadata.name.unwrap_or_default(), read)
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine")
            .field("leads", &self.hands.is_some())
            .finish_non_exhaustive()
    }
}
