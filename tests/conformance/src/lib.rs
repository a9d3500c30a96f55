//! The agent-sandbox API as a table of rows, and what tries them on a cluster.
//!
//! A row is one thing that a user or a client of the API can observe: objects to create, and what must then be read
//! back, with every name, reason and message as a literal. The rows are in `rows/`, one file a section, and are compiled
//! in; `README.md` has their language. Nothing here depends on Hearth's own crates: the same program runs against
//! upstream.
//!
//! [`table`] reads and checks the rows, [`matcher`] compares what they want with what there is, [`run`] tries them on a
//! cluster, [`record`] keeps what came of it, [`report`] renders it. [`stand_in`] is in place of a node where the
//! implementation under test makes Pods and nothing runs them.

pub mod api;
pub mod bind;
pub mod distinct;
pub mod exposition;
pub mod http_get;
pub mod matcher;
pub mod mosaic;
pub mod names;
pub mod observe;
pub mod pattern;
pub mod record;
pub mod release;
pub mod report;
pub mod run;
pub mod stand_in;
pub mod steps;
pub mod table;
pub mod yaml;
