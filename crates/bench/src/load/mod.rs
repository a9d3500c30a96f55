//! The generator. One task does it all: it sends what is due, reads the one shared watch, and notes instants. No task
//! and no timer per claim: on the machines this is for, the generator shares its two cores with the API server.

mod answer;
mod pacing;
mod release;
mod run;

pub(crate) use pacing::Pacing;
pub(crate) use run::{Generator, Options, Probe};
