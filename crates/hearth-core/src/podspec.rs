//! Which PodSpec fields a node honours, and which it refuses.
