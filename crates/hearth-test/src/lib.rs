//! What tests of several crates share:
//!
//! * [`fixtures`]: the objects that tests create;
//! * [`wait`]: waiting for a state that sends no event, by looking again until a limit, with the last reason in the
//!   failure;
//! * [`api`]: an API server that follows a script, for what talks to one through a [`kube::Client`].
//!
//! Of the ways to catch a bug take the weakest that can: a table over the pure core first, then a script for the order
//! and form of the calls, then the real cluster.

pub mod api;
pub mod fixtures;
pub mod wait;
