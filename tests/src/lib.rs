//! The cluster suite.
