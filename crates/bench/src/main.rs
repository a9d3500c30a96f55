//! `hearth-bench`: measures claims against any cluster that serves the agent-sandbox API, and the floor of that
//! cluster, so that a result is a ratio and not a property of the machine.
//!
//! One task does everything (see [`load`]); the floor is answered by a process of its own (see [`floor`]).

mod api;
mod args;
mod audit;
mod binds;
mod commands;
mod compare;
mod cpu;
mod figures;
mod fill;
mod floor;
mod load;
mod machine;
mod measure;
mod phases;
mod podspec;
mod pool;
mod report;
mod results;
mod scale;
mod stats;
mod text;
mod verdict;

use std::process::ExitCode;

use clap::Parser as _;

use crate::args::Cli;

fn main() -> ExitCode {
    let cli = Cli::parse();
    // One thread: the cores belong to the cluster that is measured.
    let outcome = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(anyhow::Error::from)
        .and_then(|runtime| runtime.block_on(commands::execute(cli)));
    match outcome {
        Ok(commands::Outcome::Complete) => ExitCode::SUCCESS,
        Ok(commands::Outcome::Incomplete(why)) => {
            eprintln!("{why}");
            ExitCode::from(2)
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
