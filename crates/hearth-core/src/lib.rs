//! The pure domain of Hearth: what to do, never the doing.
//!
//! No IO, no clock, no async: time and observations come in as arguments, effects go out as values. That is what
//! makes it testable by tables, properties and simulation.
//!
//! The node's half: [`sandbox`] (the life of one sandbox), [`binding`] (who owns which member), [`podspec`],
//! [`probe`], [`restart`], [`status`]. The controller's half: [`index`], [`claim`], [`pool`], [`placement`],
//! [`expiry`], [`lease`]. Both: [`names`], [`conditions`], [`ids`].

pub mod binding;
pub mod conditions;
pub mod effects;
pub mod expiry;
pub mod ids;
pub mod lease;
pub mod names;
pub mod placement;
pub mod podspec;
pub mod probe;
pub mod restart;
pub mod sandbox;
pub mod status;
pub mod timers;
