//! What tests share: builders, a scripted API server, waiting for a condition.
