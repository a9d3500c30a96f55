use std::sync::Arc;
use std::time::Duration;

use hearth_core::ids::{Fence, OwnerKey, SandboxUid};
use hearth_core::podspec::Variable;
use hearth_proto::node::v1 as proto;
use hearth_proto::node::v1::session_event::Event;
use hearth_proto::node::v1::session_request::Request;
use hearth_telemetry::ErrorChain;
use hearth_tls::ClientInfo;
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinSet};
use tonic::{Status, Streaming};

use super::{NextChange, SessionPods, Shared, attachments, messages, volumes};
use crate::binder::{BindAnswer, BindOrder, Greeting, Released};
use crate::journal::CommitError;

/// How long a client may take to greet.
const GREETING_DEADLINE: Duration = Duration::from_secs(5);
/// How long the last word of a session may wait for room.
const FAREWELL_DEADLINE: Duration = Duration::from_secs(1);
/// Requests of one session under way at once; more wait in the connection.
const MAX_REQUESTS: usize = 1024;
/// Longest owner key or uid: they become file names and keys of the journal.
const MAX_NAME: usize = 200;

type Events = mpsc::Sender<Result<proto::SessionEvent, Status>>;

/// One session, from its greeting to its end.
pub(super) async fn run<P: SessionPods>(
    shared: Arc<Shared<P>>,
    client: ClientInfo,
    requests: Streaming<proto::SessionRequest>,
    events: Events,
) {
    let mut session = Session {
        shared,
        client,
        requests,
        events,
        holder: String::new(),
        fence: Fence(0),
    };
    match session.serve().await {
        Ok(()) => {
            tracing::info!(holder = %session.holder, peer = %client.peer, "the controller left")
        }
        Err(status) => {
            let (code, message) = (status.code(), status.message());
            tracing::info!(holder = %session.holder, peer = %client.peer, ?code, message, "session ended");
            // A client that does not read its events does not read their end either.
            let _ = session
                .events
                .send_timeout(Err(status), FAREWELL_DEADLINE)
                .await;
        }
    }
}

struct Session<P: SessionPods> {
    shared: Arc<Shared<P>>,
    client: ClientInfo,
    requests: Streaming<proto::SessionRequest>,
    events: Events,
    holder: String,
    fence: Fence,
}

impl<P: SessionPods> Session<P> {
    async fn serve(&mut self) -> Result<(), Status> {
        let shared = Arc::clone(&self.shared);
        tokio::select! {
            greeted = self.greet() => greeted?,
            () = shared.stop.cancelled() => return Err(stopping()),
        }
        // From here on the sessions before this one are over.
        let mut newest = shared.newest.subscribe();
        let mut number = 0;
        shared.newest.send_modify(|newest| {
            *newest += 1;
            number = *newest;
        });
        shared.metrics.sessions.inc();
        shared.metrics.live.inc();
        let _live = scopeguard(|| {
            shared.metrics.live.dec();
        });

        // Subscribed before the inventory is taken, so that nothing falls between.
        let changes = shared.pods.changes();
        self.tell(0, Event::Inventory(inventory(&shared))).await?;
        let mut forward =
            std::pin::pin!(forward(Arc::clone(&shared), changes, self.events.clone()));
        let mut handlers = JoinSet::new();
        let end = loop {
            // Every arm can be dropped: a stream of messages, a channel, a set of tasks and a token keep what they have.
            tokio::select! {
                biased;
                () = shared.stop.cancelled() => break Err(stopping()),
                _ = newest.wait_for(|newest| *newest > number) => break Err(self.superseded()),
                Some(handled) = handlers.join_next() => {
                    if let Err(status) = flatten(handled) {
                        break Err(status);
                    }
                }
                message = self.requests.message(), if handlers.len() < MAX_REQUESTS => match message {
                    Ok(Some(request)) => {
                        // In their order: the newest counts.
                        let Some(request) = supplied(&shared.pods, request) else { continue };
                        shared.metrics.requests.inc();
                        let handler = handle(Arc::clone(&shared), self.fence, request, self.events.clone());
                        handlers.spawn(shared.tasks.track_future(handler));
                    }
                    Ok(None) | Err(_) => break Ok(()),
                },
                () = &mut forward => break Ok(()),
            }
        };
        // What was begun is finished; the tracker hears of its end.
        handlers.detach_all();
        end
    }

    /// Takes the greeting and checks its fence.
    async fn greet(&mut self) -> Result<(), Status> {
        let first = tokio::time::timeout(GREETING_DEADLINE, self.requests.message()).await;
        let first = first.map_err(|_| Status::deadline_exceeded("no Hello in time"))??;
        let Some(proto::SessionRequest {
            request: Some(Request::Hello(hello)),
            ..
        }) = first
        else {
            return Err(Status::invalid_argument("the first message must be Hello"));
        };
        self.holder = hello.holder;
        self.fence = Fence(hello.fence);
        let Shared { binder, gate, .. } = &*self.shared;
        match binder
            .hello(self.fence)
            .await
            .map_err(|error| unavailable(&error))?
        {
            Greeting::Accepted => {}
            Greeting::Stale(seen)
                if gate.history_went_back(&self.client.fingerprint, seen).await =>
            {
                tracing::warn!(
                    fence = self.fence.0,
                    seen = seen.0,
                    "the leader Lease is older than the fence that was seen: the API server's data went back"
                );
                binder
                    .reset_fence(self.fence)
                    .await
                    .map_err(|error| unavailable(&error))?;
            }
            Greeting::Stale(seen) => {
                return Err(Status::failed_precondition(format!(
                    "fence {} is older than {}, which this node has seen",
                    self.fence.0, seen.0
                )));
            }
        }
        tracing::info!(holder = %self.holder, fence = self.fence.0, peer = %self.client.peer, "the controller is here");
        Ok(())
    }

    fn superseded(&self) -> Status {
        let fence = self.shared.binder.fence();
        if fence == self.fence {
            Status::aborted("the same leader has opened another session")
        } else {
            Status::failed_precondition(format!("superseded by the leader of fence {}", fence.0))
        }
    }

    async fn tell(&self, id: u64, event: Event) -> Result<(), Status> {
        tell(&self.events, id, event).await
    }
}

async fn tell(events: &Events, id: u64, event: Event) -> Result<(), Status> {
    let event = proto::SessionEvent {
        id,
        event: Some(event),
    };
    events
        .send(Ok(event))
        .await
        .map_err(|_| Status::cancelled("the client is gone"))
}

/// Runs `end` when dropped.
fn scopeguard(end: impl FnMut()) -> impl Drop {
    struct Guard<F: FnMut()>(F);
    impl<F: FnMut()> Drop for Guard<F> {
        fn drop(&mut self) {
            (self.0)();
        }
    }
    Guard(end)
}

/// Sends the changes of all sandboxes; ends when the client is gone.
async fn forward<P: SessionPods>(shared: Arc<Shared<P>>, mut changes: P::Changes, events: Events) {
    loop {
        let sandbox = changes.next().await;
        let owner = shared.binder.owner(&sandbox);
        let event = match shared.pods.view(&sandbox) {
            Some(view) => {
                let member = messages::member(&view, owner, shared.binder.is_disposed(&sandbox));
                proto::MemberEvent {
                    member: Some(member),
                    gone: false,
                }
            }
            None => proto::MemberEvent {
                member: Some(messages::bare_member(&sandbox, owner)),
                gone: true,
            },
        };
        if tell(&events, 0, Event::Member(event)).await.is_err() {
            return;
        }
    }
}

/// All that the node holds.
fn inventory<P: SessionPods>(shared: &Shared<P>) -> proto::Inventory {
    let (mut owners, tombstones) = shared.binder.holdings();
    let mut members: Vec<proto::Member> = Vec::new();
    for view in shared.pods.views() {
        let owner = owners.remove(&view.uid);
        members.push(messages::member(
            &view,
            owner,
            shared.binder.is_disposed(&view.uid),
        ));
    }
    members.extend(
        owners
            .into_iter()
            .map(|(sandbox, owner)| messages::bare_member(&sandbox, Some(owner))),
    );
    proto::Inventory {
        fence: shared.binder.fence().0,
        members,
        tombstones: tombstones.into_iter().map(|owner| owner.0).collect(),
    }
}

/// Takes in what the controller supplies; gives any other request back.
fn supplied<P: SessionPods>(
    pods: &P,
    request: proto::SessionRequest,
) -> Option<proto::SessionRequest> {
    match request.request {
        Some(Request::Supplies(list)) => {
            let keys = list.keys.into_iter().filter_map(messages::config_key);
            pods.keep_configs(&keys.collect());
            None
        }
        Some(Request::Supply(supply)) => {
            if let Some(key) = supply.key.and_then(messages::config_key) {
                if supply.wanted {
                    let config = supply.config.map(messages::config).map(Arc::new);
                    pods.set_config(key, config);
                } else {
                    pods.forget_config(&key);
                }
            }
            None
        }
        _ => {
            let request = volumes::located(pods, request)?;
            attachments::attached(pods, request)
        }
    }
}

/// Does one request and answers it. An error ends the session.
async fn handle<P: SessionPods>(
    shared: Arc<Shared<P>>,
    fence: Fence,
    request: proto::SessionRequest,
    events: Events,
) -> Result<(), Status> {
    let id = request.id;
    let reply = match request.request {
        Some(Request::Bind(bind)) => {
            let owner = OwnerKey(name("owner_key", bind.owner_key)?);
            let sandbox = SandboxUid(name("sandbox_uid", bind.sandbox_uid)?);
            let variables: Vec<_> = bind.env.into_iter().map(messages::variable).collect();
            let answer = if variables.iter().all(Variable::is_possible) {
                let order = BindOrder {
                    owner: owner.clone(),
                    sandbox,
                    variables,
                };
                shared.binder.bind(fence, order).await
            } else {
                BindAnswer::Failed("a variable that no container can have".to_owned())
            };
            let reply = messages::bind_reply(answer, &owner);
            Event::Bind(
                reply.ok_or_else(|| Status::failed_precondition("superseded by another leader"))?,
            )
        }
        Some(Request::Release(release)) => {
            let owner = OwnerKey(name("owner_key", release.owner_key)?);
            let expected = Some(release.sandbox_uid)
                .filter(|uid| !uid.is_empty())
                .map(SandboxUid);
            let released = shared.binder.release(&owner, expected.as_ref()).await;
            let sandbox = match released.map_err(|error| unavailable(&error))? {
                Released::Done(sandbox) => sandbox,
                Released::HoldsAnother(held) => {
                    tracing::warn!(%owner, %held, ?expected, "not released: the key holds another sandbox");
                    None
                }
            };
            Event::Release(proto::ReleaseReply {
                sandbox_uid: sandbox.map(|uid| uid.0).unwrap_or_default(),
            })
        }
        Some(Request::Retire(retire)) => {
            let sandbox = SandboxUid(name("sandbox_uid", retire.sandbox_uid)?);
            let retired = shared
                .binder
                .retire(&sandbox)
                .await
                .map_err(|error| unavailable(&error))?;
            Event::Retire(messages::retire_reply(retired))
        }
        Some(Request::MakeVolume(make)) => {
            Event::MakeVolume(volumes::make(shared.pods.volumes(), make).await)
        }
        Some(Request::WipeVolume(wipe)) => {
            Event::WipeVolume(volumes::wipe(shared.pods.volumes(), wipe).await)
        }
        Some(Request::Hello(_)) => {
            return Err(Status::invalid_argument(
                "Hello comes once, at the beginning",
            ));
        }
        // The supplies were taken in before.
        Some(
            Request::Supplies(_)
            | Request::Supply(_)
            | Request::Locations(_)
            | Request::Location(_)
            | Request::Attachments(_)
            | Request::Attachment(_),
        )
        | None => {
            return Err(Status::unimplemented(
                "a request that this node does not know",
            ));
        }
    };
    tell(&events, id, reply).await
}

/// A name that can be a key of the journal and a file.
fn name(field: &str, value: String) -> Result<String, Status> {
    if value.is_empty() || value.len() > MAX_NAME || value.chars().any(char::is_control) {
        return Err(Status::invalid_argument(format!(
            "{field} must have 1 to {MAX_NAME} printable characters"
        )));
    }
    Ok(value)
}

fn flatten(handled: Result<Result<(), Status>, JoinError>) -> Result<(), Status> {
    match handled {
        Ok(result) => result,
        Err(error) => {
            tracing::error!(error = %ErrorChain(&error), "a request ended without an answer");
            Err(Status::internal("a request could not be handled"))
        }
    }
}

fn unavailable(error: &CommitError) -> Status {
    tracing::error!(error = %ErrorChain(error), "a change could not be made durable");
    Status::unavailable(ErrorChain(error).to_string())
}

fn stopping() -> Status {
    Status::unavailable("the node daemon is stopping")
}
