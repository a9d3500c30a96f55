//! How many members a pool needs.
