//! Variables that containers of a pod have written into files.

use std::path::Path;

use hearth_core::podspec::{ContainerPlan, EnvFiles};
use hearth_sys::file::read_within;
use tokio::task::spawn_blocking;

use super::work::{Problem, Result, Subject};

/// Most bytes of such a file: as many as an environment has at most.
const FILE_MAX: u64 = 2 << 20;

impl Subject {
    /// The container with the variables that are in files by now. What lies in a volume is the pod's to say, so that a path
    /// leads nowhere out of it.
    pub(super) async fn with_env_files(&self, container: &ContainerPlan) -> Result<ContainerPlan> {
        let wanted = container.env_files();
        let volumes = self.shared.host.volumes(&self.pod()?.uid);
        let mut files = EnvFiles::new();
        for place in wanted {
            let (top, path) = (volumes.join(&place.0), place.1.clone());
            let read = spawn_blocking(move || read_within(&top, Path::new(&path), FILE_MAX)).await;
            let read = read.map_err(|error| Problem::of(&error))?;
            let read = read.map_err(|error| {
                let (volume, path) = &place;
                Problem::Failed(format!("file {path} of volume {volume}: {error}"))
            })?;
            files.insert(place, read);
        }
        let container = container.with_env_files(&files);
        container.map_err(|missing| Problem::Failed(missing.to_string()))
    }
}
