//! Choosing a node for a sandbox.
