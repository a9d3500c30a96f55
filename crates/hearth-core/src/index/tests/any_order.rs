//! Everything in any order: what users do, what others do by hand, what gets lost.
//!
//! A run follows from its steps alone. When one fails, proptest prints the steps, as few as it can make them, and the seed
//! of the case (`cc ...`), which it keeps beside the sources and tries first the next time. `PROPTEST_RNG_SEED` chooses the
//! seed of a whole run, and `HEARTH_CASES` how many times as many cases there are.

use std::time::Duration;

use proptest::prelude::*;
use serde_json::{Value, json};

use crate::ids::NodeName;
use crate::index::node_key;
use crate::index::world::{Fate, Hand, Kind, Policy, Wants, World};

/// What a user may ask for.
#[derive(Clone, Debug)]
enum User {
    CreateClaim,
    DeleteClaim(u8),
    /// Seconds from now.
    EndClaim(u8, u8, Policy),
    /// Which of the labels it adds.
    LabelClaim(u8, u8),
    DeleteSandbox(u8),
    Scale(u8),
    Strategy(u8),
    Image(u8),
    TemplateService(u8),
    Unmanaged(bool),
    CreateBox(u8),
    BoxService(u8, u8),
    SuspendBox(u8, bool),
    EndBox(u8, u8),
    DeleteBox(u8),
}

/// One thing that may happen.
#[derive(Clone, Debug)]
enum Step {
    User(User),
    ByHand(Hand, u8),
    Foreign(u8),
    DeletePool,
    Deliver(u8),
    Relist(u8),
    Execute(u8, u8),
    Answer,
    Ask(u8),
    Work(u8),
    Hear(u8),
    Connect(u8),
    Disconnect(u8),
    CutOff(u8),
    Rejoin(u8),
    Confirm,
    Collect,
    Advance(u16),
    /// So many seconds.
    Pass(u8),
    Restart,
}

/// What one world is asked for without a difference being made by when that is heard: what was asked for last is what
/// comes out.
fn steady_user() -> impl Strategy<Value = User> {
    prop_oneof![
        6 => Just(User::CreateClaim),
        3 => any::<u8>().prop_map(User::DeleteClaim),
        1 => (0..5u8).prop_map(User::Scale),
        1 => any::<u8>().prop_map(User::Image),
        1 => any::<bool>().prop_map(User::Unmanaged),
        1 => any::<u8>().prop_map(User::CreateBox),
        1 => (any::<u8>(), 0..2u8).prop_map(|(which, asks)| User::BoxService(which, asks)),
        1 => (any::<u8>(), any::<bool>()).prop_map(|(which, asks)| User::SuspendBox(which, asks)),
        1 => (any::<u8>(), 0..20u8).prop_map(|(which, seconds)| User::EndBox(which, seconds)),
    ]
}

fn user() -> impl Strategy<Value = User> {
    let policy = prop_oneof![
        Just(Policy::Delete),
        Just(Policy::DeleteForeground),
        Just(Policy::Retain)
    ];
    let end = (any::<u8>(), 0..30u8, policy);
    prop_oneof![
        9 => steady_user(),
        1 => end.prop_map(|(which, seconds, policy)| User::EndClaim(which, seconds, policy)),
        1 => (any::<u8>(), 0..4u8).prop_map(|(which, label)| User::LabelClaim(which, label)),
        1 => any::<u8>().prop_map(User::DeleteSandbox),
        1 => (0..3u8).prop_map(User::Strategy),
        1 => (0..3u8).prop_map(User::TemplateService),
        1 => any::<u8>().prop_map(User::DeleteBox),
    ]
}

/// What happens on the way, for the good or not.
fn weather() -> impl Strategy<Value = Step> {
    let kinds = u8::try_from(Kind::ALL.len()).unwrap();
    prop_oneof![
        16 => (0..kinds).prop_map(Step::Deliver),
        1 => (0..kinds).prop_map(Step::Relist),
        14 => (any::<u8>(), 0..12u8).prop_map(|(which, fate)| Step::Execute(which, fate)),
        3 => Just(Step::Answer),
        8 => (0..10u8).prop_map(Step::Ask),
        10 => (0..2u8).prop_map(Step::Work),
        8 => (0..2u8).prop_map(Step::Hear),
        3 => (0..2u8).prop_map(Step::Connect),
        1 => (0..2u8).prop_map(Step::Disconnect),
        1 => (0..2u8).prop_map(Step::CutOff),
        3 => (0..2u8).prop_map(Step::Rejoin),
        1 => Just(Step::Confirm),
        1 => Just(Step::Collect),
        3 => (0..3000u16).prop_map(Step::Advance),
        1 => (0..60u8).prop_map(Step::Pass),
        1 => Just(Step::Restart),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let hand = (proptest::sample::select(Hand::ALL.to_vec()), any::<u8>());
    prop_oneof![
        11 => user().prop_map(Step::User),
        3 => hand.prop_map(|(hand, which)| Step::ByHand(hand, which)),
        1 => any::<u8>().prop_map(Step::Foreign),
        45 => weather(),
    ]
}

/// A world, and how much users have made in it: nothing is called twice by the same name, so that what is gone stays so.
struct Run {
    world: World,
    claims: u8,
    boxes: u8,
}

impl Run {
    fn new(world: World) -> Self {
        Self {
            world,
            claims: 0,
            boxes: 0,
        }
    }

    /// What kind of claim it is follows from its number, and so does its name.
    fn claim(number: u8) -> (String, Wants) {
        let plain = Wants::default();
        let wants = match number % 8 {
            1 => Wants { env: true, ..plain },
            2 => Wants {
                volume: true,
                ..plain
            },
            3 => Wants {
                end: Some((number % 30, Policy::Retain)),
                ..plain
            },
            4 => Wants {
                end: Some((number % 20, Policy::Delete)),
                ..plain
            },
            5 => Wants {
                ttl: Some((number % 10, Policy::DeleteForeground)),
                ..plain
            },
            6 => Wants {
                ttl: Some((number % 10, Policy::Retain)),
                ..plain
            },
            _ => plain,
        };
        let ends = wants.ttl.is_some() || number % 16 == 7;
        let name = if ends { "ends" } else { "c" };
        (format!("{name}{number}"), wants)
    }

    /// The number of one of so many that were made.
    fn one_of(which: u8, made: u8) -> u8 {
        which % made.max(1)
    }

    fn ask(&mut self, user: &User) {
        let claim = |which, made| Self::claim(Self::one_of(which, made)).0;
        let of_boxes = |which, made| format!("b{}", Self::one_of(which, made));
        let (claims, boxes, world) = (self.claims, self.boxes, &mut self.world);
        match *user {
            User::CreateClaim => {
                let (name, wants) = Self::claim(claims);
                world.create_claim(&name, wants);
                self.claims = claims.saturating_add(1);
            }
            User::DeleteClaim(which) => delete(world, Kind::Claim, &claim(which, claims)),
            User::EndClaim(which, seconds, policy) => {
                world.end_claim(&claim(which, claims), seconds, policy);
            }
            User::LabelClaim(which, label) => {
                let name = claim(which, claims);
                // What has ended says that and nothing else.
                if !name.starts_with("ends") {
                    let labels = [
                        None,
                        Some("nodomain"),
                        Some("sandbox.users.io/a"),
                        Some("sandbox.users.io/b"),
                    ];
                    world.label_claim(&name, labels[usize::from(label)]);
                }
            }
            User::DeleteSandbox(which) => {
                let names = world.api.names(Kind::Sandbox);
                if !names.is_empty() {
                    let name = &names[usize::from(which) % names.len()];
                    delete(world, Kind::Sandbox, name);
                }
            }
            User::Scale(replicas) => world.scale(replicas),
            User::Strategy(which) => {
                let all = ["Recreate", "OnReplenish", "RollingUpdate"];
                world.set_strategy(all[usize::from(which)]);
            }
            User::Image(which) => world.set_image(["i", "j", "k"][usize::from(which) % 3]),
            User::TemplateService(asks) => world.set_template("service", service(asks)),
            User::Unmanaged(unmanaged) => {
                let management = if unmanaged { "Unmanaged" } else { "Managed" };
                world.set_template("networkPolicyManagement", management.into());
            }
            User::CreateBox(asks) => {
                let service = (asks % 2 == 0).then_some(true);
                world.create_box(&format!("b{boxes}"), service);
                self.boxes = boxes.saturating_add(1);
            }
            User::BoxService(which, asks) => {
                world.set_box(&of_boxes(which, boxes), "service", service(asks));
            }
            User::SuspendBox(which, suspended) => {
                let mode = if suspended { "Suspended" } else { "Running" };
                world.set_box(&of_boxes(which, boxes), "operatingMode", mode.into());
            }
            User::EndBox(which, seconds) => {
                let name = of_boxes(which, boxes);
                // One that is to stay is never one that is to go.
                let stays = Self::one_of(which, boxes) % 2 == 0;
                let policy = if stays {
                    Policy::Retain
                } else {
                    Policy::Delete
                };
                world.end_box(&name, seconds, policy);
            }
            User::DeleteBox(which) => delete(world, Kind::Sandbox, &of_boxes(which, boxes)),
        }
    }

    fn take(&mut self, step: &Step) {
        let node = |number: u8| -> NodeName { node_key(&format!("n{}", number % 2)) };
        let kind = |number: u8| Kind::ALL[usize::from(number)];
        let (claims, boxes, world) = (self.claims, self.boxes, &mut self.world);
        match *step {
            Step::User(ref user) => self.ask(user),
            Step::ByHand(hand, which) => world.meddle(hand, which),
            Step::Foreign(which) => {
                let (next, _) = Self::claim(claims);
                match which % 4 {
                    // A user's own Sandbox has the name that the next claim will have.
                    0 => world.create_box(&next, None),
                    1 => {
                        let name = format!("b{boxes}");
                        world.create_foreign(Kind::Service, &name);
                    }
                    2 => world.create_foreign(Kind::Pvc, &format!("data-{next}")),
                    _ => world.create_foreign(Kind::Policy, "tpl-network-policy"),
                }
            }
            Step::DeletePool => delete(world, Kind::Pool, "pool"),
            Step::Deliver(which) => drop(world.deliver(kind(which))),
            Step::Relist(which) => world.relist(kind(which)),
            Step::Execute(which, fate) => {
                let fate = match fate {
                    0 => Fate::Lost,
                    1 => Fate::Unanswered,
                    2 => Fate::Conflict,
                    3 | 4 => Fate::Late,
                    _ => Fate::Done,
                };
                world.execute(usize::from(which), fate);
            }
            Step::Answer => drop(world.answer()),
            Step::Ask(reply) => drop(world.ask(reply > 0)),
            Step::Work(number) => drop(world.work(&node(number))),
            Step::Hear(number) => drop(world.hear(&node(number))),
            Step::Connect(number) => world.connect(&node(number)),
            Step::Disconnect(number) => world.disconnect(&node(number)),
            Step::CutOff(number) => world.cut_off(&node(number), true),
            Step::Rejoin(number) => world.cut_off(&node(number), false),
            Step::Confirm => drop(world.confirm()),
            Step::Collect => drop(world.collect()),
            Step::Advance(ms) => world.advance(Duration::from_millis(ms.into())),
            Step::Pass(seconds) => {
                // Not in one leap: what is due meanwhile comes in its order.
                for _ in 0..seconds.div_ceil(5) {
                    world.advance(Duration::from_secs(5));
                }
            }
            Step::Restart => world.restart(|number| number % 2 == 0),
        }
    }

    fn end(&mut self) {
        self.world.end();
        self.world.check_settled();
    }
}

fn delete(world: &mut World, kind: Kind, name: &str) {
    world.api.delete(kind, &super::key(name));
}

fn service(asks: u8) -> Value {
    match asks {
        0 => json!(true),
        1 => json!(false),
        _ => Value::Null,
    }
}

fn config(cases: u32) -> ProptestConfig {
    let times = std::env::var("HEARTH_CASES").ok();
    let times = times.and_then(|times| times.parse().ok()).unwrap_or(1);
    ProptestConfig {
        cases: cases.saturating_mul(times),
        // A failure is to be printed within a minute.
        max_shrink_time: 40_000,
        max_shrink_iters: u32::MAX,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config(96))]

    /// Whatever happens in whatever order: no sandbox has two owners, no claim changes its sandbox silently, no pool has
    /// more members than it asks for, nothing is written that clients do not take or that is somebody else's; and when
    /// the faults end, everything is as users have asked.
    #[test]
    fn any_order_of_events_ends_well(
        steps in proptest::collection::vec(step(), 1..220),
        replicas in 0..4i64,
        filled: bool,
    ) {
        let mut run = Run::new(World::new(2, replicas));
        if filled {
            run.world.quiesce();
        }
        steps.iter().for_each(|step| run.take(step));
        run.end();
    }
}

proptest! {
    #![proptest_config(config(32))]

    /// The same with a pool that is deleted on the way: answered claims keep their sandboxes.
    #[test]
    fn a_deleted_pool_costs_no_answered_claim_its_sandbox(
        before in proptest::collection::vec(step(), 1..100),
        after in proptest::collection::vec(step(), 1..100),
    ) {
        let mut run = Run::new(World::new(2, 3));
        run.world.quiesce();
        before.iter().for_each(|step| run.take(step));
        run.take(&Step::DeletePool);
        after.iter().for_each(|step| run.take(step));
        run.end();
    }

    /// What users ask for comes out the same, whatever gets lost on the way and however late all is heard.
    #[test]
    fn faults_make_no_difference_in_the_end(
        steps in proptest::collection::vec(
            prop_oneof![1 => steady_user().prop_map(Step::User), 4 => weather()],
            1..160,
        ),
        strategy in 0..3u8,
    ) {
        let new = || {
            let mut run = Run::new(World::new(2, 2));
            run.world.quiesce();
            run.ask(&User::Strategy(strategy));
            run
        };
        let (mut disturbed, mut calm) = (new(), new());
        for step in &steps {
            disturbed.take(step);
            if let Step::User(user) = step {
                calm.ask(user);
                calm.world.rest(Duration::from_secs(2));
            }
        }
        disturbed.end();
        calm.end();
        let images = strategy == 1;
        let gist = |run: &Run| {
            let gist = run.world.gist().into_iter();
            // Under OnReplenish members stay as they were made.
            gist.filter(|line| !(images && line.starts_with("member"))).collect::<Vec<_>>()
        };
        prop_assert_eq!(gist(&disturbed), gist(&calm));
    }
}
