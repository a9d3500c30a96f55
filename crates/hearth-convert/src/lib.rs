//! Objects of the agent-sandbox API in `v1alpha1` as `v1beta1` and back: JSON to JSON, no IO.
//!
//! `v1beta1` is what is stored. Two annotations carry what the other version has no field for:
//!
//! * [`Kind::state_annotation`], upstream's, on `v1beta1`: the object as it was in `v1alpha1`. With it an object that
//!   nobody changed is read back in `v1alpha1` as it was written.
//! * [`KEPT`], Hearth's, on `v1alpha1` only: the fields of `v1beta1` that `v1alpha1` has not. An old client that reads,
//!   changes and writes an object gives them back with it, though it knows nothing of them. What it says is checked as
//!   the schema of the field would, for the API server does not see it there.
//!
//! A conversion fails only for objects that the schemas do not let in: one object that cannot be converted spoils every
//! list that it is in, and whether an object is being written or was stored long ago is not said. So annotations, which no
//! schema checks, cannot make one fail: those that say nothing sensible count as none.

mod error;
mod kept;
mod kinds;
mod object;
mod review;

use hearth_api::constants::{EXTENSIONS_GROUP, GROUP};
use serde_json::Value;

pub use error::ConversionError;
pub use kept::KEPT;
pub use review::{LARGEST_OBJECT, ReviewError, review};

use kept::Kept;
use object::{ANNOTATIONS_LIMIT, Object};

/// On a template in `v1alpha1`: its `spec.volumeClaimTemplatesPolicy`, where that is not the default.
pub const VOLUMES_POLICY: &str = "api.agents.x-k8s.io/v1beta1-volume-claim-templates-policy";

/// The old version.
const V1ALPHA1: &str = "v1alpha1";
/// The stored version.
const V1BETA1: &str = "v1beta1";

/// The kinds that have both versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Sandbox.
    Sandbox,
    /// SandboxClaim.
    Claim,
    /// SandboxTemplate.
    Template,
    /// SandboxWarmPool.
    Pool,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Sandbox, Self::Claim, Self::Template, Self::Pool];

    /// As objects name it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Sandbox => "Sandbox",
            Self::Claim => "SandboxClaim",
            Self::Template => "SandboxTemplate",
            Self::Pool => "SandboxWarmPool",
        }
    }

    /// Its API group.
    #[must_use]
    pub fn group(self) -> &'static str {
        match self {
            Self::Sandbox => GROUP,
            Self::Claim | Self::Template | Self::Pool => EXTENSIONS_GROUP,
        }
    }

    /// On an object of `v1beta1`: what it was in `v1alpha1`, as JSON.
    #[must_use]
    pub fn state_annotation(self) -> &'static str {
        match self {
            Self::Sandbox => "api.agents.x-k8s.io/v1alpha1-sandbox-state",
            Self::Claim => "api.agents.x-k8s.io/v1alpha1-sandboxclaim-state",
            Self::Template => "api.agents.x-k8s.io/v1alpha1-sandboxtemplate-state",
            Self::Pool => "api.agents.x-k8s.io/v1alpha1-sandboxwarmpool-state",
        }
    }

    fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// The object in the version of `desired`, an `apiVersion`.
///
/// # Errors
/// When there is no such version of its kind, or a field says something that the other version cannot say.
pub fn convert(object: Value, desired: &str) -> Result<Value, ConversionError> {
    let object = Object::new(object)?;
    let (group, to) = desired.split_once('/').unwrap_or_default();
    let from = object.version();
    let known = [V1ALPHA1, V1BETA1];
    if group != object.kind().group() || !known.contains(&to) || !known.contains(&from) {
        let problem = format!("there is no way from it to {desired}");
        return Err(object.error("apiVersion", &object.api_version().into(), &problem));
    }
    if from == to {
        Ok(object.into_value())
    } else if to == V1BETA1 {
        to_v1beta1(object, desired)
    } else {
        to_v1alpha1(object, desired)
    }
}

fn to_v1beta1(mut object: Object, desired: &str) -> Result<Value, ConversionError> {
    let kind = object.kind();
    let kept = Kept::take(&mut object);
    let state = object.state();
    match kind {
        Kind::Sandbox => kinds::sandbox_to_v1beta1(&mut object)?,
        Kind::Claim => kinds::claim_to_v1beta1(&mut object),
        Kind::Template => kinds::template_to_v1beta1(&mut object),
        Kind::Pool => {}
    }
    kept.restore(&mut object);
    // Without it the object is shown in the old version as one that was never in it.
    if let Some(state) = state {
        object.annotate_if_it_fits(kind.state_annotation(), state);
    }
    object.set_api_version(desired);
    Ok(object.into_value())
}

fn to_v1alpha1(mut object: Object, desired: &str) -> Result<Value, ConversionError> {
    let kind = object.kind();
    // What cannot be read tells nothing: the object is shown as one that was never in the old version.
    let state = object
        .take_annotation(kind.state_annotation())
        .filter(|text| text.len() <= ANNOTATIONS_LIMIT)
        .and_then(|text| serde_json::from_str(&text).ok())
        .unwrap_or(Value::Null);
    let mut kept = Kept::of(&mut object);
    match kind {
        Kind::Sandbox => kinds::sandbox_to_v1alpha1(&mut object, &state, &mut kept)?,
        Kind::Claim => kinds::claim_to_v1alpha1(&mut object, &state, &mut kept)?,
        Kind::Template => kinds::template_to_v1alpha1(&mut object, &state),
        Kind::Pool => kinds::pool_to_v1alpha1(&mut object, &mut kept),
    }
    kept.leave(&mut object);
    object.set_api_version(desired);
    Ok(object.into_value())
}
