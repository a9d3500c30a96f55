//! When sandboxes and claims end by themselves.
