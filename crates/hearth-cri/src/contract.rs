//! The checks that every [`PodRuntime`](crate::PodRuntime) must pass, the fake as well as a real containerd.
