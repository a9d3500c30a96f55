//! On the real kernel, as root. Each test uses cgroups, links and tables of its own instance id.
#![allow(clippy::unwrap_used)] // test code, which the lint only recognises inside test functions

mod cgroups;
mod daemons;
mod freezers;
mod host_paths;
mod mounts;
mod network;
mod reclaim;
mod support;
mod trees;
