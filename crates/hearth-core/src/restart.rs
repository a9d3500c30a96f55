//! When a container that ended is started again.
