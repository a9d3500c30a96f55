//! The pool filler's rules: whose turn it is, and how many creations run at once.
//!
//! Making a pod costs a good part of a core and writes to the disk. How many may be under way at a time depends on the
//! machine and on what else it does, so the [`Governor`] finds it out; [`Fair`] says who is next, so that a pool that
//! asks for hundreds, or whose pods fail again and again, does not hold up the others.

mod fair;
mod governor;

pub use fair::Fair;
pub use governor::{Bounds, Governor, Sample, Stalls};
