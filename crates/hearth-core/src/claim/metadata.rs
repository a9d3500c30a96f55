//! Labels and annotations that a claim may add to its pod.

use hearth_api::constants::{annotation, label};
use hearth_api::{AdditionalPodMetadata, PodMetadata};

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
            format!("invalid additionalPodMetadata: failed to validate label \"{key}\": {fault}")
        })?;
    }
    for key in metadata.annotations.keys() {
        check_annotation(key).map_err(|fault| {
            format!(
                "invalid additionalPodMetadata: failed to validate annotation \"{key}\": {fault}"
            )
        })?;
    }
    Ok(())
}

fn check_label(key: &str, value: &str, allowed_domains: &[String]) -> Result<(), String> {
    check_qualified_name(key)?;
    // The policy of the router admits traffic by this label.
    if key.eq_ignore_ascii_case("app") && value.eq_ignore_ascii_case("sandbox-router") {
        return Err("label \"app\" with value \"sandbox-router\" is reserved".into());
    }
    let Some((domain, _)) = key.split_once('/') else {
        return Err(format!(
            "label \"{key}\" must have a domain prefix (e.g. 'sandbox.users.io/my-label') to prevent opting into \
             unintended policy domains"
        ));
    };
    if !allowed_domains
        .iter()
        .any(|allowed| is_within(domain, allowed))
    {
        return Err(format!("label domain \"{domain}\" is not in the allowlist"));
    }
    if !is_label_value(value) {
        return Err(format!("invalid label value \"{value}\""));
    }
    Ok(())
}

fn check_annotation(key: &str) -> Result<(), String> {
    check_qualified_name(key)?;
    let Some((domain, _)) = key.split_once('/') else {
        return Ok(());
    };
    if key != SAFE_TO_EVICT
        && RESERVED_ANNOTATION_DOMAINS
            .iter()
            .any(|reserved| is_within(domain, reserved))
    {
        return Err(format!("annotation domain \"{domain}\" is reserved"));
    }
    Ok(())
}

/// Whether `domain` is `parent` or below it.
fn is_within(domain: &str, parent: &str) -> bool {
    domain
        .strip_suffix(parent)
        .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

fn check_qualified_name(key: &str) -> Result<(), String> {
    let (domain, name) = match key.split_once('/') {
        Some((domain, name)) => (Some(domain), name),
        None => (None, key),
    };
    let valid_name = !name.is_empty() && is_label_value(name);
    if valid_name && domain.is_none_or(is_dns_subdomain) {
        Ok(())
    } else {
        Err(format!("\"{key}\" is not a qualified name"))
    }
}

fn is_label_value(text: &str) -> bool {
    let inner = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.');
    let ends = |c: Option<&u8>| c.is_none_or(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    bytes.len() <= 63
        && bytes.iter().all(|c| inner(*c))
        && ends(bytes.first())
        && ends(bytes.last())
}

fn is_dns_subdomain(text: &str) -> bool {
    let is_label = |part: &str| {
        let bytes = part.as_bytes();
        let alphanumeric = |c: &u8| c.is_ascii_lowercase() || c.is_ascii_digit();
        !bytes.is_empty()
            && bytes.iter().all(|c| alphanumeric(c) || *c == b'-')
            && bytes.first().is_some_and(alphanumeric)
            && bytes.last().is_some_and(alphanumeric)
    };
    text.len() <= 253 && text.split('.').all(is_label)
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
    let mut merged = template.pod_metadata.clone();
    // What the pool adds to let autoscalers evict its members ends with the claim.
    if merged
        .annotations
        .get(SAFE_TO_EVICT)
        .is_some_and(|value| value == "true")
    {
        merged.annotations.remove(SAFE_TO_EVICT);
    }
    merged
        .labels
        .insert(label::CLAIM_UID.into(), claim_uid.into());
    merged
        .labels
        .insert(label::TEMPLATE_REF_HASH.into(), template.ref_hash.clone());
    if let Some(created_by) = created_by {
        merged
            .labels
            .insert(label::CREATED_BY.into(), created_by.into());
    }
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
                        "metadata override conflict: {what} \"{key}\" is \"{existing}\" in the template and \
                         \"{value}\" in the claim"
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
    use super::*;

    fn check(labels: &[(&str, &str)], annotations: &[(&str, &str)], expect: Option<&str>) {
        let map = |pairs: &[(&str, &str)]| {
            pairs
                .iter()
                .map(|(k, v)| (k.to_string(), v.to_string()))
                .collect()
        };
        let metadata = AdditionalPodMetadata {
            labels: map(labels),
            annotations: map(annotations),
        };
        let result = validate(Some(&metadata), &["sandbox.users.io".to_owned()]);
        match expect {
            None => assert_eq!(result, Ok(()), "{labels:?} {annotations:?}"),
            Some(part) => assert!(result.clone().unwrap_err().contains(part), "{result:?}"),
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
                "invalid additionalPodMetadata: failed to validate label \"evil\": label \"evil\" must have a domain \
                 prefix (e.g. 'sandbox.users.io/my-label') to prevent opting into unintended policy domains",
            ),
        );
        check(
            &[("notsandbox.users.io/a", "x")],
            &[],
            Some("label domain \"notsandbox.users.io\" is not in the allowlist"),
        );
        check(
            &[("sandbox.users.io/a", "-x")],
            &[],
            Some("invalid label value"),
        );
        check(
            &[("sandbox.users.io/", "x")],
            &[],
            Some("not a qualified name"),
        );
        check(&[("App", "Sandbox-Router")], &[], Some("reserved"));
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
            check(&[], &[(key, "1")], Some("is reserved"));
        }
        check(&[], &[("a b", "1")], Some("not a qualified name"));
    }
}
