//! The task of one node's session.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use hearth_core::effects::{NodeReply, NodeRequest};
use hearth_core::ids::NodeName;
use hearth_core::index::Endpoint;
use hearth_proto::node::v1 as proto;
use hearth_proto::node::v1::node_client::NodeClient;
use hearth_telemetry::ErrorChain;
use hearth_tls::{ConnectError, Fingerprint};
use proto::session_event::Event;
use thiserror::Error;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Streaming;

use super::Outlets;
use super::{Leader, NodeInput, SessionSettings, convert};

/// Why a session ended. Every one is followed by a new try.
#[derive(Debug, Error)]
enum SessionError {
    #[error("the fingerprint in the SandboxNode is not one")]
    Fingerprint(#[source] hearth_tls::ParseFingerprintError),
    #[error("cannot connect")]
    Connect(#[source] Box<ConnectError>),
    #[error("the node refused the session")]
    Refused(#[source] Box<tonic::Status>),
    #[error("the node sent no inventory within {0:?}")]
    NoInventory(Duration),
    #[error("the node sent something else before its inventory")]
    NotInventory,
    #[error("the stream broke")]
    Broken(#[source] Box<tonic::Status>),
    #[error("the node ended the stream")]
    Ended,
    #[error("the node did not reply to a request within {0:?}")]
    Silent(Duration),
    #[error("the session is not wanted any more")]
    Stopped,
}

/// The task of one node.
#[derive(Debug)]
pub(super) struct NodeTask {
    pub(super) node: NodeName,
    pub(super) endpoint: Endpoint,
    pub(super) leader: Arc<Leader>,
    pub(super) settings: SessionSettings,
    pub(super) inputs: mpsc::Sender<NodeInput>,
    /// Something was heard of the node.
    pub(super) news: Arc<Notify>,
    pub(super) outlets: Outlets,
}

/// An open session.
struct Session {
    outgoing: mpsc::Sender<proto::SessionRequest>,
    incoming: Streaming<proto::SessionEvent>,
    pending: HashMap<u64, (NodeRequest, Instant)>,
    /// Oldest first; all requests have the same deadline.
    deadlines: VecDeque<(Instant, u64)>,
    next_id: u64,
}

impl NodeTask {
    /// Keeps a session open until `stop`, or until nobody listens any more.
    pub(super) async fn run(
        self,
        mut requests: mpsc::Receiver<NodeRequest>,
        stop: CancellationToken,
    ) {
        let mut backoff = self.settings.shortest_backoff;
        loop {
            let error = self.session(&mut requests, &mut backoff, &stop).await;
            if matches!(error, SessionError::Stopped) {
                break;
            }
            tracing::warn!(node = %self.node, endpoint = %self.endpoint.address, error = %ErrorChain(&error), retry_in = ?backoff, "no session with the node");
            if !self.pause(&mut requests, backoff, &stop).await {
                break;
            }
            backoff = (backoff * 2).min(self.settings.longest_backoff);
        }
        requests.close();
        while let Some(request) = requests.recv().await {
            self.reply(request, NodeReply::NotSent, Duration::ZERO)
                .await;
        }
    }

    /// One session from connecting to its end.
    async fn session(
        &self,
        requests: &mut mpsc::Receiver<NodeRequest>,
        backoff: &mut Duration,
        stop: &CancellationToken,
    ) -> SessionError {
        let opened = {
            let opening = self.open();
            tokio::pin!(opening);
            loop {
                // Cancel-safe: `opening` is polled to its end across turns, and a request received is answered at once.
                tokio::select! {
                    opened = &mut opening => break opened,
                    () = stop.cancelled() => return SessionError::Stopped,
                    () = self.inputs.closed() => return SessionError::Stopped,
                    Some(request) = requests.recv() => self.reply(request, NodeReply::NotSent, Duration::ZERO).await,
                }
            }
        };
        let (mut session, inventory) = match opened {
            Ok(opened) => opened,
            Err(error) => return error,
        };
        *backoff = self.settings.shortest_backoff;
        let inventory: Vec<_> = inventory
            .members
            .into_iter()
            .map(convert::reported)
            .collect();
        tracing::info!(node = %self.node, endpoint = %self.endpoint.address, sandboxes = inventory.len(), "session open");
        self.send(NodeInput::Up {
            node: self.node.clone(),
            inventory,
        })
        .await;
        let lists = [
            convert::supply_list(self.outlets.supplies.begin()),
            convert::location_list(self.outlets.locations.begin()),
            convert::attachment_list(self.outlets.attachments.begin()),
        ];
        // The queue has room: nothing was asked yet.
        for list in lists {
            let _ = session.outgoing.try_send(list);
        }
        let error = self.serve(&mut session, requests, stop).await;
        for (_, (request, sent)) in session.pending.drain() {
            self.reply(request, NodeReply::Unknown, sent.elapsed())
                .await;
        }
        self.send(NodeInput::Down {
            node: self.node.clone(),
        })
        .await;
        error
    }

    async fn open(&self) -> Result<(Session, proto::Inventory), SessionError> {
        let pin: Fingerprint = self
            .endpoint
            .fingerprint
            .parse()
            .map_err(SessionError::Fingerprint)?;
        let connect = self.settings.connect;
        let channel =
            hearth_tls::connect(&self.endpoint.address, &self.leader.identity, pin, connect)
                .await
                .map_err(|error| SessionError::Connect(Box::new(error)))?;
        let (outgoing, queue) = mpsc::channel(self.settings.in_flight);
        let hello = proto::Hello {
            fence: self.leader.fence.0,
            holder: self.leader.holder.clone(),
        };
        let hello = proto::SessionRequest {
            id: 0,
            request: Some(proto::session_request::Request::Hello(hello)),
        };
        // The queue is new and empty, so this neither waits nor fails.
        let _ = outgoing.try_send(hello);
        let deadline = self.settings.inventory_deadline;
        tokio::time::timeout(deadline, async {
            // An inventory of thousands of members is larger than gRPC's default limit.
            let mut client = NodeClient::new(channel).max_decoding_message_size(64 << 20);
            let refused = |status| SessionError::Refused(Box::new(status));
            let mut incoming = client
                .session(ReceiverStream::new(queue))
                .await
                .map_err(refused)?
                .into_inner();
            match incoming
                .message()
                .await
                .map_err(refused)?
                .and_then(|event| event.event)
            {
                Some(Event::Inventory(inventory)) => {
                    let session = Session {
                        outgoing,
                        incoming,
                        pending: HashMap::new(),
                        deadlines: VecDeque::new(),
                        next_id: 1,
                    };
                    Ok((session, inventory))
                }
                Some(_) => Err(SessionError::NotInventory),
                None => Err(SessionError::Ended),
            }
        })
        .await
        .unwrap_or(Err(SessionError::NoInventory(deadline)))
    }

    /// Serves an open session until it breaks.
    async fn serve(
        &self,
        session: &mut Session,
        requests: &mut mpsc::Receiver<NodeRequest>,
        stop: &CancellationToken,
    ) -> SessionError {
        loop {
            let deadline = session.deadlines.front().map(|(at, _)| *at);
            let expiry = async {
                match deadline {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            // A place first: what was taken from the outlet must go out. Cancel-safe, because taking it is the last wait.
            let outgoing = session.outgoing.clone();
            let supply = async {
                let place = outgoing.reserve().await.ok()?;
                // Cancel-safe: each takes what it gives only when it gives it.
                let message = tokio::select! {
                    supply = self.outlets.supplies.next() => convert::supply(supply),
                    (claim, at) = self.outlets.locations.next() => convert::location(&claim, at),
                    (sandbox, what) = self.outlets.attachments.next() => convert::attachment(sandbox, what),
                };
                Some((place, message))
            };
            // Cancel-safe: `message` and `recv` keep what they have not returned; a dropped timer is made anew.
            tokio::select! {
                event = session.incoming.message() => match event {
                    Ok(Some(event)) => self.receive(session, event).await,
                    Ok(None) => return SessionError::Ended,
                    Err(status) => return SessionError::Broken(Box::new(status)),
                },
                Some(request) = requests.recv() => self.ask(session, request).await,
                Some((place, message)) = supply => place.send(message),
                () = expiry => if self.expire(session).await {
                    return SessionError::Silent(self.settings.request_deadline);
                },
                () = stop.cancelled() => return SessionError::Stopped,
                () = self.inputs.closed() => return SessionError::Stopped,
            }
        }
    }

    async fn ask(&self, session: &mut Session, request: NodeRequest) {
        let id = session.next_id;
        session.next_id += 1;
        let message = proto::SessionRequest {
            id,
            request: Some(convert::request(&request)),
        };
        let room = session.pending.len() < self.settings.in_flight;
        if !room || session.outgoing.try_send(message).is_err() {
            self.reply(request, NodeReply::NotSent, Duration::ZERO)
                .await;
            return;
        }
        let now = Instant::now();
        session
            .deadlines
            .push_back((now + self.settings.request_deadline, id));
        session.pending.insert(id, (request, now));
    }

    async fn receive(&self, session: &mut Session, event: proto::SessionEvent) {
        let reply = match event.event {
            Some(Event::Bind(reply)) => convert::bind_reply(reply),
            Some(Event::Release(reply)) => convert::release_reply(reply),
            Some(Event::Retire(reply)) => convert::retire_reply(reply),
            Some(Event::MakeVolume(reply)) => convert::make_volume_reply(reply),
            Some(Event::WipeVolume(reply)) => convert::wipe_volume_reply(reply),
            Some(Event::Member(member)) => {
                if let Some(reported) = member.member.map(convert::reported) {
                    let node = self.node.clone();
                    self.send(NodeInput::Member {
                        node,
                        reported,
                        gone: member.gone,
                    })
                    .await;
                }
                return;
            }
            // Of a later version of the API: nothing that we asked for.
            Some(Event::Inventory(_)) | None => return,
        };
        // A reply after its deadline finds nothing: it was answered as unknown, and the inventory or a member event
        // says what came of it.
        if let Some((request, sent)) = session.pending.remove(&event.id) {
            self.reply(request, reply, sent.elapsed()).await;
        }
    }

    /// Gives up requests whose deadline has passed. True when there were any: only a new inventory can settle them, so
    /// the stream must be opened anew.
    async fn expire(&self, session: &mut Session) -> bool {
        let now = Instant::now();
        let mut silent = false;
        while let Some(&(at, id)) = session.deadlines.front() {
            if at > now {
                break;
            }
            session.deadlines.pop_front();
            if let Some((request, sent)) = session.pending.remove(&id) {
                self.reply(request, NodeReply::Unknown, sent.elapsed())
                    .await;
                silent = true;
            }
        }
        silent
    }

    /// Waits before the next try, or until something is heard of the node; requests meanwhile are not sent. False when it
    /// is over.
    async fn pause(
        &self,
        requests: &mut mpsc::Receiver<NodeRequest>,
        wait: Duration,
        stop: &CancellationToken,
    ) -> bool {
        let until = tokio::time::sleep(wait);
        tokio::pin!(until);
        loop {
            // Cancel-safe: the timer lives across turns, a notice not taken stays, and a request received is answered at once.
            tokio::select! {
                () = &mut until => return true,
                () = self.news.notified() => return true,
                () = stop.cancelled() => return false,
                request = requests.recv() => match request {
                    Some(request) => self.reply(request, NodeReply::NotSent, Duration::ZERO).await,
                    None => return false,
                },
            }
        }
    }

    async fn reply(&self, request: NodeRequest, reply: NodeReply, took: Duration) {
        self.send(NodeInput::Reply {
            node: self.node.clone(),
            request,
            reply,
            took,
        })
        .await;
    }

    async fn send(&self, input: NodeInput) {
        // Fails only when nobody listens any more; `run` ends for the same reason.
        let _ = self.inputs.send(input).await;
    }
}
