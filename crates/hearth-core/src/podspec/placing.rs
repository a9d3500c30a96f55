//! What says where a pod goes. The controller has done it before a node reads it; here it is only seen whether it is something
//! that placement does ([`crate::placement`]), so that nothing of it is passed over in silence.

use super::read::At;

const UNKNOWN: &str = "placement does not know it; remove it";
const ONLY_ALL: &str = "placement does not know the labels of namespaces; give their names in namespaces, or {} for all";
const SELECTORS: [&str; 4] = ["In", "NotIn", "Exists", "DoesNotExist"];
const NODE_SELECTORS: [&str; 6] = ["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"];

/// Reads `affinity`.
pub(super) fn affinity(at: &At<'_>) {
    at.each_field(|name, at| match name {
        "nodeAffinity" => node_affinity(&at),
        "podAffinity" | "podAntiAffinity" => pod_affinity(&at),
        _ => at.refuse(UNKNOWN),
    });
}

fn node_affinity(at: &At<'_>) {
    at.each_field(|name, at| match name {
        "requiredDuringSchedulingIgnoredDuringExecution" => {
            at.each_field(|name, at| match name {
                "nodeSelectorTerms" => at.each_item(|_, at| node_term(&at)),
                _ => at.refuse(UNKNOWN),
            });
        }
        "preferredDuringSchedulingIgnoredDuringExecution" => at.each_item(|_, at| {
            at.each_field(|name, at| match name {
                "weight" => drop(at.number(1, 100)),
                "preference" => node_term(&at),
                _ => at.refuse(UNKNOWN),
            });
        }),
        _ => at.refuse(UNKNOWN),
    });
}

fn node_term(at: &At<'_>) {
    at.each_field(|name, at| match name {
        "matchExpressions" | "matchFields" => {
            at.each_item(|_, at| requirement(&at, &NODE_SELECTORS));
        }
        _ => at.refuse(UNKNOWN),
    });
}

fn pod_affinity(at: &At<'_>) {
    at.each_field(|name, at| match name {
        "requiredDuringSchedulingIgnoredDuringExecution" => at.each_item(|_, at| term(&at)),
        "preferredDuringSchedulingIgnoredDuringExecution" => at.each_item(|_, at| {
            at.each_field(|name, at| match name {
                "weight" => drop(at.number(1, 100)),
                "podAffinityTerm" => term(&at),
                _ => at.refuse(UNKNOWN),
            });
        }),
        _ => at.refuse(UNKNOWN),
    });
}

fn term(at: &At<'_>) {
    let mut keyed = false;
    at.each_field(|name, at| match name {
        "labelSelector" => selector(&at),
        "namespaceSelector" => at.each_field(|_, at| at.wrong(ONLY_ALL)),
        "namespaces" | "matchLabelKeys" | "mismatchLabelKeys" => drop(at.strings()),
        "topologyKey" => keyed = !at.string().is_empty(),
        _ => at.refuse(UNKNOWN),
    });
    if !keyed {
        at.missing("topologyKey");
    }
}

fn selector(at: &At<'_>) {
    at.each_field(|name, at| match name {
        "matchLabels" => at.each_field(|_, at| drop(at.string())),
        "matchExpressions" => at.each_item(|_, at| requirement(&at, &SELECTORS)),
        _ => at.refuse(UNKNOWN),
    });
}

fn requirement(at: &At<'_>, operators: &[&str]) {
    at.each_field(|name, at| match name {
        "key" => drop(at.string()),
        "values" => drop(at.strings()),
        "operator" => one_of(&at, operators),
        _ => at.refuse(UNKNOWN),
    });
}

/// Reads `topologySpreadConstraints`.
pub(super) fn spread(at: &At<'_>) {
    at.each_item(|_, at| {
        let (mut keyed, mut skewed) = (false, false);
        at.each_field(|name, at| match name {
            "maxSkew" => skewed = at.number(1, i64::from(i32::MAX)) > 0,
            "minDomains" => drop(at.number(1, i64::from(i32::MAX))),
            "topologyKey" => keyed = !at.string().is_empty(),
            "whenUnsatisfiable" => one_of(&at, &["DoNotSchedule", "ScheduleAnyway"]),
            "labelSelector" => selector(&at),
            "matchLabelKeys" => drop(at.strings()),
            "nodeAffinityPolicy" | "nodeTaintsPolicy" => one_of(&at, &["Honor", "Ignore"]),
            _ => at.refuse(UNKNOWN),
        });
        if !keyed {
            at.missing("topologyKey");
        }
        if !skewed {
            at.missing("maxSkew");
        }
    });
}

/// Reads `tolerations`.
pub(super) fn tolerations(at: &At<'_>) {
    at.each_item(|_, at| {
        at.each_field(|name, at| match name {
            "key" | "value" => drop(at.string()),
            "effect" => one_of(&at, &["", "NoSchedule", "PreferNoSchedule", "NoExecute"]),
            "operator" => one_of(&at, &["", "Equal", "Exists"]),
            // A taint keeps sandboxes away, and drives none off: what is there stays, however long.
            "tolerationSeconds" => {}
            _ => at.refuse(UNKNOWN),
        });
    });
}

/// Reads `nodeSelector`.
pub(super) fn node_selector(at: &At<'_>) {
    at.each_field(|_, at| drop(at.string()));
}

fn one_of(at: &At<'_>, words: &[&str]) {
    let known: Vec<_> = words.iter().map(|word| (*word, ())).collect();
    at.choice(&known);
}
