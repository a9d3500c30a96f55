use serde::Deserialize;
use serde::de::IgnoredAny;

/// As much of an object as a measurement needs; the rest is skipped without being stored.
#[derive(Debug, Deserialize)]
#[serde(bound = "Status: Deserialize<'de>, Spec: Deserialize<'de>")]
pub(crate) struct Object<Status, Spec = IgnoredAny> {
    #[serde(default)]
    pub(crate) metadata: Meta,
    #[serde(default = "absent")]
    pub(crate) spec: Option<Spec>,
    #[serde(default = "absent")]
    pub(crate) status: Option<Status>,
}

fn absent<T>() -> Option<T> {
    None
}

/// As much of ObjectMeta as a measurement needs.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Meta {
    pub(crate) name: String,
    pub(crate) namespace: String,
    pub(crate) resource_version: String,
    pub(crate) deletion_timestamp: Option<IgnoredAny>,
}

/// As much of a claim's status as a measurement needs.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct ClaimStatus {
    sandbox: Option<ClaimedSandbox>,
    conditions: Vec<Condition>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ClaimedSandbox {
    name: String,
    #[serde(rename = "podIPs")]
    pod_ips: Vec<String>,
}

/// As much of a condition as a measurement needs.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Condition {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) status: String,
    pub(crate) reason: String,
    pub(crate) message: String,
}

impl Condition {
    /// The `Ready` condition among `conditions`.
    pub(crate) fn ready(conditions: &[Self]) -> Option<&Self> {
        conditions
            .iter()
            .find(|condition| condition.kind == "Ready")
    }

    /// Whether the status is `True`.
    pub(crate) fn holds(&self) -> bool {
        self.status == "True"
    }
}

/// What a claim got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Answer<'a> {
    /// Name of the Sandbox.
    pub(crate) sandbox: &'a str,
    /// First address of its pod.
    pub(crate) ip: Option<&'a str>,
}

impl ClaimStatus {
    /// The claim's answer: a Sandbox is named and Ready is True.
    pub(crate) fn answer(&self) -> Option<Answer<'_>> {
        let sandbox = self
            .sandbox
            .as_ref()
            .filter(|sandbox| !sandbox.name.is_empty())?;
        Condition::ready(&self.conditions).filter(|ready| ready.holds())?;
        Some(Answer {
            sandbox: &sandbox.name,
            ip: sandbox.pod_ips.first().map(String::as_str),
        })
    }

    /// Why the claim is not ready, when it says so.
    pub(crate) fn complaint(&self) -> Option<String> {
        let ready = Condition::ready(&self.conditions).filter(|ready| !ready.holds())?;
        Some(format!("{}: {}", ready.reason, ready.message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(text: &str) -> ClaimStatus {
        serde_json::from_str::<Object<ClaimStatus>>(text)
            .unwrap()
            .status
            .unwrap_or_default()
    }

    #[test]
    fn a_claim_is_answered_when_it_names_a_sandbox_and_is_ready() {
        let ready = r#""conditions":[{"type":"Finished","status":"True"},{"type":"Ready","status":"True"}]"#;
        let not_ready =
            r#""conditions":[{"type":"Ready","status":"False","reason":"R","message":"m"}]"#;
        for (text, answer) in [
            (
                format!(
                    r#"{{"status":{{"sandbox":{{"name":"s","podIPs":["10.0.0.1","fd::1"]}},{ready}}}}}"#
                ),
                Some("s"),
            ),
            (
                format!(r#"{{"status":{{"sandbox":{{"name":"s"}},{not_ready}}}}}"#),
                None,
            ),
            (
                format!(r#"{{"status":{{"sandbox":{{"name":""}},{ready}}}}}"#),
                None,
            ),
            (format!(r#"{{"status":{{{ready}}}}}"#), None),
            (r#"{"status":{"sandbox":{"name":"s"}}}"#.to_owned(), None),
            (
                r#"{"metadata":{"name":"c"},"spec":{"warmPoolRef":{"name":"p"}}}"#.to_owned(),
                None,
            ),
        ] {
            assert_eq!(
                status(&text).answer().map(|answer| answer.sandbox),
                answer,
                "{text}"
            );
        }
    }

    #[test]
    fn the_first_address_is_taken_and_the_complaint_kept() {
        let with_ip = status(
            r#"{"status":{"sandbox":{"name":"s","podIPs":["10.0.0.1","fd::1"]},
                "conditions":[{"type":"Ready","status":"True"}]}}"#,
        );
        assert_eq!(with_ip.answer().unwrap().ip, Some("10.0.0.1"));
        assert_eq!(with_ip.complaint(), None);
        let refused = status(
            r#"{"status":{"conditions":[{"type":"Ready","status":"False","reason":"R","message":"m"}]}}"#,
        );
        assert_eq!(refused.complaint().as_deref(), Some("R: m"));
    }
}
