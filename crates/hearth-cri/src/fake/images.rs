//! The fake's images.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use k8s_cri::v1;
use tonic::Status;

/// Images in the store, by name, and names that the registry has.
#[derive(Debug, Default)]
pub(super) struct Images {
    stored: BTreeMap<String, v1::Image>,
    published: BTreeMap<String, Option<Login>>,
}

/// A user and a password.
type Login = (String, String);

impl Images {
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

    /// An image by name or id.
    pub(super) fn find(&self, reference: &str) -> Option<&v1::Image> {
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

/// An id that looks like a digest and is the same for the same name.
fn id_of(name: &str) -> String {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    format!("sha256:{:064x}", hasher.finish())
}
