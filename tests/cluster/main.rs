//! The cluster suite: the real API server, the real containerd, our binaries. See the crate `hearth_tests` for how it
//! looks at things.

mod beside;
mod claimed;
mod claims;
mod configs;
mod containers;
mod cri;
mod ctl;
mod deadline;
mod env;
mod events;
mod examples;
mod fake_nodes;
mod faults;
mod freezing;
mod frozen;
mod gvisor;
mod host;
mod idle;
mod images;
mod isolation;
mod kills;
mod lifecycle;
mod mounts;
mod operator;
mod pods;
mod podsecurity;
mod policy;
mod pools;
mod refusals;
mod resources;
mod security;
mod services;
mod sessions;
mod storage;
mod templates;
mod tokens;
mod userns;
mod v1alpha1;
mod volumes;
mod writes;

use std::time::Duration;

/// How long an ordinary test may take, a busy machine included.
const LIMIT: Duration = Duration::from_secs(90);
