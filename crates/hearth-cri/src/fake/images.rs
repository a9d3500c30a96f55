//! The fake's images.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use k8s_cri::v1;
use tonic::Status;

/// Images in the store, by name, and names that the registry has.
#[derive(Debug, Default)]
pub(super) struct Images {
    stored: BTreeMap<String, v1::Image>,
    /// Whether what is asked for is there.
    every: bool,
    published: BTreeMap<String, Option<Login>>,
}

/// A user and a password.
type Login = (String, String);

impl Images {
    pub(super) fn new(names: &[String], every: bool) -> Self {
        let mut images = Self {
            every,
            ..Self::default()
        };
        names.iter().for_each(|name| images.add(name));
        images
    }

    pub(super) fn add(&mut self, name: &str) {
        let image = v1::Image {
            id: id_of(name),
            repo_tags: vec![name.to_owned()],
            size: 1 << 20,
            ..v1::Image::default()
        };
        self.stored.insert(name.to_owned(), image);
    }

    pub(super) fn publish(&mut self, name: &str, login: Option<(&str, &str)>) {
        let login = login.map(|(user, password)| (user.to_owned(), password.to_owned()));
        self.published.insert(name.to_owned(), login);
    }

    /// The image that somebody asks for, which is there from now on if every image is.
    pub(super) fn ask(&mut self, reference: &str) -> Option<&v1::Image> {
        let is_name = !reference.is_empty() && !reference.starts_with(DIGEST);
        if self.every && is_name && self.find(reference).is_none() {
            self.add(reference);
        }
        self.find(reference)
    }

    /// An image by name or id.
    fn find(&self, reference: &str) -> Option<&v1::Image> {
        self.stored
            .get(reference)
            .or_else(|| self.stored.values().find(|image| image.id == reference))
    }

    pub(super) fn list(&self) -> Vec<v1::Image> {
        self.stored.values().cloned().collect()
    }

    pub(super) fn pull(
        &mut self,
        name: &str,
        auth: Option<&v1::AuthConfig>,
    ) -> Result<String, Status> {
        if self.every {
            self.add(name);
            return Ok(id_of(name));
        }
        let failed = format!(
            "failed to pull and unpack image {name:?}: failed to resolve reference {name:?}"
        );
        let Some(login) = self.published.get(name) else {
            return Err(Status::not_found(format!("{failed}: {name}: not found")));
        };
        let given = auth.map(|auth| (&auth.username, &auth.password));
        if let Some((user, password)) = login
            && given != Some((user, password))
        {
            let why = "pull access denied, repository does not exist or may require authorization";
            return Err(Status::unknown(format!("{failed}: {why}")));
        }
        self.add(name);
        Ok(id_of(name))
    }

    pub(super) fn remove(&mut self, reference: &str) {
        self.stored
            .retain(|name, image| name != reference && image.id != reference);
    }
}

/// What ids begin with.
const DIGEST: &str = "sha256:";

/// An id that looks like a digest and is the same for the same name.
fn id_of(name: &str) -> String {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    format!("{DIGEST}{:064x}", hasher.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_with_every_image_has_it_by_name_and_then_by_id() {
        let mut images = Images::new(&[], true);
        let id = images.ask("registry/agent:1").unwrap().id.clone();
        assert_eq!(images.ask(&id).unwrap().repo_tags, ["registry/agent:1"]);
        assert_eq!(images.pull("registry/agent:1", None).unwrap(), id);
        assert_eq!(images.list().len(), 1);
        assert!(images.ask(&id_of("other")).is_none(), "an id is no name");
        assert!(images.ask("").is_none());
    }

    #[test]
    fn a_store_has_no_other_images_than_its_own() {
        let mut images = Images::new(&["mine".to_owned()], false);
        assert!(images.ask("mine").is_some());
        assert!(images.ask("other").is_none());
        assert!(images.pull("other", None).is_err());
    }
}
