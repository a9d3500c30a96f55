//! The images of a pod's containers.

use hearth_core::images::{Keyring, Needed};
use hearth_core::podspec::{ContainerPlan, PodPlan};
use hearth_core::sandbox::{Learned, Priority};
use hearth_cri::{CriError, v1};

use super::cell::Made;
use super::manager::PodManager;
use super::work::{NOTHING, Problem, Result, Subject};
use crate::images::{ImageError, Want};

impl Subject {
    /// Whether all that the container is made from is there.
    pub(super) async fn image(&self, container: &ContainerPlan) -> Result<Learned> {
        let keyring = self.keyring(&self.pod()?.plan)?;
        for want in wants(&self.pod()?.plan, container, &keyring) {
            let usable = self.shared.images.is_usable(want).await;
            if !usable.map_err(|error| of_container(container, &error))? {
                return Ok(Learned::Image(false));
            }
        }
        Ok(Learned::Image(true))
    }

    /// Pulls what is not.
    pub(super) async fn pull(&self, container: &ContainerPlan) -> Result<Learned> {
        let pod = self.pod()?;
        let keyring = self.keyring(&pod.plan)?;
        for want in wants(&pod.plan, container, &keyring) {
            let sandbox = self.sandbox_config(pod.attempt)?;
            let images = &self.shared.images;
            let pulled = images.fetch(want, Priority::Wanted, Some(sandbox)).await;
            // Pulling twice does no harm, so that an unknown outcome is a failure like others.
            pulled.map_err(|error| of_container(container, &error))?;
        }
        NOTHING
    }

    /// Pulls the images of a pod that is to be made for stock, before its turn comes: what waits for a registry takes up
    /// no turn and no address. What cannot be pulled is said when the pod needs it.
    pub(super) async fn pull_ahead(&self, plan: &PodPlan) {
        // Without its Secrets there would be no pod either.
        let Ok(keyring) = self.keyring(plan) else {
            return;
        };
        for container in &plan.containers {
            for want in wants(plan, container, &keyring) {
                let images = &self.shared.images;
                if let Err(error) = images.fetch(want, Priority::Background, None).await {
                    let error = hearth_telemetry::ErrorChain(&error);
                    tracing::debug!(sandbox = %self.key, %error, "an image was not pulled ahead");
                }
            }
        }
    }

    fn keyring(&self, plan: &PodPlan) -> Result<Keyring> {
        let configs = self.shared.configs.of(&self.key, plan);
        plan.keyring(&configs).map_err(|error| Problem::of(&error))
    }
}

impl PodManager {
    /// The images that sandboxes of this node name: of the pods there are, and of those that would be made.
    pub(crate) fn named_images(&self) -> Needed {
        let mut needed = Needed::default();
        for cell in self.shared.cells.read().values() {
            let Made { plan, wanted, .. } = cell.made();
            for plan in plan.iter().chain(&wanted) {
                plan.images().for_each(|image| needed.name(image));
            }
        }
        needed
    }

    /// These, and those that containers were made from, whoever's they are.
    pub(crate) async fn needed_images(&self) -> std::result::Result<Needed, CriError> {
        let containers = self
            .shared
            .runtime
            .list_containers(v1::ContainerFilter::default());
        let containers = containers.await?;
        let mut needed = self.named_images();
        for container in containers {
            needed.id(&container.image_ref);
            needed.id(&container.image_id);
        }
        Ok(needed)
    }
}

/// The images that a container is made from.
fn wants<'a>(
    plan: &'a PodPlan,
    container: &'a ContainerPlan,
    keyring: &'a Keyring,
) -> impl Iterator<Item = Want<'a>> {
    let images = plan.images_of(container);
    images.map(|(image, policy)| Want {
        image,
        policy,
        keyring,
    })
}

fn of_container(container: &ContainerPlan, error: &ImageError) -> Problem {
    Problem::of(error).of_one("container", &container.name)
}
