//! Kubeconfig files.

use std::path::Path;

use anyhow::Result;
use serde_json::json;

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
