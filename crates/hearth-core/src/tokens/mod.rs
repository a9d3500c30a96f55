//! Tokens of ServiceAccounts: which ones the pod of a sandbox has, and when each is made anew.
//!
//! A token is bound to a Secret that is made for its sandbox alone: whoever deletes the Secret revokes it. The controller
//! has tokens made ([`Ledger`]) and sends them to the sandbox's node, which may not.

mod ledger;

use std::collections::BTreeSet;

use serde_json::Value;

use crate::podspec::account_in;

pub use ledger::{Job, Ledger, Minted, Owner};

/// How long the token of a pod is good for that does not say, in seconds: what the API server's admission writes into
/// Pods, which some know it by.
pub(crate) const AUTOMATIC_SECONDS: u64 = 3607;
/// How long a projected token is good for that does not say.
pub(crate) const DEFAULT_SECONDS: u64 = 3600;
/// The least that the API server accepts.
pub(crate) const LEAST_SECONDS: u64 = 600;
/// The most that the API server accepts.
pub(crate) const MOST_SECONDS: u64 = 1 << 32;

/// A token as it is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenRequest {
    /// Whose it is: name of a ServiceAccount in the sandbox's namespace.
    pub account: String,
    /// For whom it is; empty: for the API server.
    pub audience: String,
    /// How long it is good for, in seconds.
    pub seconds: u64,
}

impl TokenRequest {
    /// What tells it from the other tokens of its pod.
    #[must_use]
    pub fn key(&self) -> String {
        // An account's name has no slash, and a number has none either.
        format!("{}/{}/{}", self.account, self.seconds, self.audience)
    }

    /// The token that a pod gets without asking for one by name.
    #[must_use]
    pub fn automatic(account: &str) -> Self {
        Self {
            account: account.to_owned(),
            audience: String::new(),
            seconds: AUTOMATIC_SECONDS,
        }
    }
}

/// Whether a pod gets a token without asking for one by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Automount {
    Yes,
    No,
    AsAccountSays,
}

/// The tokens that a PodSpec asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenNeed {
    account: String,
    automount: Automount,
    projected: BTreeSet<TokenRequest>,
}

impl TokenNeed {
    /// What the text of a PodSpec asks for; `None` when it can never be any. What no node would accept does not count.
    #[must_use]
    pub fn of(pod: &Value) -> Option<Self> {
        let account = account_in(pod);
        let automount = match pod["automountServiceAccountToken"].as_bool() {
            Some(true) => Automount::Yes,
            Some(false) => Automount::No,
            None => Automount::AsAccountSays,
        };
        let volumes = items(&pod["volumes"]);
        let sources = volumes.flat_map(|volume| items(&volume["projected"]["sources"]));
        let projected: BTreeSet<_> = sources
            .filter_map(|source| projected(&account, &source["serviceAccountToken"]))
            .collect();
        if automount == Automount::No && projected.is_empty() {
            return None;
        }
        Some(Self {
            account,
            automount,
            projected,
        })
    }

    /// The tokens, where the account gives its pods one or not; `None` when that matters and is not known.
    fn requests(&self, account_automounts: Option<bool>) -> Option<BTreeSet<TokenRequest>> {
        let automatic = match self.automount {
            Automount::Yes => true,
            Automount::No => false,
            Automount::AsAccountSays => account_automounts?,
        };
        let mut requests = self.projected.clone();
        if automatic {
            requests.insert(TokenRequest::automatic(&self.account));
        }
        Some(requests)
    }
}

fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

fn projected(account: &str, source: &Value) -> Option<TokenRequest> {
    if !source.is_object() {
        return None;
    }
    let seconds = match &source["expirationSeconds"] {
        Value::Null => DEFAULT_SECONDS,
        seconds => seconds.as_u64()?,
    };
    let accepted = (LEAST_SECONDS..=MOST_SECONDS).contains(&seconds);
    accepted.then(|| TokenRequest {
        account: account.to_owned(),
        audience: source["audience"].as_str().unwrap_or_default().to_owned(),
        seconds,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn keys(pod: &Value, account_automounts: Option<bool>) -> Option<Vec<String>> {
        let requests = TokenNeed::of(pod)?.requests(account_automounts)?;
        Some(requests.iter().map(TokenRequest::key).collect())
    }

    #[test]
    fn the_pods_word_counts_before_its_accounts() {
        let automatic = Some(vec!["default/3607/".to_owned()]);
        let none = Some(Vec::new());
        let says = |automount: Value| json!({"automountServiceAccountToken": automount});
        assert_eq!(keys(&says(json!(true)), Some(false)), automatic);
        assert_eq!(keys(&says(json!(true)), None), automatic);
        assert_eq!(keys(&says(json!(false)), Some(true)), None);
        assert_eq!(keys(&says(Value::Null), Some(true)), automatic);
        assert_eq!(keys(&says(Value::Null), Some(false)), none);
        assert_eq!(keys(&says(Value::Null), None), None, "it is not known yet");
    }

    #[test]
    fn projected_tokens_are_asked_for_by_audience_and_time() {
        let token = |fields: Value| json!({"serviceAccountToken": fields});
        let sources = json!([
            token(json!({"path": "a"})),
            token(json!({"path": "b", "audience": "vault", "expirationSeconds": 600})),
            token(json!({"path": "c", "audience": "vault", "expirationSeconds": 600})),
            token(json!({"path": "d", "expirationSeconds": 599})),
            token(json!({"path": "e", "expirationSeconds": "soon"})),
            {"configMap": {"name": "x"}},
        ]);
        let pod = json!({
            "serviceAccountName": "robot",
            "automountServiceAccountToken": false,
            "volumes": [{"name": "v", "projected": {"sources": sources}}, {"name": "w", "emptyDir": {}}],
        });
        let expected = ["robot/600/vault", "robot/3600/"].map(str::to_owned);
        let mut found = keys(&pod, None).unwrap();
        found.sort_by_key(String::len);
        found.reverse();
        assert_eq!(found, expected);
    }
}
