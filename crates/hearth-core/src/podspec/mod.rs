//! What a pod is made from, as far as a node honours it.
//!
//! [`plan`] turns a Sandbox's spec into a [`PodPlan`], the compact, checked form that holds what is done and nothing
//! else. Whatever the spec says beyond it becomes an [`UnsupportedField`], never silence: the readers go over each field
//! that is there, and one that no reader knows is refused by name.
//!
//! The API server does not validate an embedded PodSpec beyond its types, so what it would check of a Pod (names,
//! ranges, references) is checked here.

mod admission;
mod claims;
mod config;
mod container;
mod dns;
mod env_file;
mod expand;
mod files;
mod late;
mod metadata;
mod names;
mod placing;
mod plan;
mod pod;
mod policy;
mod probe;
mod quantity;
mod read;
mod resources;
mod runtimes;
mod security;
mod source;
mod token;
mod variables;
mod volume;

#[cfg(test)]
mod tests;

pub(crate) use admission::admit;
pub use admission::{Account, Admission, account_in, admission_of, written_namespace};
pub use claims::{ClaimName, ClaimPlan, claims_in};
pub use config::{CannotMake, Config, ConfigKind, ConfigRef, Configs, configs_in};
pub use dns::{ClusterDns, Resolver};
pub use env_file::EnvFiles;
pub use expand::expand;
pub use files::{File, FileSource, Files, FilesPlan, KeyFile};
pub(crate) use late::quoted as go_quoted;
pub use late::{Amount, EnvFrom, EnvSource, Known, LateEnv, PodField, api_server_variables};
pub use metadata::metadata_of;
pub use names::{NameTooLong, PodNames};
pub use plan::{
    Capabilities, ContainerPlan, ContainerSecurity, DnsMore, DnsPlan, GroupChange, Hook,
    HostNamespaces, HostPathKind, HostPathPlan, HttpHeader, ImageVolume, LastWords, MountPlan,
    Overhead, PodLevel, PodPlan, PodSecurity, ProbeAction, ProbePlan, Profile, PullPolicy,
    Resources, RestartPolicy, Role, SubPath, VolumePlan,
};
pub use pod::plan;
pub use policy::{Grant, GrantError, Policy, Support, UserNamespaces};
pub use quantity::{Quantity, QuantityError};
pub use read::{Cause, Refusal, UnsupportedField};
pub use resources::QosClass;
pub use runtimes::honoured_by;
pub use variables::Variable;
