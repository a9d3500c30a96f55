//! From the command line to runs and their output.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Args;
use serde::Deserialize;

use crate::api::{Connections, fetch};
use crate::args::{
    BindsArgs, Claims, Cli, Cluster, Command, Compare, Compared, FillArgs, Floor, Output, Paced,
    Plain, PoolArgs, Report, RunArgs, ScaleArgs, Writes,
};
use crate::audit::{self, Scope};
use crate::compare::compare;
use crate::floor::{self, FloorProcess};
use crate::load::{Options, Pacing, Probe};
use crate::machine::Machine;
use crate::measure::{Bench, PoolWait};
use crate::results::{self, Content, ResultsFile, Run, SCHEMA};
use crate::{binds, fill, report, scale, text};

/// Not measured: the API server delays the first creations of a new kind by two seconds.
const WARM_UP: Pacing = Pacing::One { count: 10 };

/// How a command ended, short of an error.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// All that was asked for was measured.
    Complete,
    /// It was measured, and something is missing: lost claims, a void comparison, too many writes.
    Incomplete(String),
}

/// Does what the command line says.
pub(crate) async fn execute(cli: Cli) -> Result<Outcome> {
    let cluster = &cli.cluster;
    match cli.command {
        Command::One(args) => claims(cluster, &args).await,
        Command::Rate(args) => claims(cluster, &args).await,
        Command::Burst(args) => claims(cluster, &args).await,
        Command::Floor(Floor::Serve { with_stdin }) => serve(cluster, with_stdin).await,
        Command::Floor(Floor::One(args)) => floor_run(cluster, &args).await,
        Command::Floor(Floor::Rate(args)) => floor_run(cluster, &args).await,
        Command::Floor(Floor::Burst(args)) => floor_run(cluster, &args).await,
        Command::Compare(Compare::One(args)) => comparison(cluster, &args).await,
        Command::Compare(Compare::Rate(args)) => comparison(cluster, &args).await,
        Command::Compare(Compare::Burst(args)) => comparison(cluster, &args).await,
        Command::Fill(args) => filled(cluster, &args).await,
        Command::Scale(args) => scaled(cluster, &args).await,
        Command::Binds(args) => bound(&args).await,
        Command::Writes(args) => writes(&args),
        Command::Report(args) => render(&args),
    }
}

/// An open cluster and the machine as it was before anything ran.
struct Session<'a> {
    cluster: &'a Cluster,
    output: &'a Output,
    connections: Connections,
    machine: Machine,
    server: String,
}

impl<'a> Session<'a> {
    async fn open(cluster: &'a Cluster, output: &'a Output, timeout: Duration) -> Result<Self> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Version {
            git_version: String,
        }
        let machine = Machine::describe(output.commit.as_deref());
        let connections =
            Connections::open(cluster.kubeconfig.as_deref(), cluster.connections).await?;
        let version: Version = fetch(connections.next(), "/version", timeout).await?;
        Ok(Self {
            cluster,
            output,
            connections,
            machine,
            server: version.git_version,
        })
    }

    fn bench(&self, run: &RunArgs, probe: Option<Probe>, env: &[(String, String)]) -> Bench<'_> {
        Bench {
            connections: &self.connections,
            connection_count: self.cluster.connections,
            namespace: &self.cluster.namespace,
            options: Options {
                timeout: run.timeout,
                dwell: run.dwell,
                release_limit: run.release_timeout,
                probe,
                env: env.to_vec(),
            },
        }
    }

    /// Installs the stand-in and its server around `measure`, and removes both whatever comes of it.
    async fn with_floor<T>(
        &self,
        bench: &Bench<'_>,
        measure: impl AsyncFnOnce() -> Result<T>,
    ) -> Result<T> {
        floor::crd::install(&self.connections).await?;
        let measured = async {
            let process =
                FloorProcess::start(self.cluster.kubeconfig.as_deref(), self.cluster.connections)
                    .await?;
            let measured = async {
                bench.floor(&WARM_UP).await?;
                measure().await
            }
            .await;
            let stopped = process.stop().await;
            measured.and_then(|measured| stopped.map(|()| measured))
        }
        .await;
        let removed = floor::crd::remove(&self.connections).await;
        measured.and_then(|measured| removed.map(|()| measured))
    }

    fn finish(self, content: Content) -> Result<ResultsFile> {
        finish(self.output, self.machine, self.server, content)
    }
}

/// Shows results and keeps them.
fn finish(
    output: &Output,
    machine: Machine,
    server: String,
    content: Content,
) -> Result<ResultsFile> {
    let file = ResultsFile {
        schema: SCHEMA,
        title: output.title.clone(),
        machine,
        server,
        content,
    };
    print!("{}", text::results(&file));
    if let Some(path) = &output.json {
        results::write(path, &file)?;
    }
    Ok(file)
}

async fn claims<P: Args + Paced>(cluster: &Cluster, args: &Claims<P>) -> Result<Outcome> {
    let session = Session::open(cluster, &args.run.output, args.run.timeout).await?;
    let wait = pool_wait(&args.pool, args.pool.wait_pool);
    let run = session
        .bench(&args.run, probe(&args.pool), &args.pool.env)
        .claims(&args.pacing.pacing(), &wait)
        .await?;
    let outcome = completeness([&run]);
    session.finish(Content::Run(Box::new(run)))?;
    Ok(outcome)
}

async fn floor_run<P: Args + Paced>(cluster: &Cluster, args: &Plain<P>) -> Result<Outcome> {
    let session = Session::open(cluster, &args.run.output, args.run.timeout).await?;
    let bench = session.bench(&args.run, None, &[]);
    let run = session
        .with_floor(&bench, async || bench.floor(&args.pacing.pacing()).await)
        .await?;
    let outcome = completeness([&run]);
    session.finish(Content::Run(Box::new(run)))?;
    Ok(outcome)
}

async fn comparison<P: Args + Paced>(cluster: &Cluster, args: &Compared<P>) -> Result<Outcome> {
    let session = Session::open(cluster, &args.run.output, args.run.timeout).await?;
    let bench = session.bench(&args.run, probe(&args.pool), &args.pool.env);
    let wait = pool_wait(&args.pool, true);
    let pacing = args.pacing.pacing();
    let comparison = session
        .with_floor(&bench, async || {
            compare(&bench, &pacing, &wait, args.rounds, args.budget).await
        })
        .await?;
    let mut outcome = completeness(comparison.rounds.iter().map(|round| &round.ours));
    if let Some(void) = &comparison.verdict.void {
        outcome = Outcome::Incomplete(format!("void: {void}"));
    }
    session.finish(Content::Comparison(comparison))?;
    Ok(outcome)
}

async fn filled(cluster: &Cluster, args: &FillArgs) -> Result<Outcome> {
    let session = Session::open(cluster, &args.output, args.timeout).await?;
    let fill = fill::measure(&session.connections, &cluster.namespace, args).await?;
    session.finish(Content::Fill(fill))?;
    Ok(Outcome::Complete)
}

async fn scaled(cluster: &Cluster, args: &ScaleArgs) -> Result<Outcome> {
    let session = Session::open(cluster, &args.output, args.timeout).await?;
    let (connections, namespace) = (&session.connections, &cluster.namespace);
    let scale = scale::measure(connections, cluster.connections, namespace, args).await?;
    let outcome = match scale.steps.iter().find(|step| !step.complete()) {
        None => Outcome::Complete,
        Some(step) => Outcome::Incomplete(format!("claims lost with {} members", step.members)),
    };
    session.finish(Content::Scale(scale))?;
    Ok(outcome)
}

async fn bound(args: &BindsArgs) -> Result<Outcome> {
    let machine = Machine::describe(args.output.commit.as_deref());
    let binds = binds::measure(args).await?;
    let outcome = match (binds.refused, binds.met()) {
        (0, None | Some(true)) => Outcome::Complete,
        (0, Some(false)) => Outcome::Incomplete("fewer binds a second than promised".to_owned()),
        (refused, _) => Outcome::Incomplete(format!("{refused} binds refused")),
    };
    finish(
        &args.output,
        machine,
        String::new(),
        Content::Binds(Box::new(binds)),
    )?;
    Ok(outcome)
}

async fn serve(cluster: &Cluster, with_stdin: bool) -> Result<Outcome> {
    let connections = Connections::open(cluster.kubeconfig.as_deref(), cluster.connections).await?;
    floor::serve(&connections, with_stdin).await?;
    Ok(Outcome::Complete)
}

fn writes(args: &Writes) -> Result<Outcome> {
    let mut scopes = match &args.run {
        Some(path) => Scope::of_results(results::read(path)?),
        None => vec![Scope::default()],
    };
    for scope in &mut scopes {
        scope.since = args.since.or(scope.since);
        scope.until = args.until.or(scope.until);
    }
    let counted = audit::count(&args.audit_log, &scopes, &args.user)?;
    for writes in &counted {
        print!("{}", text::writes(writes));
    }
    let most = counted.iter().flat_map(|writes| &writes.before_each).max();
    match (args.limit, most) {
        (Some(limit), Some(most)) if *most > limit => Ok(Outcome::Incomplete(format!(
            "{most} writes before an answer, {limit} are allowed"
        ))),
        (Some(_), None) => Ok(Outcome::Incomplete(
            "no answered claim in the audit log".to_owned(),
        )),
        _ => Ok(Outcome::Complete),
    }
}

fn render(args: &Report) -> Result<Outcome> {
    let files = args
        .results
        .iter()
        .map(|path| results::read(path))
        .collect::<Result<Vec<_>>>()?;
    let sections = report::render(&files);
    match &args.into {
        Some(path) => replace_in(path, &sections)?,
        None => print!("{sections}"),
    }
    Ok(Outcome::Complete)
}

fn replace_in(path: &Path, sections: &str) -> Result<()> {
    let document =
        std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let replaced = report::replace(&document, sections)
        .with_context(|| format!("cannot use {}", path.display()))?;
    std::fs::write(path, replaced).with_context(|| format!("cannot write {}", path.display()))
}

fn completeness<'a>(runs: impl IntoIterator<Item = &'a Run>) -> Outcome {
    let incomplete = runs.into_iter().filter(|run| !run.complete());
    let (lost, silent, left) = incomplete.fold((0, 0, 0), |(lost, silent, left), run| {
        (
            lost + run.figures.lost,
            silent + run.figures.silent,
            left + run.release.left,
        )
    });
    if (lost, silent, left) == (0, 0, 0) {
        return Outcome::Complete;
    }
    Outcome::Incomplete(format!(
        "{lost} claims lost, {silent} sandboxes silent, {left} claims left behind"
    ))
}

fn pool_wait(args: &PoolArgs, wait: bool) -> PoolWait {
    PoolWait {
        pool: args.pool.clone(),
        limit: wait.then_some(args.pool_timeout),
    }
}

fn probe(args: &PoolArgs) -> Option<Probe> {
    args.ttfi.then(|| Probe {
        port: args.port,
        path: args.path.clone(),
    })
}
