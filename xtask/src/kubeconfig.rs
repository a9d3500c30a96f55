//! Kubeconfig files.

use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::pki::Pair;
use crate::system;

/// How a kubeconfig's user proves who it is.
#[derive(Debug)]
pub(crate) enum User<'a> {
    /// A client certificate.
    Certificate(&'a Pair),
    /// A bearer token in a file of its own, so that it can be renewed in place.
    TokenFile(&'a Path),
}

/// Where and what the API server is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Server {
    /// URL.
    pub(crate) url: String,
    /// The certificate authority, in a form that goes into a kubeconfig's `cluster`.
    pub(crate) trust: Trust,
}

/// How the API server's certificate is checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Trust {
    /// A PEM file with the authority.
    File(String),
    /// The same inline, in base64.
    Data(String),
    /// The machine's own authorities.
    System,
}

/// Writes a kubeconfig. It is JSON, which every reader of YAML reads.
pub(crate) fn write(path: &Path, server: &Server, user: &User<'_>) -> Result<()> {
    let mut cluster = json!({ "server": server.url });
    match &server.trust {
        Trust::File(file) => cluster["certificate-authority"] = json!(file),
        Trust::Data(data) => cluster["certificate-authority-data"] = json!(data),
        Trust::System => {}
    }
    let user = match user {
        User::Certificate(pair) => json!({
            "client-certificate": pair.certificate,
            "client-key": pair.key,
        }),
        User::TokenFile(file) => json!({ "tokenFile": file }),
    };
    system::write_json(
        path,
        &json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{ "name": "hearth", "cluster": cluster }],
            "users": [{ "name": "user", "user": user }],
            "contexts": [{ "name": "hearth", "context": { "cluster": "hearth", "user": "user" } }],
            "current-context": "hearth",
        }),
    )
}

/// The server of the first cluster in the text of a kubeconfig that is JSON.
pub(crate) fn server(text: &str) -> Result<Server> {
    let config: Value = serde_json::from_str(text).context("the kubeconfig is no JSON")?;
    let cluster = &config["clusters"][0]["cluster"];
    let field = |name: &str| cluster[name].as_str().map(str::to_owned);
    Ok(Server {
        url: field("server").context("the kubeconfig names no cluster")?,
        trust: field("certificate-authority-data")
            .map(Trust::Data)
            .or_else(|| field("certificate-authority").map(Trust::File))
            .unwrap_or(Trust::System),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_is_read_with_and_without_an_authority() {
        for (cluster, trust) in [
            (r#"{"server":"https://a"}"#, Trust::System),
            (
                r#"{"server":"https://a","certificate-authority-data":"eA=="}"#,
                Trust::Data("eA==".into()),
            ),
            (
                r#"{"server":"https://a","certificate-authority":"/ca.crt"}"#,
                Trust::File("/ca.crt".into()),
            ),
        ] {
            let text = format!(r#"{{"clusters":[{{"cluster":{cluster}}}]}}"#);
            let expect = Server {
                url: "https://a".into(),
                trust,
            };
            assert_eq!(server(&text).unwrap(), expect);
        }
        assert!(server(r#"{"clusters":null}"#).is_err());
    }
}
