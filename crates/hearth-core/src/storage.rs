//! Ephemeral storage: what a pod takes of its node's disk, and when that is more than it may have.
//!
//! The rules and their order are a kubelet's: volumes with a limit of their own, then the pod as a whole, then each
//! container. A container's share is what it has written beside its image, and its logs; a pod's is that of its
//! containers and its volumes on disk.

use std::collections::BTreeMap;
use std::fmt;

use crate::podspec::{PodPlan, VolumePlan};

/// What a pod takes of the disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodStorage {
    /// By the name of the volume, those on disk, in bytes.
    pub volumes: BTreeMap<String, u64>,
    /// By the name of the container.
    pub containers: BTreeMap<String, ContainerStorage>,
}

/// What a container takes of the disk, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ContainerStorage {
    /// What it has written beside its image.
    pub layer: u64,
    /// Its logs.
    pub logs: u64,
}

impl ContainerStorage {
    fn total(self) -> u64 {
        self.layer.saturating_add(self.logs)
    }
}

impl PodStorage {
    fn total(&self) -> u64 {
        let containers = self.containers.values().map(|used| used.total());
        let volumes = self.volumes.values().copied();
        containers.chain(volumes).fold(0, u64::saturating_add)
    }
}

impl VolumePlan {
    /// How much of the disk it may take, in bytes; `None` when it has no limit of its own or is not on disk.
    #[must_use]
    pub fn disk_limit(&self) -> Option<u64> {
        self.size_limit.filter(|_| !self.memory)
    }
}

impl PodPlan {
    /// Whether anything of it has a limit on disk, so that it must be measured.
    #[must_use]
    pub fn limits_storage(&self) -> bool {
        self.volumes
            .iter()
            .any(|volume| volume.disk_limit().is_some())
            || self
                .containers
                .iter()
                .any(|container| container.resources.storage_limit.is_some())
    }
}

/// Why the pod is to be evicted, if it is.
#[must_use]
pub fn exceeded(plan: &PodPlan, used: &PodStorage) -> Option<String> {
    let volumes = plan.volumes.iter().filter_map(|volume| {
        let (limit, used) = (volume.disk_limit()?, *used.volumes.get(&volume.name)?);
        (used > limit).then(|| {
            format!(
                "usage of emptyDir volume {:?} exceeds its sizeLimit {}: it is {}",
                volume.name,
                Size(limit),
                Size(used)
            )
        })
    });
    let pod = plan.resources().storage_limit.and_then(|limit| {
        let total = used.total();
        (total > limit).then(|| {
            format!(
                "ephemeral local storage usage of the pod exceeds the total limit of its containers {}: it is {}",
                Size(limit),
                Size(total)
            )
        })
    });
    let containers = plan.containers.iter().filter_map(|container| {
        let limit = container.resources.storage_limit?;
        let used = used.containers.get(&container.name)?;
        (used.total() > limit).then(|| {
            format!(
                "container {} exceeds its ephemeral-storage limit {}: it has {} beside its image and {} of logs",
                container.name,
                Size(limit),
                Size(used.layer),
                Size(used.logs)
            )
        })
    });
    volumes.chain(pod).chain(containers).next()
}

/// When a node's disk counts as nearly full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PressureRules {
    /// Less than this part of it is available, in per cent; 0: never.
    pub available_percent: u8,
    /// Fewer than this part of its inodes are free, in per cent; 0: never.
    pub inodes_percent: u8,
}

impl Default for PressureRules {
    /// A kubelet's.
    fn default() -> Self {
        Self {
            available_percent: 10,
            inodes_percent: 5,
        }
    }
}

/// How far beyond a rule the disk must be before it counts as having room again, in per cent of it: what goes up and down
/// around the rule is not told each time.
const RELIEF_PERCENT: u8 = 2;

/// What a disk has room for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Room {
    /// Bytes in all.
    pub capacity: u64,
    /// Bytes that are left.
    pub available: u64,
    /// Files in all; 0 when it has no such limit.
    pub inodes: u64,
    /// Files that it can have more.
    pub inodes_free: u64,
}

/// Why nothing new is to be begun on a node with this much room; `None` when there is enough. `before`: whether nothing was
/// until now.
#[must_use]
pub fn pressure(room: &Room, rules: &PressureRules, before: bool) -> Option<String> {
    let lacks = |left: u64, all: u64, rule: u8| {
        let relief = if before { RELIEF_PERCENT } else { 0 };
        let percent = u128::from(rule.saturating_add(relief));
        rule > 0 && all > 0 && u128::from(left) * 100 < u128::from(all) * percent
    };
    // Without the figures of the moment, which would make it another text each time.
    if lacks(room.available, room.capacity, rules.available_percent) {
        let percent = rules.available_percent;
        return Some(format!(
            "less than {percent}% of the node's disk is available"
        ));
    }
    if lacks(room.inodes_free, room.inodes, rules.inodes_percent) {
        let percent = rules.inodes_percent;
        return Some(format!(
            "less than {percent}% of the inodes of the node's disk are free"
        ));
    }
    None
}

/// A number of bytes as people read it: exact where it is a whole number of its unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(pub u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(&str, u64); 4] = [
            ("Ti", 1 << 40),
            ("Gi", 1 << 30),
            ("Mi", 1 << 20),
            ("Ki", 1 << 10),
        ];
        let Some((unit, size)) = UNITS.into_iter().find(|(_, size)| self.0 >= *size) else {
            return write!(f, "{} bytes", self.0);
        };
        let tenths = u128::from(self.0) * 10 / u128::from(size);
        match tenths % 10 {
            0 => write!(f, "{}{unit}", tenths / 10),
            tenth => write!(f, "{}.{tenth}{unit}", tenths / 10),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::podspec::{ContainerPlan, Role};

    const MI: u64 = 1 << 20;

    fn container(name: &str, limit: Option<u64>) -> ContainerPlan {
        let mut plan = ContainerPlan {
            name: name.to_owned(),
            ..ContainerPlan::default()
        };
        plan.resources.storage_limit = limit;
        plan
    }

    fn volume(name: &str, memory: bool, size_limit: Option<u64>) -> VolumePlan {
        VolumePlan {
            name: name.to_owned(),
            memory,
            size_limit,
            ..VolumePlan::default()
        }
    }

    fn used(volumes: &[(&str, u64)], containers: &[(&str, u64, u64)]) -> PodStorage {
        let volume = |(name, used): &(&str, u64)| ((*name).to_owned(), *used);
        let container = |(name, layer, logs): &(&str, u64, u64)| {
            let used = ContainerStorage {
                layer: *layer,
                logs: *logs,
            };
            ((*name).to_owned(), used)
        };
        PodStorage {
            volumes: volumes.iter().map(volume).collect(),
            containers: containers.iter().map(container).collect(),
        }
    }

    #[test]
    fn what_exceeds_a_limit_is_named() {
        let plan = PodPlan {
            volumes: vec![
                volume("small", false, Some(MI)),
                volume("free", false, None),
            ],
            containers: vec![container("a", Some(4 * MI)), container("b", None)],
            ..PodPlan::default()
        };
        for (used, expect) in [
            (used(&[], &[]), None),
            (used(&[("small", MI)], &[("a", 2 * MI, MI)]), None),
            (
                used(&[("small", MI + 1)], &[("a", 9 * MI, 0)]),
                Some("usage of emptyDir volume \"small\" exceeds its sizeLimit 1Mi: it is 1Mi"),
            ),
            // What has no limit of its own counts for the pod.
            (
                used(&[("free", 3 * MI)], &[("b", MI, 512 << 10)]),
                Some(
                    "ephemeral local storage usage of the pod exceeds the total limit of its containers 4Mi: it is 4.5Mi",
                ),
            ),
        ] {
            assert_eq!(exceeded(&plan, &used).as_deref(), expect, "{used:?}");
        }
    }

    #[test]
    fn a_container_has_its_own_limit_within_the_pods() {
        let plan = PodPlan {
            containers: vec![container("a", Some(4 * MI)), container("b", Some(4 * MI))],
            ..PodPlan::default()
        };
        assert_eq!(
            exceeded(&plan, &used(&[], &[("a", 3 * MI, 2 * MI)])).unwrap(),
            "container a exceeds its ephemeral-storage limit 4Mi: it has 3Mi beside its image and 2Mi of logs"
        );
    }

    #[test]
    fn an_init_container_has_its_limit_while_the_others_do_not_run() {
        let init = ContainerPlan {
            role: Role::Init,
            ..container("first", Some(10 * MI))
        };
        let plan = PodPlan {
            containers: vec![init, container("a", Some(MI))],
            ..PodPlan::default()
        };
        assert_eq!(plan.resources().storage_limit, Some(10 * MI));
        assert!(plan.limits_storage());
        assert!(!PodPlan::default().limits_storage());
    }

    #[test]
    fn a_disk_is_nearly_full_until_it_is_clearly_not() {
        let rules = PressureRules::default();
        for (available, inodes_free, before, expect) in [
            (10, 5, false, None),
            (
                9,
                100,
                false,
                Some("less than 10% of the node's disk is available"),
            ),
            (
                10,
                100,
                true,
                Some("less than 10% of the node's disk is available"),
            ),
            (
                11,
                100,
                true,
                Some("less than 10% of the node's disk is available"),
            ),
            (12, 100, true, None),
            (
                50,
                4,
                false,
                Some("less than 5% of the inodes of the node's disk are free"),
            ),
            (
                50,
                6,
                true,
                Some("less than 5% of the inodes of the node's disk are free"),
            ),
            (50, 7, true, None),
        ] {
            let room = Room {
                capacity: 100,
                available,
                inodes: 100,
                inodes_free,
            };
            let found = pressure(&room, &rules, before);
            assert_eq!(found.as_deref(), expect, "{room:?} {before}");
        }
        let never = PressureRules {
            available_percent: 0,
            inodes_percent: 0,
        };
        let full = Room {
            capacity: 100,
            inodes: 100,
            ..Room::default()
        };
        assert_eq!(pressure(&full, &never, true), None);
        assert_eq!(
            pressure(&Room::default(), &rules, false),
            None,
            "it does not say"
        );
    }

    #[test]
    fn sizes_are_short() {
        for (bytes, text) in [
            (0, "0 bytes"),
            (1023, "1023 bytes"),
            (1024, "1Ki"),
            (1536, "1.5Ki"),
            (3 << 30, "3Gi"),
            (u64::MAX, "16777215.9Ti"),
        ] {
            assert_eq!(Size(bytes).to_string(), text);
        }
    }
}
