//! Tokens of the pod's ServiceAccount in its volumes.

use super::config::{ConfigKind, ConfigRef};
use super::files::{DEFAULT_MODE, FileSource, FilesPlan, KeyFile, file_path};
use super::late::{EnvSource, PodField};
use super::plan::{MountPlan, PodPlan, VolumePlan};
use super::read::At;
use crate::tokens::{DEFAULT_SECONDS, LEAST_SECONDS, MOST_SECONDS, TokenRequest};

/// The ConfigMap by which each namespace has the certificate of the API server's authority.
pub(super) const ROOT_CA: &str = "kube-root-ca.crt";
/// Where programs look for their token.
const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// Prefix of the names by which the API server's admission knows its own volume in a Pod.
const VOLUME_PREFIX: &str = "kube-api-access-";
const UNKNOWN: &str = "this node does not do it yet; remove it";

/// A `serviceAccountToken` source of a projected volume.
pub(super) fn projected(at: &At<'_>, account: &str) -> FileSource {
    let mut request = TokenRequest {
        account: account.to_owned(),
        seconds: DEFAULT_SECONDS,
        ..TokenRequest::default()
    };
    let mut path = String::new();
    at.each_field(|name, at| match name {
        "audience" => request.audience = at.string(),
        "expirationSeconds" => request.seconds = seconds(&at),
        "path" => path = file_path(&at),
        _ => at.refuse(UNKNOWN),
    });
    if path.is_empty() {
        at.missing("path");
    }
    FileSource::Token {
        key: request.key(),
        path,
    }
}

fn seconds(at: &At<'_>) -> u64 {
    let (least, most) = (LEAST_SECONDS.cast_signed(), MOST_SECONDS.cast_signed());
    at.number(least, most).unsigned_abs()
}

/// What a pod gets that does not decline it: a volume with a token of its account and what else it takes to ask the API
/// server, in each container that has nothing else there.
pub(super) fn automount(plan: &mut PodPlan, account: &str) {
    let own = plan.volumes.iter().map(|volume| volume.name.clone());
    let own = own.into_iter().find(|name| name.starts_with(VOLUME_PREFIX));
    let is_new = own.is_none();
    let volume = own.unwrap_or_else(|| format!("{VOLUME_PREFIX}hearth"));
    let mut mounted = false;
    for container in &mut plan.containers {
        if container
            .mounts
            .iter()
            .any(|mount| mount.path == MOUNT_PATH)
        {
            continue;
        }
        mounted = true;
        container.mounts.push(MountPlan {
            volume: volume.clone(),
            path: MOUNT_PATH.to_owned(),
            read_only: true,
            ..MountPlan::default()
        });
    }
    if is_new && mounted {
        plan.volumes.push(VolumePlan {
            name: volume,
            memory: true,
            files: Some(api_access(account)),
            ..VolumePlan::default()
        });
    }
}

fn api_access(account: &str) -> FilesPlan {
    let token = FileSource::Token {
        key: TokenRequest::automatic(account).key(),
        path: "token".to_owned(),
    };
    let authority = FileSource::Config {
        config: ConfigRef::new(ConfigKind::ConfigMap, ROOT_CA),
        optional: false,
        items: Some(vec![KeyFile {
            key: "ca.crt".to_owned(),
            path: "ca.crt".to_owned(),
            mode: None,
        }]),
    };
    let namespace = FileSource::Pod {
        path: "namespace".to_owned(),
        value: EnvSource::Field(PodField::Namespace),
        mode: None,
    };
    FilesPlan {
        sources: vec![token, authority, namespace],
        mode: DEFAULT_MODE,
    }
}
