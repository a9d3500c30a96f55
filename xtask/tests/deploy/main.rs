//! The manifests agree with each other, with the chart and with what the documents say of them. None of it needs a cluster
//! or a tool: that API server, kubectl and helm take them is tested where those are.

#![expect(
    clippy::unwrap_used,
    reason = "a failure of a helper is a failure of its test"
)]

mod chart;
mod manifests;
mod references;
mod rights;
