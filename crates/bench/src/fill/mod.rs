//! Filling a pool, against the least that the same pods can cost: bare CRI calls in a loop, at the same containerd, with as
//! many at once. Both in turn, because the machine's speed changes.

mod bare;

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use hearth_cri::{CriClient, Deadlines, PodRuntime as _, v1};
use http::{Method, Request};
use kube::client::Body;
use serde_json::json;
use tokio::time::{sleep, timeout};

use crate::api::{Connections, call};
use crate::args::FillArgs;
use crate::cpu::{CpuSnapshot, wait_idle};
use crate::pool;
use crate::results::{Fill, FillRound, FillRun};
use crate::stats::Ratio;

/// How long one CRI call may take.
const CALL_LIMIT: Duration = Duration::from_secs(120);
/// How long to wait for the machine to come to rest before a measurement.
const REST_LIMIT: Duration = Duration::from_secs(60);
/// How often it is looked whether containerd is empty.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Fills by both ways in turn. The pool must exist and be empty.
pub(crate) async fn measure(
    connections: &Connections,
    namespace: &str,
    args: &FillArgs,
) -> Result<Fill> {
    let cri = CriClient::new(&args.cri, Deadlines::uniform(CALL_LIMIT));
    let filler = Filler {
        connections,
        namespace,
        args,
        cri,
    };
    filler.scale(0).await?;
    filler.until_empty().await?;
    // Not measured: images are unpacked and caches are warm after it.
    filler.bare(args.parallel.max(2)).await?;
    let mut rounds = Vec::with_capacity(args.rounds);
    for number in 1..=args.rounds {
        // Neither always has the machine as the other left it.
        let round = if number % 2 == 0 {
            let pool = filler.pool().await?;
            let bare = filler.bare(args.count).await?;
            FillRound { bare, pool }
        } else {
            let bare = filler.bare(args.count).await?;
            let pool = filler.pool().await?;
            FillRound { bare, pool }
        };
        eprintln!(
            "round {number} of {}: bare {:.2} s, pool {:.2} s",
            args.rounds, round.bare.seconds, round.pool.seconds
        );
        rounds.push(round);
    }
    let pairs = rounds
        .iter()
        .map(|round| (round.pool.seconds, round.bare.seconds));
    Ok(Fill {
        count: args.count,
        parallel: args.parallel,
        budget: args.budget,
        ratio: Ratio::of(pairs),
        rounds,
    })
}

struct Filler<'a> {
    connections: &'a Connections,
    namespace: &'a str,
    args: &'a FillArgs,
    cri: CriClient,
}

impl Filler<'_> {
    /// Makes `count` pods by bare calls, and removes them.
    async fn bare(&self, count: usize) -> Result<FillRun> {
        wait_idle(REST_LIMIT).await;
        let cpu = CpuSnapshot::take();
        let load_before = load_average();
        let begun = Instant::now();
        let made = bare::make(&self.cri, self.args, count).await;
        let run = FillRun {
            seconds: begun.elapsed().as_secs_f64(),
            cpu_seconds: CpuSnapshot::take().since(&cpu),
            load_before,
            each_ms: made
                .iter()
                .flatten()
                .map(|pod| pod.took.as_secs_f64() * 1000.0)
                .collect(),
        };
        // What was made goes, whatever became of the others.
        let removed = bare::remove(&self.cri, &made).await;
        bare::remove_cgroups(&self.args.cgroup_parent);
        made.into_iter().collect::<Result<Vec<_>>>()?;
        removed?;
        self.until_empty().await?;
        Ok(run)
    }

    /// Fills the pool, and empties it.
    async fn pool(&self) -> Result<FillRun> {
        wait_idle(REST_LIMIT).await;
        let cpu = CpuSnapshot::take();
        let load_before = load_average();
        let begun = Instant::now();
        self.scale(self.args.count).await?;
        let (name, limit) = (&self.args.pool, self.args.timeout);
        pool::wait_whole(self.connections, self.namespace, name, limit).await?;
        let run = FillRun {
            seconds: begun.elapsed().as_secs_f64(),
            cpu_seconds: CpuSnapshot::take().since(&cpu),
            load_before,
            each_ms: Vec::new(),
        };
        self.scale(0).await?;
        self.until_empty().await?;
        Ok(run)
    }

    async fn scale(&self, replicas: usize) -> Result<()> {
        let path = format!(
            "/apis/{}/namespaces/{}/sandboxwarmpools/{}",
            hearth_api::constants::EXTENSIONS_API_VERSION,
            self.namespace,
            self.args.pool
        );
        let patch = json!({"spec": {"replicas": replicas}});
        let request = Request::builder()
            .method(Method::PATCH)
            .uri(path)
            .header("content-type", "application/merge-patch+json")
            .body(Body::from(patch.to_string().into_bytes()))?;
        let client = self.connections.next();
        let answer = call(client, request, CALL_LIMIT).await;
        answer.map(drop).context("cannot scale the pool")
    }

    /// Waits until the containerd has no pod any more.
    async fn until_empty(&self) -> Result<()> {
        let empty = async {
            loop {
                let filter = v1::PodSandboxFilter::default();
                if self.cri.list_pod_sandboxes(filter).await?.is_empty() {
                    return Ok::<_, hearth_cri::CriError>(());
                }
                sleep(LOOK_EVERY).await;
            }
        };
        match timeout(self.args.timeout, empty).await {
            Ok(ended) => ended.context("cannot list pods"),
            Err(_) => bail!(
                "containerd still has pods after {:?}; the measurement needs a node of its own",
                self.args.timeout
            ),
        }
    }
}

/// The load of the machine over the last minute.
fn load_average() -> Option<f32> {
    use procfs::Current as _;
    procfs::LoadAverage::current().ok().map(|load| load.one)
}
