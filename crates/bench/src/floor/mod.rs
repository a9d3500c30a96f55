//! The floor: the least that this cluster allows between a POST and a watcher that sees the answer. A process of its
//! own, with one watch, answers each new object of a stand-in CRD with one status patch and does nothing else.

pub(crate) mod crd;
mod process;
mod serve;

pub(crate) use process::FloorProcess;
pub(crate) use serve::{READY_LINE, serve};
