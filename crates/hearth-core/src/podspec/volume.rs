//! Volumes.

use super::plan::VolumePlan;
use super::pod::{label_name, unique};
use super::quantity::Quantity;
use super::read::At;

const ONLY_EMPTY_DIR: &str = "this node mounts only emptyDir volumes yet; remove it";

pub(super) fn volumes(at: &At<'_>) -> Vec<VolumePlan> {
    let volumes = at.list(|at| volume(&at));
    unique(at, volumes.iter().map(|volume| volume.name.as_str()));
    volumes
}

fn volume(at: &At<'_>) -> VolumePlan {
    let mut plan = VolumePlan::default();
    let mut named = false;
    at.each_field(|name, at| match name {
        "name" => {
            named = true;
            plan.name = label_name(&at);
        }
        "emptyDir" => empty_dir(&at, &mut plan),
        // A volume without a source is an emptyDir, and so is one whose source was refused, for now.
        _ => at.wrong(ONLY_EMPTY_DIR),
    });
    if !named {
        at.missing("name");
    }
    plan
}

fn empty_dir(at: &At<'_>, plan: &mut VolumePlan) {
    at.each_field(|name, at| match name {
        "medium" => {
            plan.memory = at
                .choice(&[("", false), ("Memory", true)])
                .unwrap_or_default()
        }
        "sizeLimit" => plan.size_limit = Some(quantity(&at).units()),
        _ => at.refuse("unknown"),
    });
    if plan.size_limit.is_some() && !plan.memory {
        at.problem(
            "sizeLimit",
            "",
            "is only enforced with medium Memory; remove it or set the medium",
        );
    }
}

pub(super) fn quantity(at: &At<'_>) -> Quantity {
    // The API accepts a bare number as well.
    let text = at
        .value()
        .as_str()
        .map_or_else(|| at.value().to_string(), str::to_owned);
    text.parse().unwrap_or_else(|_| {
        at.wrong("must be a quantity such as 500m, 0.5, 64Mi or 1e3");
        Quantity::default()
    })
}
