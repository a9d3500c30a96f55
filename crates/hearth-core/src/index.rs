//! All that the controller knows, in memory.
