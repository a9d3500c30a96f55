use hearth_core::effects::ConfigKey;
use hearth_core::ids::{Key, NodeName};
use hearth_core::podspec::{ConfigKind, ConfigRef};
use hearth_core::tokens::TokenNeed;
use hearth_test::api::{Call, ScriptedApi};
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::super::{Outlet, Supplies, Supply};
use super::*;

const SECRETS: &str = "/api/v1/namespaces/ns/secrets";
const SECRET: &str = "/api/v1/namespaces/ns/secrets/hearth-token-u";

fn owner() -> Owner {
    Owner {
        key: Key::new("ns", "box"),
        uid: "u".into(),
    }
}

fn need() -> Arc<TokenNeed> {
    let token = json!({"serviceAccountToken": {"path": "t", "audience": "vault", "expirationSeconds": 600}});
    let pod = json!({
        "serviceAccountName": "robot",
        "automountServiceAccountToken": false,
        "volumes": [{"name": "v", "projected": {"sources": [token]}}],
    });
    Arc::new(TokenNeed::of(&pod).unwrap())
}

fn secret(uid: &str, owner_uid: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": {"name": "hearth-token-u", "uid": uid, "ownerReferences": [reference(owner_uid)]},
    })
}

fn reference(uid: &str) -> Value {
    json!({"apiVersion": "agents.x-k8s.io/v1beta1", "kind": "Sandbox", "name": "box", "uid": uid})
}

fn make_secret() -> Call {
    let object = json!({
        "apiVersion": "v1", "kind": "Secret", "immutable": true, "type": "hearth.dev/token-binding",
        "metadata": {"name": "hearth-token-u", "ownerReferences": [reference("u")]},
    });
    Call::create(SECRETS, object)
}

/// A TokenRequest that is bound to the Secret of this UID.
fn request(secret: &str) -> Call {
    let bound =
        json!({"apiVersion": "v1", "kind": "Secret", "name": "hearth-token-u", "uid": secret});
    let object = json!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "metadata": {},
        "spec": {"audiences": ["vault"], "boundObjectRef": bound, "expirationSeconds": 600},
    });
    Call::create("/api/v1/namespaces/ns/serviceaccounts/robot/token", object)
}

fn answer(token: &str, seconds: u64) -> Value {
    json!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "metadata": {},
        "spec": {"audiences": ["vault"], "expirationSeconds": seconds},
        "status": {"token": token, "expirationTimestamp": "2026-01-01T00:10:00Z"},
    })
}

struct Running {
    supplies: Supplies,
    outlet: Outlet,
    stop: CancellationToken,
    tracker: TaskTracker,
}

impl Running {
    fn start(api: &ScriptedApi) -> Self {
        let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
        let supplies = Supplies::start(api.client(), api.client(), &tracker, &stop);
        Self {
            outlet: supplies.outlet(&NodeName::from("n1")),
            supplies,
            stop,
            tracker,
        }
    }

    fn want(&self) {
        let wanted = Some((NodeName::from("n1"), need()));
        self.supplies.set_tokens(&owner(), wanted);
    }

    /// The token that the node is told next.
    async fn told(&self) -> String {
        match self.outlet.next().await {
            Supply::Holds(key, Some(config)) => {
                assert_eq!(key, tokens());
                let token = &config.data["robot/600/vault"];
                assert_eq!(config.data.len(), 1);
                String::from_utf8_lossy(token).into_owned()
            }
            other => panic!("{other:?}"),
        }
    }

    async fn finish(self, api: ScriptedApi) {
        api.finish().await;
        self.stop.cancel();
        self.tracker.close();
        self.tracker.wait().await;
    }
}

fn tokens() -> ConfigKey {
    ConfigKey {
        namespace: "ns".to_owned(),
        config: ConfigRef::new(ConfigKind::Tokens, "box"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_is_bound_sent_made_anew_in_time_and_revoked() {
    let api = ScriptedApi::new([
        make_secret().reply(&secret("s", "u")),
        request("s").reply(&answer("first", 600)),
        // The API server gives less than was asked for.
        request("s").reply(&answer("second", 300)),
        request("s").reply(&answer("third", 600)),
        Call::delete(SECRET, json!({})).reply(&json!({"kind": "Status", "status": "Success"})),
    ]);
    let running = Running::start(&api);
    running.want();
    let begun = Instant::now();
    assert_eq!(running.told().await, "first");
    assert_eq!(running.told().await, "second");
    let after = begun.elapsed().as_secs();
    assert!((469..=481).contains(&after), "after {after} s");
    let begun = Instant::now();
    assert_eq!(running.told().await, "third");
    let after = begun.elapsed().as_secs();
    assert!((229..=241).contains(&after), "after {after} s");
    running.supplies.set_tokens(&owner(), None);
    assert_eq!(running.outlet.next().await, Supply::Forget(tokens()));
    running.finish(api).await;
}

#[tokio::test(start_paused = true)]
async fn a_new_leader_finds_the_secret_of_the_one_before() {
    let api = ScriptedApi::new([
        make_secret().fail(409, "AlreadyExists"),
        Call::get(SECRET).reply(&secret("s", "u")),
        request("s").reply(&answer("first", 600)),
    ]);
    let running = Running::start(&api);
    running.want();
    assert_eq!(running.told().await, "first");
    running.finish(api).await;
}

#[tokio::test(start_paused = true)]
async fn nothing_is_bound_to_a_secret_of_somebody_else() {
    let api = ScriptedApi::new([
        make_secret().fail(409, "AlreadyExists"),
        Call::get(SECRET).reply(&secret("s", "another")),
        make_secret().reply(&secret("t", "u")),
        request("t").reply(&answer("first", 600)),
    ]);
    let running = Running::start(&api);
    running.want();
    assert_eq!(running.told().await, "first");
    running.finish(api).await;
}

#[tokio::test(start_paused = true)]
async fn what_fails_is_tried_again_and_the_secret_looked_for_again() {
    let api = ScriptedApi::new([
        make_secret().reply(&secret("s", "u")),
        request("s").fail(404, "NotFound"),
        make_secret().fail(500, "InternalError"),
        make_secret().hang(),
        make_secret().reply(&secret("t", "u")),
        request("t").reply(&answer("first", 600)),
    ]);
    let running = Running::start(&api);
    running.want();
    let begun = Instant::now();
    assert_eq!(running.told().await, "first");
    assert!(
        begun.elapsed() > DEADLINE,
        "the call that hangs was waited for"
    );
    running.finish(api).await;
}
