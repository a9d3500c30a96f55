//! Writes to the API server, the urgent ones first.
//!
//! A write is queued in its lane and sent by one of a fixed number of workers. Each request in flight has a stream of
//! its own, so a slow one holds up nobody. `Answer` goes before everything; the other lanes wait while claims are being
//! answered, and go one at a time once they have waited for [`Patience::longest_yield`]. Where there is a [`Rate`] a write
//! stays in its lane until it may go, so that an answer need not wait for what came before it. The queue is bounded: a
//! write that finds no room comes back as `Unavailable` and is tried again by whoever made it.

mod lanes;
mod request;
mod throttle;

use std::sync::Arc;
use std::time::Duration;

use hearth_core::effects::{Lane, Object, Outcome, Receipt, Subject, Write};
use hearth_core::services::{ServiceRecord, SliceRecord};
use hearth_core::templates::PolicyRecord;
use hearth_core::volumes::{Pv, Pvc};
use hearth_telemetry::ErrorChain;
use kube::Client;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use lanes::{Lanes, Place};
pub use throttle::Rate;

/// Bounds and times of the writer.
#[derive(Clone, Copy, Debug)]
pub struct WriterSettings {
    /// Requests in flight at most.
    pub workers: usize,
    /// Of these, at most so many that are not answers.
    pub trailing_workers: usize,
    /// Writes queued at most, over all lanes.
    pub queue: usize,
    /// From sending a request to its response.
    pub deadline: Duration,
    /// How many writes may go in a second; none: any number.
    pub rate: Option<Rate>,
    /// How writes yield that are not answers.
    pub trailing: Patience,
    /// How those yield that only observers read.
    pub observing: Patience,
}

/// How a write yields to answers.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// How long after the last answer claims count as being answered.
    pub quiet: Duration,
    /// How long a write may be held up by answers.
    pub longest_yield: Duration,
}

impl Default for WriterSettings {
    fn default() -> Self {
        Self {
            workers: 16,
            trailing_workers: 6,
            queue: 65_536,
            deadline: Duration::from_secs(10),
            rate: None,
            trailing: Patience {
                quiet: Duration::from_millis(30),
                longest_yield: Duration::from_secs(3),
            },
            observing: Patience {
                quiet: Duration::from_millis(300),
                longest_yield: Duration::from_secs(15),
            },
        }
    }
}

/// A write that came to its end.
#[derive(Debug)]
pub struct Written {
    /// Which.
    pub receipt: Receipt,
    /// How.
    pub outcome: Outcome,
    /// The lane it went through.
    pub lane: Lane,
    /// From queueing to sending.
    pub queued: Duration,
    /// From sending to the response.
    pub took: Duration,
}

/// Queues writes; cheap to clone.
#[derive(Clone, Debug)]
pub struct Writer {
    lanes: Arc<Lanes>,
}

impl Writer {
    /// Starts the workers on `tracker`. They bring every outcome to `outcomes`, and end when `token` is cancelled: what
    /// is queued then is dropped, as a crash would.
    #[must_use]
    pub fn start(
        client: &Client,
        settings: WriterSettings,
        outcomes: &mpsc::Sender<Written>,
        tracker: &TaskTracker,
        token: &CancellationToken,
    ) -> Self {
        let lanes = Arc::new(Lanes::new(&settings));
        for _ in 0..settings.workers {
            let worker = Worker {
                client: client.clone(),
                deadline: settings.deadline,
                lanes: Arc::clone(&lanes),
                outcomes: outcomes.clone(),
            };
            let token = token.clone();
            tracker.spawn(async move { worker.run(token).await });
        }
        Self { lanes }
    }

    /// Queues a write.
    ///
    /// # Errors
    /// The write, when the queue is full.
    pub fn submit(&self, write: Write) -> Result<(), Box<Write>> {
        self.lanes.push(write, Instant::now())
    }

    /// A node was asked to bind a claim: its answer is to be written within milliseconds, and nothing shall go before it.
    pub fn bind_sent(&self) {
        self.lanes.expect_answer(Instant::now());
    }

    /// Waits until a write that only observers read may go, which has been waiting since `queued_at`. It may go for as
    /// long as the place is kept.
    pub(crate) async fn observing(&self, queued_at: Instant) -> Place {
        self.lanes.observing(queued_at).await
    }

    /// Writes that wait, by lane.
    #[must_use]
    pub fn depths(&self) -> [(Lane, usize); 4] {
        self.lanes.depths()
    }
}

struct Worker {
    client: Client,
    deadline: Duration,
    lanes: Arc<Lanes>,
    outcomes: mpsc::Sender<Written>,
}

impl Worker {
    async fn run(self, token: CancellationToken) {
        // Cancel-safe: a write that is dropped while it is sent has an unknown outcome, which is what a crash leaves, and
        // the next leader settles.
        tokio::select! {
            () = token.cancelled() => {}
            () = self.work() => {}
        }
    }

    async fn work(&self) {
        loop {
            let job = self.lanes.next().await;
            let started = Instant::now();
            let queued = started.saturating_duration_since(job.queued_at);
            let lane = job.write.lane;
            let outcome = self.send(&job.write).await;
            // Gives the place in its lane back before the outcome makes new writes.
            drop(job.place);
            let written = Written {
                receipt: job.write.receipt,
                outcome,
                lane,
                queued,
                took: started.elapsed(),
            };
            if self.outcomes.send(written).await.is_err() {
                return;
            }
        }
    }

    async fn send(&self, write: &Write) -> Outcome {
        let http = match request::build(write) {
            Ok(http) => http,
            Err(error) => return Outcome::Rejected(ErrorChain(&error).to_string()),
        };
        match timeout(self.deadline, self.client.request_text(http)).await {
            Ok(Ok(text)) => Outcome::Done(object(&write.receipt, &text)),
            Ok(Err(error)) => request::outcome(&error, &write.body),
            Err(_) => Outcome::Unavailable(format!("no response within {:?}", self.deadline)),
        }
    }
}

/// The object in a response, where the index wants it. One that does not parse is left to the watch.
fn object(receipt: &Receipt, text: &str) -> Option<Box<Object>> {
    match (&receipt.subject, receipt.intent) {
        // A deletion is answered with the object as it was, or with no object at all.
        (_, intent) if intent.is_deletion() => None,
        (Subject::Pool(_) | Subject::Pod(_), _) => None,
        (Subject::VolumeClaim(key), _) => {
            read(text, |pvc| Object::VolumeClaim(key.clone(), Pvc::of(pvc)))
        }
        (Subject::Volume(_), _) => read(text, |pv| Object::Volume(Pv::of(pv))),
        (Subject::Service(key), _) => read(text, |service| {
            Object::Service(key.clone(), ServiceRecord::of(service))
        }),
        (Subject::EndpointSlice(key), _) => read(text, |slice| {
            Object::EndpointSlice(key.clone(), SliceRecord::of(slice))
        }),
        (Subject::NetworkPolicy(key), _) => read(text, |policy| {
            Object::NetworkPolicy(key.clone(), PolicyRecord::of(policy))
        }),
        (Subject::Template(_), _) => read(text, |template| Object::Template(Box::new(template))),
        (Subject::Claim(_), _) => read(text, Object::Claim),
        (Subject::Sandbox(_), _) => read(text, Object::Sandbox),
    }
}

fn read<T: DeserializeOwned>(text: &str, kept: impl FnOnce(T) -> Object) -> Option<Box<Object>> {
    let object = serde_json::from_str(text).ok()?;
    Some(Box::new(kept(object)))
}
