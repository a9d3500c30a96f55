//! A cluster that grows: pools are filled to a number of members, and at each what the controller takes, what a claim
//! costs, and how long it is without a controller that was killed. Made for fake nodes, but any will do that are on this
//! machine with the controller, whose process is found by its name and started again by a supervisor.

mod pools;
mod results;

use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use jiff::Timestamp;
use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;
use serde::de::IgnoredAny;
use tokio::time::{Duration, sleep};

use crate::api::{Connections, fetch};
use crate::args::ScaleArgs;
use crate::cpu::{CpuSnapshot, pids_of, resident_bytes, wait_idle};
use crate::load::{Options, Pacing};
use crate::measure::{Bench, PoolWait};

use pools::Pools;
pub(crate) use results::Scale;
use results::{Recovery, ScaleStep};

/// How long to wait for the machine to come to rest before something is measured.
const REST_LIMIT: Duration = Duration::from_secs(120);
/// How long a list of all nodes may take.
const LIST_LIMIT: Duration = Duration::from_secs(30);
/// How long the claims of one measurement may take to go.
const RELEASE_LIMIT: Duration = Duration::from_secs(300);

/// Measures at each of the sizes. What is made for that is removed again.
pub(crate) async fn measure(
    connections: &Connections,
    connection_count: usize,
    namespace: &str,
    args: &ScaleArgs,
) -> Result<Scale> {
    ensure!(
        args.members.is_sorted() && args.members.first().is_some_and(|least| *least > 0),
        "--members must be numbers that rise"
    );
    ensure!(args.pools > 0, "--pools must be at least 1");
    controller(&args.controller)?;
    let nodes = count_nodes(connections).await?;
    let pools = Pools::new(connections, namespace, args);
    let spec_bytes = pools.create().await?;
    let growing = Growing {
        args,
        bench: Bench {
            connections,
            connection_count,
            namespace,
            options: Options {
                timeout: args.timeout,
                dwell: None,
                release_limit: RELEASE_LIMIT,
                probe: None,
                env: Vec::new(),
            },
        },
        pools: &pools,
    };
    let measured = growing.steps().await;
    let removed = pools.remove().await;
    let steps = measured?;
    removed.context("what was made for the measurement is still there")?;
    Ok(Scale {
        nodes,
        pools: args.pools,
        spec_bytes,
        controller: args.controller.clone(),
        steps,
    })
}

/// How many nodes the cluster has.
async fn count_nodes(connections: &Connections) -> Result<usize> {
    #[derive(Deserialize)]
    struct List {
        items: Vec<IgnoredAny>,
    }
    let path = "/apis/hearth.dev/v1alpha1/sandboxnodes";
    let list: List = fetch(connections.next(), path, LIST_LIMIT)
        .await
        .context("cannot list the SandboxNodes")?;
    Ok(list.items.len())
}

/// The one process of this name.
fn controller(name: &str) -> Result<i32> {
    match pids_of(name).as_slice() {
        [pid] => Ok(*pid),
        [] => bail!(
            "no process on this machine is called {name}; the kernel keeps 15 bytes of a name: --controller"
        ),
        pids => bail!("several processes are called {name}: {pids:?}"),
    }
}

struct Growing<'a> {
    args: &'a ScaleArgs,
    bench: Bench<'a>,
    pools: &'a Pools<'a>,
}

impl Growing<'_> {
    async fn steps(&self) -> Result<Vec<ScaleStep>> {
        let mut steps = Vec::with_capacity(self.args.members.len());
        for members in &self.args.members {
            let step = self.step(*members).await;
            let step = step.with_context(|| format!("with {members} members"))?;
            eprintln!(
                "{members} members after {:.1} s, claims p50 {:.2} ms, killed and back: {:?} s",
                step.fill_seconds,
                step.claims
                    .figures
                    .ready
                    .map_or(f64::NAN, |ready| ready.p50),
                step.recoveries
                    .iter()
                    .map(|each| each.seconds)
                    .collect::<Vec<_>>(),
            );
            steps.push(step);
        }
        Ok(steps)
    }

    async fn step(&self, members: usize) -> Result<ScaleStep> {
        let (cpu, begun) = (CpuSnapshot::take(), Instant::now());
        self.pools.resize(members).await?;
        let fill_seconds = begun.elapsed().as_secs_f64();
        let fill_cpu_seconds = CpuSnapshot::take().since(&cpu);

        wait_idle(REST_LIMIT).await;
        let (cpu, begun) = (CpuSnapshot::take(), Instant::now());
        // The time itself is what is measured.
        sleep(self.args.rest).await;
        let rest_cpu_seconds = CpuSnapshot::take().since(&cpu);
        let rest_seconds = begun.elapsed().as_secs_f64();
        let resident_bytes = resident_bytes();

        let count = self.args.claims;
        let claims = self
            .bench
            .claims(&Pacing::One { count }, &self.wait())
            .await?;
        self.pools.filled(members).await?;
        let mut recoveries = Vec::with_capacity(self.args.restarts);
        for _ in 0..self.args.restarts {
            wait_idle(REST_LIMIT).await;
            recoveries.push(self.recovery().await?);
            self.pools.filled(members).await?;
        }
        Ok(ScaleStep {
            members,
            fill_seconds,
            fill_cpu_seconds,
            rest_seconds,
            rest_cpu_seconds,
            resident_bytes,
            claims,
            recoveries,
        })
    }

    /// Kills the controller and claims at once.
    async fn recovery(&self) -> Result<Recovery> {
        let pid = Pid::from_raw(controller(&self.args.controller)?).context("pid 0")?;
        let killed = Timestamp::now();
        kill_process(pid, Signal::KILL).context("cannot kill the controller")?;
        let one = Pacing::One { count: 1 };
        let run = self.bench.claims(&one, &self.wait()).await?;
        let resident = resident_bytes().get(&self.args.controller).copied();
        Ok(Recovery::of(killed, &run, resident))
    }

    /// The pool that claims name, which is not waited for.
    fn wait(&self) -> PoolWait {
        PoolWait {
            pool: self.pools.first(),
            limit: None,
        }
    }
}
