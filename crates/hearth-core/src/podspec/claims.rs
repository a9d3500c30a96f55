//! Volumes that outlive their pod: PersistentVolumeClaims, named by a PodSpec or made from a Sandbox's templates.

use std::collections::BTreeMap;

use hearth_api::PersistentVolumeClaimTemplate;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::plan::{PodPlan, VolumePlan};
use super::pod::is_label;
use super::read::{At, Problems};
use super::source::config_name;

const NOT_YET: &str = "this node does not do it yet; remove it";

/// A volume that is a PersistentVolumeClaim's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClaimPlan {
    /// The claim.
    pub claim: ClaimName,
    /// Whether it can only be read, by all containers.
    #[serde(default)]
    pub read_only: bool,
}

/// Which PersistentVolumeClaim.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ClaimName {
    /// The one of this name.
    Named(String),
    /// The one that is made from the Sandbox's template of this name.
    OfTemplate(String),
}

impl ClaimName {
    /// The name of the claim, for a pod of this Sandbox.
    #[must_use]
    pub fn of(&self, sandbox: &str) -> String {
        match self {
            Self::Named(name) => name.clone(),
            Self::OfTemplate(template) => format!("{template}-{sandbox}"),
        }
    }
}

impl PodPlan {
    /// The volumes that are PersistentVolumeClaims, and which they are for a pod of this Sandbox.
    pub fn claims(&self, sandbox: &str) -> impl Iterator<Item = (&VolumePlan, String)> {
        let claims = self.volumes.iter();
        claims.filter_map(move |volume| {
            let claim = volume.claim.as_ref()?;
            Some((volume, claim.claim.of(sandbox)))
        })
    }
}

/// A `persistentVolumeClaim` volume.
pub(super) fn claim(at: &At<'_>) -> ClaimPlan {
    let (mut name, mut read_only) = (None, false);
    at.each_field(|field, at| match field {
        "claimName" => name = Some(config_name(&at)),
        "readOnly" => read_only = at.bool(),
        _ => at.refuse(NOT_YET),
    });
    if name.as_ref().is_none_or(String::is_empty) {
        at.missing("claimName");
    }
    ClaimPlan {
        claim: ClaimName::Named(name.unwrap_or_default()),
        read_only,
    }
}

/// Adds the volumes of a Sandbox's templates. One takes the place of a volume of its name.
pub(super) fn add_templates(
    volumes: &mut Vec<VolumePlan>,
    templates: &[PersistentVolumeClaimTemplate],
) {
    for template in templates {
        let name = &template.metadata.name;
        let volume = VolumePlan {
            name: name.clone(),
            // What outlives the pod is not of the disk that the pod has for itself.
            memory: true,
            claim: Some(ClaimPlan {
                claim: ClaimName::OfTemplate(name.clone()),
                read_only: false,
            }),
            ..VolumePlan::default()
        };
        match volumes.iter_mut().find(|volume| volume.name == *name) {
            Some(same) => *same = volume,
            None => volumes.push(volume),
        }
    }
}

/// Reports names of templates that cannot be names of volumes.
pub(super) fn check_templates(
    templates: &[PersistentVolumeClaimTemplate],
    problems: &Problems<'_>,
) {
    for (position, template) in templates.iter().enumerate() {
        let name = &template.metadata.name;
        let twice = templates.iter().take(position);
        let remedy = if !is_label(name) {
            "must be at most 63 lower-case letters, digits and inner -"
        } else if twice.into_iter().any(|other| other.metadata.name == *name) {
            "must be unique among the templates"
        } else {
            continue;
        };
        let path = format!("spec.volumeClaimTemplates[{position}].metadata.name");
        problems.push(&path, &format!("{name:?}"), remedy);
    }
}

/// The PersistentVolumeClaims that a PodSpec names, by volume, whatever else it says.
#[must_use]
pub fn claims_in(pod: &Value) -> BTreeMap<String, String> {
    let volumes = pod["volumes"].as_array().into_iter().flatten();
    let claim = |volume: &Value| {
        let name = volume["persistentVolumeClaim"]["claimName"].as_str()?;
        Some((volume["name"].as_str()?.to_owned(), name.to_owned()))
    };
    volumes.filter_map(claim).collect()
}
