//! Which images go when the disk gets full.
//!
//! As a kubelet does it: when more than a part of the disk is used, images go until less than another part is, those that
//! were not used for the longest time first. What anybody on the node needs never goes, nor what is pinned; and what came
//! a short time ago is left, because it was pulled for somebody who may not have said so yet.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::normalized;

/// An image of the node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stored {
    /// Its id.
    pub id: String,
    /// Its names, with tags or digests.
    pub names: Vec<String>,
    /// What it takes at least, in bytes.
    pub bytes: u64,
    /// Whether it is never to go: pause containers.
    pub pinned: bool,
}

/// Images that are needed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needed {
    names: BTreeSet<String>,
    ids: BTreeSet<String>,
}

impl Needed {
    /// Somebody names it.
    pub fn name(&mut self, image: &str) {
        self.names.insert(normalized(image));
    }

    /// A container was made from it.
    pub fn id(&mut self, id: &str) {
        self.ids.insert(id.to_owned());
    }

    /// Whether this image is one of them, under any of its names.
    #[must_use]
    pub fn has(&self, image: &Stored) -> bool {
        self.ids.contains(&image.id)
            || image
                .names
                .iter()
                .any(|name| self.names.contains(&normalized(name)))
    }
}

/// When images go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// They begin to when more than this part of the disk is used, in per cent; 100: never.
    pub high_percent: u8,
    /// And go until no more than this is.
    pub low_percent: u8,
    /// None goes that was first seen a shorter time ago.
    pub min_age: Duration,
}

impl Default for Thresholds {
    /// A kubelet's.
    fn default() -> Self {
        Self {
            high_percent: 85,
            low_percent: 80,
            min_age: Duration::from_secs(120),
        }
    }
}

/// How full a disk is, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fill {
    /// What it has in all.
    pub capacity: u64,
    /// What is left of that.
    pub available: u64,
}

impl Fill {
    /// The part that is used, in whole per cent, rounded down.
    #[must_use]
    pub fn used_percent(self) -> u8 {
        let used = u128::from(self.capacity.saturating_sub(self.available));
        let percent = (used * 100).checked_div(u128::from(self.capacity));
        percent.map_or(0, |percent| u8::try_from(percent).unwrap_or(100))
    }

    /// How much must go until no more than this part is used.
    fn excess(self, percent: u8) -> u64 {
        let free = u128::from(self.capacity) * u128::from(100_u8.saturating_sub(percent)) / 100;
        let free = u64::try_from(free).unwrap_or(u64::MAX);
        free.saturating_sub(self.available)
    }
}

/// What is remembered of the images of a node. Times are since any fixed moment of the process.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    known: BTreeMap<String, Times>,
}

#[derive(Clone, Copy, Debug)]
struct Times {
    first_seen: Duration,
    last_needed: Option<Duration>,
}

impl Memory {
    /// These are the images now, and these are needed.
    pub fn observe(&mut self, images: &[Stored], needed: &Needed, now: Duration) {
        let there: BTreeSet<&str> = images.iter().map(|image| image.id.as_str()).collect();
        self.known.retain(|id, _| there.contains(id.as_str()));
        for image in images {
            let times = self.known.entry(image.id.clone()).or_insert(Times {
                first_seen: now,
                last_needed: None,
            });
            if needed.has(image) {
                times.last_needed = Some(now);
            }
        }
    }

    /// The images that go, in their order; none while the disk is not too full. `urgent`: also those that came a short time
    /// ago.
    #[must_use]
    pub fn choose<'a>(
        &self,
        images: &'a [Stored],
        needed: &Needed,
        fill: Fill,
        thresholds: &Thresholds,
        urgent: bool,
        now: Duration,
    ) -> Vec<&'a Stored> {
        let never = thresholds.high_percent >= 100;
        if never || (!urgent && fill.used_percent() < thresholds.high_percent) {
            return Vec::new();
        }
        let times = |image: &Stored| self.known.get(&image.id).copied();
        let may_go = |image: &&Stored| {
            let old = times(image).is_some_and(|times| {
                urgent || now.saturating_sub(times.first_seen) >= thresholds.min_age
            });
            old && !image.pinned && !needed.has(image)
        };
        let mut going: Vec<&Stored> = images.iter().filter(may_go).collect();
        // Those that nobody ever needed come first: nothing is less than a time.
        going.sort_by_key(|image| {
            let order = times(image).map(|times| (times.last_needed, times.first_seen));
            (order, image.id.clone())
        });
        let excess = fill.excess(thresholds.low_percent);
        let mut freed = 0_u64;
        let enough = |image: &&Stored| {
            let short = freed < excess;
            freed = freed.saturating_add(image.bytes);
            short
        };
        going.into_iter().take_while(enough).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const RULES: Thresholds = Thresholds {
        high_percent: 80,
        low_percent: 50,
        min_age: Duration::from_secs(100),
    };

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn image(id: &str, bytes: u64) -> Stored {
        Stored {
            id: id.to_owned(),
            names: vec![format!("registry.test/{id}:1")],
            bytes,
            pinned: false,
        }
    }

    fn needed(names: &[&str]) -> Needed {
        let mut needed = Needed::default();
        names
            .iter()
            .for_each(|id| needed.name(&format!("registry.test/{id}:1")));
        needed
    }

    fn fill(used: u64) -> Fill {
        Fill {
            capacity: 100,
            available: 100 - used,
        }
    }

    fn ids(chosen: &[&Stored]) -> Vec<String> {
        chosen.iter().map(|image| image.id.clone()).collect()
    }

    #[test]
    fn those_go_first_that_were_not_needed_for_the_longest_time() {
        let images: Vec<_> = ["a", "b", "c", "d"].map(|id| image(id, 10)).into();
        let mut memory = Memory::default();
        memory.observe(&images[..2], &needed(&["a"]), at(0));
        memory.observe(&images, &needed(&["b"]), at(50));
        let none = needed(&[]);
        let choose = |used, urgent, now| {
            let chosen = memory.choose(&images, &none, fill(used), &RULES, urgent, at(now));
            ids(&chosen)
        };
        assert_eq!(choose(79, false, 1000), [""; 0], "not full enough");
        assert_eq!(choose(80, false, 1000), ["c", "d", "a"], "down to a half");
        assert_eq!(choose(99, false, 1000), ["c", "d", "a", "b"]);
        assert_eq!(
            choose(99, false, 120),
            ["a", "b"],
            "the others are too young"
        );
        assert_eq!(choose(99, true, 120), ["c", "d", "a", "b"]);
        assert_eq!(choose(60, true, 120), ["c"], "urgent for other reasons");
    }

    #[test]
    fn what_is_needed_or_pinned_stays_under_whatever_name() {
        let mut images = vec![
            image("a", 50),
            image("b", 50),
            image("c", 50),
            image("d", 50),
        ];
        images[0]
            .names
            .push("docker.io/library/app:latest".to_owned());
        images[1].pinned = true;
        let mut needed = Needed::default();
        needed.name("app");
        needed.id("c");
        let mut memory = Memory::default();
        memory.observe(&images, &needed, at(0));
        let chosen = memory.choose(&images, &needed, fill(100), &RULES, true, at(1000));
        assert_eq!(ids(&chosen), ["d"]);
    }

    #[test]
    fn an_image_that_comes_again_is_young_again() {
        let images = [image("a", 50)];
        let none = Needed::default();
        let mut memory = Memory::default();
        memory.observe(&images, &none, at(0));
        memory.observe(&[], &none, at(500));
        memory.observe(&images, &none, at(600));
        let choose = |now| {
            memory
                .choose(&images, &none, fill(90), &RULES, false, at(now))
                .len()
        };
        assert_eq!((choose(650), choose(700)), (0, 1));
    }

    #[test]
    fn a_disk_is_full_in_per_cent() {
        for (capacity, available, percent) in [
            (100, 15, 85),
            (1000, 155, 84),
            (0, 0, 0),
            (10, 20, 0),
            (u64::MAX, 0, 100),
        ] {
            let fill = Fill {
                capacity,
                available,
            };
            assert_eq!(fill.used_percent(), percent, "{fill:?}");
        }
    }

    proptest! {
        #[test]
        fn nothing_goes_that_must_stay_and_no_more_than_is_too_much(
            images in prop::collection::vec((0_u64..40, any::<bool>(), any::<bool>(), 0_u64..300), 0..20),
            used in 0_u64..=100,
            urgent in any::<bool>(),
        ) {
            let stored: Vec<Stored> = images.iter().enumerate().map(|(n, (bytes, pinned, ..))| Stored {
                pinned: *pinned,
                ..image(&n.to_string(), *bytes)
            }).collect();
            let mut wanted = Needed::default();
            for (image, (.., is_needed, _)) in stored.iter().zip(&images) {
                if *is_needed {
                    wanted.id(&image.id);
                }
            }
            let mut memory = Memory::default();
            for second in 0..300 {
                let come = stored.iter().zip(&images).filter(|(_, (.., seen))| *seen <= second);
                let come: Vec<Stored> = come.map(|(image, _)| image.clone()).collect();
                memory.observe(&come, &Needed::default(), at(second));
            }
            memory.observe(&stored, &wanted, at(300));
            let chosen = memory.choose(&stored, &wanted, fill(used), &RULES, urgent, at(300));
            for image in &chosen {
                prop_assert!(!image.pinned && !wanted.has(image));
                let (.., seen) = images[image.id.parse::<usize>().unwrap()];
                prop_assert!(urgent || seen <= 200, "{} is young", image.id);
            }
            prop_assert!(urgent || used >= 80 || chosen.is_empty());
            // Without the last one it would not be enough.
            let before: u64 = chosen.iter().rev().skip(1).map(|image| image.bytes).sum();
            prop_assert!(chosen.is_empty() || before < used.saturating_sub(50));
        }
    }
}
