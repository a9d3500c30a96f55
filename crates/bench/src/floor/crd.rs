//! The stand-in kind: SandboxClaim's schema under a group that no controller watches.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use hearth_api::SandboxClaim;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, CustomResourceDefinitionNames, CustomResourceDefinitionSpec,
};
use kube::api::{DeleteParams, ObjectMeta, Patch, PatchParams};
use kube::runtime::wait::{await_condition, conditions};
use kube::{Api, CustomResourceExt as _};
use serde::de::IgnoredAny;
use tokio::time::{sleep, timeout};

use crate::api::{CallError, Connections, fetch};

/// Group of the stand-in.
pub(crate) const GROUP: &str = "floor.bench.hearth.dev";
/// Its `apiVersion`.
pub(crate) const API_VERSION: &str = "floor.bench.hearth.dev/v1beta1";
/// Its kind.
pub(crate) const KIND: &str = "FloorClaim";
/// Its plural.
pub(crate) const PLURAL: &str = "floorclaims";

const VERSION: &str = "v1beta1";
const CRD_NAME: &str = "floorclaims.floor.bench.hearth.dev";
const LIMIT: Duration = Duration::from_secs(60);
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// Creates the stand-in, modelled on the SandboxClaim that the cluster has, and waits until it is served.
pub(crate) async fn install(connections: &Connections) -> Result<()> {
    let api: Api<CustomResourceDefinition> = Api::all(connections.next().clone());
    let model = api
        .get_opt(SandboxClaim::crd_name())
        .await
        .context("cannot read the CRD of SandboxClaim")?;
    let crd = stand_in(model.unwrap_or_else(SandboxClaim::crd))
        .context("the CRD of SandboxClaim has no version")?;
    let applied = PatchParams::apply("hearth-bench").force();
    api.patch(CRD_NAME, &applied, &Patch::Apply(&crd))
        .await
        .context("cannot create the stand-in CRD")?;
    let established = await_condition(api, CRD_NAME, conditions::is_crd_established());
    timeout(LIMIT, established)
        .await
        .context("the stand-in CRD is not established in time")??;
    wait_served(connections)
        .await
        .context("the stand-in kind is not served in time")
}

/// Deletes the stand-in with all its objects.
pub(crate) async fn remove(connections: &Connections) -> Result<()> {
    let api: Api<CustomResourceDefinition> = Api::all(connections.next().clone());
    let removed = api
        .delete(CRD_NAME, &DeleteParams::default())
        .await
        .context("cannot delete the stand-in CRD")?;
    if let Some(uid) = removed.left().and_then(|crd| crd.metadata.uid) {
        let gone = await_condition(api, CRD_NAME, conditions::is_deleted(&uid));
        timeout(LIMIT, gone)
            .await
            .context("the stand-in CRD is not gone in time")??;
    }
    Ok(())
}

/// Established comes a moment before the handler (404) and its watch cache (429) are in place, and nothing tells when
/// they are.
async fn wait_served(connections: &Connections) -> Result<(), CallError> {
    let path = format!("/apis/{API_VERSION}/{PLURAL}?limit=1");
    let deadline = Instant::now() + LIMIT;
    loop {
        match fetch::<IgnoredAny>(connections.next(), &path, LIMIT).await {
            Err(CallError::Refused {
                code: 404 | 429, ..
            }) if Instant::now() < deadline => sleep(ASK_AGAIN_AFTER).await,
            outcome => return outcome.map(drop),
        }
    }
}

/// `model` under the stand-in's name, its storage version only.
fn stand_in(model: CustomResourceDefinition) -> Option<CustomResourceDefinition> {
    let mut version = model
        .spec
        .versions
        .into_iter()
        .find(|version| version.storage)?;
    VERSION.clone_into(&mut version.name);
    version.deprecated = None;
    version.deprecation_warning = None;
    Some(CustomResourceDefinition {
        metadata: ObjectMeta {
            name: Some(CRD_NAME.to_owned()),
            ..ObjectMeta::default()
        },
        spec: CustomResourceDefinitionSpec {
            group: GROUP.to_owned(),
            names: CustomResourceDefinitionNames {
                kind: KIND.to_owned(),
                plural: PLURAL.to_owned(),
                singular: Some("floorclaim".to_owned()),
                ..CustomResourceDefinitionNames::default()
            },
            scope: model.spec.scope,
            versions: vec![version],
            ..CustomResourceDefinitionSpec::default()
        },
        status: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stand_in_has_the_schema_and_the_subresources_of_the_claim() {
        let model = SandboxClaim::crd();
        let floor = stand_in(model.clone()).unwrap();
        assert_eq!(floor.metadata.name.as_deref(), Some(CRD_NAME));
        assert_eq!(format!("{PLURAL}.{GROUP}"), CRD_NAME);
        assert_eq!(format!("{GROUP}/{VERSION}"), API_VERSION);
        let (ours, theirs) = (&model.spec.versions[0], &floor.spec.versions[0]);
        assert_eq!(ours.schema, theirs.schema);
        assert_eq!(ours.subresources, theirs.subresources);
        assert_eq!(
            ours.additional_printer_columns,
            theirs.additional_printer_columns
        );
        assert_eq!(model.spec.scope, floor.spec.scope);
    }

    #[test]
    fn without_a_storage_version_there_is_no_stand_in() {
        let mut model = SandboxClaim::crd();
        model.spec.versions.clear();
        assert_eq!(stand_in(model), None);
    }
}
