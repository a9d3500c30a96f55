//! The trace context of a claim that came without one.

use serde_json::json;

use crate::names::fnv1a_64;

/// Digits of a trace id, and of a UID without its dashes.
const TRACE_ID_DIGITS: usize = 32;

/// The value of the annotation `opentelemetry.io/trace-context`: W3C Trace Context headers as a JSON object. The trace is
/// named after the claim's UID, so that everybody who looks at the claim comes to the same one, also after a restart. It
/// is marked as sampled: what runs in the sandbox is asked to record what it does.
pub(crate) fn context(uid: &str) -> String {
    let digits: String = uid
        .chars()
        .filter(char::is_ascii_hexdigit)
        .map(|digit| digit.to_ascii_lowercase())
        .collect();
    let span = fnv1a_64(uid.as_bytes()).max(1);
    // An id must have a digit that is not zero.
    let trace = if digits.len() == TRACE_ID_DIGITS && digits.contains(|digit: char| digit != '0') {
        digits
    } else {
        format!("{:016x}{span:016x}", fnv1a_64(&span.to_be_bytes()))
    };
    json!({"traceparent": format!("00-{trace}-{span:016x}-01")}).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn traceparent(uid: &str) -> String {
        let headers: serde_json::Value = serde_json::from_str(&context(uid)).unwrap();
        headers["traceparent"].as_str().unwrap().to_owned()
    }

    #[test]
    fn a_trace_is_named_after_its_claim() {
        let uid = "31172E4F-baac-4618-9b29-46fd2bc01558";
        let value = traceparent(uid);
        assert!(
            value.starts_with("00-31172e4fbaac46189b2946fd2bc01558-"),
            "{value}"
        );
        assert_eq!(value, traceparent(uid));
    }

    #[test]
    fn the_form_is_that_of_w3c_whatever_the_uid() {
        for uid in [
            "",
            "uid-c",
            "00000000-0000-0000-0000-000000000000",
            "31172e4f-baac-4618-9b29-46fd2bc01558",
        ] {
            let value = traceparent(uid);
            let parts: Vec<_> = value.split('-').collect();
            assert_eq!(
                parts.iter().map(|part| part.len()).collect::<Vec<_>>(),
                [2, 32, 16, 2],
                "{value}"
            );
            assert_eq!((parts[0], parts[3]), ("00", "01"));
            for id in [parts[1], parts[2]] {
                assert!(id.contains(|digit: char| digit != '0'), "{value}");
                let is_hex = |digit: char| matches!(digit, '0'..='9' | 'a'..='f');
                assert!(id.chars().all(is_hex), "{value}");
            }
        }
    }
}
