use super::*;

fn at(second: i64) -> Time {
    Time(jiff::Timestamp::from_second(second).unwrap())
}

fn pod(phase: PodPhase, ready: bool, tier: Option<Tier>) -> PodFacts {
    PodFacts {
        uid: PodUid::from("p"),
        phase,
        ready,
        ips: vec!["10.88.0.2".into()],
        tier,
    }
}

fn facts(mode: OperatingMode, pod: Option<PodFacts>) -> Facts {
    Facts {
        generation: Some(1),
        mode,
        certain: true,
        pod,
        node_name: "vm".into(),
        handler: "runc".into(),
        freeze_method: "cgroup-v2".into(),
        ..Facts::default()
    }
}

fn refusal(cause: Cause) -> Option<Refused> {
    let why = "spec.x is 1: remove it".to_owned();
    Some(Refused { why, cause })
}

/// `type status reason: message` of each condition.
fn lines(status: &SandboxStatus) -> Vec<String> {
    let line = |c: &Condition| format!("{} {} {}: {}", c.type_, c.status, c.reason, c.message);
    status.conditions.iter().map(line).collect()
}

fn check(facts: &Facts, expect: &[&str]) -> SandboxStatus {
    let status = status(&SandboxStatus::default(), "plain", facts, &at(1));
    assert_eq!(lines(&status), expect);
    status
}

const NOT_SUSPENDED: &str = "Suspended False NotSuspended: Sandbox is not suspended";
const SCHEDULED: &str = "PodScheduled True PodScheduled: ";

#[test]
fn what_is_written_is_read_back_as_it_was() {
    for nanoseconds in (1..2_000_000_000).step_by(1_234_567) {
        let mut facts = facts(
            OperatingMode::Running,
            Some(pod(PodPhase::Running, true, None)),
        );
        let took = std::time::Duration::from_nanos(nanoseconds);
        facts.phases.start = Some(took.as_secs_f64() * 1000.0);
        let status = status(&SandboxStatus::default(), "plain", &facts, &at(1));
        let text = serde_json::to_string(&status).unwrap();
        assert_eq!(
            serde_json::from_str::<SandboxStatus>(&text).unwrap(),
            status,
            "{text}"
        );
    }
}

#[test]
fn a_running_sandbox_that_is_ready() {
    for tier in [Tier::Running, Tier::Frozen] {
        let facts = facts(
            OperatingMode::Running,
            Some(pod(PodPhase::Running, true, Some(tier))),
        );
        let status = check(
            &facts,
            &[
                NOT_SUSPENDED,
                SCHEDULED,
                "Ready True DependenciesReady: Pod is Ready",
            ],
        );
        assert_eq!(status.pod_ips, ["10.88.0.2"]);
        assert_eq!(status.node_name, "vm");
        assert_eq!(
            status.selector,
            "agents.x-k8s.io/sandbox-name-hash=d3be3f67"
        );
        let node = status.node.unwrap();
        assert_eq!(
            (node.tier, node.pod_uid.as_str(), node.handler.as_str()),
            (Some(tier), "p", "runc")
        );
    }
}

#[test]
fn on_the_way_to_ready() {
    let no_address = PodFacts {
        ips: vec![],
        ..pod(PodPhase::Running, true, Some(Tier::Running))
    };
    for (pod, message) in [
        (
            pod(PodPhase::Pending, false, Some(Tier::Running)),
            "Pod exists with phase: Pending",
        ),
        (
            pod(PodPhase::Running, false, Some(Tier::Running)),
            "Pod is Running but not Ready",
        ),
        (no_address, "Pod is Ready but has no podIPs yet"),
    ] {
        let ready = format!("Ready False DependenciesNotReady: {message}");
        check(
            &facts(OperatingMode::Running, Some(pod)),
            &[NOT_SUSPENDED, SCHEDULED, &ready],
        );
    }
    check(
        &facts(OperatingMode::Running, None),
        &[
            NOT_SUSPENDED,
            "Ready False DependenciesNotReady: Pod does not exist",
        ],
    );
}

#[test]
fn what_stands_in_the_way_is_named() {
    let mut waiting = facts(
        OperatingMode::Running,
        Some(pod(PodPhase::Pending, false, Some(Tier::Running))),
    );
    waiting.message = "container main: no image x".into();
    let status = check(
        &waiting,
        &[
            NOT_SUSPENDED,
            SCHEDULED,
            "Ready False DependenciesNotReady: Pod exists with phase: Pending",
        ],
    );
    assert_eq!(status.node.unwrap().message, "container main: no image x");
    let mut refused = facts(OperatingMode::Running, None);
    for (cause, ready) in [
        (
            Cause::Spec,
            "Ready False InvalidConfiguration: spec.x is 1: remove it",
        ),
        (
            Cause::Surroundings,
            "Ready False ReconcilerError: Error seen: spec.x is 1: remove it",
        ),
    ] {
        refused.refusal = refusal(cause);
        let status = check(&refused, &[NOT_SUSPENDED, ready]);
        assert_eq!(status.node.unwrap().message, "spec.x is 1: remove it");
        assert_eq!(status.node_name, "");
    }
}

#[test]
fn a_template_edited_into_nonsense_does_not_touch_the_pod_that_runs() {
    let mut facts = facts(
        OperatingMode::Running,
        Some(pod(PodPhase::Running, true, Some(Tier::Running))),
    );
    facts.refusal = refusal(Cause::Spec);
    let status = check(
        &facts,
        &[
            NOT_SUSPENDED,
            SCHEDULED,
            "Ready True DependenciesReady: Pod is Ready",
        ],
    );
    assert_eq!(status.node.unwrap().message, "");
}

#[test]
fn suspending_and_suspended() {
    let there = pod(PodPhase::Running, false, Some(Tier::Running));
    check(
        &facts(OperatingMode::Suspended, Some(there)),
        &[
            "Suspended False PodTerminating: Pod is terminating. Sandbox is suspending",
            SCHEDULED,
            "Ready False SandboxSuspended: Sandbox is suspending",
        ],
    );
    let status = check(
        &facts(OperatingMode::Suspended, None),
        &[
            "Suspended True PodTerminated: Pod has been terminated. Sandbox is suspended",
            "Ready False SandboxSuspended: Sandbox is suspended",
        ],
    );
    assert!(status.pod_ips.is_empty() && status.node_name.is_empty() && status.node.is_none());
    assert!(!status.selector.is_empty());
}

#[test]
fn frozen_by_wish() {
    check(
        &facts(
            OperatingMode::Frozen,
            Some(pod(PodPhase::Running, true, Some(Tier::Running))),
        ),
        &[
            NOT_SUSPENDED,
            SCHEDULED,
            "Ready False SandboxSuspended: Sandbox is suspending",
        ],
    );
    check(
        &facts(
            OperatingMode::Frozen,
            Some(pod(PodPhase::Running, true, Some(Tier::Frozen))),
        ),
        &[
            "Suspended True Frozen: Pod is frozen. Sandbox is suspended",
            SCHEDULED,
            "Ready False SandboxSuspended: Sandbox is suspended",
        ],
    );
    let mut cannot = facts(
        OperatingMode::Frozen,
        Some(pod(PodPhase::Running, true, Some(Tier::Running))),
    );
    cannot.cannot_freeze = Some("no".into());
    check(
        &cannot,
        &[
            NOT_SUSPENDED,
            SCHEDULED,
            "Ready False InvalidConfiguration: no",
        ],
    );
}

#[test]
fn finished() {
    for (phase, reason, message) in [
        (
            PodPhase::Succeeded,
            "PodSucceeded",
            "Pod completed successfully",
        ),
        (PodPhase::Failed, "PodFailed", "Pod failed"),
    ] {
        let ready = format!("Ready False {reason}: {message}");
        let finished = format!("Finished True {reason}: {message}");
        let status = check(
            &facts(OperatingMode::Running, Some(pod(phase, false, None))),
            &[NOT_SUSPENDED, SCHEDULED, &ready, &finished],
        );
        assert_eq!(status.pod_ips, ["10.88.0.2"], "as long as the pod is there");
    }
}

#[test]
fn expiry_keeps_what_was_and_clears_the_rest() {
    let mut done = facts(
        OperatingMode::Running,
        Some(pod(PodPhase::Succeeded, false, None)),
    );
    let mut before = status(&SandboxStatus::default(), "plain", &done, &at(1));
    before.service = "plain".into();
    (done.expired, done.pod, done.generation) = (true, None, Some(2));
    let after = status(&before, "plain", &done, &at(2));
    let expect = [
        NOT_SUSPENDED,
        "Ready False SandboxExpired: Sandbox has expired",
        "Finished True PodSucceeded: Pod completed successfully",
    ];
    assert_eq!(lines(&after), expect);
    assert_eq!(after.conditions[0].observed_generation, Some(1));
    assert_eq!(after.conditions[1].observed_generation, Some(2));
    assert_eq!(
        SandboxStatus {
            conditions: vec![],
            ..after
        },
        SandboxStatus::default()
    );
}

#[test]
fn nothing_is_said_before_it_was_found_out() {
    let ready = facts(
        OperatingMode::Running,
        Some(pod(PodPhase::Running, true, Some(Tier::Running))),
    );
    let before = status(&SandboxStatus::default(), "plain", &ready, &at(1));
    let unclear = Facts {
        certain: false,
        pod: None,
        ..ready
    };
    assert_eq!(status(&before, "plain", &unclear, &at(2)), before);
}

#[test]
fn times_move_only_with_the_status() {
    let mut facts = facts(
        OperatingMode::Running,
        Some(pod(PodPhase::Pending, false, None)),
    );
    let first = status(&SandboxStatus::default(), "plain", &facts, &at(1));
    facts.pod = Some(pod(PodPhase::Running, false, None));
    let second = status(&first, "plain", &facts, &at(2));
    assert_eq!(second.conditions[2].last_transition_time, at(1));
    facts.pod = Some(pod(PodPhase::Running, true, None));
    let third = status(&second, "plain", &facts, &at(3));
    assert_eq!(third.conditions[2].last_transition_time, at(3));
    assert_eq!(third.conditions[0].last_transition_time, at(1));
}

#[test]
fn ready_says_whether_the_service_is_there() {
    let there = || ServiceFact::There {
        name: "plain".into(),
        fqdn: "plain.default.svc.cluster.local".into(),
    };
    let running = || Some(pod(PodPhase::Running, true, Some(Tier::Running)));
    for (service, pod, ready) in [
        (
            ServiceFact::NotAsked,
            running(),
            "True DependenciesReady: Pod is Ready",
        ),
        (
            ServiceFact::Absent,
            running(),
            "True DependenciesReady: Pod is Ready",
        ),
        (
            there(),
            running(),
            "True DependenciesReady: Pod is Ready; Service Exists",
        ),
        (
            ServiceFact::Missing,
            running(),
            "False DependenciesNotReady: Pod is Ready; Service does not exist",
        ),
        (
            there(),
            None,
            "False DependenciesNotReady: Pod does not exist; Service Exists",
        ),
        (
            there(),
            Some(pod(PodPhase::Pending, false, None)),
            "False DependenciesNotReady: Pod exists with phase: Pending; Service Exists",
        ),
    ] {
        let facts = Facts {
            service,
            ..facts(OperatingMode::Running, pod)
        };
        let status = status(&SandboxStatus::default(), "plain", &facts, &at(1));
        let line = lines(&status).pop().unwrap();
        assert_eq!(line, format!("Ready {ready}"), "{:?}", facts.service);
    }
}

#[test]
fn the_fields_of_the_service_follow_what_is_known_of_it() {
    let previous = SandboxStatus {
        service: "plain".into(),
        service_fqdn: "old".into(),
        ..SandboxStatus::default()
    };
    let there = ServiceFact::There {
        name: "plain".into(),
        fqdn: "new".into(),
    };
    for (service, expected) in [
        (ServiceFact::NotAsked, ("plain", "old")),
        (ServiceFact::Absent, ("", "")),
        (ServiceFact::Missing, ("", "")),
        (there, ("plain", "new")),
    ] {
        let facts = Facts {
            service,
            ..facts(OperatingMode::Running, None)
        };
        let status = status(&previous, "plain", &facts, &at(1));
        let fields = (status.service.as_str(), status.service_fqdn.as_str());
        assert_eq!(fields, expected, "{:?}", facts.service);
    }
}

#[test]
fn what_the_controller_cannot_do_comes_before_what_the_pod_is_and_changes_nothing_else() {
    let running = || Some(pod(PodPhase::Running, true, Some(Tier::Running)));
    let ended = || Some(pod(PodPhase::Failed, false, None));
    for mode in [
        OperatingMode::Running,
        OperatingMode::Frozen,
        OperatingMode::Suspended,
    ] {
        for pod in [None, running(), ended()] {
            let fine = facts(mode, pod);
            let faulty = Facts {
                fault: Some("PVC \"a\": no".into()),
                ..fine.clone()
            };
            let says = |facts: &Facts| {
                let status = status(&SandboxStatus::default(), "plain", facts, &at(1));
                let lines = lines(&status).into_iter();
                lines.partition::<Vec<_>, _>(|line| line.starts_with("Ready "))
            };
            let (ready, others) = says(&faulty);
            assert_eq!(
                ready,
                ["Ready False ReconcilerError: Error seen: PVC \"a\": no"]
            );
            assert_eq!(others, says(&fine).1, "{fine:?}");
        }
    }
}

#[test]
fn a_service_that_can_never_be_is_said_to_be_asked_for_in_vain() {
    let why = "spec.service is true, but";
    for mode in [OperatingMode::Running, OperatingMode::Suspended] {
        let facts = Facts {
            service: ServiceFact::Impossible(why.into()),
            ..facts(mode, Some(pod(PodPhase::Running, true, None)))
        };
        let status = status(&SandboxStatus::default(), "plain", &facts, &at(1));
        let line = lines(&status).pop().unwrap();
        assert_eq!(line, format!("Ready False InvalidConfiguration: {why}"));
    }
}
