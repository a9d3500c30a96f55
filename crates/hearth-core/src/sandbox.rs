//! The life of one sandbox on its node.
