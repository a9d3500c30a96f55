//! The node's images: pulled with the pods' credentials, each once however many pods wait for it.
//!
//! [`Images`] is what pods ask for their images. It knows who may use what is there (`hearth_core::images::Access`), tries a
//! pod's credentials in turn, and pulls only so many images at once: what is pulled ahead of need never takes the last
//! turn. A pull under way is shared by all who want the same image with the same credentials; it ends when nobody waits
//! for it any more.

mod keeper;
mod metrics;
mod notes;
mod pull;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;

use hearth_core::images::{Keyring, Standing, Stored, repository};
use hearth_core::podspec::PullPolicy;
use hearth_core::sandbox::Priority;
use hearth_cri::{CriError, ImageStore, v1};
use hearth_telemetry::ErrorChain;
use parking_lot::{Mutex, RwLock};
use thiserror::Error;
use tokio::sync::Semaphore;

pub use hearth_core::images::Thresholds;
pub use hearth_core::storage::PressureRules;
pub use keeper::DiskRules;
pub(crate) use keeper::{DiskKeeper, disk_of};
pub use metrics::ImageMetrics;
use notes::{NoteError, Notes};
use pull::{Shared, Wanted};

/// How images are pulled on this node.
#[derive(Clone, Debug)]
pub struct ImageConfig {
    /// Images that are pulled at once; at least 1.
    pub max_parallel_pulls: usize,
    /// Where it is kept who may use which image; `None`: in memory only.
    pub notes: Option<PathBuf>,
}

/// The node's images. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Images {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    store: Arc<dyn ImageStore>,
    notes: Notes,
    /// Images of the node's archives, by their whole names.
    own: RwLock<BTreeSet<String>>,
    pulls: Mutex<HashMap<Wanted, Shared>>,
    turns: Semaphore,
    /// Turns for what nobody waits for; fewer than there are in all, unless there is only one.
    background: Semaphore,
    metrics: ImageMetrics,
}

/// An image that a pod wants, and what it brings.
#[derive(Clone, Copy, Debug)]
pub struct Want<'a> {
    /// The image, as the pod names it.
    pub image: &'a str,
    /// When it is pulled.
    pub policy: PullPolicy,
    /// The pod's credentials.
    pub keyring: &'a Keyring,
}

/// Why a pod cannot have an image.
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum ImageError {
    /// The runtime could not be asked.
    #[error("look for image {image}")]
    Look {
        /// The image.
        image: String,
        /// Why.
        #[source]
        source: Arc<CriError>,
    },
    /// It is not there, and must not be pulled.
    #[error("image {image} is not on this node, and its imagePullPolicy is Never")]
    Absent {
        /// The image.
        image: String,
    },
    /// It is there for others, and must not be pulled.
    #[error(
        "image {image} is on this node, but was pulled with credentials that the pod does not have, and its imagePullPolicy is Never"
    )]
    Withheld {
        /// The image.
        image: String,
    },
    /// The registry, or the way to it, refused it.
    #[error("ImagePullBackOff: image {image} could not be pulled: {answers}")]
    Pull {
        /// The image.
        image: String,
        /// What was answered, for each credential that was tried.
        answers: String,
    },
    /// It could not be kept who may use it, so that it was not pulled.
    #[error("ImagePullBackOff: image {image} was not pulled")]
    Note {
        /// The image.
        image: String,
        /// Why.
        #[source]
        source: Arc<NoteError>,
    },
}

impl Images {
    /// The images of `store`. What is kept of earlier pulls is read at once.
    #[must_use]
    pub fn new(store: Arc<dyn ImageStore>, config: &ImageConfig, metrics: ImageMetrics) -> Self {
        let turns = config.max_parallel_pulls.max(1);
        Self {
            inner: Arc::new(Inner {
                store,
                notes: Notes::open(config.notes.clone()),
                own: RwLock::default(),
                pulls: Mutex::default(),
                turns: Semaphore::new(turns),
                background: Semaphore::new((turns - 1).max(1)),
                metrics,
            }),
        }
    }

    /// These images are from archives of the node's: everybody may use them.
    pub fn set_own(&self, names: impl IntoIterator<Item = String>) {
        let names = names.into_iter();
        *self.inner.own.write() = names
            .map(|name| hearth_core::images::normalized(&name))
            .collect();
    }

    /// Whether one of these is a name of an image from an archive of the node's.
    pub(crate) fn is_own(&self, names: &[String]) -> bool {
        let own = self.inner.own.read();
        names.iter().any(|name| own.contains(name))
    }

    /// These are the images that are there: of the others it is forgotten who may use them.
    async fn keep_notes_of(&self, images: &[Stored]) {
        let there: BTreeSet<&str> = images.iter().map(|image| image.id.as_str()).collect();
        let kept = self
            .inner
            .notes
            .change(|access| access.retain(|id| there.contains(id)));
        if let Err(error) = kept.await {
            // They are forgotten the next time.
            tracing::warn!(error = %ErrorChain(&error), "who may use which image could not be kept");
        }
    }

    fn store(&self) -> Arc<dyn ImageStore> {
        Arc::clone(&self.inner.store)
    }

    fn metrics(&self) -> &ImageMetrics {
        &self.inner.metrics
    }

    /// The image as the runtime has it; `None` when it has not.
    ///
    /// # Errors
    /// When the runtime cannot be asked.
    pub async fn status(&self, image: &str) -> Result<Option<v1::Image>, ImageError> {
        let status = self.inner.store.image_status(image).await;
        status.map_err(|source| ImageError::Look {
            image: image.to_owned(),
            source: Arc::new(source),
        })
    }

    /// Whether the pod can have the image without a pull.
    ///
    /// # Errors
    /// When it can neither have nor pull it, and when the runtime cannot be asked.
    pub async fn is_usable(&self, want: Want<'_>) -> Result<bool, ImageError> {
        let image = || want.image.to_owned();
        if want.policy == PullPolicy::Always {
            return Ok(false);
        }
        let there = self.status(want.image).await?;
        let standing = there.map(|there| self.standing(&there, want));
        match (standing, want.policy) {
            (Some(Standing::Usable), _) => Ok(true),
            (None, PullPolicy::Never) => Err(ImageError::Absent { image: image() }),
            (Some(Standing::Withheld), PullPolicy::Never) => {
                Err(ImageError::Withheld { image: image() })
            }
            _ => Ok(false),
        }
    }

    fn standing(&self, there: &v1::Image, want: Want<'_>) -> Standing {
        // Under any of its names: what came with an archive has often one more.
        let is_own = there.pinned || self.is_own(&there.repo_tags);
        let found = want.keyring.for_repository(&repository(want.image));
        let known: Vec<_> = found
            .into_iter()
            .map(|credential| self.inner.notes.fingerprint(credential))
            .collect();
        let notes = self.inner.notes.access();
        notes.standing(&there.id, want.image, &known, is_own)
    }

    /// Pulls the image, unless the pod can have it without.
    ///
    /// # Errors
    /// Names the image, and the registry's answers.
    pub async fn fetch(
        &self,
        want: Want<'_>,
        priority: Priority,
        sandbox: Option<v1::PodSandboxConfig>,
    ) -> Result<(), ImageError> {
        if self.is_usable(want).await? {
            return Ok(());
        }
        let found = want.keyring.for_repository(&repository(want.image));
        let wanted = Wanted {
            image: want.image.to_owned(),
            credentials: found.into_iter().cloned().collect(),
            priority,
        };
        let pulled = pull::shared(&self.inner, wanted, sandbox).await;
        pulled.map_err(|error| error.with_notes(&want.keyring.notes))
    }
}

impl ImageError {
    /// With what else may have gone wrong.
    fn with_notes(self, notes: &[String]) -> Self {
        match self {
            Self::Pull { image, answers } if !notes.is_empty() => Self::Pull {
                image,
                answers: format!("{answers}; of imagePullSecrets: {}", notes.join("; ")),
            },
            other => other,
        }
    }
}
