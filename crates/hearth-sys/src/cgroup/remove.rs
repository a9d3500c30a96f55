//! Emptying and removing cgroups.
