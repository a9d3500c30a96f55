//! What a node reports of a sandbox.
