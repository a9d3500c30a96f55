//! Labels and annotations that a claim may add to its pod.

use hearth_api::constants::{annotation, label};
use hearth_api::{AdditionalPodMetadata, PodMetadata};

use super::labels;
use crate::pool::Template;

/// Domains whose annotations mean something to Kubernetes or to us.
const RESERVED_ANNOTATION_DOMAINS: [&str; 3] = ["kubernetes.io", "k8s.io", "agents.x-k8s.io"];
/// Eviction is the user's own decision.
const SAFE_TO_EVICT: &str = "cluster-autoscaler.kubernetes.io/safe-to-evict";

/// Checks a claim's metadata.
///
/// # Errors
/// The text of the claim's condition.
pub(super) fn validate(
    metadata: Option<&AdditionalPodMetadata>,
    allowed_domains: &[String],
) -> Result<(), String> {
    let Some(metadata) = metadata else {
        return Ok(());
    };
    for (key, value) in &metadata.labels {
        check_label(key, value, allowed_domains).map_err(|fault| {
            format!("invalid additionalPodMetadata: failed to validate label {key:?}: {fault}")
        })?;
    }
    for key in metadata.annotations.keys() {
        check_annotation(key).map_err(|fault| {
            format!("invalid additionalPodMetadata: failed to validate annotation {key:?}: {fault}")
        })?;
    }
    Ok(())
}

// Quoted as Go's `%q` does, which for what people write is what `{:?}` does.
fn check_label(key: &str, value: &str, allowed_domains: &[String]) -> Result<(), String> {
    if let Some(fault) = labels::fault_of_key(key) {
        return Err(format!("invalid label key: {key:?}: {fault}"));
    }
    // The policy of the router admits traffic by this label.
    if key.eq_ignore_ascii_case("app") && value.eq_ignore_ascii_case("sandbox-router") {
        return Err(format!(
            "restricted system label value: {key:?}={value:?} is not allowed in AdditionalPodMetadata"
        ));
    }
    let Some((domain, _)) = key.split_once('/') else {
        return Err(format!(
            "label {key:?} must have a domain prefix (e.g. 'sandbox.users.io/my-label') to prevent opting into \
             unintended policy domains"
        ));
    };
    if !allowed_domains
        .iter()
        .any(|allowed| is_within(domain, allowed))
    {
        return Err(format!("label domain {domain:?} is not in the allowlist"));
    }
    match labels::fault_of_value(value) {
        Some(fault) => Err(format!(
            "invalid label value: {value:?} does not match allowed pattern: {fault}"
        )),
        None => Ok(()),
    }
}

fn check_annotation(key: &str) -> Result<(), String> {
    if let Some(fault) = labels::fault_of_key(key) {
        return Err(format!("invalid annotation key: {key:?}: {fault}"));
    }
    let Some((domain, _)) = key.split_once('/') else {
        return Ok(());
    };
    if key != SAFE_TO_EVICT
        && RESERVED_ANNOTATION_DOMAINS
            .iter()
            .any(|reserved| is_within(domain, reserved))
    {
        return Err(format!(
            "restricted system domain: {key:?} is not allowed in AdditionalPodMetadata"
        ));
    }
    Ok(())
}

/// Whether `domain` is `parent` or below it. Both are lower-case: keys with others are no keys.
fn is_within(domain: &str, parent: &str) -> bool {
    domain
        .strip_suffix(parent)
        .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// Metadata of a claimed Sandbox's pod: the template's, what identifies the claim, and what the claim adds.
///
/// # Errors
/// When the claim would change what the template or we set.
pub(super) fn merge(
    template: &Template,
    claim_uid: &str,
    created_by: Option<&str>,
    additional: Option<&AdditionalPodMetadata>,
) -> Result<PodMetadata, String> {
    // That autoscalers may evict members is the pool's addition, unless the template itself says so: it ends with the claim.
    let mut merged = template.pod_metadata.clone();
    merged
        .labels
        .insert(label::CLAIM_UID.into(), claim_uid.into());
    merged
        .labels
        .insert(label::TEMPLATE_REF_HASH.into(), template.ref_hash.clone());
    match created_by {
        Some(created_by) => merged
            .labels
            .insert(label::CREATED_BY.into(), created_by.into()),
        None => merged.labels.remove(label::CREATED_BY),
    };
    let Some(additional) = additional else {
        return Ok(merged);
    };
    for (ours, added, what) in [
        (&mut merged.labels, &additional.labels, "label"),
        (
            &mut merged.annotations,
            &additional.annotations,
            "annotation",
        ),
    ] {
        for (key, value) in added {
            match ours.get(key) {
                Some(existing) if existing != value => {
                    return Err(format!(
                        "metadata override conflict: {what} {key:?} is defined in template with value {existing:?}, \
                         but claim requests {value:?}"
                    ));
                }
                _ => {
                    ours.insert(key.clone(), value.clone());
                }
            }
        }
    }
    Ok(merged)
}

/// Annotations of a Sandbox called `name` that is made from a template. Its pod is called like it.
pub(crate) fn sandbox_annotations(
    template: &Template,
    name: &str,
) -> serde_json::Map<String, serde_json::Value> {
    [
        (
            annotation::TEMPLATE_REF.to_owned(),
            template.name.clone().into(),
        ),
        (annotation::POD_NAME.to_owned(), name.into()),
    ]
    .into_iter()
    .collect()
}

/// The annotation by which autoscalers may evict a pod.
pub(crate) const EVICTION_ANNOTATION: &str = SAFE_TO_EVICT;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::index::{spec::SpecCache, testing};

    fn additional(labels: &[(&str, &str)], annotations: &[(&str, &str)]) -> AdditionalPodMetadata {
        let map = |pairs: &[(&str, &str)]| {
            pairs
                .iter()
                .map(|(k, v)| (k.to_string(), v.to_string()))
                .collect()
        };
        AdditionalPodMetadata {
            labels: map(labels),
            annotations: map(annotations),
        }
    }

    fn check(labels: &[(&str, &str)], annotations: &[(&str, &str)], expect: Option<&str>) {
        let metadata = additional(labels, annotations);
        let result = validate(Some(&metadata), &["sandbox.users.io".to_owned()]);
        match expect {
            None => assert_eq!(result, Ok(()), "{labels:?} {annotations:?}"),
            Some(text) => {
                let begin = "invalid additionalPodMetadata: failed to validate ";
                let fault = result.unwrap_err();
                let part = fault.strip_prefix(begin);
                assert!(part.is_some_and(|part| part.starts_with(text)), "{fault}");
            }
        }
    }

    #[test]
    fn labels_need_an_allowed_domain() {
        check(&[("sandbox.users.io/team", "a")], &[], None);
        check(&[("x.sandbox.users.io/team", "")], &[], None);
        check(
            &[("evil", "x")],
            &[],
            Some(
                "label \"evil\": label \"evil\" must have a domain prefix (e.g. 'sandbox.users.io/my-label') to \
                 prevent opting into unintended policy domains",
            ),
        );
        check(
            &[("notsandbox.users.io/a", "x")],
            &[],
            Some(
                "label \"notsandbox.users.io/a\": label domain \"notsandbox.users.io\" is not in the allowlist",
            ),
        );
        check(
            &[("sandbox.users.io/a", "-x")],
            &[],
            Some(
                "label \"sandbox.users.io/a\": invalid label value: \"-x\" does not match allowed pattern: a valid \
                 label must be an empty string or consist of",
            ),
        );
        check(
            &[("sandbox.users.io/", "x")],
            &[],
            Some(
                "label \"sandbox.users.io/\": invalid label key: \"sandbox.users.io/\": name part must be non-empty; \
                 name part must consist of",
            ),
        );
        check(
            &[("Sandbox.Users.IO/a", "x")],
            &[],
            Some(
                "label \"Sandbox.Users.IO/a\": invalid label key: \"Sandbox.Users.IO/a\": prefix part a lowercase \
                 RFC 1123 subdomain must consist of",
            ),
        );
        check(
            &[("App", "Sandbox-Router")],
            &[],
            Some(
                "label \"App\": restricted system label value: \"App\"=\"Sandbox-Router\" is not allowed in \
                 AdditionalPodMetadata",
            ),
        );
    }

    #[test]
    fn annotations_stay_out_of_reserved_domains() {
        check(
            &[],
            &[
                ("example.com/n", "1"),
                ("plain", "x"),
                (SAFE_TO_EVICT, "false"),
            ],
            None,
        );
        for key in [
            "kubernetes.io/x",
            "a.k8s.io/x",
            "agents.x-k8s.io/pod-name",
            "extensions.agents.x-k8s.io/x",
        ] {
            let text = format!(
                "annotation \"{key}\": restricted system domain: \"{key}\" is not allowed in AdditionalPodMetadata"
            );
            check(&[], &[(key, "1")], Some(&text));
        }
        check(
            &[],
            &[("a b", "1")],
            Some("annotation \"a b\": invalid annotation key: \"a b\": name part must consist of"),
        );
    }

    /// A template with these pod metadata.
    fn template(pod_metadata: serde_json::Value) -> Template {
        let mut object = serde_json::to_value(testing::template("tpl", 1)).unwrap();
        object["spec"]["podTemplate"]["metadata"] = pod_metadata;
        Template::new(
            serde_json::from_value(object).unwrap(),
            &mut SpecCache::default(),
        )
    }

    #[test]
    fn a_claim_adds_to_the_template_and_changes_nothing_of_it() {
        let metadata = json!({
            "labels": {"app": "demo", "agents.x-k8s.io/created-by": "somebody"},
            "annotations": {"note": "x", SAFE_TO_EVICT: "true"},
        });
        let template = template(metadata);
        let added = additional(&[("sandbox.users.io/team", "a")], &[("note", "x")]);
        let merged = merge(&template, "uid-c", None, Some(&added)).unwrap();
        let expected = json!({
            "labels": {"app": "demo", "sandbox.users.io/team": "a", "agents.x-k8s.io/claim-uid": "uid-c",
                       "agents.x-k8s.io/sandbox-template-ref-hash": "9d22159f"},
            "annotations": {"note": "x", SAFE_TO_EVICT: "true"},
        });
        assert_eq!(serde_json::to_value(merged).unwrap(), expected);
        let merged = merge(&template, "uid-c", Some("sdk"), None).unwrap();
        assert_eq!(merged.labels["agents.x-k8s.io/created-by"], "sdk");

        let conflict = |added| merge(&template, "uid-c", None, Some(&added)).unwrap_err();
        assert_eq!(
            conflict(additional(&[("app", "other")], &[("note", "y")])),
            "metadata override conflict: label \"app\" is defined in template with value \"demo\", but claim requests \
             \"other\""
        );
        assert_eq!(
            conflict(additional(&[], &[("note", "y")])),
            "metadata override conflict: annotation \"note\" is defined in template with value \"x\", but claim \
             requests \"y\""
        );
    }
}
