//! `hearth-conformance`: tries the rows of the agent-sandbox API on any cluster that serves it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};
use clap::{Args, Parser, Subcommand};
use hearth_conformance::record::{HEARTH, Record};
use hearth_conformance::release::Release;
use hearth_conformance::report;
use hearth_conformance::run::{self, Options};
use hearth_conformance::stand_in;
use hearth_conformance::steps::MetricsPage;
use hearth_conformance::table::{Need, Table};
use kube::Client;
use kube::config::{Config, KubeConfigOptions, Kubeconfig};

/// Tries the rows of the agent-sandbox API on any cluster that serves it.
#[derive(Debug, Parser)]
#[command(name = "hearth-conformance", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Tries rows and compares what comes of them with the record
    Run(Box<Run>),
    /// Prints the document of all rows and what is recorded of them
    Document {
        /// The record
        #[arg(long)]
        record: PathBuf,
    },
    /// Prints the rows
    Rows,
    /// Stands in for scheduler and kubelet, until it is stopped: Pods run by its word only
    StandIn {
        /// Kubeconfig file [default: as kubectl finds it]
        #[arg(long)]
        kubeconfig: Option<PathBuf>,
        /// The name of its Node
        #[arg(long, default_value = "conformance-stand-in")]
        node: String,
    },
}

#[derive(Debug, Args)]
struct Run {
    /// Kubeconfig file [default: as kubectl finds it]
    #[arg(long)]
    kubeconfig: Option<PathBuf>,
    /// Whose implementation it is: `hearth` is tried on its own choices where it has any
    #[arg(long, default_value = HEARTH)]
    implementation: String,
    /// Which release of upstream it is like: rows about later ones are not tried [default: all rows]
    #[arg(long)]
    release: Option<Release>,
    /// What the cluster has: node, reach, pods, controllers, metrics, program, v1alpha1
    #[arg(long, value_delimiter = ',')]
    have: Vec<Need>,
    /// What another run on this cluster has: rows that need it are that run's, and not compared with the record
    #[arg(long, value_delimiter = ',')]
    elsewhere: Vec<Need>,
    /// Only these rows; `3.1-*` are all of a section
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// How many rows at once
    #[arg(long, default_value_t = 12)]
    parallel: usize,
    /// How many rows at once that have sandboxes run
    #[arg(long, default_value_t = 6)]
    parallel_nodes: usize,
    /// The image of the sandboxes: busybox or alike
    #[arg(long, default_value = "localhost/hearth-busybox:dev")]
    image: String,
    /// How the names of the rows' namespaces begin
    #[arg(long, default_value = "conformance")]
    namespace_prefix: String,
    /// Where the controller's metrics are, as host:port
    #[arg(long)]
    metrics: Option<String>,
    /// The controller's program
    #[arg(long)]
    program: Option<PathBuf>,
    /// The record of this implementation; the run fails when it differs from it
    #[arg(long)]
    record: Option<PathBuf>,
    /// Write what comes of the rows to the record instead
    #[arg(long, requires = "record")]
    write: bool,
}

fn main() -> ExitCode {
    match execute(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn execute(command: Command) -> Result<()> {
    let table = Table::load()?;
    match command {
        Command::Document { record } => {
            print!("{}", report::document(&table, &Record::load(&record)?));
            Ok(())
        }
        Command::Rows => {
            for row in table.rows() {
                println!("{:<12} {}", row.id, row.text);
            }
            Ok(())
        }
        Command::Run(args) => runtime()?.block_on(try_rows(&table, *args)),
        Command::StandIn { kubeconfig, node } => runtime()?.block_on(async {
            let client = client(kubeconfig.as_deref()).await?;
            stand_in::run(&client, &node).await
        }),
    }
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build().context("cannot start")
}

async fn try_rows(table: &Table, args: Run) -> Result<()> {
    let client = client(args.kubeconfig.as_deref()).await?;
    run::check_served(&client).await?;
    let metrics = args.metrics.as_deref().map(metrics_page).transpose()?;
    let options = Options {
        implementation: args.implementation,
        release: args.release,
        have: args.have.into_iter().collect(),
        only: args.only,
        parallel: args.parallel,
        parallel_nodes: args.parallel_nodes,
        image: args.image,
        namespace_prefix: args.namespace_prefix,
        metrics,
        program: args.program,
    };
    let theirs: BTreeSet<_> = table
        .rows()
        .filter(|row| args.elsewhere.iter().any(|need| row.needs.contains(need)))
        .map(|row| row.id.as_str())
        .collect();
    let mut tried = run::run(table, &client, &options, |tried| {
        println!("{}", report::line(tried));
    })
    .await;
    println!("{}", report::summary(&tried));
    ensure!(!tried.is_empty(), "no row was chosen");
    let Some(file) = args.record else {
        return Ok(());
    };
    let mut record = Record::load(&file)?;
    let mut deviations = Vec::new();
    if options.only.is_empty() {
        deviations.extend(record.untouched(&tried));
    }
    tried.retain(|tried| !theirs.contains(tried.id.as_str()));
    if args.write {
        record.update(table, &options.implementation, &tried);
        return Ok(record.save(&file)?);
    }
    deviations.extend(record.deviations(&tried));
    ensure!(
        deviations.is_empty(),
        "this is not what {} says; if it should, write it anew:\n  {}",
        file.display(),
        deviations.join("\n  ")
    );
    Ok(())
}

async fn client(kubeconfig: Option<&Path>) -> Result<Client> {
    let kubeconfig = match kubeconfig {
        Some(file) => Kubeconfig::read_from(file)
            .with_context(|| format!("cannot read {}", file.display()))?,
        None => Kubeconfig::read().context("cannot read the kubeconfig")?,
    };
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .context("cannot use the kubeconfig")?;
    Client::try_from(config).context("cannot make a client")
}

fn metrics_page(text: &str) -> Result<MetricsPage> {
    let (host, port) = text
        .rsplit_once(':')
        .with_context(|| format!("{text} is not host:port"))?;
    let port = port.parse().with_context(|| format!("{port} is no port"))?;
    Ok(MetricsPage {
        host: host.to_owned(),
        port,
    })
}
