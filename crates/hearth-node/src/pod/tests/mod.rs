use hearth_core::ids::SandboxUid;

use super::testing::Node;

mod attached;
mod claims;
mod configs;
mod env;
mod handlers;
mod hooks;
mod images;
mod life;
mod logs;
mod recovery;
mod storage;
mod volumes;

fn uid(text: &str) -> SandboxUid {
    SandboxUid::from(text)
}

/// Whether another container runs than did before.
fn is_another(node: &Node, before: &[String]) -> bool {
    let running = node.runtime.running_containers();
    running.len() == 1 && running != before
}
