//! What the ladder takes back: a decision is only as good as the last look.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_wish_for_suspension_is_withdrawn_by_whatever_makes_it_wrong() {
    let scene = Scene::new();
    let rules = |freeze, suspend| with_idle(bare("a"), freeze, "", suspend);
    let asks = |view: &PodView| view.asks_suspension;
    scene.node.want(&rules("", "60s"));
    let view = scene.node.view_when("a", "unused", asks).await;
    scene
        .node
        .host
        .burn(view.pod_uid.as_ref().unwrap(), secs(1));
    scene
        .node
        .view_when("a", "busy", |view| !view.asks_suspension)
        .await;
    let start = Instant::now();
    scene.node.view_when("a", "unused", asks).await;
    let took = start.elapsed();
    assert!(
        (secs(60)..secs(77)).contains(&took),
        "from then on: {took:?}"
    );

    // An exec that has only begun.
    let mut exec = Box::pin(scene.exec("a", secs(100)));
    assert!(exec.as_mut().now_or_never().is_none());
    assert!(!scene.view("a").asks_suspension);
    exec.await.unwrap();
    scene.node.view_when("a", "unused", asks).await;

    // Other rules, or none.
    scene.node.want(&rules("", "1h"));
    scene
        .node
        .view_when("a", "not yet idle for an hour", |view| {
            !view.asks_suspension
        })
        .await;
    scene.node.want(&rules("", "60s"));
    scene.node.view_when("a", "unused", asks).await;
    scene.node.want(&bare("a"));
    scene
        .node
        .view_when("a", "without rules", |view| !view.asks_suspension)
        .await;

    // It may be frozen all the while.
    scene.node.want(&rules("10s", "60s"));
    let view = scene.node.view_when("a", "unused", asks).await;
    assert_eq!(view.tier, Some(Tier::Frozen));
    scene.node.want(&rules("10s", "1h"));
    let view = scene
        .node
        .view_when("a", "to stay frozen", |view| !view.asks_suspension)
        .await;
    assert_eq!(view.tier, Some(Tier::Frozen));
}
