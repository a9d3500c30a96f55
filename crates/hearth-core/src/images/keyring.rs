//! Credentials for registries, from the Secrets that a pod names, chosen by a kubelet's rules.
//!
//! A Secret has them by registry: a host, perhaps with a port and the beginning of a path, in which a part of the host's
//! name may be a pattern (`*.registry.test`). All that match an image are tried, the most specific first; those for the
//! default registry stand under its old name.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::Deserialize;

use crate::podspec::{CannotMake, Config, ConfigKind, ConfigRef, Configs, PodPlan};

/// Keys of Secrets of the types `kubernetes.io/dockerconfigjson` and `kubernetes.io/dockercfg`.
const CONFIG_JSON: &str = ".dockerconfigjson";
const CONFIG: &str = ".dockercfg";
/// What the default registry is called in credentials.
const DEFAULT_REGISTRY: &str = "index.docker.io";

/// A user and password for a registry.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Credential {
    /// The Secret that it is from.
    pub secret: String,
    /// The user.
    pub username: String,
    /// The password.
    pub password: String,
}

/// Never what is secret.
impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential")
            .field("secret", &self.secret)
            .finish_non_exhaustive()
    }
}

/// The credentials that a pod brings, by registry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keyring {
    /// In the order in which they are tried: more specific names first, then as the pod names them.
    keys: Vec<(String, Credential)>,
    /// Secrets that are of no use, and why. Said when a pull fails: the image may need none.
    pub notes: Vec<String>,
}

#[derive(Deserialize)]
struct ConfigJson {
    auths: BTreeMap<String, Entry>,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
    #[serde(default)]
    auth: String,
}

impl PodPlan {
    /// The credentials of the pod's `imagePullSecrets`. Secrets that are not there, or hold none, are passed over.
    ///
    /// # Errors
    /// When nothing was heard of one of them yet.
    pub fn keyring(&self, configs: &Configs) -> Result<Keyring, CannotMake> {
        let mut keyring = Keyring::default();
        for name in &self.pull_secrets {
            let config = ConfigRef::new(ConfigKind::Secret, name);
            match configs.get(&config, true)? {
                Some(secret) => keyring.add(name, secret),
                None => keyring.notes.push(format!("{config} not found")),
            }
        }
        Ok(keyring)
    }
}

impl Keyring {
    fn add(&mut self, name: &str, secret: &Config) {
        match entries(secret) {
            Ok(entries) => {
                for (registry, (username, password)) in entries {
                    let credential = Credential {
                        secret: name.to_owned(),
                        username,
                        password,
                    };
                    self.keys.push((key_of(&registry), credential));
                }
                // Stable: what has the same name stays in the order of the Secrets.
                self.keys.sort_by(|(a, _), (b, _)| b.cmp(a));
            }
            Err(why) => self.notes.push(format!("Secret {name:?} {why}")),
        }
    }

    /// The credentials to try for an image, in order, given its repository; none: it is pulled without.
    #[must_use]
    pub fn for_repository(&self, repository: &str) -> Vec<&Credential> {
        let by = |matches: &dyn Fn(&str) -> bool| -> Vec<&Credential> {
            let keys = self.keys.iter().filter(|(key, _)| matches(key));
            keys.map(|(_, credential)| credential).collect()
        };
        let found = by(&|key| covers(key, repository));
        if found.is_empty() && repository.starts_with("docker.io/") {
            return by(&|key| key == DEFAULT_REGISTRY);
        }
        found
    }
}

type Entries = Vec<(String, (String, String))>;

fn entries(secret: &Config) -> Result<Entries, String> {
    let not_json = |key, error| format!("has no credentials in {key}: {error}");
    let entries = if let Some(text) = secret.data.get(CONFIG_JSON) {
        let config = serde_json::from_slice::<ConfigJson>(text);
        config.map_err(|error| not_json(CONFIG_JSON, error))?.auths
    } else if let Some(text) = secret.data.get(CONFIG) {
        serde_json::from_slice(text).map_err(|error| not_json(CONFIG, error))?
    } else {
        return Err(format!("has neither {CONFIG_JSON} nor {CONFIG}"));
    };
    let read = |(registry, entry): (String, Entry)| {
        let login = entry.login();
        let login = login.map_err(|why| format!("has for {registry} {why}"))?;
        Ok((registry, login))
    };
    entries.into_iter().map(read).collect()
}

impl Entry {
    /// User and password; `auth` has both and goes before the others.
    fn login(self) -> Result<(String, String), &'static str> {
        const WRONG: &str = "an auth that is not user:password in base64";
        if self.auth.is_empty() {
            return Ok((self.username, self.password));
        }
        let config =
            GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
        let decoded = GeneralPurpose::new(&STANDARD, config).decode(self.auth.trim());
        let text = String::from_utf8(decoded.map_err(|_| WRONG)?).map_err(|_| WRONG)?;
        let (user, password) = text.split_once(':').ok_or(WRONG)?;
        Ok((user.to_owned(), password.to_owned()))
    }
}

/// A registry as credentials name it, without scheme and version of its API.
fn key_of(registry: &str) -> String {
    let bare = registry
        .strip_prefix("https://")
        .or_else(|| registry.strip_prefix("http://"))
        .unwrap_or(registry);
    let bare = bare.split(['?', '#']).next().unwrap_or(bare);
    let (host, path) = split(bare);
    let path = match path.get(..4) {
        Some("/v1/" | "/v2/") => &path[3..],
        _ => path,
    };
    if path == "/" {
        host.to_owned()
    } else {
        format!("{host}{path}")
    }
}

/// Host and path, the latter with its `/`.
fn split(name: &str) -> (&str, &str) {
    name.split_at(name.find('/').unwrap_or(name.len()))
}

/// Whether credentials for `key` are for this repository: the host's name matches part by part, the port is the same, and
/// the path begins alike.
fn covers(key: &str, repository: &str) -> bool {
    let ((key_host, key_path), (host, path)) = (split(key), split(repository));
    let ((key_name, key_port), (name, port)) = (port(key_host), port(host));
    let (key_parts, parts) = (key_name.split('.'), name.split('.'));
    key_port == port
        && path.starts_with(key_path)
        && key_parts.clone().count() == parts.clone().count()
        && key_parts
            .zip(parts)
            .all(|(pattern, part)| matches(pattern, part))
}

fn port(host: &str) -> (&str, &str) {
    host.rsplit_once(':').unwrap_or((host, ""))
}

/// Whether `text` matches a pattern of shells: `*`, `?` and sets such as `[a-z]`. One that is malformed matches nothing. In
/// a time that is the product of both lengths at most: the texts are strangers'.
fn matches(pattern: &str, text: &str) -> bool {
    let Some(signs) = signs(pattern) else {
        return false;
    };
    let text: Vec<char> = text.chars().collect();
    let (mut sign, mut at) = (0, 0);
    // After the last `*`, and how far it reaches.
    let mut again = None;
    while at < text.len() {
        match signs.get(sign) {
            Some(Sign::Any) => {
                sign += 1;
                again = Some((sign, at));
            }
            Some(one) if text.get(at).is_some_and(|c| one.is(*c)) => {
                sign += 1;
                at += 1;
            }
            _ => match &mut again {
                Some((after, reach)) => {
                    *reach += 1;
                    (sign, at) = (*after, *reach);
                }
                None => return false,
            },
        }
    }
    signs.iter().skip(sign).all(|sign| *sign == Sign::Any)
}

/// A sign of a pattern.
#[derive(PartialEq)]
enum Sign<'a> {
    Any,
    One,
    Set(&'a str),
    Literal(char),
}

impl Sign<'_> {
    /// Whether it stands for this one.
    fn is(&self, c: char) -> bool {
        match self {
            Self::Any => false,
            Self::One => true,
            Self::Set(set) => in_set(set, c),
            Self::Literal(literal) => *literal == c,
        }
    }
}

/// The signs of a pattern; `None` when it is malformed.
fn signs(pattern: &str) -> Option<Vec<Sign<'_>>> {
    let mut signs = Vec::new();
    let mut rest = pattern;
    while let Some(first) = rest.chars().next() {
        rest = &rest[first.len_utf8()..];
        signs.push(match first {
            '*' => Sign::Any,
            '?' => Sign::One,
            '[' => {
                let (set, after) = rest.split_once(']')?;
                rest = after;
                Sign::Set(set)
            }
            literal => Sign::Literal(literal),
        });
    }
    Some(signs)
}

fn in_set(set: &str, c: char) -> bool {
    let (set, negated) = match set.strip_prefix('^') {
        Some(set) => (set, true),
        None => (set, false),
    };
    let chars: Vec<char> = set.chars().collect();
    let mut rest = chars.as_slice();
    let mut found = false;
    while let Some((first, after)) = rest.split_first() {
        (found, rest) = match after {
            ['-', last, after @ ..] => (found || (*first..=*last).contains(&c), after),
            _ => (found || *first == c, after),
        };
    }
    found != negated
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};
    use std::sync::Arc;

    fn secret(key: &str, content: &Value) -> Config {
        Config {
            version: "1".to_owned(),
            data: [(key.to_owned(), content.to_string().into_bytes())].into(),
        }
    }

    fn login(user: &str) -> Value {
        json!({"username": user, "password": "p"})
    }

    fn keyring(auths: &Value) -> Keyring {
        let mut keyring = Keyring::default();
        keyring.add("s", &secret(CONFIG_JSON, &json!({ "auths": auths })));
        assert_eq!(keyring.notes, [""; 0]);
        keyring
    }

    fn users(keyring: &Keyring, image: &str) -> Vec<String> {
        let found = keyring.for_repository(&crate::images::repository(image));
        found.iter().map(|found| found.username.clone()).collect()
    }

    #[test]
    fn credentials_are_for_their_host_port_and_path() {
        for (registry, image, expect) in [
            ("registry.test", "registry.test/a:1", true),
            ("https://registry.test", "registry.test/a", true),
            ("http://registry.test/v2/", "registry.test/a", true),
            ("registry.test/v1/team", "registry.test/team/a", true),
            ("registry.test", "other.test/a", false),
            ("registry.test", "registry.test:5000/a", false),
            ("registry.test:5000", "registry.test:5000/a", true),
            ("registry.test/team", "registry.test/team/a", true),
            ("registry.test/team", "registry.test/other/a", false),
            ("*.test", "registry.test/a", true),
            ("*.test", "deep.registry.test/a", false),
            ("*.*.test", "deep.registry.test/a", true),
            ("reg*.test", "registry.test/a", true),
            // A kubelet takes what follows for a query.
            ("r?gistry.test", "registry.test/a", false),
            ("[a-s]egistry.test", "registry.test/a", true),
            ("[^r]egistry.test", "registry.test/a", false),
            ("[registry.test", "registry.test/a", false),
            ("docker.io", "busybox", true),
            ("index.docker.io", "busybox", true),
            ("https://index.docker.io/v1/", "team/app:2", true),
            ("https://index.docker.io/v1/", "registry.test/app", false),
            ("docker.io/team", "team/app", true),
            ("docker.io/team", "busybox", false),
        ] {
            let found = !users(&keyring(&json!({registry: login("u")})), image).is_empty();
            assert_eq!(found, expect, "{registry} for {image}");
        }
    }

    #[test]
    fn the_most_specific_go_first_and_secrets_in_their_order() {
        let mut keyring = keyring(&json!({
            "*.test": login("any"),
            "registry.test": login("host"),
            "registry.test/team": login("team"),
        }));
        let more = json!({"auths": {"registry.test": login("second")}});
        keyring.add("t", &secret(CONFIG_JSON, &more));
        let image = "registry.test/team/app";
        assert_eq!(users(&keyring, image), ["team", "host", "second", "any"]);
    }

    #[test]
    fn user_and_password_may_stand_in_one_and_in_the_old_form() {
        let coded = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
        let mut auths = Keyring::default();
        let entry = json!({"registry.test": {"username": "not", "auth": coded("me:se:cret")}});
        auths.add("s", &secret(CONFIG, &entry));
        let found = auths.for_repository("registry.test/a");
        assert_eq!(
            (&*found[0].username, &*found[0].password),
            ("me", "se:cret")
        );
        let unpadded = coded("ab:c").trim_end_matches('=').to_owned();
        assert_eq!(
            users(&keyring(&json!({"r.test": {"auth": unpadded}})), "r.test/a"),
            ["ab"]
        );
        assert!(!format!("{found:?}").contains("se:cret"));
    }

    #[test]
    fn a_secret_that_is_of_no_use_is_named() {
        for (content, why) in [
            (
                secret("token", &json!("x")),
                "has neither .dockerconfigjson nor .dockercfg",
            ),
            (
                secret(CONFIG_JSON, &json!({"registry.test": {}})),
                "missing field `auths`",
            ),
            (
                secret(
                    CONFIG_JSON,
                    &json!({"auths": {"registry.test": {"auth": "!"}}}),
                ),
                "has for registry.test an auth that is not user:password in base64",
            ),
        ] {
            let mut keyring = Keyring::default();
            keyring.add("s", &content);
            let note = keyring.notes.pop().unwrap();
            assert!(
                note.starts_with("Secret \"s\" has ") && note.contains(why),
                "{note}"
            );
            assert!(keyring.keys.is_empty());
        }
    }

    #[test]
    fn a_pod_goes_on_without_a_secret_that_is_not_there_but_waits_until_that_is_known() {
        let plan = PodPlan {
            pull_secrets: vec!["a".to_owned(), "b".to_owned()],
            ..PodPlan::default()
        };
        let config = |name| ConfigRef::new(ConfigKind::Secret, name);
        let mut configs = Configs::default();
        configs.known.insert(config("a"), None);
        assert!(
            plan.keyring(&configs)
                .unwrap_err()
                .0
                .contains("Secret \"b\"")
        );
        let content = secret(CONFIG, &json!({"registry.test": login("u")}));
        configs.known.insert(config("b"), Some(Arc::new(content)));
        let keyring = plan.keyring(&configs).unwrap();
        assert_eq!(keyring.notes, ["Secret \"a\" not found"]);
        assert_eq!(users(&keyring, "registry.test/x"), ["u"]);
    }

    proptest! {
        #[test]
        fn a_pattern_without_signs_matches_itself_only(text in "[a-z0-9-]{0,12}", other in "[a-z0-9-]{0,12}") {
            prop_assert!(matches(&text, &text));
            prop_assert_eq!(matches(&text, &other), text == other);
            prop_assert!(matches("*", &text));
            let (pattern, around) = (format!("*{text}*"), format!("{other}{text}{other}"));
            prop_assert!(matches(&pattern, &around));
        }

        #[test]
        fn no_text_brings_it_down(pattern in "\\PC{0,12}", text in "\\PC{0,12}") {
            matches(&pattern, &text);
            covers(&key_of(&pattern), &text);
            let _ = crate::images::normalized(&text);
        }
    }
}
