//! Tokens of the pod's ServiceAccount.

use super::*;
use crate::tokens::{TokenNeed, TokenRequest};
use std::sync::Arc;

const PLACE: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

fn tokens(of: &[(&TokenRequest, &str)]) -> (ConfigRef, Option<Arc<Config>>) {
    let data = of
        .iter()
        .map(|(request, token)| (request.key(), token.as_bytes().to_vec()));
    let config = Config {
        version: "1".to_owned(),
        data: data.collect(),
    };
    (
        ConfigRef::new(ConfigKind::Tokens, ""),
        Some(Arc::new(config)),
    )
}

fn mounts(plan: &PodPlan) -> Vec<Vec<String>> {
    let mounts = |container: &ContainerPlan| {
        let mounts = container.mounts.iter();
        let mounts = mounts.filter(|mount| mount.path == PLACE);
        mounts.map(|mount| mount.volume.clone()).collect()
    };
    plan.containers.iter().map(mounts).collect()
}

#[test]
fn a_pod_gets_a_token_unless_it_or_its_account_says_no() {
    let says = |automount: Value| with_pod(&json!({"automountServiceAccountToken": automount}));
    let has = |plan: &PodPlan| !plan.volumes.is_empty();
    assert!(has(&plan_with_token(&says(Value::Null))));
    assert!(!has(&plan_with_token(&says(json!(false)))));
    assert!(has(&planned(&says(json!(true)))), "its account says no");
    assert!(!has(&planned(&says(Value::Null))));
}

#[test]
fn every_container_has_it_where_nothing_else_is() {
    let container =
        |name: &str, mounts: Value| json!({"name": name, "image": "i:1", "volumeMounts": mounts});
    let other = json!([{"name": "own", "mountPath": PLACE}]);
    let pod = |volume: &str, mounts: [Value; 3]| {
        let [a, b, c] = mounts;
        json!({
            "volumes": [{"name": volume, "emptyDir": {}}],
            "initContainers": [container("a", a)],
            "containers": [container("b", b), container("c", c)],
        })
    };
    let plan = plan_with_token(&pod("own", [json!([]), other.clone(), json!([])]));
    let given = ["kube-api-access-hearth"];
    assert_eq!(mounts(&plan), [given, ["own"], given]);
    assert!(plan.containers[0].mounts[0].read_only);
    assert_eq!(plan.volumes.len(), 2);

    let plan = plan_with_token(&pod("own", [other.clone(), other.clone(), other]));
    assert_eq!(plan.volumes.len(), 1, "nobody would see it");

    // A volume of the name that the API server gives to its own is taken for it.
    let plan = plan_with_token(&pod("kube-api-access-x", [json!([]), json!([]), json!([])]));
    assert_eq!(mounts(&plan), [["kube-api-access-x"]; 3]);
    assert_eq!(plan.volumes.len(), 1);
}

#[test]
fn its_files_are_those_of_every_pod() {
    let plan = plan_with_token(&with_pod(&json!({"serviceAccountName": "robot"})));
    let volume = plan.volumes[0].files.as_ref().unwrap();
    let files = |configs: &Configs| plan.files(volume, &known(&[]), configs);
    let authority = Config {
        version: "1".to_owned(),
        data: [("ca.crt".to_owned(), b"CA".to_vec())].into(),
    };
    let authority = (
        ConfigRef::new(ConfigKind::ConfigMap, "kube-root-ca.crt"),
        Some(Arc::new(authority)),
    );
    let mut configs = Configs {
        known: [authority].into(),
    };
    let waits = "the token of the ServiceAccount has not been sent by the controller yet";
    assert_eq!(files(&configs).unwrap_err().to_string(), waits);
    assert_eq!(plan.check(&configs).unwrap_err().to_string(), waits);
    // Of another account, as after a change of the template that this pod does not follow.
    let other = tokens(&[(&TokenRequest::automatic("other"), "x")]);
    configs.known.extend([other]);
    assert_eq!(plan.check(&configs).unwrap_err().to_string(), waits);

    let own = tokens(&[(&TokenRequest::automatic("robot"), "t0k3n")]);
    configs.known.extend([own]);
    plan.check(&configs).unwrap();
    let files = files(&configs).unwrap();
    let file = |path: &str| {
        (
            String::from_utf8_lossy(&files[path].data).into_owned(),
            files[path].mode,
        )
    };
    assert_eq!(file("token"), ("t0k3n".to_owned(), 0o644));
    assert_eq!(file("ca.crt"), ("CA".to_owned(), 0o644));
    assert_eq!(file("namespace"), ("n".to_owned(), 0o644));
    assert_eq!(files.len(), 3);
}

#[test]
fn projected_tokens_have_their_audience_and_time() {
    let source = json!({"serviceAccountToken": {"audience": "vault", "expirationSeconds": 600, "path": "in/vault"}});
    let pod = with_pod(&json!({
        "serviceAccountName": "robot",
        "volumes": [{"name": "v", "projected": {"defaultMode": 0o400, "sources": [source]}}],
    }));
    let plan = planned(&pod);
    let vault = TokenRequest {
        account: "robot".to_owned(),
        audience: "vault".to_owned(),
        seconds: 600,
    };
    let configs = Configs {
        known: [tokens(&[
            (&vault, "for vault"),
            (&TokenRequest::automatic("robot"), "x"),
        ])]
        .into(),
    };
    let volume = plan.volumes[0].files.as_ref().unwrap();
    let files = plan.files(volume, &known(&[]), &configs).unwrap();
    assert_eq!(files.len(), 1);
    assert_eq!(files["in/vault"].data, b"for vault");
    assert_eq!(files["in/vault"].mode, 0o400);
    assert!(
        TokenNeed::of(&pod).is_some(),
        "the controller knows it from the text"
    );
}
