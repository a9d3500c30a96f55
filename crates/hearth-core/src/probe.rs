//! When a probe runs, and what its results mean.
