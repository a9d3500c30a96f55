//! Where images come from, and what a pod may write.

use super::*;

#[test]
fn pull_secrets_reach_the_plan_and_are_named_to_the_controller() {
    let pod = with_pod(&json!({
        "imagePullSecrets": [{"name": "one"}, {}, {"name": ""}, {"name": "two"}],
        "automountServiceAccountToken": false,
    }));
    let plan = planned(&pod);
    assert_eq!(plan.pull_secrets, ["one", "two"]);
    let expect = ["one", "two"].map(|name| ConfigRef::new(ConfigKind::Secret, name));
    assert_eq!(configs_in(&pod), expect.into());
    assert_eq!(plan.configs(), configs_in(&pod));
    // The image may need none of them: nothing waits for what is not there.
    assert_eq!(plan.check(&Configs::default()), Ok(()));
}

#[test]
fn ephemeral_storage_is_counted_as_kubernetes_counts_it() {
    let resources = |limits: &str, requests: &str| {
        let mut resources = json!({});
        for (name, amount) in [("limits", limits), ("requests", requests)] {
            if !amount.is_empty() {
                resources[name] = json!({"ephemeral-storage": amount});
            }
        }
        with_container(&json!({ "resources": resources }))
    };
    for (limit, request, expect) in [
        ("", "", (None, 0)),
        ("2Gi", "", (Some(2 << 30), 2 << 30)),
        ("", "1Gi", (None, 1 << 30)),
        ("2Gi", "1Gi", (Some(2 << 30), 1 << 30)),
        ("0", "0", (None, 0)),
    ] {
        let planned = planned(&resources(limit, request)).resources();
        let found = (planned.storage_limit, planned.storage_request);
        assert_eq!(found, expect, "limit {limit:?}, request {request:?}");
    }
    assert_eq!(
        refused(&resources("1Gi", "2Gi")),
        [
            "spec.podTemplate.spec.containers[0].resources.requests.ephemeral-storage: must not exceed \
             limits.ephemeral-storage"
        ]
    );
}

#[test]
fn a_volume_may_show_an_image() {
    let pod = json!({
        "volumes": [
            {"name": "tools", "image": {"reference": "registry.test/tools:1"}},
            {"name": "data", "image": {"reference": "registry.test/data", "pullPolicy": "Never"}},
            {"name": "scratch", "emptyDir": {}},
        ],
        "containers": [
            {"name": "a", "image": "app:1", "volumeMounts": [
                {"name": "tools", "mountPath": "/tools"}, {"name": "scratch", "mountPath": "/s"},
            ]},
            {"name": "b", "image": "app:2", "volumeMounts": [{"name": "data", "mountPath": "/data"}]},
        ],
    });
    let plan = planned(&pod);
    let images: Vec<_> = plan.images_of(&plan.containers[0]).collect();
    let tools = ("registry.test/tools:1", PullPolicy::IfNotPresent);
    assert_eq!(images, [("app:1", PullPolicy::IfNotPresent), tools]);
    let images: Vec<_> = plan.images_of(&plan.containers[1]).collect();
    assert_eq!(images[1], ("registry.test/data", PullPolicy::Never));
    let all = [
        "app:1",
        "app:2",
        "registry.test/tools:1",
        "registry.test/data",
    ];
    assert_eq!(plan.images().collect::<Vec<_>>(), all);
    let memory: Vec<_> = plan.volumes.iter().map(|volume| volume.memory).collect();
    assert_eq!(
        memory,
        [true, true, false],
        "what takes nothing of the disk"
    );
}

#[test]
fn of_an_image_volume_only_the_whole_is_mounted() {
    let pod = |volume: Value, mount: Value| {
        json!({
            "volumes": [{"name": "tools", "image": volume}],
            "containers": [{"name": "a", "image": "app:1", "volumeMounts": [mount]}],
        })
    };
    let whole = json!({"name": "tools", "mountPath": "/tools"});
    let part = json!({"name": "tools", "mountPath": "/tools", "subPath": "bin"});
    assert_eq!(
        refused(&pod(json!({"reference": "t:1"}), part)),
        [
            "spec.podTemplate.spec.containers is subPath of image volume \"tools\" in a: only whole images are mounted; \
             remove subPath and subPathExpr"
        ]
    );
    assert_eq!(
        refused(&pod(json!({}), whole)),
        ["spec.podTemplate.spec.volumes[0].image.reference: is required"]
    );
}
