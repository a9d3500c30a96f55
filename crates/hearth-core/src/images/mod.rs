//! Images: their names, who may pull and use them, and which of them can go when the disk is full.

mod access;
mod garbage;
mod keyring;
mod reference;

pub use access::{Access, Standing};
pub use garbage::{Fill, Memory, Needed, Stored, Thresholds};
pub use keyring::{Credential, Keyring};
pub use reference::{normalized, repository};
