//! The pure domain of Hearth: what to do, never the doing.
//!
//! No IO, no clock, no async: time and observations come in as arguments, effects go out as values. That is what
//! makes it testable by tables, properties and simulation.
//!
//! The node's half: [`sandbox`] (the life of one sandbox), [`binding`] (who owns which member), [`idle`] (what becomes of
//! a sandbox that nobody uses), [`podspec`], [`podsecurity`], [`limits`], [`images`], [`storage`], [`probe`],
//! [`restart`], [`filler`], [`status`]. The controller's half: [`index`], [`claim`], [`pool`], [`assignment`],
//! [`suspension`], [`placement`], [`volumes`], [`tokens`], [`services`], [`attachments`], [`templates`], [`legacy`],
//! [`expiry`], [`lease`], with what they want done in [`effects`].
//! Both: [`names`], [`conditions`], [`ids`]. For operators: [`migrate`] (from the agent-sandbox controller and back).

pub mod assignment;
pub mod attachments;
pub mod binding;
pub mod claim;
pub mod conditions;
pub mod controller_ref;
pub mod effects;
mod events;
pub mod expiry;
pub mod filler;
mod hashed;
pub mod idle;
pub mod ids;
pub mod images;
pub mod index;
pub mod lease;
pub mod legacy;
pub mod limits;
pub mod migrate;
pub mod names;
mod ownership;
mod patch;
pub mod placement;
pub mod podsecurity;
pub mod podspec;
pub mod pool;
pub mod probe;
pub mod restart;
pub mod sandbox;
pub mod services;
pub mod status;
pub mod storage;
pub mod suspension;
pub mod templates;
pub mod timers;
pub mod tokens;
pub mod volumes;
