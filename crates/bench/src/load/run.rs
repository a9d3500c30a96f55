use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use futures::StreamExt as _;
use futures::future::LocalBoxFuture;
use futures::stream::FuturesUnordered;
use tokio::time::sleep_until;

use super::answer::{FirstAnswer, first_answer};
use super::pacing::Pacing;
use crate::api::{CallError, Change, ClaimStatus, Connections, Target, Watch, call};
use crate::results::Sample;

const DELETE_AGAIN_AFTER: Duration = Duration::from_millis(200);

/// What makes claims (or their stand-ins) and sees them answered.
pub(crate) struct Generator<'a> {
    pub(crate) connections: &'a Connections,
    pub(crate) target: Target,
    /// The pool that the claims name.
    pub(crate) pool: String,
}

/// How a run goes, apart from its pacing.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// How long a claim may take.
    pub(crate) timeout: Duration,
    /// How long a claim is kept after its answer; `None`: until the window ends.
    pub(crate) dwell: Option<Duration>,
    /// How long the release of all claims may take.
    pub(crate) release_limit: Duration,
    /// Ask each sandbox over HTTP once its claim is ready.
    pub(crate) probe: Option<Probe>,
    /// Variables of each claim.
    pub(crate) env: Vec<(String, String)>,
}

/// What is asked of a sandbox.
#[derive(Clone, Debug)]
pub(crate) struct Probe {
    pub(crate) port: u16,
    pub(crate) path: String,
}

/// Instants of a whole window, and what release still needs.
pub(crate) struct Window<'a> {
    pub(super) generator: &'a Generator<'a>,
    pub(super) options: &'a Options,
    pub(super) watch: Watch<ClaimStatus>,
    pub(super) prefix: String,
    pub(super) claims: Vec<Claim>,
    start: Instant,
    settled: usize,
    expiries: VecDeque<(Instant, usize)>,
    /// Claims to be deleted, and when.
    pub(super) deletions: VecDeque<(Instant, usize)>,
    posting: usize,
    calls: FuturesUnordered<LocalBoxFuture<'a, Done>>,
}

/// One claim on its way.
#[derive(Debug, Default)]
pub(super) struct Claim {
    pub(super) sample: Sample,
    pub(super) released: bool,
    pub(super) gone: bool,
    settled: bool,
    ready_at: Option<Instant>,
    /// What the claim last said of itself.
    complaint: Option<String>,
}

enum Done {
    Posted {
        index: usize,
        sent: Instant,
        outcome: Result<Instant, CallError>,
    },
    Answered {
        index: usize,
        outcome: std::io::Result<FirstAnswer>,
    },
    Deleted {
        index: usize,
        outcome: Result<(), CallError>,
    },
}

impl<'a> Generator<'a> {
    /// Opens the watch and makes the bodies: all that must not be part of the window.
    pub(crate) async fn prepare(
        &'a self,
        pacing: &Pacing,
        options: &'a Options,
    ) -> Result<Prepared<'a>> {
        let run = run_id();
        let selector = Target::selector(&run);
        let watch_client = self.connections.separate().await?;
        let (_, watch) = Watch::start(watch_client, self.target.collection(), &selector).await?;
        let prefix = format!("bench-{run}-");
        let arrivals = pacing.arrivals();
        let names: Vec<String> = (0..arrivals.len())
            .map(|index| format!("{prefix}{index}"))
            .collect();
        let bodies = names
            .iter()
            .map(|name| self.target.body(&run, name, &self.pool, &options.env))
            .collect();
        let claims = names.into_iter().map(|name| Claim {
            sample: Sample {
                name,
                ..Sample::default()
            },
            ..Claim::default()
        });
        let window = Window {
            generator: self,
            options,
            watch,
            prefix,
            claims: claims.collect(),
            start: Instant::now(),
            settled: 0,
            expiries: VecDeque::new(),
            deletions: VecDeque::new(),
            posting: 0,
            calls: FuturesUnordered::new(),
        };
        Ok(Prepared {
            window,
            arrivals,
            bodies,
        })
    }
}

/// A run that can start at once.
pub(crate) struct Prepared<'a> {
    window: Window<'a>,
    arrivals: Vec<Option<Duration>>,
    bodies: VecDeque<Bytes>,
}

impl<'a> Prepared<'a> {
    /// Sends the claims and follows them until each one is settled: answered, refused or late.
    pub(crate) async fn run(self) -> Result<Window<'a>> {
        let Self {
            mut window,
            arrivals,
            mut bodies,
        } = self;
        window.start = Instant::now();
        let mut sent = 0;
        loop {
            while let Some(due) = arrivals
                .get(sent)
                .and_then(|arrival| window.due(*arrival, sent))
            {
                let Some(body) = bodies.pop_front() else {
                    break;
                };
                window.send(sent, due, body)?;
                sent += 1;
            }
            window.act_on_deadlines()?;
            // The answer to a POST may trail the watch, and it carries the instant of sending.
            if window.settled == arrivals.len() && window.posting == 0 {
                return Ok(window);
            }
            let arrival = arrivals
                .get(sent)
                .copied()
                .flatten()
                .map(|offset| window.start + offset);
            window.step(arrival).await?;
        }
    }
}

impl<'a> Window<'a> {
    /// The instant at which claim `index` was to be sent, once it has come.
    fn due(&self, arrival: Option<Duration>, index: usize) -> Option<Instant> {
        let now = Instant::now();
        match arrival {
            Some(offset) => Some(self.start + offset).filter(|due| *due <= now),
            None => (self.settled == index).then_some(now),
        }
    }

    fn send(&mut self, index: usize, due: Instant, body: Bytes) -> Result<()> {
        self.claims[index].sample.due_us = self.offset(due);
        self.expiries
            .push_back((Instant::now() + self.options.timeout, index));
        let request = self.generator.target.create(body)?;
        let client = self.generator.connections.next();
        let limit = self.options.timeout;
        self.posting += 1;
        self.calls.push(Box::pin(async move {
            let sent = Instant::now();
            let outcome = call(client, request, limit).await.map(|_| Instant::now());
            Done::Posted {
                index,
                sent,
                outcome,
            }
        }));
        Ok(())
    }

    /// Waits for whatever comes next, but not past `until`, and notes it.
    pub(super) async fn step(&mut self, until: Option<Instant>) -> Result<()> {
        while self
            .expiries
            .front()
            .is_some_and(|(_, index)| self.claims[*index].settled)
        {
            self.expiries.pop_front();
        }
        let deadlines = [
            until,
            self.expiries.front().map(|entry| entry.0),
            self.deletions.front().map(|entry| entry.0),
        ];
        let wake = deadlines.into_iter().flatten().min();
        // Each arm loses nothing when dropped. The watch comes first: its instants are the result.
        tokio::select! {
            biased;
            event = self.watch.next() => {
                let event = event?;
                if let Some(index) = self.index_of(&event.object.metadata.name) {
                    self.observe(index, event.change, event.at, event.object.status.as_ref());
                }
            }
            Some(done) = self.calls.next() => self.note(done),
            () = sleep_until(wake.unwrap_or_else(Instant::now).into()), if wake.is_some() => {}
        }
        Ok(())
    }

    fn index_of(&self, name: &str) -> Option<usize> {
        name.strip_prefix(&self.prefix)?
            .parse()
            .ok()
            .filter(|index| *index < self.claims.len())
    }

    fn observe(&mut self, index: usize, change: Change, at: Instant, status: Option<&ClaimStatus>) {
        if change == Change::Deleted {
            self.claims[index].gone = true;
            return;
        }
        let Some(status) = status else { return };
        let offset = self.offset(at);
        let claim = &mut self.claims[index];
        if claim.settled || claim.ready_at.is_some() {
            return;
        }
        let Some(answer) = status.answer() else {
            claim.complaint = status.complaint();
            return;
        };
        claim.ready_at = Some(at);
        claim.sample.ready_us = Some(offset);
        claim.sample.sandbox = answer.sandbox.to_owned();
        match &self.options.probe {
            Some(probe) => match answer.ip.and_then(|ip| ip.parse::<IpAddr>().ok()) {
                Some(ip) => self.ask(index, SocketAddr::new(ip, probe.port), probe.path.clone()),
                None => self.settle(index, Some("ready without a pod address".to_owned())),
            },
            None => self.settle(index, None),
        }
        if let Some(dwell) = self.options.dwell {
            self.deletions.push_back((at + dwell, index));
        }
    }

    fn ask(&mut self, index: usize, address: SocketAddr, path: String) {
        let deadline = Instant::now() + self.options.timeout;
        self.calls.push(Box::pin(async move {
            Done::Answered {
                index,
                outcome: first_answer(address, &path, deadline).await,
            }
        }));
    }

    fn note(&mut self, done: Done) {
        match done {
            Done::Posted {
                index,
                sent,
                outcome,
            } => {
                self.posting -= 1;
                self.claims[index].sample.sent_us = Some(self.offset(sent));
                match outcome {
                    Ok(at) => self.claims[index].sample.posted_us = Some(self.offset(at)),
                    // A POST without an answer may have made the claim all the same: the watch will tell.
                    Err(error @ CallError::Refused { .. }) => {
                        self.settle(index, Some(format!("POST: {error}")))
                    }
                    Err(error) => self.claims[index].complaint = Some(format!("POST: {error}")),
                }
            }
            Done::Answered {
                index,
                outcome: Ok(answer),
            } => {
                let offset = self.offset(answer.at);
                let sample = &mut self.claims[index].sample;
                sample.answered_us = Some(offset);
                sample.attempts = Some(answer.attempts);
                self.settle(index, None);
            }
            Done::Answered {
                index,
                outcome: Err(error),
            } => self.settle(index, Some(format!("HTTP: {error}"))),
            Done::Deleted { index, outcome } => match outcome {
                Ok(()) => {}
                Err(error) if error.is_not_found() => self.claims[index].gone = true,
                Err(_) => {
                    self.claims[index].released = false;
                    self.deletions
                        .push_back((Instant::now() + DELETE_AGAIN_AFTER, index));
                }
            },
        }
    }

    pub(super) fn act_on_deadlines(&mut self) -> Result<()> {
        let now = Instant::now();
        while let Some((_, index)) = self.expiries.pop_front_if(|(at, _)| *at <= now) {
            // A claim that is ready waits for its sandbox, which has a deadline of its own.
            if self.claims[index].ready_at.is_none() && !self.claims[index].settled {
                let why = self.claims[index].complaint.take();
                self.settle(
                    index,
                    Some(
                        why.unwrap_or_else(|| {
                            format!("not ready within {:?}", self.options.timeout)
                        }),
                    ),
                );
            }
        }
        while let Some((_, index)) = self.deletions.pop_front_if(|(at, _)| *at <= now) {
            self.delete(index).context("cannot delete a claim")?;
        }
        Ok(())
    }

    pub(super) fn delete(&mut self, index: usize) -> Result<()> {
        let claim = &mut self.claims[index];
        claim.released = true;
        let request = self.generator.target.delete(&claim.sample.name)?;
        let client = self.generator.connections.next();
        let limit = self.options.timeout;
        self.calls.push(Box::pin(async move {
            Done::Deleted {
                index,
                outcome: call(client, request, limit).await.map(drop),
            }
        }));
        Ok(())
    }

    fn settle(&mut self, index: usize, error: Option<String>) {
        let claim = &mut self.claims[index];
        if !claim.settled {
            claim.settled = true;
            claim.sample.error = error;
            self.settled += 1;
        }
    }

    /// Requests under way.
    pub(super) fn in_flight(&self) -> usize {
        self.calls.len()
    }

    fn offset(&self, at: Instant) -> u64 {
        let micros = at.saturating_duration_since(self.start).as_micros();
        u64::try_from(micros).unwrap_or(u64::MAX)
    }
}

/// Tells the objects of one run from those of any other.
fn run_id() -> String {
    let nanos = jiff::Timestamp::now().as_nanosecond();
    format!("{:08x}", nanos & 0xffff_ffff)
}
