//! The session of a controller with one node, as far as binds go.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use hearth_node::fake::Alone;
use hearth_proto::node::v1 as proto;
use hearth_proto::node::v1::node_client::NodeClient;
use hearth_proto::node::v1::session_event::Event;
use hearth_proto::node::v1::session_request::Request;
use hearth_tls::{ConnectOptions, Identity};
use tokio::sync::mpsc;
use tokio::time::{sleep_until, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::results::BindSample;

/// How long the node may take to answer a greeting.
const GREETING: Duration = Duration::from_secs(30);
/// As the controller has it: an inventory of thousands of members is larger than gRPC's default.
const LARGEST_MESSAGE: usize = 64 << 20;

/// An open session.
pub(super) struct Session<'a> {
    requests: mpsc::Sender<proto::SessionRequest>,
    events: Streaming<proto::SessionEvent>,
    members: &'a [String],
}

impl<'a> Session<'a> {
    /// Opens a session with a node that has these members.
    pub(super) async fn open(
        node: &Alone,
        leader: &Identity,
        members: &'a [String],
    ) -> Result<Self> {
        let (address, pin) = (node.address().to_string(), node.fingerprint());
        let channel = hearth_tls::connect(&address, leader, pin, ConnectOptions::default()).await;
        // Room for all that is ever sent: the generator never waits for the node.
        let (requests, outgoing) = mpsc::channel(members.len() + 1);
        let hello = Request::Hello(proto::Hello {
            fence: Alone::FENCE,
            holder: "hearth-bench".to_owned(),
        });
        send(&requests, 0, hello)?;
        let mut client = NodeClient::new(channel.context("cannot connect to the node")?)
            .max_decoding_message_size(LARGEST_MESSAGE);
        let opening = async {
            let session = client.session(ReceiverStream::new(outgoing)).await;
            let mut events = session
                .context("the node refuses the session")?
                .into_inner();
            let first = events.message().await.context("the session broke")?;
            Ok::<_, anyhow::Error>((events, first.and_then(|event| event.event)))
        };
        let opened = timeout(GREETING, opening).await;
        let (events, first) = opened.context("the node does not greet")??;
        let Some(Event::Inventory(inventory)) = first else {
            bail!("the node sent something else before its inventory");
        };
        let found = inventory.members.len();
        ensure!(
            found == members.len(),
            "the node has {found} members, not {}",
            members.len()
        );
        Ok(Self {
            requests,
            events,
            members,
        })
    }

    /// Binds each member to an owner of its own, so many a second, and waits for all replies.
    pub(super) async fn bind_all(&mut self, rate: Option<f64>) -> Result<Vec<BindSample>> {
        let count = self.members.len();
        let mut samples: Vec<BindSample> = (0..count).map(|index| planned(index, rate)).collect();
        let start = Instant::now();
        let (mut sent, mut replied) = (0, 0);
        while replied < count {
            let due = samples
                .get(sent)
                .map(|sample| start + Duration::from_micros(sample.due_us));
            // Cancel-safe: a message stays in the stream until it is taken, and a timer is made anew.
            tokio::select! {
                () = async {
                    match due {
                        Some(due) => sleep_until(due.into()).await,
                        None => std::future::pending().await,
                    }
                } => {
                    let bind = proto::BindRequest {
                        owner_key: format!("owner-{sent}"),
                        sandbox_uid: self.members[sent].clone(),
                        env: Vec::new(),
                    };
                    samples[sent].sent_us = micros(start);
                    // The ids begin with 1: 0 is what nobody asked for.
                    send(&self.requests, sent + 1, Request::Bind(bind))?;
                    sent += 1;
                }
                event = self.events.message() => {
                    let event = event.context("the session broke")?;
                    let event = event.context("the node ended the session")?;
                    if let Some(Event::Bind(reply)) = event.event {
                        let index = usize::try_from(event.id)?.checked_sub(1);
                        let sample = index.and_then(|index| samples.get_mut(index));
                        note(sample.context("a reply to nothing")?, micros(start), &reply);
                        replied += 1;
                    }
                }
            }
        }
        Ok(samples)
    }
}

/// A bind that is still to be sent.
fn planned(index: usize, rate: Option<f64>) -> BindSample {
    let due = rate.map_or(Duration::ZERO, |rate| {
        Duration::from_secs_f64(index as f64 / rate)
    });
    BindSample {
        due_us: u64::try_from(due.as_micros()).unwrap_or(u64::MAX),
        ..BindSample::default()
    }
}

fn note(sample: &mut BindSample, at: u64, reply: &proto::BindReply) {
    sample.replied_us = at;
    if let Some(phases) = &reply.phases {
        sample.queue_us = phases.queue_us;
        sample.journal_us = phases.journal_us;
        sample.thaw_us = phases.thaw_us;
        sample.total_us = phases.total_us;
    }
    let outcome = reply.outcome();
    if outcome != proto::bind_reply::Outcome::Bound {
        sample.error = Some(format!("{}: {}", outcome.as_str_name(), reply.detail));
    }
}

fn send(requests: &mpsc::Sender<proto::SessionRequest>, id: usize, request: Request) -> Result<()> {
    let request = proto::SessionRequest {
        id: u64::try_from(id)?,
        request: Some(request),
    };
    requests
        .try_send(request)
        .ok()
        .context("the session takes no more requests")
}

fn micros(start: Instant) -> u64 {
    u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX)
}
