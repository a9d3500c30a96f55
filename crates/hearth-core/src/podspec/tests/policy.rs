//! What a pod may have only where the operator of its node allows it.

use super::*;

fn allowing(grants: &[&str]) -> Support {
    let grants = grants.iter().map(|text| text.parse().unwrap()).collect();
    Support {
        policy: Policy::new(grants),
        ..Support::default()
    }
}

fn with_security(security: &Value) -> Value {
    with_container(&json!({ "securityContext": security }))
}

fn with_host_path(source: &Value) -> Value {
    with_pod(&json!({"volumes": [{"name": "v", "hostPath": source}]}))
}

fn with_sysctl(name: &str) -> Value {
    with_pod(&json!({"securityContext": {"sysctls": [{"name": name, "value": "1"}]}}))
}

/// Field, pod, what allows it.
fn reaching_out() -> Vec<(&'static str, Value, &'static str)> {
    vec![
        (
            "hostNetwork is true",
            with_pod(&json!({"hostNetwork": true})),
            "hostNetwork",
        ),
        (
            "hostPID is true",
            with_pod(&json!({"hostPID": true})),
            "hostPID",
        ),
        (
            "hostIPC is true",
            with_pod(&json!({"hostIPC": true})),
            "hostIPC",
        ),
        (
            "containers[0].securityContext.privileged is true",
            with_security(&json!({"privileged": true})),
            "privileged",
        ),
        (
            "volumes[0].hostPath.path is \"/srv/a\"",
            with_host_path(&json!({"path": "/srv/a"})),
            "hostPath=/srv/a",
        ),
        (
            "securityContext.sysctls[0].name is \"net.core.somaxconn\"",
            with_sysctl("net.core.somaxconn"),
            "sysctl=net.core.somaxconn",
        ),
    ]
}

#[test]
fn what_reaches_beyond_the_pod_is_refused_unless_it_is_allowed() {
    for (field, pod, grant) in reaching_out() {
        let expect = [format!(
            "spec.podTemplate.spec.{field}: this node does not allow it; remove it, or start hearthd with --allow={grant}"
        )];
        assert_eq!(refused(&pod), expect);
        // One thing allowed is not another.
        let others = reaching_out().into_iter().map(|(_, _, grant)| grant);
        let others: Vec<_> = others.filter(|other| *other != grant).collect();
        assert_eq!(refused_on(&allowing(&others), &pod), expect);
        planned_on(&allowing(&[grant]), &pod);
    }
}

#[test]
fn what_is_allowed_reaches_the_plan() {
    let all = allowing(&[
        "hostNetwork",
        "hostPID",
        "hostIPC",
        "privileged",
        "hostPath=/srv",
    ]);
    let mut pod = with_container(&json!({
        "securityContext": {"privileged": true},
        "ports": [{"containerPort": 80, "hostPort": 80, "name": "web"}],
    }));
    pod["hostNetwork"] = json!(true);
    pod["hostPID"] = json!(true);
    pod["hostIPC"] = json!(true);
    pod["volumes"] =
        json!([{"name": "data", "hostPath": {"path": "/srv//a/./b/", "type": "Directory"}}]);
    let plan = planned_on(&all, &pod);
    let host = HostNamespaces {
        network: true,
        pid: true,
        ipc: true,
    };
    assert_eq!(plan.host, host);
    assert!(plan.containers[0].security.privileged);
    let expect = HostPathPlan {
        allowed: "/srv".into(),
        below: "a/b".into(),
        kind: HostPathKind::Directory,
    };
    assert_eq!(plan.volumes[0].host_path, Some(expect));
    assert_eq!(
        plan.dns,
        DnsPlan::Node,
        "who has the node's network has its resolver"
    );
    pod["dnsPolicy"] = json!("ClusterFirstWithHostNet");
    assert_eq!(planned_on(&all, &pod).dns, DnsPlan::Cluster);
}

#[test]
fn what_does_not_go_together_is_refused_also_where_it_is_allowed() {
    let all = allowing(&[
        "hostNetwork",
        "hostPID",
        "hostIPC",
        "privileged",
        "hostPath=/srv",
        "sysctl=net.*",
        "sysctl=kernel.msg*",
    ]);
    let with_both = |first: Value, mut second: Value| {
        for (name, value) in first.as_object().unwrap() {
            second[name] = value.clone();
        }
        second
    };
    for (pod, expect) in [
        (
            with_pod(&json!({"hostPID": true, "shareProcessNamespace": true})),
            "shareProcessNamespace is true: does not go with hostPID",
        ),
        (
            with_security(&json!({"privileged": true, "allowPrivilegeEscalation": false})),
            "allowPrivilegeEscalation is false: does not go with privileged",
        ),
        (
            with_both(
                json!({"hostNetwork": true}),
                with_sysctl("net.ipv4.tcp_rmem"),
            ),
            "sysctls[0].name is \"net.ipv4.tcp_rmem\": would be the node's own, because hostNetwork is true",
        ),
        (
            with_both(json!({"hostIPC": true}), with_sysctl("kernel.msgmax")),
            "sysctls[0].name is \"kernel.msgmax\": would be the node's own, because hostIPC is true",
        ),
        (
            with_sysctl("vm.swappiness"),
            "sysctls[0].name is \"vm.swappiness\": is a parameter of the whole machine",
        ),
        (
            with_both(
                json!({"hostNetwork": true}),
                with_container(&json!({"ports": [{"containerPort": 80, "hostPort": 81}]})),
            ),
            "ports[0].hostPort is 81: must be the same as containerPort",
        ),
        (
            with_host_path(&json!({"path": "/srv/../etc"})),
            "hostPath.path is \"/srv/../etc\": must be an absolute path",
        ),
        (
            with_host_path(&json!({"path": "srv"})),
            "hostPath.path is \"srv\": must be an absolute path",
        ),
        (
            with_host_path(&json!({"type": ""})),
            "hostPath.path: is required",
        ),
        (
            with_host_path(&json!({"path": "/srv", "type": "Pipe"})),
            "hostPath.type is \"Pipe\": must be DirectoryOrCreate or",
        ),
        (
            with_host_path(&json!({"path": "/srvother"})),
            "hostPath.path is \"/srvother\": this node does not allow it",
        ),
        (
            with_pod(&json!({"hostNetwork": true, "hostnameOverride": "a.b"})),
            "hostnameOverride is \"a.b\": does not go with hostNetwork",
        ),
    ] {
        let problems = refused_on(&all, &pod);
        assert!(
            problems.iter().any(|text| text.contains(expect)),
            "{expect} is not among {problems:?}"
        );
    }
}

#[test]
fn a_runtime_with_a_kernel_of_its_own_has_nothing_of_the_node_s() {
    let all = allowing(&[
        "hostNetwork",
        "hostPID",
        "hostIPC",
        "privileged",
        "hostPath=/srv",
    ]);
    let own = |pod: &Value| {
        let refusal = honoured_by("runsc", &planned_on(&all, pod));
        refusal.map_err(|refusal| refusal.to_string())
    };
    for (pod, expect) in [
        (
            with_pod(&json!({"hostNetwork": true})),
            "spec.podTemplate.spec.hostNetwork is true: pods of runtime",
        ),
        (
            with_pod(&json!({"hostPID": true})),
            "spec.podTemplate.spec.hostPID is true: pods of runtime",
        ),
        (
            with_security(&json!({"privileged": true})),
            "spec.podTemplate.spec.containers[0].securityContext.privileged is true: pods of runtime",
        ),
    ] {
        let said = own(&pod).unwrap_err();
        assert!(said.starts_with(expect), "{said}");
    }
    own(&with_host_path(&json!({"path": "/srv"}))).unwrap();
}

#[test]
fn only_linux_is_run() {
    planned(&with_pod(&json!({"os": {"name": "linux"}})));
    for (pod, expect) in [
        (
            with_pod(&json!({"os": {"name": "windows"}})),
            "spec.os.name is \"windows\"",
        ),
        (
            with_pod(&json!({"securityContext": {"windowsOptions": {"hostProcess": true}}})),
            "securityContext.windowsOptions",
        ),
    ] {
        let problems = refused(&pod);
        assert!(
            problems[0].contains(expect) && problems[0].contains("only linux is run"),
            "{problems:?}"
        );
    }
}

#[test]
fn profiles_go_by_their_type() {
    let armed = Support {
        app_armor: true,
        ..Support::default()
    };
    let of = |kind: &str, profile: &Value| {
        let plan = planned_on(&armed, &with_security(&json!({ kind: profile })));
        plan.containers[0].security.clone()
    };
    let local = json!({"type": "Localhost", "localhostProfile": "a/b.json"});
    assert_eq!(
        of("seccompProfile", &local).seccomp,
        Profile::Localhost("a/b.json".into())
    );
    assert_eq!(
        of("appArmorProfile", &local).app_armor,
        Some(Profile::Localhost("a/b.json".into()))
    );
    assert_eq!(
        of("appArmorProfile", &json!({"type": "RuntimeDefault"})).app_armor,
        Some(Profile::RuntimeDefault)
    );
    assert_eq!(
        of("seccompProfile", &json!({"type": "Unconfined"})).app_armor,
        None
    );
    // The pod's counts where the container says nothing.
    let pod =
        with_pod(&json!({"securityContext": {"seccompProfile": local, "appArmorProfile": local}}));
    let security = planned_on(&armed, &pod).containers[0].security.clone();
    assert_eq!(security.seccomp, Profile::Localhost("a/b.json".into()));
    assert!(security.app_armor.is_some());
    for (kind, profile, expect) in [
        (
            "seccompProfile",
            json!({"type": "Localhost"}),
            "localhostProfile: is required",
        ),
        (
            "seccompProfile",
            json!({"type": "Localhost", "localhostProfile": "../x"}),
            "relative and without ..",
        ),
        (
            "seccompProfile",
            json!({"type": "Unconfined", "localhostProfile": "x"}),
            "goes only with type Localhost",
        ),
        (
            "seccompProfile",
            json!({}),
            "seccompProfile.type: is required",
        ),
        (
            "seccompProfile",
            json!({"type": "Other"}),
            "type is \"Other\": must be RuntimeDefault or Unconfined or Localhost",
        ),
    ] {
        let problems = refused_on(&armed, &with_security(&json!({ kind: profile })));
        assert!(
            problems.iter().any(|text| text.contains(expect)),
            "{expect}: {problems:?}"
        );
    }
    let unarmed = refused(&with_security(
        &json!({"appArmorProfile": {"type": "RuntimeDefault"}}),
    ));
    assert!(
        unarmed[0].contains("this node's kernel has no AppArmor"),
        "{unarmed:?}"
    );
    planned(&with_security(
        &json!({"appArmorProfile": {"type": "Unconfined"}}),
    ));
}

#[test]
fn what_a_user_namespace_goes_with() {
    let able = Support {
        user_namespaces: UserNamespaces::Yes,
        ..allowing(&["hostNetwork", "privileged"])
    };
    let mut pod = with_security(&json!({"procMount": "Unmasked"}));
    let masked = refused_on(&able, &pod);
    assert!(
        masked[0].contains("procMount is \"Unmasked\": shows the node's kernel"),
        "{masked:?}"
    );
    pod["hostUsers"] = json!(false);
    let plan = planned_on(&able, &pod);
    assert!(plan.security.user_namespace && plan.containers[0].security.unmasked_proc);
    honoured_by("runsc", &plan).unwrap_err();
    let unable = Support {
        user_namespaces: UserNamespaces::No("this node's kernel makes no user namespaces".into()),
        ..able.clone()
    };
    let problems = refused_on(&unable, &pod);
    assert_eq!(
        problems[0],
        "spec.podTemplate.spec.hostUsers is false: this node's kernel makes no user namespaces; remove it"
    );
    pod["hostNetwork"] = json!(true);
    let problems = refused_on(&able, &pod);
    assert!(
        problems[0].contains("hostUsers is false: does not go with hostNetwork"),
        "{problems:?}"
    );
    assert!(
        !planned(&with_pod(&json!({"hostUsers": true})))
            .security
            .user_namespace
    );
}

#[test]
fn what_has_the_nodes_address_is_never_idle() {
    let mut spec = spec_of(&with_pod(&json!({"hostNetwork": true})));
    spec.idle = Some(IdlePolicy {
        freeze_after: Some("5m".into()),
        ..IdlePolicy::default()
    });
    let admission = Admission::default();
    let refusal = super::super::plan(&spec, None, &admission, &allowing(&["hostNetwork"]));
    let refusal = refusal.unwrap_err();
    assert_eq!(refusal.fields[0].path, "spec.idle.freezeAfter");
    spec.idle = Some(IdlePolicy {
        reclaim_after: Some("5m".into()),
        ..IdlePolicy::default()
    });
    assert!(super::super::plan(&spec, None, &admission, &allowing(&["hostNetwork"])).is_ok());
}
