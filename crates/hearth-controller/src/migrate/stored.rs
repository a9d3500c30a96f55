//! Having the API server store all objects of a kind in the version that there will be.

use futures::StreamExt as _;
use hearth_core::migrate::Verdict;
use hearth_core::migrate::storage::{self, StoragePlan};
use hearth_telemetry::ErrorChain;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{ApiResource, DynamicObject, ListParams, Patch, PatchParams};
use kube::{Api, Client};

use super::calls::{CallError, call};
use super::mover::{FIELD_MANAGER, PAGE};

/// Has the objects of a definition written anew if any may be stored in another version, and says so in its status.
pub(super) async fn bring_up_to_date(
    client: &Client,
    definition: &str,
    at_once: usize,
    dry_run: bool,
) -> Verdict {
    match update(client, definition, at_once, dry_run).await {
        Ok(verdict) => verdict,
        Err(error) => Verdict::Failed(ErrorChain(&error).to_string()),
    }
}

async fn update(
    client: &Client,
    name: &str,
    at_once: usize,
    dry_run: bool,
) -> Result<Verdict, CallError> {
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    let Some(definition) = call(definitions.get_opt(name)).await? else {
        return Ok(Verdict::Unchanged("it is not there".to_owned()));
    };
    let gone = match storage::plan(&definition) {
        StoragePlan::Current => {
            let version = storage::VERSION;
            let why = format!("all of its objects are stored in {version}");
            return Ok(Verdict::Unchanged(why));
        }
        StoragePlan::Blocked(why) => return Ok(Verdict::Blocked(why)),
        StoragePlan::Rewrite { gone } => gone.join(", "),
    };
    if dry_run {
        let step = format!("writing its objects anew, of which some may be stored in {gone}");
        return Ok(Verdict::Would(step));
    }
    let spec = &definition.spec;
    let resource = ApiResource {
        group: spec.group.clone(),
        version: storage::VERSION.to_owned(),
        api_version: format!("{}/{}", spec.group, storage::VERSION),
        kind: spec.names.kind.clone(),
        plural: spec.names.plural.clone(),
    };
    rewrite_all(client, &resource, at_once).await?;
    let patch = Patch::Merge(storage::finished(&definition));
    call(definitions.patch_status(name, &params(), &patch)).await?;
    Ok(Verdict::Done("written anew"))
}

fn params() -> PatchParams {
    PatchParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PatchParams::default()
    }
}

/// Writes each object as it is, a page at a time. What is made or written meanwhile is stored in the right version anyway,
/// so that a list which has lost its thread only has to be begun anew by whoever runs this next.
async fn rewrite_all(
    client: &Client,
    resource: &ApiResource,
    at_once: usize,
) -> Result<(), CallError> {
    let all: Api<DynamicObject> = Api::all_with(client.clone(), resource);
    let mut list = ListParams::default().limit(PAGE);
    loop {
        let page = call(all.list_metadata(&list)).await?;
        let next = page.metadata.continue_;
        let writes = page.items.into_iter().map(|object| async move {
            let metadata = object.metadata;
            let namespace = metadata.namespace.unwrap_or_default();
            let name = metadata.name.unwrap_or_default();
            let api: Api<DynamicObject> =
                Api::namespaced_with(client.clone(), &namespace, resource);
            let patch = storage::rewrite(
                metadata.uid.as_deref(),
                metadata.resource_version.as_deref(),
            );
            let patched = call(api.patch_metadata(&name, &params(), &Patch::Merge(patch))).await;
            match patched {
                Ok(_) => Ok(()),
                // Written or gone meanwhile.
                Err(error) if matches!(error.code(), Some(404 | 409)) => Ok(()),
                Err(error) => Err(error),
            }
        });
        let mut writes = futures::stream::iter(writes).buffer_unordered(at_once);
        while let Some(written) = writes.next().await {
            written?;
        }
        match next {
            Some(next) if !next.is_empty() => list = list.continue_token(&next),
            _ => return Ok(()),
        }
    }
}
