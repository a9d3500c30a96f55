//! What the leader does for the webhook: it makes certificates, and has the CRDs trust them.
//!
//! The order is what matters. What is trusted is written first, the old authority and the new one; only then does the
//! Secret change, and with it what is served. API servers learn of a CRD's change by a watch each, and nobody tells when all
//! have: so where something is served already, [`SPREAD`] is between the two. An API server that is behind by more than that
//! refuses conversions until it has caught up; otherwise none meets a certificate that it does not trust, whatever ends in
//! between.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::stream::{BoxStream, StreamExt as _, select_all};
use hearth_api::constants::WEBHOOK_SECRET;
use hearth_telemetry::ErrorChain;
use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{ApiResource, DynamicObject, Patch, PatchParams, PostParams};
use kube::runtime::{WatchStreamExt as _, watcher, watcher::watch_object};
use kube::{Api, Client};
use serde_json::{Value, json};
use thiserror::Error;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::authority::{Pair, Verdict, judge, names};
use crate::election::Leadership;

/// The CRDs that have two versions.
const CRDS: [&str; 4] = [
    "sandboxes.agents.x-k8s.io",
    "sandboxclaims.extensions.agents.x-k8s.io",
    "sandboxtemplates.extensions.agents.x-k8s.io",
    "sandboxwarmpools.extensions.agents.x-k8s.io",
];

/// How long an answer may take.
const DEADLINE: Duration = Duration::from_secs(10);
/// Shortest wait after a failure before the next try; doubles up to [`LONGEST_WAIT`].
const SHORTEST_WAIT: Duration = Duration::from_millis(200);
/// Longest wait after a failure before the next try.
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// How long API servers are given to learn what they trust, before it is served in place of what they know.
const SPREAD: Duration = Duration::from_secs(10);
/// How often the age of the certificate is looked at: clocks are set, and machines sleep.
const LOOK: Duration = Duration::from_secs(3600);

/// Why what is to be done cannot be done now.
#[derive(Debug, Error)]
enum KeepError {
    #[error("cannot make a certificate for {names}")]
    Issue {
        names: String,
        #[source]
        source: rcgen::Error,
    },
    #[error(
        "cannot write the caBundle of the CRD {crd}; the manifests of deploy/v1alpha1 give the right to"
    )]
    Publish {
        crd: &'static str,
        #[source]
        source: Box<kube::Error>,
    },
    #[error(
        "cannot write the Secret {}; the manifests of deploy/v1alpha1 give the right to",
        WEBHOOK_SECRET
    )]
    Store(#[source] Box<kube::Error>),
    #[error("no response within {:?}", DEADLINE)]
    Silence,
}

/// How a CRD converts.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Conversion {
    /// Not by a webhook: it is not there, or has one version.
    Without,
    /// By a webhook, which is trusted by this, PEM in base64.
    Webhook { bundle: String },
}

type Event = (&'static str, watcher::Result<Option<DynamicObject>>);

/// The leader's part.
pub(super) struct Keeper {
    /// To write, in the namespace of the Service.
    secrets: Api<Secret>,
    /// To write.
    crds: Api<DynamicObject>,
    /// To watch.
    watched: Api<DynamicObject>,
    /// What certificates are for.
    names: Vec<String>,
    /// What is known of each CRD.
    known: BTreeMap<&'static str, Conversion>,
    /// One that is trusted already, or by some, and not yet served.
    pending: Option<Pair>,
    /// When it was last written that it is trusted.
    published: Option<Instant>,
    /// The resourceVersion, if any, of what our last write has taken the place of. While the watch shows that, it lags
    /// behind, and what it shows asks for nothing.
    replaced: Option<Option<String>>,
}

impl Keeper {
    pub(super) fn new(writing: &Client, watching: &Client, namespace: &str, service: &str) -> Self {
        let crd = ApiResource::erase::<CustomResourceDefinition>(&());
        Self {
            secrets: Api::namespaced(writing.clone(), namespace),
            crds: Api::all_with(writing.clone(), &crd),
            watched: Api::all_with(watching.clone(), &crd),
            names: names(service, namespace),
            known: BTreeMap::new(),
            pending: None,
            published: None,
            replaced: None,
        }
    }

    /// Does nothing until this process leads, and then whatever is to be done, whenever the Secret, a CRD or the age of
    /// the certificate asks for it.
    pub(super) async fn run(
        mut self,
        mut secret: watch::Receiver<Option<Option<Secret>>>,
        mut leadership: watch::Receiver<Leadership>,
    ) {
        // A process that has led and leads no more ends.
        let leads = leadership.wait_for(|now| matches!(now, Leadership::Leader(_)));
        if leads.await.is_err() {
            return;
        }
        let mut events = self.events();
        let mut retry = SHORTEST_WAIT;
        loop {
            let seen = secret.borrow_and_update().clone();
            let wait = match self.turn(seen.as_ref(), Timestamp::now()).await {
                Ok(wait) => {
                    retry = SHORTEST_WAIT;
                    wait
                }
                Err(error) => {
                    let wait = retry;
                    retry = (retry * 2).min(LONGEST_WAIT);
                    tracing::warn!(error = %ErrorChain(&error), retry_in = ?wait, "v1alpha1 cannot be converted yet");
                    wait
                }
            };
            // Cancel-safe: all arms only wait.
            tokio::select! {
                () = sleep(wait) => {}
                changed = secret.changed() => if changed.is_err() {
                    return;
                },
                Some((crd, event)) = events.next() => self.note(crd, event),
            }
        }
    }

    /// Each CRD by itself, for the right to watch is limited to them.
    fn events(&self) -> impl futures::Stream<Item = Event> + Unpin + use<> {
        let streams = CRDS.map(|name| -> BoxStream<'static, Event> {
            watch_object(self.watched.clone(), name)
                .default_backoff()
                .map(move |event| (name, event))
                .boxed()
        });
        select_all(streams)
    }

    fn note(&mut self, crd: &'static str, event: watcher::Result<Option<DynamicObject>>) {
        match event {
            Ok(object) => {
                let data = object.map(|object| object.data).unwrap_or_default();
                self.known.insert(crd, conversion(&data));
            }
            Err(error) => {
                tracing::warn!(error = %ErrorChain(&error), crd, "watch interrupted");
            }
        }
    }

    /// One look at everything. Returns how long nothing is to be done if nothing changes.
    async fn turn(
        &mut self,
        seen: Option<&Option<Secret>>,
        now: Timestamp,
    ) -> Result<Duration, KeepError> {
        // What is there must be known before anything takes its place.
        let (Some(secret), true) = (seen, self.known.len() == CRDS.len()) else {
            return Ok(LOOK);
        };
        if self.replaced == Some(version(secret.as_ref())) {
            return Ok(LOOK);
        }
        self.replaced = None;
        match judge(secret.as_ref(), &self.names, now) {
            Verdict::Good { renew_in, bundle } => {
                self.pending = None;
                self.publish(bundle).await?;
                Ok(renew_in.min(LOOK))
            }
            Verdict::Due(reason) => self.renew(secret.as_ref(), reason, now).await,
        }
    }

    /// Makes a certificate, or goes on with one. Returns how long nothing is to be done if nothing changes.
    async fn renew(
        &mut self,
        secret: Option<&Secret>,
        reason: &str,
        now: Timestamp,
    ) -> Result<Duration, KeepError> {
        // The same after a failure: what has been published of it is not in vain.
        let pair = match self.pending.take() {
            Some(pair) => pair,
            None => {
                tracing::info!(
                    reason,
                    secret = WEBHOOK_SECRET,
                    "making a certificate for the webhook"
                );
                Pair::issue(&self.names, now).map_err(|source| KeepError::Issue {
                    names: self.names.join(", "),
                    source,
                })?
            }
        };
        self.pending = Some(pair.clone());
        self.publish(pair.bundle(secret)).await?;
        // Without a Secret nothing is served that would be lost by haste.
        if let (Some(_), Some(published)) = (secret, self.published) {
            let left = SPREAD.saturating_sub(published.elapsed());
            if !left.is_zero() {
                return Ok(left);
            }
        }
        let stored = pair.store(secret, &self.names, now);
        let params = PostParams::default();
        // A replacement names the resourceVersion that was read, so that nobody's certificate is lost unseen.
        let written = match secret {
            None => bounded(self.secrets.create(&params, &stored)).await,
            Some(_) => bounded(self.secrets.replace(WEBHOOK_SECRET, &params, &stored)).await,
        };
        written?.map_err(|source| KeepError::Store(Box::new(source)))?;
        self.pending = None;
        self.published = None;
        self.replaced = Some(version(secret));
        Ok(LOOK)
    }

    /// Has the CRDs that convert by a webhook trust this and nothing else.
    async fn publish(&mut self, bundle: Vec<u8>) -> Result<(), KeepError> {
        let wanted = base64(bundle);
        for crd in CRDS {
            let Some(Conversion::Webhook { bundle }) = self.known.get_mut(crd) else {
                continue;
            };
            if *bundle == wanted {
                continue;
            }
            let error = |source| KeepError::Publish {
                crd,
                source: Box::new(source),
            };
            let patch = serde_json::from_value(json!([
                {"op": "test", "path": "/spec/conversion/strategy", "value": "Webhook"},
                {"op": "add", "path": "/spec/conversion/webhook/clientConfig/caBundle", "value": wanted},
            ]));
            let patch = patch.map_err(|source| error(kube::Error::SerdeError(source)))?;
            let patch = Patch::Json::<()>(patch);
            let params = PatchParams::default();
            let patched = bounded(self.crds.patch(crd, &params, &patch)).await?;
            patched.map_err(error)?;
            tracing::info!(crd, "the CRD trusts the webhook's certificate");
            bundle.clone_from(&wanted);
            self.published = Some(Instant::now());
        }
        Ok(())
    }
}

fn version(secret: Option<&Secret>) -> Option<String> {
    secret.and_then(|secret| secret.metadata.resource_version.clone())
}

fn conversion(crd: &Value) -> Conversion {
    let conversion = &crd["spec"]["conversion"];
    if conversion["strategy"] != "Webhook" {
        return Conversion::Without;
    }
    let bundle = conversion["webhook"]["clientConfig"]["caBundle"].as_str();
    Conversion::Webhook {
        bundle: bundle.unwrap_or_default().to_owned(),
    }
}

/// As the API writes bytes.
fn base64(bytes: Vec<u8>) -> String {
    match serde_json::to_value(ByteString(bytes)) {
        Ok(Value::String(text)) => text,
        // It is written as a text.
        _ => String::new(),
    }
}

async fn bounded<T>(
    call: impl Future<Output = kube::Result<T>>,
) -> Result<kube::Result<T>, KeepError> {
    timeout(DEADLINE, call)
        .await
        .map_err(|_| KeepError::Silence)
}

#[cfg(test)]
mod tests {
    use hearth_test::api::{Call, ScriptedApi};

    use super::*;

    const CRD_PATH: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    const SECRETS: &str = "/api/v1/namespaces/agent-sandbox-system/secrets";

    fn now() -> Timestamp {
        Timestamp::from_second(1_800_000_000).unwrap()
    }

    /// A keeper that knows of these conversions; those of other CRDs are without a webhook.
    fn keeper(api: &ScriptedApi, known: &[(&'static str, &str)]) -> Keeper {
        let client = api.client();
        let mut keeper = Keeper::new(
            &client,
            &client,
            "agent-sandbox-system",
            "agent-sandbox-webhook-service",
        );
        for crd in CRDS {
            let bundle = known.iter().find(|(name, _)| *name == crd);
            let conversion = bundle.map_or(Conversion::Without, |(_, bundle)| {
                let bundle = base64(bundle.as_bytes().to_vec());
                Conversion::Webhook { bundle }
            });
            keeper.known.insert(crd, conversion);
        }
        keeper
    }

    fn trust(crd: &str, bundle: &str) -> Call {
        let patch = json!([
            {"op": "test", "path": "/spec/conversion/strategy", "value": "Webhook"},
            {
                "op": "add", "path": "/spec/conversion/webhook/clientConfig/caBundle",
                "value": base64(bundle.as_bytes().to_vec()),
            },
        ]);
        Call::json_patch(format!("{CRD_PATH}/{crd}"), patch)
            .reply(&json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {}}))
    }

    fn pair() -> Pair {
        Pair::issue(
            &names("agent-sandbox-webhook-service", "agent-sandbox-system"),
            now(),
        )
        .unwrap()
    }

    #[tokio::test]
    async fn the_first_certificate_is_trusted_before_it_is_served() {
        let pair = pair();
        let names = names("agent-sandbox-webhook-service", "agent-sandbox-system");
        let secret = serde_json::to_value(pair.store(None, &names, now())).unwrap();
        let api = ScriptedApi::new([
            trust(CRDS[0], pair.authority.as_str()),
            trust(CRDS[2], &pair.authority),
            Call::create(SECRETS, secret.clone()).reply(&secret),
        ]);
        let mut keeper = keeper(&api, &[(CRDS[0], ""), (CRDS[2], "somebody else's")]);
        keeper.pending = Some(pair);
        assert_eq!(keeper.turn(Some(&None), now()).await.unwrap(), LOOK);
        assert!(keeper.pending.is_none());
        // The CRDs' changes come back before the Secret's: no second one is made.
        assert_eq!(keeper.turn(Some(&None), now()).await.unwrap(), LOOK);
        api.finish().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_certificate_takes_over_with_both_trusted_in_between() {
        let (old, new) = (pair(), pair());
        let names = names("agent-sandbox-webhook-service", "agent-sandbox-system");
        let mut before = old.store(None, &names, now());
        before.metadata.resource_version = Some("7".into());
        let later = now() + Duration::from_secs(300 * 24 * 3600);
        let after = serde_json::to_value(new.store(Some(&before), &names, later)).unwrap();
        let both = format!("{}{}", new.authority, old.authority);
        let api = ScriptedApi::new([
            trust(CRDS[1], &both),
            Call::replace(
                format!("{SECRETS}/agent-sandbox-webhook-certs"),
                after.clone(),
            )
            .reply(&after),
        ]);
        let mut keeper = keeper(&api, &[(CRDS[1], old.authority.as_str())]);
        keeper.pending = Some(new);
        let before = Some(before);
        // API servers are given time; a change of a CRD that comes back meanwhile does not shorten it.
        let wait = keeper.turn(Some(&before), later).await.unwrap();
        assert_eq!(wait, SPREAD);
        tokio::time::advance(SPREAD / 2).await;
        let wait = keeper.turn(Some(&before), later).await.unwrap();
        assert_eq!(wait, SPREAD / 2);
        tokio::time::advance(wait).await;
        let wait = keeper.turn(Some(&before), later).await.unwrap();
        assert_eq!(wait, LOOK);
        // The change of the Secret comes back by its watch, and asks for nothing.
        let mut after: Secret = serde_json::from_value(after).unwrap();
        after.metadata.resource_version = Some("8".into());
        let wait = keeper.turn(Some(&Some(after)), later).await.unwrap();
        assert_eq!(wait, LOOK);
        api.finish().await;
    }

    #[tokio::test]
    async fn a_secret_is_not_written_before_all_trust_it_and_the_next_try_is_the_same() {
        let pair = pair();
        let refused = trust(CRDS[1], &pair.authority).fail(403, "Forbidden");
        let api = ScriptedApi::new([trust(CRDS[0], pair.authority.as_str()), refused]);
        let mut keeper = keeper(&api, &[(CRDS[0], ""), (CRDS[1], "")]);
        keeper.pending = Some(pair.clone());
        let error = keeper.turn(Some(&None), now()).await.unwrap_err();
        assert!(
            error
                .to_string()
                .contains("sandboxclaims.extensions.agents.x-k8s.io"),
            "{error}"
        );
        assert!(keeper.pending == Some(pair), "it is kept");
        api.finish().await;
    }

    #[tokio::test]
    async fn a_bundle_that_somebody_has_changed_is_put_right() {
        let pair = pair();
        let api = ScriptedApi::new([trust(CRDS[3], &pair.authority)]);
        let mut keeper = keeper(&api, &[(CRDS[0], pair.authority.as_str()), (CRDS[3], "")]);
        let secret = pair.store(None, &keeper.names, now());
        keeper.turn(Some(&Some(secret)), now()).await.unwrap();
        api.finish().await;
    }

    #[tokio::test]
    async fn nothing_is_done_before_everything_is_known() {
        let api = ScriptedApi::new([]);
        let mut keeper = keeper(&api, &[(CRDS[0], "")]);
        assert_eq!(keeper.turn(None, now()).await.unwrap(), LOOK);
        keeper.known.remove(CRDS[3]);
        assert_eq!(keeper.turn(Some(&None), now()).await.unwrap(), LOOK);
        api.finish().await;
    }

    #[test]
    fn a_crd_is_served_by_a_webhook_when_it_says_so() {
        let none = json!({"spec": {"conversion": {"strategy": "None"}}});
        for crd in [Value::Null, json!({}), none] {
            assert_eq!(conversion(&crd), Conversion::Without);
        }
        let crd = |client: Value| json!({"spec": {"conversion": {"strategy": "Webhook", "webhook": {"clientConfig": client}}}});
        for (client, bundle) in [(json!({}), ""), (json!({"caBundle": "QQ=="}), "QQ==")] {
            let expected = Conversion::Webhook {
                bundle: bundle.to_owned(),
            };
            assert_eq!(conversion(&crd(client)), expected);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_does_not_answer_is_given_up() {
        let pair = pair();
        let api = ScriptedApi::new([trust(CRDS[0], pair.authority.as_str()).hang()]);
        let mut keeper = keeper(&api, &[(CRDS[0], "")]);
        keeper.pending = Some(pair);
        let error = keeper.turn(Some(&None), now()).await.unwrap_err();
        assert!(matches!(error, KeepError::Silence), "{error}");
        api.finish().await;
    }
}
