//! Streams to the nodes: one task a node, which keeps a session open, sends requests and brings back what the node says.
//!
//! Channels: requests go to a node's task over a bounded `mpsc`; everything that comes back goes into the caller's one
//! bounded `mpsc` of [`NodeInput`]s. A request that cannot be sent at once is answered `NotSent`, and one without a reply
//! at its deadline, or when the stream breaks, `Unknown`: the next inventory settles it.

mod convert;
mod stream;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use hearth_core::effects::{NodeReply, NodeRequest};
use hearth_core::ids::{Fence, NodeName};
use hearth_core::index::{Endpoint, Reported};
use hearth_tls::{ConnectOptions, Identity};
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::attachments::AttachmentOutlet;
use crate::locations::LocationOutlet;
use crate::supplies::Outlet;

/// What nodes have to say.
#[derive(Debug)]
pub enum NodeInput {
    /// The stream is open; this is all that the node holds.
    Up {
        /// The node.
        node: NodeName,
        /// Its sandboxes.
        inventory: Vec<Reported>,
    },
    /// The stream is down.
    Down {
        /// The node.
        node: NodeName,
    },
    /// One sandbox changed.
    Member {
        /// The node.
        node: NodeName,
        /// The sandbox.
        reported: Reported,
        /// It is gone from the node.
        gone: bool,
    },
    /// A request came to its end.
    Reply {
        /// The node.
        node: NodeName,
        /// What was asked.
        request: NodeRequest,
        /// How it came out.
        reply: NodeReply,
        /// From the request's sending to its reply.
        took: Duration,
    },
}

/// Times and bounds of sessions.
#[derive(Clone, Copy, Debug)]
pub struct SessionSettings {
    /// Times of the connection.
    pub connect: ConnectOptions,
    /// From Hello to the Inventory.
    pub inventory_deadline: Duration,
    /// From a request to its reply.
    pub request_deadline: Duration,
    /// Shortest wait between two tries to connect; doubles up to `longest_backoff`.
    pub shortest_backoff: Duration,
    /// Longest wait between two tries to connect.
    pub longest_backoff: Duration,
    /// Requests that may wait for their reply, per node. The node serves as many at once.
    pub in_flight: usize,
}

impl Default for SessionSettings {
    fn default() -> Self {
        Self {
            connect: ConnectOptions::default(),
            inventory_deadline: Duration::from_secs(10),
            request_deadline: Duration::from_secs(5),
            shortest_backoff: Duration::from_millis(100),
            longest_backoff: Duration::from_secs(5),
            in_flight: 1024,
        }
    }
}

/// Who we are to the nodes.
#[derive(Clone, Debug)]
pub struct Leader {
    /// Our certificate; its fingerprint stands on the leader Lease.
    pub identity: Identity,
    /// The resourceVersion of the write that made us leader.
    pub fence: Fence,
    /// `holderIdentity` of the Lease.
    pub holder: String,
}

/// What a node is told without being asked anything.
#[derive(Debug)]
pub struct Outlets {
    /// ConfigMaps and Secrets.
    pub supplies: Outlet,
    /// Where volumes are.
    pub locations: LocationOutlet,
    /// What belongs into the status of its sandboxes.
    pub attachments: AttachmentOutlet,
}

/// All sessions of one leadership. Dropping it does not end the tasks: cancel the token.
#[derive(Debug)]
pub struct Sessions {
    leader: Arc<Leader>,
    settings: SessionSettings,
    inputs: mpsc::Sender<NodeInput>,
    tracker: TaskTracker,
    token: CancellationToken,
    nodes: HashMap<NodeName, Node>,
}

#[derive(Debug)]
struct Node {
    endpoint: Endpoint,
    /// Ends the wait before the next try to connect.
    news: Arc<Notify>,
    requests: mpsc::Sender<NodeRequest>,
    token: CancellationToken,
}

impl Sessions {
    /// No sessions yet. Tasks are spawned on `tracker` and end when `token` is cancelled.
    #[must_use]
    pub fn new(
        leader: Leader,
        settings: SessionSettings,
        inputs: mpsc::Sender<NodeInput>,
        tracker: TaskTracker,
        token: CancellationToken,
    ) -> Self {
        Self {
            leader: Arc::new(leader),
            settings,
            inputs,
            tracker,
            token,
            nodes: HashMap::new(),
        }
    }

    /// A node's API is at `endpoint`: opens a session, or a new one when the endpoint or its certificate has changed. An
    /// endpoint that is not announced yet (empty) opens none. News of a node to which there is no session just now, as when
    /// its daemon has started again, are the moment to try. The node is told what comes from `outlets`.
    pub fn set(&mut self, node: &NodeName, endpoint: Endpoint, outlets: Outlets) {
        if let Some(known) = self
            .nodes
            .get(node)
            .filter(|known| known.endpoint == endpoint)
        {
            known.news.notify_one();
            return;
        }
        self.remove(node);
        if endpoint.address.is_empty() || endpoint.fingerprint.is_empty() {
            return;
        }
        let (requests, queue) = mpsc::channel(self.settings.in_flight);
        let token = self.token.child_token();
        let news = Arc::new(Notify::new());
        let task = stream::NodeTask {
            node: node.clone(),
            endpoint: endpoint.clone(),
            leader: Arc::clone(&self.leader),
            settings: self.settings,
            inputs: self.inputs.clone(),
            news: Arc::clone(&news),
            outlets,
        };
        let stop = token.clone();
        self.tracker
            .spawn(async move { task.run(queue, stop).await });
        self.nodes.insert(
            node.clone(),
            Node {
                endpoint,
                news,
                requests,
                token,
            },
        );
    }

    /// A node is gone: ends its session.
    pub fn remove(&mut self, node: &NodeName) {
        if let Some(known) = self.nodes.remove(node) {
            known.token.cancel();
        }
    }

    /// Sends a request. `Err` gives it back when it was not sent: no session, or too many in flight.
    ///
    /// # Errors
    /// The request, unsent.
    pub fn ask(&self, node: &NodeName, request: NodeRequest) -> Result<(), NodeRequest> {
        let Some(known) = self.nodes.get(node) else {
            return Err(request);
        };
        known
            .requests
            .try_send(request)
            .map_err(|error| match error {
                mpsc::error::TrySendError::Full(request)
                | mpsc::error::TrySendError::Closed(request) => request,
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attachments::Attachments;
    use crate::locations::Locations;
    use crate::supplies::Supplies;
    use tokio::net::TcpListener;
    use tokio::time::timeout;

    #[tokio::test]
    async fn news_of_a_node_end_the_wait_before_the_next_try() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = Endpoint {
            address: listener.local_addr().unwrap().to_string(),
            fingerprint: "00".repeat(32),
        };
        let token = CancellationToken::new();
        let _end = token.clone().drop_guard();
        let leader = Leader {
            identity: Identity::generate("leader").unwrap(),
            fence: Fence(1),
            holder: "leader".to_owned(),
        };
        let settings = SessionSettings {
            shortest_backoff: Duration::from_secs(3600),
            ..SessionSettings::default()
        };
        let (inputs, _inputs) = mpsc::channel(1);
        let mut sessions = Sessions::new(leader, settings, inputs, TaskTracker::new(), token);
        let node = NodeName::from("n");
        for attempt in 1..=3 {
            let outlets = Outlets {
                supplies: Supplies::default().outlet(&node),
                locations: Locations::default().outlet(&node),
                attachments: Attachments::default().outlet(&node),
            };
            sessions.set(&node, endpoint.clone(), outlets);
            // Dropped at once, so that the try fails.
            let accepted = timeout(Duration::from_secs(10), listener.accept()).await;
            assert!(accepted.is_ok(), "attempt {attempt} was not made");
        }
    }
}
