//! Mutual TLS with self-made certificates pinned by fingerprint, for tonic.
