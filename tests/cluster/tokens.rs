//! Tokens of ServiceAccounts: whose they are, where they are, and when they are void.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use hearth_api::Sandbox;
use hearth_tests::fixtures::{self, IMAGE, PORT};
use hearth_tests::http;
use hearth_tests::scene::{self, AWAY, COLD, Scene};
use hearth_tests::status::{address, to_json};
use hearth_tests::wait::wait_for;
use k8s_openapi::api::authentication::v1::{
    SelfSubjectReview, TokenReview, TokenReviewSpec, TokenReviewStatus,
};
use k8s_openapi::api::authorization::v1::SubjectAccessReview;
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::config::{Config, KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, ResourceExt as _};
use serde_json::{Value, json};

use crate::LIMIT;

const PLACE: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// A pod that serves its whole file system, with these fields besides.
fn pod(fields: &Value) -> Value {
    let mut pod = json!({
        "terminationGracePeriodSeconds": 0,
        "containers": [{
            "name": "main",
            "image": IMAGE,
            "imagePullPolicy": "Never",
            "command": ["httpd", "-f", "-p", PORT.to_string(), "-h", "/"],
            "readinessProbe": {"tcpSocket": {"port": PORT}, "periodSeconds": 1},
        }],
    });
    for (field, value) in fields.as_object().into_iter().flatten() {
        pod[field] = value.clone();
    }
    pod
}

fn account(name: &str) -> ServiceAccount {
    let mut account = ServiceAccount::default();
    account.metadata.name = Some(name.to_owned());
    account
}

async fn read(ip: &str, path: &str) -> Result<String> {
    http::get(ip, PORT, path, Duration::from_secs(5)).await
}

/// What the API server says of a token for this audience; empty: for itself.
async fn review(scene: &Scene, token: &str, audience: &str) -> Result<TokenReviewStatus> {
    let reviews: Api<TokenReview> = Api::all(scene.client.clone());
    let audience = Some(audience.to_owned()).filter(|audience| !audience.is_empty());
    let review = TokenReview {
        spec: TokenReviewSpec {
            token: token.to_owned(),
            audiences: audience.map(|audience| vec![audience]),
        },
        ..TokenReview::default()
    };
    let review = reviews.create(&PostParams::default(), &review).await?;
    review.status.context("a review without a status")
}

/// Who asks the API server with this token.
async fn who_am_i(scene: &Scene, token: &str) -> Result<String> {
    let kubeconfig = Kubeconfig::read_from(scene.cluster.kubeconfig())?;
    let mut config =
        Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    config.auth_info = serde_json::from_value(json!({"token": token}))?;
    let reviews: Api<SelfSubjectReview> = Api::all(Client::try_from(config)?);
    let review = reviews
        .create(&PostParams::default(), &SelfSubjectReview::default())
        .await?;
    let user = review.status.and_then(|status| status.user_info);
    user.and_then(|user| user.username)
        .context("a review without a user")
}

async fn until_void(scene: &Scene, token: &str) -> Result<()> {
    // The API server remembers for ten seconds that a token was good.
    wait_for("the token is void", AWAY, async || {
        match review(scene, token, "").await {
            Ok(status) if status.authenticated != Some(true) => Ok(()),
            Ok(status) => Err(format!("it is good: {}", to_json(&status))),
            Err(error) => Err(format!("{error:#}")),
        }
    })
    .await
}

/// The Secrets that tokens are bound to.
async fn bindings(scene: &Scene) -> Result<Vec<Secret>> {
    let ours = ListParams::default().fields("type=hearth.dev/token-binding");
    Ok(scene.api::<Secret>().list(&ours).await?.items)
}

#[test]
fn a_token_is_its_accounts_and_void_with_its_sandbox() {
    scene::run(LIMIT, async |scene| {
        scene.create(&account("robot")).await?;
        let projected = json!({"serviceAccountToken": {"audience": "vault", "expirationSeconds": 600, "path": "vault"}});
        let mut pod = pod(&json!({
            "serviceAccountName": "robot",
            "volumes": [{"name": "v", "projected": {"sources": [projected]}}],
        }));
        pod["containers"][0]["volumeMounts"] = json!([{"name": "v", "mountPath": "/tokens"}]);
        scene.create(&fixtures::sandbox("holder", &pod)).await?;
        let sandbox = scene.until_ready("holder", COLD).await?;
        let ip = address(&sandbox)?;

        let token = read(&ip, &format!("{PLACE}/token")).await?;
        let user = format!("system:serviceaccount:{}:robot", scene.namespace);
        assert_eq!(who_am_i(scene, &token).await?, user);
        assert_eq!(
            read(&ip, &format!("{PLACE}/namespace")).await?,
            scene.namespace
        );
        let authority = read(&ip, &format!("{PLACE}/ca.crt")).await?;
        ensure!(authority.contains("BEGIN CERTIFICATE"), "{authority}");

        let vault = read(&ip, "/tokens/vault").await?;
        let status = review(scene, &vault, "vault").await?;
        assert_eq!(status.authenticated, Some(true), "{}", to_json(&status));
        assert_eq!(status.user.and_then(|user| user.username), Some(user));
        let status = review(scene, &vault, "").await?;
        assert_ne!(
            status.authenticated,
            Some(true),
            "it is not for the API server"
        );

        let secrets = bindings(scene).await?;
        assert_eq!(secrets.len(), 1, "{secrets:?}");
        assert_eq!(
            secrets[0].owner_references()[0].uid,
            sandbox.uid().unwrap_or_default()
        );
        scene.delete::<Sandbox>("holder").await?;
        until_void(scene, &token).await?;
        ensure!(bindings(scene).await?.is_empty(), "its Secret is left");
        Ok(())
    });
}

#[test]
fn a_token_that_was_revoked_is_made_anew_in_its_file() {
    scene::run(LIMIT, async |scene| {
        scene
            .create(&fixtures::sandbox("holder", &pod(&json!({}))))
            .await?;
        let sandbox = scene.until_ready("holder", COLD).await?;
        let ip = address(&sandbox)?;
        let path = format!("{PLACE}/token");
        let first = read(&ip, &path).await?;
        let secrets: Api<Secret> = scene.api();
        for secret in bindings(scene).await? {
            secrets
                .delete(&secret.name_any(), &DeleteParams::default())
                .await?;
        }
        wait_for("there is another token", AWAY, async || {
            match read(&ip, &path).await {
                Ok(token) if token != first => Ok(()),
                Ok(_) => Err("it is the first one".to_owned()),
                Err(error) => Err(format!("{error:#}")),
            }
        })
        .await?;
        let user = format!("system:serviceaccount:{}:default", scene.namespace);
        assert_eq!(who_am_i(scene, &read(&ip, &path).await?).await?, user);
        until_void(scene, &first).await
    });
}

#[test]
fn members_of_a_pool_have_a_token_only_if_their_template_says_so() {
    scene::run(LIMIT, async |scene| {
        scene.create(&account("robot")).await?;
        let with = json!({"serviceAccountName": "robot", "automountServiceAccountToken": true});
        for (name, fields) in [("with", with), ("without", json!({}))] {
            scene
                .create(&fixtures::template(name, &pod(&fields)))
                .await?;
            scene.create(&fixtures::pool(name, name, 1)).await?;
            scene.until_stocked(name, 1).await?;
        }
        // A frozen member has its own before anybody claims it.
        assert_eq!(bindings(scene).await?.len(), 1);
        let claimed = scene.claim("with", "with", AWAY).await?;
        let token = read(&claimed.ip, &format!("{PLACE}/token")).await?;
        let user = format!("system:serviceaccount:{}:robot", scene.namespace);
        assert_eq!(who_am_i(scene, &token).await?, user);
        let other = scene.claim("without", "without", AWAY).await?;
        ensure!(
            read(&other.ip, &format!("{PLACE}/token")).await.is_err(),
            "it has a token that nobody asked for"
        );
        scene.release(&claimed).await?;
        until_void(scene, &token).await?;
        scene.release(&other).await
    });
}

#[test]
fn an_account_that_is_not_there_is_named_until_it_is() {
    scene::run(LIMIT, async |scene| {
        let pod = pod(&json!({"serviceAccountName": "late"}));
        scene.create(&fixtures::sandbox("early", &pod)).await?;
        let expected = "Error seen: spec.podTemplate.spec.serviceAccountName is \"late\": there is no such ServiceAccount";
        let said = scene
            .until_condition("early", "Ready", "False", "ReconcilerError", COLD)
            .await?;
        ensure!(said.starts_with(expected), "it says {said}");
        scene.create(&account("late")).await?;
        scene.until_ready("early", COLD).await.map(drop)
    });
}

#[test]
fn an_account_may_decline_for_its_pods() {
    scene::run(LIMIT, async |scene| {
        let mut shy = account("shy");
        shy.automount_service_account_token = Some(false);
        scene.create(&shy).await?;
        let pod = pod(&json!({"serviceAccountName": "shy"}));
        scene.create(&fixtures::sandbox("plain", &pod)).await?;
        let sandbox = scene.until_ready("plain", COLD).await?;
        let file = read(&address(&sandbox)?, &format!("{PLACE}/token")).await;
        ensure!(file.is_err(), "it has a token");
        ensure!(bindings(scene).await?.is_empty(), "a token was made for it");
        Ok(())
    });
}

#[test]
fn a_node_daemon_may_neither_make_tokens_nor_read_secrets() {
    scene::run(LIMIT, async |scene| {
        let reviews: Api<SubjectAccessReview> = Api::all(scene.client.clone());
        for (verb, resource, subresource) in [
            ("create", "serviceaccounts", "token"),
            ("get", "secrets", ""),
            ("create", "secrets", ""),
            ("delete", "secrets", ""),
        ] {
            let review = json!({"spec": {
                "user": "system:serviceaccount:hearth-system:hearthd",
                "groups": ["system:serviceaccounts", "system:authenticated"],
                "resourceAttributes": {
                    "namespace": scene.namespace, "verb": verb, "resource": resource, "subresource": subresource,
                },
            }});
            let review = serde_json::from_value(review)?;
            let review = reviews.create(&PostParams::default(), &review).await?;
            let allowed = review.status.is_some_and(|status| status.allowed);
            ensure!(!allowed, "hearthd may {verb} {resource}/{subresource}");
        }
        Ok(())
    });
}
