//! Who may use an image that is on the node.
//!
//! An image that a pod pulled with its credentials is there for all to see, and a pod without them must not come by it
//! only because it is late. So it is noted of each image that was pulled, by repository, with what: everybody may use
//! what was pulled without credentials, and otherwise whoever brings the same ones. Whoever may not has to pull it
//! themselves, which asks the registry. What was never pulled here (an archive of the node's) is everybody's. The rules are
//! those of a kubelet with the policy `NeverVerifyPreloadedImages`.
//!
//! Credentials stand here as fingerprints, which whoever keeps this makes with a secret of the node's.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{normalized, repository};

/// What is noted of the images of a node. Kept on disk, so that fields may be added with a default but never change their
/// meaning.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Access {
    /// By image id and repository.
    pulled: BTreeMap<String, BTreeMap<String, Grant>>,
    /// Images that are being pulled with credentials: they may be there before that is noted.
    pulling: BTreeSet<String>,
    /// Whether notes were lost, so that nothing can be taken for an archive's.
    lost: bool,
}

/// Who may use an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Grant {
    Everybody,
    /// Who brings one of these credentials.
    With(BTreeSet<String>),
}

/// What an image is to a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It may use it.
    Usable,
    /// It was pulled with credentials that the pod does not have: it has to ask the registry.
    Withheld,
}

impl Access {
    /// When the notes of earlier could not be read: of each image that is there, nobody knows who may use it.
    #[must_use]
    pub fn lost() -> Self {
        Self {
            lost: true,
            ..Self::default()
        }
    }

    /// Whether a pod with these credentials may use the image called `image`, whose id is `id`. `own`: it came from an
    /// archive of the node's.
    #[must_use]
    pub fn standing(&self, id: &str, image: &str, credentials: &[String], own: bool) -> Standing {
        let allowed = match self.pulled.get(id) {
            Some(grants) => match grants.get(&repository(image)) {
                Some(Grant::Everybody) => true,
                Some(Grant::With(known)) => credentials.iter().any(|one| known.contains(one)),
                None => own,
            },
            None => own || !(self.lost || self.pulling.contains(&normalized(image))),
        };
        if allowed {
            Standing::Usable
        } else {
            Standing::Withheld
        }
    }

    /// The image is about to be pulled with credentials. Returns whether that is news to be kept first.
    pub fn pulling(&mut self, image: &str) -> bool {
        self.pulling.insert(normalized(image))
    }

    /// The image was pulled, with these credentials or without any. Returns whether that is news to be kept.
    pub fn pulled(&mut self, id: &str, image: &str, credential: Option<String>) -> bool {
        let before = self.clone();
        self.pulling.remove(&normalized(image));
        let grants = self.pulled.entry(id.to_owned()).or_default();
        let grant = grants.entry(repository(image));
        match credential {
            None => {
                grant.insert_entry(Grant::Everybody);
            }
            Some(credential) => match grant.or_insert(Grant::With(BTreeSet::new())) {
                Grant::Everybody => {}
                Grant::With(known) => {
                    known.insert(credential);
                }
            },
        }
        *self != before
    }

    /// Forgets images that are not there any more. Returns whether any was known.
    pub fn retain(&mut self, is_there: impl Fn(&str) -> bool) -> bool {
        let before = self.pulled.len();
        self.pulled.retain(|id, _| is_there(id));
        self.pulled.len() != before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IMAGE: &str = "registry.test/team/app:1";

    fn usable(access: &Access, image: &str, credentials: &[&str]) -> bool {
        let credentials: Vec<_> = credentials.iter().map(|&one| one.to_owned()).collect();
        access.standing("id", image, &credentials, false) == Standing::Usable
    }

    #[test]
    fn what_was_pulled_with_credentials_is_for_those_who_have_them() {
        let mut access = Access::default();
        assert!(usable(&access, IMAGE, &[]), "from an archive");
        assert!(access.pulling(IMAGE) && !access.pulling(IMAGE));
        assert!(
            !usable(&access, IMAGE, &["a"]),
            "nobody knows how far it came"
        );
        assert!(access.pulled("id", IMAGE, Some("a".to_owned())));
        assert!(!access.pulled("id", IMAGE, Some("a".to_owned())));
        for (credentials, expect) in [
            (&[][..], false),
            (&["b"], false),
            (&["a"], true),
            (&["b", "a"], true),
        ] {
            assert_eq!(
                usable(&access, IMAGE, credentials),
                expect,
                "{credentials:?}"
            );
        }
        assert!(
            usable(&access, "registry.test/team/app:2", &["a"]),
            "a tag is no border"
        );
        assert!(
            !usable(&access, "registry.test/other/app:1", &["a"]),
            "a repository is"
        );
        access.pulled("id", IMAGE, Some("b".to_owned()));
        assert!(usable(&access, IMAGE, &["a"]) && usable(&access, IMAGE, &["b"]));
    }

    #[test]
    fn what_was_pulled_without_is_for_everybody_from_then_on() {
        let mut access = Access::default();
        access.pulled("id", IMAGE, Some("a".to_owned()));
        assert!(access.pulled("id", IMAGE, None));
        assert!(usable(&access, IMAGE, &[]));
        access.pulled("id", IMAGE, Some("a".to_owned()));
        assert!(usable(&access, IMAGE, &[]));
    }

    #[test]
    fn an_archive_of_the_nodes_is_everybodys() {
        let mut access = Access::lost();
        let own = |access: &Access| access.standing("id", IMAGE, &[], true) == Standing::Usable;
        assert!(!usable(&access, IMAGE, &[]) && own(&access));
        // The same image, from elsewhere.
        access.pulled("id", "registry.test/other:1", Some("a".to_owned()));
        assert!(own(&access));
        assert!(!usable(&access, IMAGE, &["a"]));
    }

    #[test]
    fn an_image_that_went_is_forgotten() {
        let mut access = Access::default();
        access.pulled("id", IMAGE, Some("a".to_owned()));
        assert!(!access.retain(|id| id == "id"));
        assert!(access.retain(|_| false));
        assert_eq!(access, Access::default());
    }
}
