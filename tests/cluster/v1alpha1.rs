//! Objects of v1alpha1: an API server whose CRDs have both versions, and the controller's webhook between them.
//!
//! The controller of this cluster has its webhook on all the time; the CRDs have the second version only while a test here
//! runs. Since v1alpha1 is never stored, the first version can be all there is again afterwards.

use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use hearth_api::constants::{CONTROLLER_NAMESPACE, WEBHOOK_SECRET};
use hearth_api::{OperatingMode, Sandbox, SandboxClaim, SandboxSpec, ShutdownPolicy};
use hearth_tests::fixtures;
use hearth_tests::scene::{self, COLD, Scene, WARM};
use hearth_tests::wait::wait_for;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{
    ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams,
    PostParams,
};
use kube::{Api, ResourceExt as _};
use serde_json::{Value, json};

use crate::LIMIT;

/// Of tests that have CRDs rewritten as well.
const LONG: Duration = Duration::from_secs(240);
/// How long it may take until the API server trusts the webhook.
const TRUSTED: Duration = Duration::from_secs(60);
/// How long it may take until a Sandbox is suspended.
const SUSPENDED: Duration = Duration::from_secs(30);

const EXTENSIONS: &str = "extensions.agents.x-k8s.io";
const CRDS: [&str; 4] = [
    "sandboxes.agents.x-k8s.io",
    "sandboxclaims.extensions.agents.x-k8s.io",
    "sandboxtemplates.extensions.agents.x-k8s.io",
    "sandboxwarmpools.extensions.agents.x-k8s.io",
];
const CONTROLLER: &str = "--as=system:serviceaccount:agent-sandbox-system:agent-sandbox-controller";

fn deploy(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../deploy")
        .join(path)
}

async fn kubectl(scene: &Scene, args: &[&str]) -> Result<Output> {
    tokio::process::Command::new(scene.cluster.program("kubectl"))
        .arg("--kubeconfig")
        .arg(scene.cluster.kubeconfig())
        .args(args)
        .output()
        .await
        .context("cannot run kubectl")
}

/// What it printed, when it succeeded.
async fn kubectl_does(scene: &Scene, args: &[&str]) -> Result<String> {
    let output = kubectl(scene, args).await?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "kubectl {args:?}: {said}");
    Ok(String::from_utf8(output.stdout)?)
}

async fn apply(scene: &Scene, path: &str) -> Result<()> {
    let path = deploy(path);
    let path = path.to_str().context("a path of text")?;
    kubectl_does(scene, &["apply", "--kustomize", path])
        .await
        .map(drop)
}

/// Runs a test while both versions are served. Whatever comes of it, the tests after it find one.
async fn with_both(scene: &Scene, test: impl AsyncFnOnce() -> Result<()>) -> Result<()> {
    let tested = match both(scene).await {
        Ok(()) => test().await,
        Err(error) => Err(error),
    };
    let one = apply(scene, "crds").await;
    tested.and(one)
}

async fn both(scene: &Scene) -> Result<()> {
    let port = scene.cluster.webhook_port();
    ensure!(
        port != 0,
        "this cluster was begun without a port for the webhook; take it down and up again"
    );
    apply(scene, "v1alpha1/crds").await?;
    // No Service leads out of this cluster, whose API server is beside the controller.
    let url = format!("https://127.0.0.1:{port}/convert");
    let patch = json!([{
        "op": "replace", "path": "/spec/conversion/webhook/clientConfig", "value": {"url": url},
    }]);
    let patch = format!("--patch={patch}");
    for crd in CRDS {
        kubectl_does(scene, &["patch", "crd", crd, "--type=json", &patch]).await?;
    }
    until_converted(scene).await
}

/// Waits until the API server has objects of all kinds converted, by creating some for show.
async fn until_converted(scene: &Scene) -> Result<()> {
    let show = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    let sandbox = sandbox(
        "for-show",
        &json!({"podTemplate": {"spec": {"containers": []}}}),
    );
    let claim = claim("for-show", &json!({"sandboxTemplateRef": {"name": "t"}}));
    let (template, pool) = (template("for-show"), pool("for-show", 0));
    wait_for("v1alpha1 is converted", TRUSTED, async || {
        for (api, object) in [
            (sandboxes(scene), &sandbox),
            (claims(scene), &claim),
            (templates(scene), &template),
            (pools(scene), &pool),
        ] {
            let created = api.create(&show, object).await;
            created.map_err(|error| error.to_string())?;
        }
        Ok(())
    })
    .await
}

fn resource(group: &str, kind: &str, plural: &str) -> ApiResource {
    let kind = GroupVersionKind::gvk(group, "v1alpha1", kind);
    ApiResource::from_gvk_with_plural(&kind, plural)
}

fn sandboxes(scene: &Scene) -> Api<DynamicObject> {
    let resource = resource("agents.x-k8s.io", "Sandbox", "sandboxes");
    Api::namespaced_with(scene.client.clone(), &scene.namespace, &resource)
}

fn claims(scene: &Scene) -> Api<DynamicObject> {
    let resource = resource(EXTENSIONS, "SandboxClaim", "sandboxclaims");
    Api::namespaced_with(scene.client.clone(), &scene.namespace, &resource)
}

fn templates(scene: &Scene) -> Api<DynamicObject> {
    let resource = resource(EXTENSIONS, "SandboxTemplate", "sandboxtemplates");
    Api::namespaced_with(scene.client.clone(), &scene.namespace, &resource)
}

fn pools(scene: &Scene) -> Api<DynamicObject> {
    let resource = resource(EXTENSIONS, "SandboxWarmPool", "sandboxwarmpools");
    Api::namespaced_with(scene.client.clone(), &scene.namespace, &resource)
}

fn object(resource: &ApiResource, name: &str, spec: &Value) -> DynamicObject {
    DynamicObject::new(name, resource).data(json!({"spec": spec}))
}

fn sandbox(name: &str, spec: &Value) -> DynamicObject {
    object(
        &resource("agents.x-k8s.io", "Sandbox", "sandboxes"),
        name,
        spec,
    )
}

fn claim(name: &str, spec: &Value) -> DynamicObject {
    object(
        &resource(EXTENSIONS, "SandboxClaim", "sandboxclaims"),
        name,
        spec,
    )
}

fn template(name: &str) -> DynamicObject {
    let spec = json!({"podTemplate": {"spec": fixtures::web_server()}});
    object(
        &resource(EXTENSIONS, "SandboxTemplate", "sandboxtemplates"),
        name,
        &spec,
    )
}

fn pool(name: &str, replicas: usize) -> DynamicObject {
    let spec = json!({"sandboxTemplateRef": {"name": name}, "replicas": replicas});
    object(
        &resource(EXTENSIONS, "SandboxWarmPool", "sandboxwarmpools"),
        name,
        &spec,
    )
}

async fn create(api: &Api<DynamicObject>, object: &DynamicObject) -> Result<DynamicObject> {
    let created = api.create(&PostParams::default(), object).await;
    created.with_context(|| format!("cannot create {} in v1alpha1", object.name_any()))
}

/// An assertion that leaves time to put the CRDs back.
fn same<A: Debug + PartialEq<B>, B: Debug>(found: A, expected: B) -> Result<()> {
    ensure!(found == expected, "it is {found:?} and not {expected:?}");
    Ok(())
}

/// Reads the object in v1alpha1 and checks that it says what it said when it was written.
async fn check_unchanged(
    api: &Api<DynamicObject>,
    written: &DynamicObject,
) -> Result<DynamicObject> {
    let read = api.get(&written.name_any()).await?;
    ensure!(
        read.data["spec"] == written.data["spec"],
        "{} was {} and is {}",
        written.name_any(),
        written.data["spec"],
        read.data["spec"]
    );
    let states: Vec<_> = read
        .annotations()
        .keys()
        .filter(|key| key.starts_with("api.agents.x-k8s.io/"))
        .collect();
    ensure!(states.is_empty(), "{states:?} is shown");
    Ok(read)
}

#[test]
fn what_is_created_in_v1alpha1_works_and_is_read_in_both_versions() {
    scene::run(LONG, async |scene| {
        with_both(scene, async || works(scene).await).await
    });
}

async fn works(scene: &Scene) -> Result<()> {
    let written = create(&templates(scene), &template("pool")).await?;
    check_unchanged(&templates(scene), &written).await?;
    let written = create(&pools(scene), &pool("pool", 1)).await?;
    scene.until_stocked("pool", 1).await?;
    let read = check_unchanged(&pools(scene), &written).await?;
    ensure!(read.data["status"]["readyReplicas"] == 1, "{}", read.data);
    ensure!(
        read.data["status"].get("observedGeneration").is_none(),
        "{}",
        read.data
    );

    let spec = json!({"sandboxTemplateRef": {"name": "pool"}, "warmpool": "pool"});
    let written = create(&claims(scene), &claim("mine", &spec)).await?;
    let claimed = scene.until_answered("mine", WARM).await?;
    scene.check_answers(&claimed).await?;
    let new: SandboxClaim = scene.api().get("mine").await?;
    same(new.spec.warm_pool_ref.name.as_str(), "pool")?;
    let state = new
        .annotations()
        .get("api.agents.x-k8s.io/v1alpha1-sandboxclaim-state")
        .context("it does not keep its old self")?;
    let state: Value = serde_json::from_str(state)?;
    same(&state["spec"], &written.data["spec"])?;
    let read = check_unchanged(&claims(scene), &written).await?;
    let name = &read.data["status"]["sandbox"]["name"];
    same(name.as_str(), Some(claimed.sandbox.as_str()))?;

    // What was made in v1beta1 is there for old clients as well.
    let listed = sandboxes(scene).list(&ListParams::default()).await?;
    let mine = listed
        .items
        .iter()
        .find(|sandbox| sandbox.name_any() == claimed.sandbox);
    let mine = mine.context("the claim's Sandbox is not in the list")?;
    same(&mine.data["spec"]["replicas"], &json!(1))?;
    same(&mine.data["status"]["replicas"], &json!(1))?;
    ensure!(
        mine.data["status"].get("nodeName").is_none(),
        "{}",
        mine.data
    );
    scene.release(&claimed).await
}

#[test]
fn an_old_client_suspends_resumes_and_keeps_what_it_does_not_know() {
    scene::run(LONG, async |scene| {
        with_both(scene, async || scales(scene).await).await
    });
}

async fn scales(scene: &Scene) -> Result<()> {
    let old = sandboxes(scene);
    let spec = json!({"podTemplate": {"spec": fixtures::web_server()}, "replicas": 0});
    let written = create(&old, &sandbox("old", &spec)).await?;
    let new: Sandbox = scene.api().get("old").await?;
    same(new.spec.operating_mode, OperatingMode::Suspended)?;
    scene
        .until_condition("old", "Suspended", "True", "PodTerminated", SUSPENDED)
        .await?;
    check_unchanged(&old, &written).await?;

    // As `kubectl scale` does.
    let up = Patch::Merge(json!({"spec": {"replicas": 1}}));
    old.patch_scale("old", &PatchParams::default(), &up).await?;
    scene.until_ready("old", COLD).await?;
    let scale = old.get_scale("old").await?;
    same(scale.spec.and_then(|spec| spec.replicas), Some(1))?;
    same(scale.status.map(|status| status.replicas), Some(1))?;

    // A field of Hearth's, set in v1beta1, and an old client that writes all that it knows.
    let idle = json!({"spec": {"idle": {"suspendAfter": "2h"}, "recreate": "OnFailure"}});
    let new: Sandbox = scene.patch("old", idle).await?;
    // Again when the node has written its status in between.
    wait_for("the old client has written it", WARM, async || {
        let words = |error: kube::Error| error.to_string();
        let mut read = old.get("old").await.map_err(words)?;
        if read.data["spec"].get("idle").is_some() {
            return Err(format!("it is shown what it does not know: {}", read.data));
        }
        read.data["spec"]["shutdownPolicy"] = "Delete".into();
        let written = old.replace("old", &PostParams::default(), &read).await;
        written.map(drop).map_err(words)
    })
    .await?;
    let kept: SandboxSpec = scene.api::<Sandbox>().get("old").await?.spec;
    same(&kept.idle, &new.spec.idle)?;
    same(kept.recreate, new.spec.recreate)?;
    same(kept.shutdown_policy, ShutdownPolicy::Delete)
}

#[test]
fn old_clients_are_warned_and_wrong_objects_refused_in_words() {
    scene::run(LONG, async |scene| {
        with_both(scene, async || refuses(scene).await).await
    });
}

async fn refuses(scene: &Scene) -> Result<()> {
    for (kinds, warning) in [
        (
            "sandboxes.v1alpha1.agents.x-k8s.io",
            "Warning: agents.x-k8s.io/v1alpha1 Sandbox is deprecated; use agents.x-k8s.io/v1beta1 Sandbox instead",
        ),
        (
            "sandboxclaims.v1alpha1.extensions.agents.x-k8s.io",
            "Warning: extensions.agents.x-k8s.io/v1alpha1 SandboxClaim is deprecated; use \
             extensions.agents.x-k8s.io/v1beta1 SandboxClaim instead",
        ),
    ] {
        let output = kubectl(scene, &["get", kinds, "--namespace", &scene.namespace]).await?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.success() && said.contains(warning),
            "kubectl: {said}"
        );
    }

    // A list has no room for one object that cannot be converted: what makes no sense is taken as the safest there is.
    let mut wrong = template("wrong");
    let key = "api.agents.x-k8s.io/v1beta1-volume-claim-templates-policy";
    wrong
        .annotations_mut()
        .insert(key.to_owned(), "Sometimes".to_owned());
    create(&templates(scene), &wrong).await?;
    let read = [
        "get",
        "sandboxtemplates.v1beta1.extensions.agents.x-k8s.io",
        "wrong",
        "--namespace",
        &scene.namespace,
        "--output=jsonpath={.spec.volumeClaimTemplatesPolicy}",
    ];
    let policy = kubectl_does(scene, &read).await?;
    ensure!(
        policy.is_empty() || policy == "Disallowed",
        "the policy is {policy}"
    );

    let spec = json!({"podTemplate": {"spec": {"containers": []}}, "replicas": 2});
    let refused = create(&sandboxes(scene), &sandbox("wrong", &spec)).await;
    check_refused(refused, "spec.replicas")?;
    let refused = create(&claims(scene), &claim("wrong", &json!({"warmpool": "p"}))).await;
    check_refused(refused, "spec.sandboxTemplateRef")?;

    let spec = json!({"podTemplate": {"spec": {"containers": [{"name": "c", "args": ["x".repeat(250_000)]}]}}});
    let mut large = sandbox("large", &spec);
    large
        .annotations_mut()
        .insert("example.com/note".to_owned(), "x".repeat(20_000));
    create(&sandboxes(scene), &large).await.map(drop)
}

fn check_refused(refused: Result<DynamicObject>, words: &str) -> Result<()> {
    match refused {
        Ok(object) => anyhow::bail!("{} was taken", object.name_any()),
        Err(error) => {
            let said = format!("{error:#}");
            ensure!(said.contains(words), "{said} does not say {words}");
            Ok(())
        }
    }
}

#[test]
fn conversions_outlive_the_certificate_and_the_controller() {
    scene::run(LONG, async |scene| {
        with_both(scene, async || outlives(scene).await).await
    });
}

async fn outlives(scene: &Scene) -> Result<()> {
    let secrets: Api<Secret> = Api::namespaced(scene.client.clone(), CONTROLLER_NAMESPACE);
    let before = secrets.get(WEBHOOK_SECRET).await?;
    let keys: Vec<_> = before
        .data
        .iter()
        .flatten()
        .map(|(key, _)| key.as_str())
        .collect();
    same(keys, ["ca.crt", "tls.crt", "tls.key"])?;

    // Its time is over: the next one is made, trusted and served, and nobody restarts anything.
    let over =
        json!({"metadata": {"annotations": {"hearth.dev/renew-after": "2020-01-01T00:00:00Z"}}});
    let over = Patch::Merge(over);
    let expired = secrets
        .patch(WEBHOOK_SECRET, &PatchParams::default(), &over)
        .await?;
    let renewed = until_other_certificate(&secrets, &before).await?;
    same(renewed.uid(), expired.uid())?;
    until_converted(scene).await?;

    secrets
        .delete(WEBHOOK_SECRET, &DeleteParams::default())
        .await?;
    until_other_certificate(&secrets, &renewed).await?;
    until_converted(scene).await?;

    scene.cluster.controller().kill_and_wait().await?;
    until_converted(scene).await
}

async fn until_other_certificate(secrets: &Api<Secret>, before: &Secret) -> Result<Secret> {
    let certificate = |secret: &Secret| {
        let data = secret.data.as_ref().and_then(|data| data.get("tls.crt"));
        data.map(|data| data.0.clone())
    };
    wait_for(
        "there is another certificate",
        TRUSTED,
        async || match secrets.get_opt(WEBHOOK_SECRET).await {
            Ok(Some(now)) if certificate(&now) != certificate(before) => Ok(now),
            Ok(Some(_)) => Err("it is the old one".to_owned()),
            Ok(None) => Err("there is none".to_owned()),
            Err(error) => Err(error.to_string()),
        },
    )
    .await
}

#[test]
fn the_controller_may_do_for_it_what_it_needs_and_nothing_else() {
    scene::run(LIMIT, async |scene| {
        for (allowed, verb, what) in [
            (true, "patch", "crd/sandboxes.agents.x-k8s.io"),
            (
                true,
                "watch",
                "crd/sandboxclaims.extensions.agents.x-k8s.io",
            ),
            (false, "update", "crd/sandboxes.agents.x-k8s.io"),
            (false, "delete", "crd/sandboxes.agents.x-k8s.io"),
            (false, "patch", "crd/sandboxnodes.hearth.dev"),
            (false, "list", "crd"),
            (true, "update", "secret/agent-sandbox-webhook-certs"),
            (false, "patch", "secret/agent-sandbox-webhook-certs"),
            (false, "update", "secret/other"),
        ] {
            let namespace = format!("--namespace={CONTROLLER_NAMESPACE}");
            let args = ["auth", "can-i", verb, what, &namespace, CONTROLLER];
            let output = kubectl(scene, &args).await?;
            let said = String::from_utf8_lossy(&output.stdout);
            let expected = if allowed { "yes" } else { "no" };
            ensure!(said.starts_with(expected), "{verb} {what}: {said}");
        }
        // By role it may create any, for the tokens of sandboxes.
        for (name, namespace) in [
            ("other", CONTROLLER_NAMESPACE),
            (WEBHOOK_SECRET, scene.namespace.as_str()),
        ] {
            let namespace = format!("--namespace={namespace}");
            let args = [
                "create",
                "secret",
                "generic",
                name,
                &namespace,
                CONTROLLER,
                "--dry-run=server",
            ];
            let output = kubectl(scene, &args).await?;
            let said = String::from_utf8_lossy(&output.stderr);
            ensure!(
                !output.status.success() && said.contains("makes and deletes no Secrets but"),
                "{name} {namespace}: {said}"
            );
        }
        Ok(())
    });
}

#[test]
fn the_api_server_takes_the_manifests() {
    scene::run(LIMIT, async |scene| {
        let manifests = deploy("v1alpha1");
        let manifests = manifests.to_str().context("a path of text")?;
        let args = [
            "apply",
            "--dry-run=server",
            "--output=name",
            "--kustomize",
            manifests,
        ];
        let taken = kubectl_does(scene, &args).await?;
        let mut taken: Vec<_> = taken.lines().collect();
        taken.sort_unstable();
        let expected = [
            "clusterrole.rbac.authorization.k8s.io/agent-sandbox-controller-webhook",
            "clusterrolebinding.rbac.authorization.k8s.io/agent-sandbox-controller-webhook",
            "customresourcedefinition.apiextensions.k8s.io/sandboxclaims.extensions.agents.x-k8s.io",
            "customresourcedefinition.apiextensions.k8s.io/sandboxes.agents.x-k8s.io",
            "customresourcedefinition.apiextensions.k8s.io/sandboxtemplates.extensions.agents.x-k8s.io",
            "customresourcedefinition.apiextensions.k8s.io/sandboxwarmpools.extensions.agents.x-k8s.io",
            "deployment.apps/agent-sandbox-controller",
            "poddisruptionbudget.policy/agent-sandbox-controller",
            "role.rbac.authorization.k8s.io/agent-sandbox-controller-webhook",
            "rolebinding.rbac.authorization.k8s.io/agent-sandbox-controller-webhook",
            "service/agent-sandbox-controller",
            "service/agent-sandbox-webhook-service",
        ];
        ensure!(taken == expected, "kubectl: {taken:?}");
        Ok(())
    });
}
