//! `hearthd ctl`: what crictl is to containerd, for the daemon of this machine.
//!
//! It speaks the local API over the daemon's socket and prints what comes. What a command prints goes to stdout, why it
//! did not do something to stderr, with exit code 1.

mod client;
mod console;
mod exec;
mod gate;
mod list;
mod logs;
mod output;
mod ports;
mod stats;
mod table;
mod terminal;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::{Args, Subcommand};
use hearth_node::paths::LOCAL_SOCKET;
use hearth_telemetry::ErrorChain;

use crate::default_dir;

#[derive(Debug, Args)]
pub(crate) struct CtlArgs {
    /// Instance id.
    #[arg(long, env = "HEARTH_INSTANCE", default_value = "node")]
    instance: String,
    /// As the daemon has it; default /run/hearth/<instance>.
    #[arg(long, env = "HEARTH_RUN_DIR")]
    run_dir: Option<PathBuf>,
    /// The daemon's socket, whatever the run directory; default hearthd.sock in it.
    #[arg(long)]
    socket: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Lists the sandboxes of this node.
    List(list::ListArgs),
    /// Prints what is known of one sandbox and its containers, as JSON.
    Inspect(list::InspectArgs),
    /// Prints what a container has written.
    Logs(logs::LogsArgs),
    /// Runs a command in a container, whose pod is thawed for it; the exit code is the command's.
    Exec(exec::ExecArgs),
    /// Attaches to the main process of a container: what it writes from now on, and its input.
    Attach(exec::AttachArgs),
    /// Forwards local ports to a sandbox, whose pod is thawed for each connection, until this command is ended.
    PortForward(ports::PortForwardArgs),
    /// Waits until a sandbox is frozen that is to be. To have one frozen, patch its spec.operatingMode.
    Freeze(gate::FreezeArgs),
    /// Thaws a sandbox and holds it thawed for a while, and no longer than this command runs.
    Thaw(gate::ThawArgs),
    /// Prints what sandboxes use: CPU time, memory, tasks.
    Stats(stats::StatsArgs),
}

/// Does what was asked for, and says with what exit code to end.
pub(crate) fn main(args: CtlArgs) -> ExitCode {
    match run(args) {
        Ok(code) => code,
        Err(error) if output::nobody_listens(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", ErrorChain(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

fn run(args: CtlArgs) -> Result<ExitCode> {
    let CtlArgs {
        instance,
        run_dir,
        socket,
        command,
    } = args;
    let socket = socket.unwrap_or_else(|| {
        let run_dir = run_dir.unwrap_or_else(|| default_dir("/run/hearth", &instance));
        run_dir.join(LOCAL_SOCKET)
    });
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the async runtime")?;
    let done = runtime.block_on(async {
        let client = client::connect(&socket).await?;
        match command {
            Command::List(args) => list::list(client, &args).await,
            Command::Inspect(args) => list::inspect(client, args).await,
            Command::Logs(args) => logs::logs(client, args).await,
            Command::Exec(args) => exec::exec(client, args).await,
            Command::Attach(args) => exec::attach(client, args).await,
            Command::PortForward(args) => ports::port_forward(client, args).await,
            Command::Freeze(args) => gate::freeze(client, args).await,
            Command::Thaw(args) => gate::thaw(client, args).await,
            Command::Stats(args) => stats::stats(client, args).await,
        }
    });
    // A read of stdin that nobody waits for any more would be waited for.
    runtime.shutdown_background();
    done
}
