//! Variables that containers of a pod have written into files.

use std::fmt::Display;
use std::path::Path;
use std::time::Duration;

use hearth_core::podspec::{ContainerPlan, EnvFiles};
use hearth_sys::file::read_within;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::work::{Problem, Result, Subject};

/// Most bytes of such a file: as many as an environment has at most.
const FILE_MAX: u64 = 2 << 20;
/// How long reading one may take.
const READ_WITHIN: Duration = Duration::from_secs(5);

impl Subject {
    /// The container with the variables that are in files by now. What lies in a volume is the pod's to say, so that a path
    /// leads nowhere out of it.
    pub(super) async fn with_env_files(&self, container: &ContainerPlan) -> Result<ContainerPlan> {
        let wanted = container.env_files();
        let volumes = self.shared.host.volumes(&self.pod()?.uid);
        let mut files = EnvFiles::new();
        for place in wanted {
            let (top, path) = (volumes.join(&place.0), place.1.clone());
            let read = spawn_blocking(move || read_within(&top, Path::new(&path), FILE_MAX));
            let failed = |error: &dyn Display| {
                let (volume, path) = &place;
                Problem::Failed(format!("file {path} of volume {volume}: {error}"))
            };
            // The turn to make containers is held meanwhile.
            let Ok(read) = timeout(READ_WITHIN, read).await else {
                return Err(failed(&format_args!("not read within {READ_WITHIN:?}")));
            };
            let read = read.map_err(|error| Problem::of(&error))?;
            let read = read.map_err(|error| failed(&error))?;
            files.insert(place, read);
        }
        let container = container.with_env_files(&files);
        container.map_err(|missing| Problem::Failed(missing.to_string()))
    }
}
