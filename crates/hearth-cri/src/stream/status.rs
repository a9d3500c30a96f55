//! How a streaming server says on a session's error stream that it is over.

use serde::Deserialize;

/// The part of a Kubernetes `Status` that says how a command ended.
#[derive(Debug, Deserialize)]
struct Status {
    #[serde(default)]
    status: String,
    #[serde(default)]
    message: String,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    details: Details,
}

#[derive(Debug, Default, Deserialize)]
struct Details {
    #[serde(default)]
    causes: Vec<Cause>,
}

#[derive(Debug, Deserialize)]
struct Cause {
    #[serde(default)]
    reason: String,
    #[serde(default)]
    message: String,
}

/// The end of a session of `v4.channel.k8s.io`.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum End {
    /// With this exit code.
    Exited(i32),
    /// The runtime could not do it, or not to its end.
    Failed(String),
}

/// Reads the words of an error stream.
pub(super) fn parse(words: &[u8]) -> End {
    let Ok(status) = serde_json::from_slice::<Status>(words) else {
        return End::Failed(String::from_utf8_lossy(words).into_owned());
    };
    if status.status == "Success" {
        return End::Exited(0);
    }
    let code = status
        .details
        .causes
        .iter()
        .find(|cause| cause.reason == "ExitCode")
        .and_then(|cause| cause.message.parse().ok());
    match code {
        Some(code) if status.reason == "NonZeroExitCode" => End::Exited(code),
        _ => End::Failed(status.message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_a_code_or_words() {
        let failed = |text: &str| End::Failed(text.to_owned());
        for (words, expect) in [
            (r#"{"metadata":{},"status":"Success"}"#, End::Exited(0)),
            (
                r#"{"metadata":{},"status":"Failure","message":"command terminated with non-zero exit code","reason":"NonZeroExitCode","details":{"causes":[{"reason":"ExitCode","message":"137"}]}}"#,
                End::Exited(137),
            ),
            (
                r#"{"status":"Failure","message":"no such program","reason":"InternalError","details":{"causes":[{"message":"no such program"}]},"code":500}"#,
                failed("no such program"),
            ),
            ("words", failed("words")),
        ] {
            assert_eq!(parse(words.as_bytes()), expect, "{words}");
        }
    }
}
