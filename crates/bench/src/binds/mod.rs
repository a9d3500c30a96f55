//! Binds on one node, without a cluster: a fake node in this process, spoken to over its stream as its controller does it.
//! What is measured is the node's own cost: the session, the rules, the journal with its fsync, the gate.

mod results;
mod session;

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use hearth_api::PodSpecJson;
use hearth_node::fake::{Alone, AloneConfig, Delays};
use hearth_tls::Identity;
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;

use crate::args::BindsArgs;
use crate::cpu;
use crate::podspec;

pub(crate) use results::Binds;
use session::Session;

/// Fills a node with members and binds them all.
pub(crate) async fn measure(args: &BindsArgs) -> Result<Binds> {
    let dir = match &args.dir {
        Some(dir) => tempfile::tempdir_in(dir),
        None => tempfile::tempdir(),
    };
    let dir = dir.context("no directory for the journal")?;
    let leader = Identity::generate("hearth-bench").context("no certificate")?;
    let delays: Delays = args.delay.iter().copied().collect();
    let config = AloneConfig {
        dir: dir.path().to_owned(),
        sandboxes: args.count,
        parallel: args.parallel.into(),
        delays,
    };
    let pod = podspec::of_size(args.spec_bytes);
    let spec_bytes = pod.to_string().len();
    let pod = PodSpecJson::from_value(&pod).context("cannot write a PodSpec")?;
    let threads = Threads::start()?;
    let count = usize::from(args.count);

    let node = threads
        .run(
            args.timeout,
            "start",
            Alone::start(config, leader.fingerprint()),
        )
        .await?
        .context("cannot start the node")?;
    let begun = Instant::now();
    let filling = async move {
        let uids = node.fill(count, &pod).await;
        (node, uids)
    };
    let (node, uids) = threads
        .run(args.timeout, "make the members", filling)
        .await?;
    let fill_seconds = begun.elapsed().as_secs_f64();
    let resident_bytes = cpu::own_resident_bytes();

    let mut session = Session::open(&node, &leader, &uids).await?;
    let cpu_before = cpu::own_seconds();
    let rate = Some(args.rate).filter(|rate| *rate > 0.0);
    let bound = timeout(args.timeout, session.bind_all(rate)).await;
    let samples = bound.context("the binds took too long")??;
    let cpu_seconds = cpu::own_seconds() - cpu_before;
    drop(session);
    threads.run(args.timeout, "stop", node.stop()).await?;

    let (reply, lateness, phases) = results::figures(&samples);
    let last = samples.iter().map(|sample| sample.replied_us).max();
    let first = samples.iter().map(|sample| sample.sent_us).min();
    let took = last.unwrap_or(0).saturating_sub(first.unwrap_or(0));
    Ok(Binds {
        count,
        rate,
        spec_bytes,
        delays: delays.to_string(),
        fill_seconds,
        resident_bytes,
        seconds: Duration::from_micros(took).as_secs_f64(),
        cpu_seconds,
        budget: args.budget,
        reply,
        lateness,
        phases,
        refused: samples
            .iter()
            .filter(|sample| sample.error.is_some())
            .count(),
        samples,
    })
}

/// The threads of the node: as many as hearthd has.
struct Threads(Option<Runtime>);

impl Threads {
    fn start() -> Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(2)
            .max_blocking_threads(32)
            .enable_all()
            .build();
        Ok(Self(Some(runtime.context("start the node's threads")?)))
    }

    /// Does something on them.
    async fn run<T: Send + 'static>(
        &self,
        limit: Duration,
        what: &str,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<T> {
        let runtime = self.0.as_ref().context("the node's threads have ended")?;
        let done = timeout(limit, runtime.spawn(work)).await;
        done.with_context(|| format!("the node did not {what} within {limit:?}"))?
            .with_context(|| format!("the node's thread ended: {what}"))
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            // Dropping it would wait, which is not allowed on a thread that drives others.
            runtime.shutdown_background();
        }
    }
}
