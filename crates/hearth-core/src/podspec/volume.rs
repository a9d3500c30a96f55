//! Volumes.

use super::claims;
use super::container::{default_pull_policy, pull_policy};
use super::files::{self, FilesPlan};
use super::plan::{HostPathKind, HostPathPlan, ImageVolume, VolumePlan};
use super::pod::{label_name, unique};
use super::policy::{Grant, below, plain_path};
use super::quantity::Quantity;
use super::read::At;

const NO_SUCH_VOLUME: &str = "this node mounts only emptyDir, hostPath, configMap, secret, downwardAPI, projected, image and \
                              persistentVolumeClaim volumes yet; remove it";
const NO_EPHEMERAL: &str =
    "a claim that goes with its pod would not outlive a suspend; use spec.volumeClaimTemplates";

/// `volumes`, of a pod of this ServiceAccount.
pub(super) fn volumes(at: &At<'_>, account: &str) -> Vec<VolumePlan> {
    let volumes = at.list(|at| volume(&at, account));
    unique(at, volumes.iter().map(|volume| volume.name.as_str()));
    volumes
}

fn volume(at: &At<'_>, account: &str) -> VolumePlan {
    let mut plan = VolumePlan::default();
    let (mut named, mut sources) = (false, 0);
    at.each_field(|name, at| match name {
        "name" => {
            named = true;
            plan.name = label_name(&at);
        }
        "emptyDir" => {
            sources += 1;
            empty_dir(&at, &mut plan);
        }
        "configMap" | "secret" | "downwardAPI" | "projected" => {
            sources += 1;
            plan.files = Some(files(name, &at, account));
        }
        "image" => {
            sources += 1;
            plan.image = Some(image(&at));
        }
        "persistentVolumeClaim" => {
            sources += 1;
            plan.claim = Some(claims::claim(&at));
        }
        "ephemeral" => at.wrong(NO_EPHEMERAL),
        "hostPath" => {
            sources += 1;
            plan.host_path = Some(host_path(&at));
        }
        // A volume without a source is an emptyDir, and so is one whose source was refused, for now.
        _ => at.wrong(NO_SUCH_VOLUME),
    });
    if sources > 1 {
        at.problem_here("", "has more than one source; remove all but one");
    }
    // What a Secret holds and what the pod is called does not touch a disk.
    plan.memory |= plan.files.is_some() || plan.image.is_some() || plan.claim.is_some();
    if !named {
        at.missing("name");
    }
    plan
}

fn files(source: &str, at: &At<'_>, account: &str) -> FilesPlan {
    match source {
        "configMap" => files::config_map(at),
        "secret" => files::secret(at),
        "downwardAPI" => files::downward(at),
        _ => files::projected(at, account),
    }
}

fn image(at: &At<'_>) -> ImageVolume {
    let (mut reference, mut policy) = (String::new(), None);
    at.each_field(|name, at| match name {
        "reference" => reference = at.string(),
        "pullPolicy" => policy = pull_policy(&at),
        _ => at.refuse("unknown"),
    });
    if reference.is_empty() {
        at.missing("reference");
    }
    ImageVolume {
        pull_policy: policy.unwrap_or_else(|| default_pull_policy(&reference)),
        reference,
    }
}

fn host_path(at: &At<'_>) -> HostPathPlan {
    let mut plan = HostPathPlan::default();
    let mut given = false;
    at.each_field(|name, at| match name {
        "path" => {
            given = true;
            let Some(path) = plain_path(&at.string()) else {
                return at.wrong("must be an absolute path without ..");
            };
            let Some(allowed) = at.support().policy.host_path(&path) else {
                return at.wrong(&Grant::HostPath(path).remedy());
            };
            plan.allowed = allowed.to_owned();
            plan.below = below(&path, allowed).unwrap_or_default().to_owned();
        }
        "type" => plan.kind = host_path_kind(&at),
        _ => at.refuse("unknown"),
    });
    if !given {
        at.missing("path");
    }
    plan
}

fn host_path_kind(at: &At<'_>) -> HostPathKind {
    let known = [
        ("", HostPathKind::Any),
        ("DirectoryOrCreate", HostPathKind::DirectoryOrCreate),
        ("Directory", HostPathKind::Directory),
        ("FileOrCreate", HostPathKind::FileOrCreate),
        ("File", HostPathKind::File),
        ("Socket", HostPathKind::Socket),
        ("CharDevice", HostPathKind::CharDevice),
        ("BlockDevice", HostPathKind::BlockDevice),
    ];
    at.choice(&known).unwrap_or_default()
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
