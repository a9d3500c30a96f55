//! What the node API says of volumes that outlive pods.

use hearth_core::ids::Key;
use hearth_core::volumes::{Backing, HostPathKind, Location};
use hearth_proto::node::v1 as proto;
use hearth_proto::node::v1::session_request::Request;
use hearth_telemetry::ErrorChain;

use super::SessionPods;
use crate::volumes::{OwnVolumes, VolumeError};

/// Takes in where volumes are; gives any other request back.
pub(super) fn located<P: SessionPods>(
    pods: &P,
    request: proto::SessionRequest,
) -> Option<proto::SessionRequest> {
    match request.request {
        Some(Request::Locations(list)) => {
            pods.keep_locations(&list.claims.into_iter().map(key).collect());
            None
        }
        Some(Request::Location(told)) => {
            if let Some(claim) = told.claim.map(key) {
                if told.wanted {
                    pods.set_location(claim, told.location.and_then(location));
                } else {
                    pods.forget_location(&claim);
                }
            }
            None
        }
        _ => Some(request),
    }
}

fn key(claim: proto::ClaimKey) -> Key {
    Key::new(claim.namespace, claim.name)
}

/// `None` for a backing of a later version of the API, which cannot be mounted.
fn location(told: proto::Location) -> Option<Location> {
    use proto::location::Backing as Told;
    let backing = match told.backing? {
        Told::Own(proto::OwnDirectory {}) => Backing::Ours,
        Told::LocalPath(path) => Backing::Local(path),
        Told::HostPath(proto::HostPath { path, create }) => {
            let kind = if create {
                HostPathKind::DirectoryOrCreate
            } else {
                HostPathKind::Directory
            };
            Backing::HostPath(path, kind)
        }
    };
    Some(Location {
        volume: told.volume,
        backing,
    })
}

/// Makes a directory for a volume.
pub(super) async fn make(
    volumes: &OwnVolumes,
    request: proto::MakeVolumeRequest,
) -> proto::MakeVolumeReply {
    let volumes = volumes.clone();
    let proto::MakeVolumeRequest { volume, bytes } = request;
    let made = blocking(move || volumes.make(&volume, bytes)).await;
    match made {
        Ok(path) => proto::MakeVolumeReply {
            path: path.to_string_lossy().into_owned(),
            error: String::new(),
        },
        Err(error) => proto::MakeVolumeReply {
            path: String::new(),
            error,
        },
    }
}

/// Takes the directory of a volume away.
pub(super) async fn wipe(
    volumes: &OwnVolumes,
    request: proto::WipeVolumeRequest,
) -> proto::WipeVolumeReply {
    let volumes = volumes.clone();
    let proto::WipeVolumeRequest { volume } = request;
    let wiped = blocking(move || volumes.wipe(&volume)).await;
    proto::WipeVolumeReply {
        error: wiped.err().unwrap_or_default(),
    }
}

async fn blocking<T: Send + 'static>(
    call: impl FnOnce() -> Result<T, VolumeError> + Send + 'static,
) -> Result<T, String> {
    match tokio::task::spawn_blocking(call).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) => {
            tracing::warn!(error = %ErrorChain(&error), "a volume could not be made or wiped");
            Err(ErrorChain(&error).to_string())
        }
        Err(error) => Err(ErrorChain(&error).to_string()),
    }
}
