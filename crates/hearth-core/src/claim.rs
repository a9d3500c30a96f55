//! What a claim needs next.
