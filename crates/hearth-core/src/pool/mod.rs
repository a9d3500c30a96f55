//! The arithmetic of pools.
