//! Whatever order Pods and edits come in.

use proptest::prelude::*;

use super::*;

const NAMES: [&str; 3] = ["a", "b", "c"];

#[derive(Clone, Copy, Debug)]
enum Step {
    /// A Pod is there: the Sandbox's, another one's, or nobody's.
    Pod(usize, Option<bool>),
    /// It is being deleted.
    Ends(usize),
    /// It is gone.
    Gone(usize),
    Mode(&'static str),
    /// The Sandbox's time is over, or is not.
    Expires(bool),
    /// The watch begins anew, and shows what there is.
    Relist,
}

fn step() -> impl Strategy<Value = Step> {
    let pod = 0..NAMES.len();
    prop_oneof![
        3 => (pod.clone(), any::<Option<bool>>()).prop_map(|(pod, owner)| Step::Pod(pod, owner)),
        1 => pod.clone().prop_map(Step::Ends),
        2 => pod.prop_map(Step::Gone),
        2 => prop::sample::select(vec!["Running", "Suspended", "Frozen"]).prop_map(Step::Mode),
        1 => any::<bool>().prop_map(Step::Expires),
        1 => Just(Step::Relist),
    ]
}

/// The Pods that there are, and whose they are.
type Pods = BTreeMap<&'static str, Option<&'static str>>;

fn take(scene: &mut Scene, pods: &mut Pods, step: Step) {
    match step {
        Step::Pod(pod, owner) => {
            let owner = owner.map(|own| if own { "uid-a" } else { "uid-of-another" });
            pods.insert(NAMES[pod], owner);
            scene.pod(NAMES[pod], owner, false);
        }
        Step::Ends(pod) => {
            if let Some(owner) = pods.get(NAMES[pod]) {
                scene.pod(NAMES[pod], *owner, true);
            }
        }
        Step::Gone(pod) => {
            pods.remove(NAMES[pod]);
            scene.pod_goes(NAMES[pod]);
        }
        Step::Mode(name) => scene.edit("a", mode(name)),
        Step::Expires(expires) => {
            let time = expires.then_some("2027-01-15T08:00:00Z");
            scene.edit("a", json!({"spec": {"shutdownTime": time}}));
        }
        Step::Relist => {
            let present: HashSet<Key> = pods.keys().map(|name| key(name)).collect();
            let now = at(scene.ms);
            scene.index.retain_kept::<PodRecord>(&present, now);
        }
    }
}

/// That what was written was right with these Pods.
fn check(scene: &Scene, pods: &Pods, writes: &[Write]) {
    let own: Vec<_> = pods
        .iter()
        .filter(|(_, owner)| **owner == Some("uid-a"))
        .map(|(name, _)| *name)
        .collect();
    let spec = &scene.objects["a"]["spec"];
    let over = !spec["shutdownTime"].is_null();
    let suspended = spec["operatingMode"] == "Suspended";
    for write in writes {
        match write.receipt.intent {
            Intent::Place => assert!(own.is_empty(), "placed beside {own:?}"),
            Intent::PodDelete => {
                let name = write.receipt.subject.key().name.as_str();
                assert!(own.contains(&name), "{name} is not its own");
                assert!(over || (suspended && own.len() == 1), "{name} of {own:?}");
            }
            _ => {}
        }
    }
}

proptest! {
    #[test]
    fn a_sandbox_is_never_placed_beside_its_pod_and_no_pod_goes_that_it_wants(
        steps in proptest::collection::vec(step(), 1..40),
    ) {
        let mut scene = Scene::new();
        let mut pods = Pods::new();
        scene.sandbox("a", json!({}));
        // Upstream's, so that it is not ours before the first Pod.
        take(&mut scene, &mut pods, Step::Pod(0, Some(true)));
        for step in steps {
            take(&mut scene, &mut pods, step);
            scene.ms += 40_000;
            let writes = scene.run();
            check(&scene, &pods, &writes);
        }
        // Once there is no Pod and it is to run, it does.
        for pod in 0..NAMES.len() {
            take(&mut scene, &mut pods, Step::Gone(pod));
        }
        take(&mut scene, &mut pods, Step::Mode("Running"));
        take(&mut scene, &mut pods, Step::Expires(false));
        scene.ms += 40_000;
        let writes = scene.run();
        check(&scene, &pods, &writes);
        prop_assert_eq!(&scene.objects["a"]["metadata"]["labels"]["hearth.dev/node"], "n1");
    }
}
