//! What every status that is written must be: as the API server and clients take it. All that is said here is literal, so
//! that it does not follow a mistake of the rules.

use serde_json::Value;

use super::kinds::Kind;

/// Reasons of `Ready` of Sandboxes.
const SANDBOX_REASONS: [&str; 9] = [
    "DependenciesReady",
    "DependenciesNotReady",
    "SandboxSuspended",
    "SandboxExpired",
    "PodSucceeded",
    "PodFailed",
    "ReconcilerError",
    "InvalidConfiguration",
    "NodeLost",
];
/// Reasons of `Ready` that only claims have besides.
const CLAIM_REASONS: [&str; 8] = [
    "TemplateNotFound",
    "WarmPoolNotFound",
    "InvalidMetadata",
    "EnvVarsInjectionRejected",
    "VolumeClaimTemplatesError",
    "ClaimExpired",
    "SandboxMissing",
    "SandboxNotReady",
];
/// Reasons of `Suspended`.
const SUSPENDED_REASONS: [&str; 5] = [
    "NotSuspended",
    "PodTerminating",
    "PodTerminated",
    "Frozen",
    "PodStateUnknown",
];
/// Reasons of `PodScheduled`.
const SCHEDULED_REASONS: [&str; 3] = ["PodScheduled", "Unschedulable", "PodSchedulingUnknown"];
/// Reasons of `Finished`.
const FINISHED_REASONS: [&str; 2] = ["PodSucceeded", "PodFailed"];

/// Checks the status of an object that is being written.
pub(super) fn check_status(kind: Kind, before: &Value, after: &Value) {
    let types: &[&str] = match kind {
        Kind::Claim => &["Ready", "Finished"],
        Kind::Sandbox => &["Ready", "Suspended", "PodScheduled", "Finished"],
        _ => return,
    };
    let written = conditions(after);
    for type_ in types {
        let many = written.iter().filter(|c| c["type"] == *type_).count();
        let always = *type_ == "Ready" || *type_ == "Suspended";
        assert!(
            many == 1 || (many == 0 && !always),
            "{many} conditions {type_}: {after}"
        );
    }
    for condition in &written {
        assert!(
            types.iter().any(|type_| condition["type"] == *type_),
            "{condition} of {after}"
        );
        check_form(condition);
        check_reason(kind, condition);
        let observed = condition["observedGeneration"].as_i64();
        let generation = after["metadata"]["generation"].as_i64();
        assert!(
            observed.is_some() && observed <= generation,
            "{condition} is ahead of {after}"
        );
        // When a claim's sandbox finished is its Sandbox's to say.
        if kind == Kind::Claim && condition["type"] == "Finished" {
            continue;
        }
        let known = conditions(before);
        let known = known.iter().find(|c| c["type"] == condition["type"]);
        if let Some(known) = known.filter(|known| known["status"] == condition["status"]) {
            assert_eq!(
                known["lastTransitionTime"], condition["lastTransitionTime"],
                "nothing has flipped: {known} {condition}"
            );
        }
    }
    let ready = written.iter().find(|c| c["type"] == "Ready").unwrap();
    assert_eq!(
        ready["status"] == "True",
        ready["reason"] == "DependenciesReady",
        "{ready}"
    );
}

fn conditions(object: &Value) -> Vec<Value> {
    let conditions = object["status"]["conditions"].as_array();
    conditions.cloned().unwrap_or_default()
}

/// As `metav1.Condition` is validated.
fn check_form(condition: &Value) {
    let text = |field: &str| condition[field].as_str().unwrap_or_default();
    let status = text("status");
    assert!(
        ["True", "False", "Unknown"].contains(&status),
        "{condition}"
    );
    let reason = text("reason");
    let begins = reason.starts_with(|c: char| c.is_ascii_alphabetic());
    let ends = reason.ends_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
    let inner = |c: char| c.is_ascii_alphanumeric() || "_,:".contains(c);
    assert!(
        begins && ends && reason.chars().all(inner) && reason.len() <= 1024,
        "{condition}"
    );
    let type_ = text("type");
    assert!(
        !type_.is_empty() && type_.chars().all(|c| c.is_ascii_alphanumeric()),
        "{condition}"
    );
    assert!(condition["message"].is_string(), "{condition}");
    assert!(text("message").len() <= 32_768, "{condition}");
    // The API server keeps whole seconds: what has more would never be what was written.
    let since = text("lastTransitionTime");
    let parsed = since.parse::<jiff::Timestamp>();
    assert!(
        parsed.is_ok() && since.ends_with('Z') && !since.contains('.'),
        "{condition}"
    );
}

fn check_reason(kind: Kind, condition: &Value) {
    let reason = condition["reason"].as_str().unwrap();
    let known = match condition["type"].as_str().unwrap() {
        "Ready" if SANDBOX_REASONS.contains(&reason) => true,
        "Ready" => kind == Kind::Claim && CLAIM_REASONS.contains(&reason),
        "Suspended" => SUSPENDED_REASONS.contains(&reason),
        "PodScheduled" => SCHEDULED_REASONS.contains(&reason),
        "Finished" => FINISHED_REASONS.contains(&reason),
        _ => false,
    };
    assert!(known, "a reason that clients do not know: {condition}");
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn sandbox(ready: Value) -> Value {
        let suspended = json!({
            "type": "Suspended", "status": "False", "reason": "NotSuspended", "message": "m",
            "lastTransitionTime": "2027-01-15T08:00:00Z", "observedGeneration": 1,
        });
        let mut whole = suspended.clone();
        whole["type"] = "Ready".into();
        whole["reason"] = "DependenciesNotReady".into();
        let fields = ready.as_object().unwrap().clone();
        whole.as_object_mut().unwrap().extend(fields);
        json!({"metadata": {"generation": 2}, "status": {"conditions": [suspended, whole]}})
    }

    fn is_taken(ready: Value) -> bool {
        let (before, after) = (sandbox(json!({})), sandbox(ready));
        let check = || check_status(Kind::Sandbox, &before, &after);
        std::panic::catch_unwind(check).is_ok()
    }

    #[test]
    fn a_status_that_clients_do_not_take_is_found() {
        assert!(is_taken(json!({})));
        for (field, value) in [
            ("status", json!("true")),
            ("status", json!("True")),
            ("reason", json!("Whatever")),
            ("reason", json!("")),
            ("reason", json!("ClaimExpired")),
            ("message", Value::Null),
            ("lastTransitionTime", json!("2027-01-15T08:00:01Z")),
            ("lastTransitionTime", json!("2027-01-15T08:00:00.5Z")),
            ("observedGeneration", json!(3)),
            ("observedGeneration", Value::Null),
            ("type", json!("Suspended")),
            ("type", json!("Steady")),
        ] {
            assert!(!is_taken(json!({field: value})), "{field}: {value}");
        }
    }
}
