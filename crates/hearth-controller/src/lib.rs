//! The controller as a library.
