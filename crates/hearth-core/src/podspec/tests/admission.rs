//! What a namespace and a ServiceAccount say of a pod.

use super::*;
use std::sync::Arc;

fn holds(data: BTreeMap<String, Vec<u8>>) -> Option<Arc<Config>> {
    Some(Arc::new(Config {
        version: "1".to_owned(),
        data,
    }))
}

/// What is sent of a namespace that enforces `level` and has these LimitRanges, and of the account `robot`.
fn sent(level: &str, ranges: &[(&str, Value)]) -> Configs {
    let label = "pod-security.kubernetes.io/enforce".to_owned();
    let namespace = written_namespace([(label, level.to_owned())]);
    let ranges = ranges
        .iter()
        .map(|(name, spec)| ((*name).to_owned(), spec.to_string().into_bytes()));
    let known = [
        (ConfigRef::new(ConfigKind::Namespace, ""), holds(namespace)),
        (
            ConfigRef::new(ConfigKind::LimitRanges, ""),
            holds(ranges.collect()),
        ),
        (
            ConfigRef::new(ConfigKind::ServiceAccount, "robot"),
            holds(Account::written(None, &["pull".to_owned()])),
        ),
    ];
    Configs {
        known: known.into(),
    }
}

fn said(spec: &SandboxSpec, configs: &Configs) -> Vec<String> {
    let admission = Admission::read("robot", configs).unwrap();
    match super::super::plan(spec, None, &admission, &Support::default()) {
        Ok(_) => Vec::new(),
        Err(refusal) => refusal.fields.iter().map(ToString::to_string).collect(),
    }
}

#[test]
fn nothing_is_allowed_before_all_is_known() {
    let all = sent("baseline", &[]);
    let without = |kind| {
        let mut configs = all.clone();
        configs.known.retain(|config, _| config.kind != kind);
        Admission::read("robot", &configs).unwrap_err().to_string()
    };
    assert_eq!(
        without(ConfigKind::Namespace),
        "what the namespace enforces has not been sent by the controller yet"
    );
    assert_eq!(
        without(ConfigKind::LimitRanges),
        "what the namespace's LimitRanges say has not been sent by the controller yet"
    );
    assert_eq!(
        without(ConfigKind::ServiceAccount),
        "ServiceAccount \"robot\" has not been sent by the controller yet"
    );
    let odd = sent("baseline", &[("odd", json!({"limits": 7}))]);
    let error = Admission::read("robot", &odd).unwrap_err().to_string();
    assert!(
        error.starts_with("LimitRange \"odd\" cannot be read: "),
        "{error}"
    );
}

#[test]
fn an_account_that_is_not_there_is_named_unless_it_is_about_to_be() {
    let mut configs = sent("privileged", &[]);
    for name in ["robot", "default"] {
        let account = ConfigRef::new(ConfigKind::ServiceAccount, name);
        configs.known.insert(account, None);
    }
    let waits = Admission::read("default", &configs).unwrap_err();
    assert_eq!(waits.to_string(), "ServiceAccount \"default\" not found");
    let spec = spec_of(&with_pod(&json!({"serviceAccountName": "robot"})));
    assert_eq!(
        said(&spec, &configs),
        [
            "spec.podTemplate.spec.serviceAccountName is \"robot\": there is no such ServiceAccount in the namespace; make \
          it, or name another"
        ]
    );
}

#[test]
fn an_account_says_what_its_pods_get() {
    let admission = Admission::read("robot", &sent("privileged", &[])).unwrap();
    let pull_secrets = vec!["pull".to_owned()];
    assert_eq!(
        admission.account,
        Account::There {
            automount: true,
            pull_secrets
        }
    );
    assert!(!Account::automounts(&Account::written(Some(false), &[])));
    assert!(Account::automounts(&Account::written(Some(true), &[])));
}

#[test]
fn what_the_namespace_forbids_is_said_beside_what_the_node_cannot_do() {
    let spec = spec_of(&with_pod(&json!({"hostPID": true})));
    assert_eq!(said(&spec, &sent("privileged", &[])).len(), 1);
    let said = said(&spec, &sent("baseline", &[]));
    assert_eq!(
        said[0],
        "the pod is forbidden: violates PodSecurity \"baseline:latest\": host namespaces (hostPID=true)"
    );
    assert!(
        said[1].starts_with("spec.podTemplate.spec.hostPID is true"),
        "{said:?}"
    );
}

#[test]
fn annotations_of_the_template_count_as_those_of_the_pod() {
    let mut spec = spec_of(&with_pod(&json!({})));
    let key = "container.apparmor.security.beta.kubernetes.io/main".to_owned();
    let annotations = &mut spec.pod_template.metadata.annotations;
    annotations.insert(key, "unconfined".to_owned());
    assert_eq!(said(&spec, &sent("privileged", &[])), [""; 0]);
    assert_eq!(said(&spec, &sent("baseline", &[])).len(), 1);
}

#[test]
fn limit_ranges_give_and_forbid() {
    let limits = json!({"limits": [{
        "type": "Container", "default": {"cpu": "1", "memory": "64Mi"}, "defaultRequest": {"cpu": "100m"},
        "max": {"memory": "128Mi"},
    }]});
    let configs = sent("privileged", &[("small", limits)]);
    let admission = Admission::read("robot", &configs).unwrap();
    let plan = super::super::plan(
        &spec_of(&with_pod(&json!({}))),
        None,
        &admission,
        &Support::default(),
    )
    .unwrap();
    assert_eq!(
        plan.containers[0].resources,
        Resources {
            cpu_request_millis: 100,
            cpu_limit_millis: Some(1000),
            memory_request: 64 << 20,
            memory_limit: Some(64 << 20),
            ..Resources::default()
        }
    );
    let large = with_container(&json!({"resources": {"limits": {"memory": "1Gi"}}}));
    assert_eq!(
        said(&spec_of(&large), &configs),
        [
            "spec.podTemplate.spec.containers[0].resources is forbidden by LimitRange \"small\": maximum memory usage per \
          Container is 128Mi, but limit is 1Gi"
        ]
    );
}

#[test]
fn what_other_objects_forbid_may_pass_and_what_the_sandbox_asks_does_not() {
    let limits = json!({"limits": [{"type": "Container", "max": {"memory": "128Mi"}}]});
    let small = sent("privileged", &[("small", limits)]);
    let mut nobody = sent("privileged", &[]);
    let account = ConfigRef::new(ConfigKind::ServiceAccount, "robot");
    nobody.known.insert(account, None);
    let large = with_container(&json!({"resources": {"limits": {"memory": "1Gi"}}}));
    let host = with_pod(&json!({"hostPID": true}));
    for (pod, configs, cause) in [
        (
            &with_pod(&json!({})),
            sent("restricted", &[]),
            Cause::Surroundings,
        ),
        (&large, small.clone(), Cause::Surroundings),
        (&large, nobody, Cause::Surroundings),
        (&host, sent("privileged", &[]), Cause::Spec),
        (&host, sent("baseline", &[]), Cause::Spec),
        (&host, small, Cause::Spec),
    ] {
        let admission = Admission::read("robot", &configs).unwrap();
        let refused = super::super::plan(&spec_of(pod), None, &admission, &Support::default());
        let refusal = refused.unwrap_err();
        assert_eq!(refusal.cause, cause, "{refusal}");
    }
}
