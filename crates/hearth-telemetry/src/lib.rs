//! What every Hearth process needs around its work: logs, a metrics registry, the admin server with `/metrics`,
//! `/healthz` and `/readyz`, readiness as named guards, shutdown, and error chains.
//!
//! The admin server runs as one task that the caller owns; it ends when its token is cancelled.

mod admin;
mod chain;
mod log;
mod readiness;
mod shutdown;

pub use admin::{AdminError, AdminServer};
pub use chain::ErrorChain;
pub use log::{LogFormat, init_logging};
pub use readiness::{Blocker, Readiness};
pub use shutdown::shutdown_on_signal;

/// Upper bounds in seconds for phases on the node and claims: fine where Hearth lives (0.1 ms to 100 ms), coarse
/// beyond.
pub const LATENCY_BUCKETS: [f64; 21] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.05, 0.075, 0.1,
    0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
];
