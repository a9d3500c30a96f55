//! The cluster suite. See the crate `hearth_tests` for how it looks at things.
