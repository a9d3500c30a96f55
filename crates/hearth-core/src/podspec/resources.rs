//! What a pod as a whole asks for and is limited to, and in which order the kernel takes pods when memory runs out.

use super::plan::{Overhead, PodLevel, PodPlan, Resources, Role};
use super::read::At;
use super::volume::quantity;

/// Whom the kernel kills last: kubelet's figure for pods that have all they may use.
const GUARANTEED: i64 = -997;
/// Whom it kills first.
const BEST_EFFORT: i64 = 1000;

/// Quality of service, as Kubernetes classes pods by what they ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QosClass {
    /// It asks for exactly what it may use.
    Guaranteed,
    /// It asks for something.
    Burstable,
    /// It asks for nothing.
    BestEffort,
}

impl PodPlan {
    /// What the pod as a whole asks for and is limited to: what it says itself, or else the most that its containers use at a
    /// time; and what its runtime needs besides. The containers make a limit only when each has one.
    #[must_use]
    pub fn resources(&self) -> Resources {
        let PodLevel {
            cpu_request_millis,
            memory_request,
            cpu_limit_millis,
            memory_limit,
        } = self.pod_level;
        let overhead = self.overhead;
        // As the API server defaults a pod that has only a limit.
        let request = |own: Option<u64>, limit: Option<u64>, of: fn(&Resources) -> u64| {
            let together = self.most_at_a_time(|r| Some(of(r))).unwrap_or(0);
            match (own, limit) {
                (Some(own), _) => own,
                (None, Some(limit)) if together == 0 => limit,
                (None, _) => together,
            }
        };
        let limit = |own: Option<u64>, of: fn(&Resources) -> Option<u64>| {
            own.or_else(|| self.most_at_a_time(of))
                .filter(|limit| *limit > 0)
        };
        let plus = |amount: u64, more: u64| amount.saturating_add(more);
        Resources {
            cpu_request_millis: plus(
                request(cpu_request_millis, cpu_limit_millis, |r| {
                    r.cpu_request_millis
                }),
                overhead.cpu_millis,
            ),
            memory_request: plus(
                request(memory_request, memory_limit, |r| r.memory_request),
                overhead.memory,
            ),
            cpu_limit_millis: limit(cpu_limit_millis, |r| r.cpu_limit_millis)
                .map(|limit| plus(limit, overhead.cpu_millis)),
            memory_limit: limit(memory_limit, |r| r.memory_limit)
                .map(|limit| plus(limit, overhead.memory)),
            storage_request: self
                .most_at_a_time(|r| Some(r.storage_request))
                .unwrap_or(0),
            // As a kubelet has it: the limits that there are, whatever containers have none.
            storage_limit: self
                .most_at_a_time(|r| Some(r.storage_limit.unwrap_or(0)))
                .filter(|most| *most > 0),
        }
    }

    /// An init container runs beside the sidecars before it, and is over when the ordinary containers begin. `None` when
    /// a container has no such amount.
    fn most_at_a_time(&self, amount: impl Fn(&Resources) -> Option<u64>) -> Option<u64> {
        let (mut together, mut most) = (0_u64, 0);
        for container in &self.containers {
            let then = together.saturating_add(amount(&container.resources)?);
            most = most.max(then);
            if container.role != Role::Init {
                together = then;
            }
        }
        Some(most)
    }

    /// Its class, by Kubernetes' rules.
    #[must_use]
    pub fn qos(&self) -> QosClass {
        let whole = self.pod_level.as_resources();
        let all: Vec<Resources> = match whole {
            Some(whole) => vec![whole],
            None => self.containers.iter().map(|c| c.resources).collect(),
        };
        let has_nothing = |r: &Resources| {
            (r.cpu_request_millis, r.memory_request) == (0, 0)
                && r.cpu_limit_millis.is_none()
                && r.memory_limit.is_none()
        };
        let has_all = |r: &Resources| {
            r.cpu_limit_millis == Some(r.cpu_request_millis)
                && r.memory_limit == Some(r.memory_request)
        };
        if all.iter().all(has_nothing) {
            QosClass::BestEffort
        } else if all.iter().all(has_all) {
            QosClass::Guaranteed
        } else {
            QosClass::Burstable
        }
    }

    /// kubelet's `oom_score_adj` of a container: who has asked for more of the machine's memory is killed later.
    #[must_use]
    pub fn oom_score_adj(&self, container: usize, machine_memory: u64) -> i64 {
        match self.qos() {
            QosClass::Guaranteed => return GUARANTEED,
            QosClass::BestEffort => return BEST_EFFORT,
            QosClass::Burstable => {}
        }
        let own = self.burstable_score(container, machine_memory);
        let role = self.containers.get(container).map(|plan| plan.role);
        if role != Some(Role::Sidecar) {
            return own;
        }
        // A sidecar is not killed before the container that it serves.
        let main = (0..self.containers.len())
            .filter(|index| {
                self.containers
                    .get(*index)
                    .is_some_and(|c| c.role == Role::Main)
            })
            .map(|index| self.burstable_score(index, machine_memory));
        own.min(main.min().unwrap_or(own))
    }

    fn burstable_score(&self, container: usize, machine_memory: u64) -> i64 {
        let own = self
            .containers
            .get(container)
            .map_or(0, |c| c.resources.memory_request);
        // What the pod has asked for beyond its containers is theirs in equal parts.
        let shared = self.pod_level.memory_request.map_or(0, |whole| {
            let containers = u64::try_from(self.containers.len()).unwrap_or(1).max(1);
            let asked: u64 = self
                .containers
                .iter()
                .map(|c| c.resources.memory_request)
                .sum();
            whole.saturating_sub(asked) / containers
        });
        if machine_memory == 0 {
            return BEST_EFFORT - 1;
        }
        let share = u128::from(own.saturating_add(shared)) * 1000 / u128::from(machine_memory);
        let score = BEST_EFFORT - i64::try_from(share).unwrap_or(BEST_EFFORT);
        // Between the two other classes, and never as one of them.
        score.clamp(BEST_EFFORT + GUARANTEED, BEST_EFFORT - 1)
    }
}

impl PodLevel {
    fn as_resources(self) -> Option<Resources> {
        (self != Self::default()).then(|| Resources {
            cpu_request_millis: self
                .cpu_request_millis
                .or(self.cpu_limit_millis)
                .unwrap_or(0),
            memory_request: self.memory_request.or(self.memory_limit).unwrap_or(0),
            cpu_limit_millis: self.cpu_limit_millis,
            memory_limit: self.memory_limit,
            ..Resources::default()
        })
    }
}

/// Reads `resources` of the pod as a whole.
pub(super) fn pod_level(at: &At<'_>) -> PodLevel {
    let mut level = PodLevel::default();
    at.each_field(|name, at| match name {
        "limits" => at.each_field(|name, at| match name {
            "cpu" => level.cpu_limit_millis = Some(quantity(&at).millis()),
            "memory" => level.memory_limit = Some(quantity(&at).units()),
            _ => at.wrong(not_limited(name)),
        }),
        "requests" => at.each_field(|name, at| match name {
            "cpu" => level.cpu_request_millis = Some(quantity(&at).millis()),
            "memory" => level.memory_request = Some(quantity(&at).units()),
            _ => at.wrong(not_limited(name)),
        }),
        "claims" => at.refuse(NO_DEVICES),
        _ => at.refuse("unknown; remove it"),
    });
    // Zero is how the API says that there is no limit.
    level.cpu_limit_millis = level.cpu_limit_millis.filter(|limit| *limit > 0);
    level.memory_limit = level.memory_limit.filter(|limit| *limit > 0);
    level
}

/// Reads `overhead`: what the runtime of the pod needs besides.
pub(super) fn overhead(at: &At<'_>) -> Overhead {
    let mut overhead = Overhead::default();
    at.each_field(|name, at| match name {
        "cpu" => overhead.cpu_millis = quantity(&at).millis(),
        "memory" => overhead.memory = quantity(&at).units(),
        _ => at.wrong(not_limited(name)),
    });
    overhead
}

/// Why `resources.claims` and `resourceClaims` are refused.
pub(super) const NO_DEVICES: &str =
    "a sandbox has no devices of its node; remove it, or ask for them by an ordinary Pod";

/// Why a resource cannot be asked for.
pub(super) fn not_limited(resource: &str) -> &'static str {
    if resource.starts_with("hugepages-") {
        "huge pages are not given to sandboxes; remove it"
    } else if resource.contains('/') {
        NO_DEVICES
    } else {
        "is no resource that a sandbox can have; remove it"
    }
}

/// What the pod says as a whole against what its containers say.
pub(super) fn check(pod: &At<'_>, plan: &PodPlan) {
    let level = plan.pod_level;
    let together = |of: fn(&Resources) -> u64| plan.most_at_a_time(|r| Some(of(r))).unwrap_or(0);
    for (resource, request, limit, asked, largest) in [
        (
            "cpu",
            level.cpu_request_millis,
            level.cpu_limit_millis,
            together(|r| r.cpu_request_millis),
            plan.containers
                .iter()
                .filter_map(|c| c.resources.cpu_limit_millis)
                .max(),
        ),
        (
            "memory",
            level.memory_request,
            level.memory_limit,
            together(|r| r.memory_request),
            plan.containers
                .iter()
                .filter_map(|c| c.resources.memory_limit)
                .max(),
        ),
    ] {
        if request.is_some_and(|request| request < asked) {
            pod.problem(
                &format!("resources.requests.{resource}"),
                "",
                "must not be less than what the containers request together",
            );
        }
        if limit.is_some_and(|limit| limit < request.unwrap_or(asked)) {
            pod.problem(
                &format!("resources.limits.{resource}"),
                "",
                "must not be less than what the pod requests",
            );
        }
        if limit
            .zip(largest)
            .is_some_and(|(limit, largest)| limit < largest)
        {
            pod.problem(
                &format!("resources.limits.{resource}"),
                "",
                "must not be less than the limit of any container",
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::podspec::ContainerPlan;

    const GIB: u64 = 1 << 30;

    fn container(request: u64, limit: Option<u64>) -> ContainerPlan {
        ContainerPlan {
            resources: Resources {
                cpu_request_millis: request,
                memory_request: request,
                cpu_limit_millis: limit,
                memory_limit: limit,
                ..Resources::default()
            },
            ..ContainerPlan::default()
        }
    }

    fn pod(containers: &[(u64, Option<u64>)], pod_level: PodLevel, overhead: Overhead) -> PodPlan {
        PodPlan {
            containers: containers.iter().map(|(r, l)| container(*r, *l)).collect(),
            pod_level,
            overhead,
            ..PodPlan::default()
        }
    }

    fn level(request: Option<u64>, limit: Option<u64>) -> PodLevel {
        PodLevel {
            cpu_request_millis: request,
            memory_request: request,
            cpu_limit_millis: limit,
            memory_limit: limit,
        }
    }

    #[test]
    fn what_the_pod_says_as_a_whole_comes_before_what_its_containers_say() {
        let more = Overhead {
            cpu_millis: 10,
            memory: 10,
        };
        for (containers, whole, overhead, expect) in [
            (
                &[(1, Some(2)), (3, Some(4))][..],
                level(None, None),
                Overhead::default(),
                (4, Some(6)),
            ),
            (
                &[(1, Some(2)), (3, None)],
                level(None, None),
                Overhead::default(),
                (4, None),
            ),
            (
                &[(1, Some(2)), (3, None)],
                level(None, Some(9)),
                Overhead::default(),
                (4, Some(9)),
            ),
            (
                &[(0, None)],
                level(None, Some(9)),
                Overhead::default(),
                (9, Some(9)),
            ),
            (
                &[(1, None)],
                level(Some(5), None),
                Overhead::default(),
                (5, None),
            ),
            (&[(1, Some(2))], level(None, None), more, (11, Some(12))),
            (&[(1, None)], level(None, None), more, (11, None)),
            (&[(0, None)], level(Some(5), Some(9)), more, (15, Some(19))),
        ] {
            let resources = pod(containers, whole, overhead).resources();
            let cpu = (resources.cpu_request_millis, resources.cpu_limit_millis);
            let memory = (resources.memory_request, resources.memory_limit);
            assert_eq!(
                (cpu, memory),
                (expect, expect),
                "{containers:?} {whole:?} {overhead:?}"
            );
        }
    }

    #[test]
    fn pods_are_classed_as_kubernetes_classes_them() {
        use QosClass::{BestEffort, Burstable, Guaranteed};
        for (containers, whole, expect) in [
            (&[(0, None)][..], level(None, None), BestEffort),
            (&[(5, Some(5))], level(None, None), Guaranteed),
            (&[(5, Some(5)), (0, None)], level(None, None), Burstable),
            (&[(5, Some(6))], level(None, None), Burstable),
            (&[(5, None)], level(None, None), Burstable),
            (&[(0, None)], level(None, Some(9)), Guaranteed),
            (&[(0, None)], level(Some(5), Some(9)), Burstable),
        ] {
            let qos = pod(containers, whole, Overhead::default()).qos();
            assert_eq!(qos, expect, "{containers:?} {whole:?}");
        }
    }

    #[test]
    fn who_asked_for_more_memory_is_killed_later() {
        let none = Overhead::default();
        let check = |plan: &PodPlan, expect: &[i64]| {
            let scores = (0..plan.containers.len()).map(|i| plan.oom_score_adj(i, 16 * GIB));
            assert_eq!(scores.collect::<Vec<_>>(), expect, "{plan:?}");
        };
        check(&pod(&[(0, None)], level(None, None), none), &[1000]);
        check(&pod(&[(GIB, Some(GIB))], level(None, None), none), &[-997]);
        check(
            &pod(&[(GIB, None), (0, None)], level(None, None), none),
            &[938, 999],
        );
        check(&pod(&[(64 * GIB, None)], level(None, None), none), &[3]);
        let shares = level(Some(9 * GIB), None);
        check(&pod(&[(GIB, None), (0, None)], shares, none), &[688, 750]);
        let mut with_sidecar = pod(&[(0, None), (8 * GIB, None)], level(None, None), none);
        with_sidecar.containers[0].role = Role::Sidecar;
        check(&with_sidecar, &[500, 500]);
    }
}
