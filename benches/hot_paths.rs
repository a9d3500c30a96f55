//! What the controller does in memory between a watch event and the next request: the only CPU of ours that every
//! claim waits for. Sizes differ by a hundred, so that anything that grows with the cluster shows.

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{BatchSize, BenchmarkId, Criterion, criterion_group, criterion_main};
use hearth_benches::Scene;
use hearth_core::index::Phase;
use hearth_core::names::name_hash;

/// Members and nodes.
const SIZES: [(usize, usize); 2] = [(1_000, 10), (100_000, 1_000)];

fn hot_paths(criterion: &mut Criterion) {
    criterion.bench_function("name_hash", |bencher| {
        bencher.iter(|| name_hash(black_box("pool-tcd9s")))
    });
    for (members, nodes) in SIZES {
        let mut scene = Scene::new(members, nodes);
        pick(criterion, &mut scene, members);
        apply(criterion, &mut scene, members);
        report(criterion, &mut scene, members);
    }
}

/// From a claim's watch event to the Bind that is to be sent.
fn pick(criterion: &mut Criterion, scene: &mut Scene, members: usize) {
    criterion.bench_with_input(
        BenchmarkId::new("claim_to_bind", members),
        &members,
        |bencher, _| {
            // Making the claim and undoing what it did are not what is measured.
            bencher.iter_custom(|iterations| {
                let mut elapsed = Duration::ZERO;
                for _ in 0..iterations {
                    let claim = scene.claim();
                    let start = Instant::now();
                    let bind = scene.answer(black_box(claim));
                    elapsed += start.elapsed();
                    scene.take_back(&bind.expect("the pool is whole"));
                }
                elapsed
            });
        },
    );
}

/// A watch event of a member whose status was written again.
fn apply(criterion: &mut Criterion, scene: &mut Scene, members: usize) {
    let scene = std::cell::RefCell::new(scene);
    criterion.bench_with_input(
        BenchmarkId::new("apply_sandbox", members),
        &members,
        |bencher, _| {
            let mut number = 0;
            bencher.iter_batched(
                || {
                    number = (number + 7_919) % members;
                    scene.borrow_mut().member(number)
                },
                |member| {
                    let mut scene = scene.borrow_mut();
                    scene.apply_member(member);
                    scene.settle()
                },
                BatchSize::SmallInput,
            );
        },
    );
}

/// A member that stops being ready and is ready again: what the ready queue costs.
fn report(criterion: &mut Criterion, scene: &mut Scene, members: usize) {
    criterion.bench_with_input(
        BenchmarkId::new("node_report_twice", members),
        &members,
        |bencher, _| {
            let mut number = 0;
            bencher.iter(|| {
                number = (number + 7_919) % members;
                scene.report(number, Phase::NotReady);
                scene.report(number, Phase::Frozen);
                scene.settle()
            });
        },
    );
}

criterion_group!(benches, hot_paths);
criterion_main!(benches);
