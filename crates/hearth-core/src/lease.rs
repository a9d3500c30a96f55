//! Leader election as a pure decision.
