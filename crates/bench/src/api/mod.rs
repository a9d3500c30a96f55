//! The least of a Kubernetes client that a load generator needs: requests with bodies made beforehand, answers that
//! are read and dropped, and watches whose lines carry the instant at which they arrived.

mod call;
mod connect;
mod object;
mod target;
mod watch;

pub(crate) use call::{CallError, call, fetch};
pub(crate) use connect::Connections;
pub(crate) use object::{ClaimStatus, Condition, Meta, Object};
pub(crate) use target::Target;
pub(crate) use watch::{Change, Watch};
