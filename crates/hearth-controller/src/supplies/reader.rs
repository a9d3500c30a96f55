//! Reading what nodes need, and noticing when it changes.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{BoxStream, FuturesUnordered};
use futures::{FutureExt as _, StreamExt as _};
use hearth_core::effects::ConfigKey;
use hearth_core::podspec::{Account, Config, ConfigKind, ConfigRef, written_namespace};
use hearth_telemetry::ErrorChain;
use k8s_openapi::api::core::v1::{ConfigMap, LimitRange, Namespace, Secret, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{ListParams, ObjectList, PartialObjectMeta};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use thiserror::Error;
use tokio::time::{Instant, sleep_until, timeout};

use super::{Content, Shared, State};

/// Reads under way at once.
const PARALLEL: usize = 8;
/// How long a read may take.
const DEADLINE: Duration = Duration::from_secs(5);
/// Wait before what could not be read is read again; doubles up to [`LONGEST_WAIT`] until a read succeeds.
const SHORTEST_WAIT: Duration = Duration::from_millis(200);
/// Longest wait before what could not be read is read again.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// The one that reads.
pub(super) struct Reader {
    client: Client,
    shared: Arc<Shared>,
    reading: HashSet<ConfigKey>,
    failed: BTreeSet<ConfigKey>,
    wait: Duration,
    again_at: Option<Instant>,
}

/// Why an object could not be read.
#[derive(Debug, Error)]
enum ReadError {
    #[error("the API server refuses or does not answer")]
    Api(#[source] kube::Error),
    #[error("no answer within {} s", DEADLINE.as_secs())]
    Deadline,
}

type Read = (ConfigKey, Result<Content, ReadError>);
type News = BoxStream<'static, Result<Event<Named>, watcher::Error>>;

/// All that the watch says of an object that matters here.
#[derive(Clone, Debug)]
struct Named {
    key: ConfigKey,
    version: String,
}

/// What a list that is under way has shown so far.
#[derive(Debug, Default)]
struct Listing {
    seen: HashSet<ConfigKey>,
    /// Secrets that had tokens bound to them when it began, and that it has not shown.
    unseen_secrets: HashSet<String>,
}

impl Reader {
    pub(super) fn new(client: Client, shared: Arc<Shared>) -> Self {
        Self {
            client,
            shared,
            reading: HashSet::new(),
            failed: BTreeSet::new(),
            wait: SHORTEST_WAIT,
            again_at: None,
        }
    }

    /// Reads what is wanted until it is dropped.
    pub(super) async fn run(mut self) {
        while self.shared.state.lock().unread.is_empty() {
            self.shared.to_read.notified().await;
        }
        // Metadata only: of all the Secrets of a cluster this process sees the names, and what is in those that it has
        // been asked for.
        let mut news = futures::stream::select_all([
            news::<ConfigMap>(self.client.clone(), ConfigKind::ConfigMap),
            news::<Secret>(self.client.clone(), ConfigKind::Secret),
            news::<ServiceAccount>(self.client.clone(), ConfigKind::ServiceAccount),
        ]);
        let mut listings = BTreeMap::new();
        let mut reads: FuturesUnordered<BoxFuture<'static, Read>> = FuturesUnordered::new();
        loop {
            while reads.len() < PARALLEL
                && let Some(key) = self.next_unread()
            {
                reads.push(read(self.client.clone(), key).boxed());
            }
            let again_at = self.again_at;
            let again = async {
                match again_at {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            // Cancel-safe: streams and reads are polled by reference, a notice not taken stays, the timer is made anew.
            tokio::select! {
                Some((key, read)) = reads.next() => self.ended(key, read),
                Some((kind, news)) = news.next() => self.heard(kind, news, &mut listings),
                () = self.shared.to_read.notified() => {}
                () = again => self.read_again(),
            }
        }
    }

    /// The next object to read; one that is being read waits until that has ended, so that the newer answer comes later.
    fn next_unread(&mut self) -> Option<ConfigKey> {
        let mut state = self.shared.state.lock();
        let free = |key: &&ConfigKey| !self.reading.contains(*key) && !self.failed.contains(*key);
        let key = state.unread.iter().find(free).cloned()?;
        state.unread.remove(&key);
        self.reading.insert(key.clone());
        Some(key)
    }

    fn ended(&mut self, key: ConfigKey, read: Result<Content, ReadError>) {
        self.reading.remove(&key);
        match read {
            Ok(content) => {
                self.wait = SHORTEST_WAIT;
                self.shared.put(&key, content);
            }
            Err(error) => {
                let wait = self.wait;
                tracing::warn!(object = %key, error = %ErrorChain(&error), retry_in = ?wait, "cannot read what sandboxes name");
                self.failed.insert(key);
                if self.again_at.is_none() {
                    self.again_at = Some(Instant::now() + wait);
                    self.wait = (wait * 2).min(LONGEST_WAIT);
                }
            }
        }
    }

    fn read_again(&mut self) {
        self.again_at = None;
        let mut state = self.shared.state.lock();
        for key in std::mem::take(&mut self.failed) {
            // Nobody may want it any more.
            if state.objects.contains_key(&key) {
                state.unread.insert(key);
            }
        }
    }

    fn heard(
        &self,
        kind: ConfigKind,
        news: Result<Event<Named>, watcher::Error>,
        listings: &mut BTreeMap<ConfigKind, Listing>,
    ) {
        let mut state = self.shared.state.lock();
        let listing = listings.entry(kind).or_default();
        match news {
            Ok(Event::Init) => {
                *listing = Listing::default();
                if kind == ConfigKind::Secret {
                    listing.unseen_secrets.extend(state.tokens.bound_secrets());
                }
            }
            Ok(Event::InitApply(named)) => {
                listing.unseen_secrets.remove(&named.key.config.name);
                state.changed(&named.key, Some(&named.version));
                if state.objects.contains_key(&named.key) {
                    listing.seen.insert(named.key);
                }
            }
            Ok(Event::InitDone) => {
                for key in state.wanted(kind) {
                    if !listing.seen.contains(&key) {
                        state.changed(&key, None);
                    }
                }
                for name in std::mem::take(listing).unseen_secrets {
                    self.secret_deleted(&mut state, &name);
                }
            }
            Ok(Event::Apply(named)) => drop(state.changed(&named.key, Some(&named.version))),
            Ok(Event::Delete(named)) => {
                state.changed(&named.key, None);
                if kind == ConfigKind::Secret {
                    self.secret_deleted(&mut state, &named.key.config.name);
                }
            }
            Err(error) => {
                tracing::warn!(%kind, error = %ErrorChain(&error), "watch interrupted");
            }
        }
    }

    fn secret_deleted(&self, state: &mut State, name: &str) {
        state.tokens.secret_deleted(name, self.shared.now());
        self.shared.to_mint.notify_one();
    }
}

/// What a watch of all objects of a kind says, with growing pauses after errors.
fn news<K>(
    client: Client,
    kind: ConfigKind,
) -> BoxStream<'static, (ConfigKind, Result<Event<Named>, watcher::Error>)>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug + Send + 'static,
{
    let api: Api<PartialObjectMeta<K>> = Api::all(client);
    let events = watcher(api, watcher::Config::default());
    let events: News = events
        .default_backoff()
        .map(move |event| event.map(|event| named(event, kind)))
        .boxed();
    events.map(move |event| (kind, event)).boxed()
}

fn named<K>(event: Event<PartialObjectMeta<K>>, kind: ConfigKind) -> Event<Named> {
    let name = |object: PartialObjectMeta<K>| {
        let ObjectMeta {
            namespace,
            name,
            resource_version,
            ..
        } = object.metadata;
        let (namespace, name) = (namespace.unwrap_or_default(), name.unwrap_or_default());
        let (namespace, name) = match kind {
            ConfigKind::ConfigMap | ConfigKind::Secret | ConfigKind::ServiceAccount => {
                (namespace, name)
            }
            // Watched for the index, or not at all.
            ConfigKind::Namespace | ConfigKind::LimitRanges | ConfigKind::Tokens => {
                (namespace, name)
            }
        };
        Named {
            key: ConfigKey {
                namespace,
                config: ConfigRef { kind, name },
            },
            version: resource_version.unwrap_or_default(),
        }
    };
    match event {
        Event::Apply(object) => Event::Apply(name(object)),
        Event::Delete(object) => Event::Delete(name(object)),
        Event::Init => Event::Init,
        Event::InitApply(object) => Event::InitApply(name(object)),
        Event::InitDone => Event::InitDone,
    }
}

async fn read(client: Client, key: ConfigKey) -> Read {
    let content = async {
        let ConfigKey { namespace, config } = &key;
        match config.kind {
            ConfigKind::ConfigMap => {
                let api: Api<ConfigMap> = Api::namespaced(client, namespace);
                Ok(api.get_opt(&config.name).await?.map(of_config_map))
            }
            ConfigKind::Secret => {
                let api: Api<Secret> = Api::namespaced(client, namespace);
                Ok(api.get_opt(&config.name).await?.map(of_secret))
            }
            ConfigKind::ServiceAccount => {
                let api: Api<ServiceAccount> = Api::namespaced(client, namespace);
                Ok(api.get_opt(&config.name).await?.map(of_account))
            }
            ConfigKind::Namespace => {
                let api: Api<Namespace> = Api::all(client);
                Ok(api.get_metadata_opt(namespace).await?.map(of_namespace))
            }
            ConfigKind::LimitRanges => {
                let api: Api<LimitRange> = Api::namespaced(client, namespace);
                let ranges = api.list(&ListParams::default()).await?;
                Ok(Some(of_limit_ranges(ranges)))
            }
            ConfigKind::Tokens => Ok(None),
        }
    };
    let content = match timeout(DEADLINE, content).await {
        Ok(Ok(Some(config))) => Ok(Content::Here(Arc::new(config))),
        Ok(Ok(None)) => Ok(Content::Absent),
        Ok(Err(error)) => Err(ReadError::Api(error)),
        Err(_) => Err(ReadError::Deadline),
    };
    (key, content)
}

fn of_config_map(object: ConfigMap) -> Config {
    let text = object.data.unwrap_or_default();
    let binary = object.binary_data.unwrap_or_default();
    Config {
        version: object.metadata.resource_version.unwrap_or_default(),
        data: text
            .into_iter()
            .map(|(key, value)| (key, value.into_bytes()))
            .chain(binary.into_iter().map(|(key, value)| (key, value.0)))
            .collect(),
    }
}

fn of_secret(object: Secret) -> Config {
    let data = object.data.unwrap_or_default();
    Config {
        version: object.metadata.resource_version.unwrap_or_default(),
        data: data
            .into_iter()
            .map(|(key, value)| (key, value.0))
            .collect(),
    }
}

fn of_account(object: ServiceAccount) -> Config {
    let secrets = object.image_pull_secrets.unwrap_or_default().into_iter();
    let secrets: Vec<_> = secrets.map(|secret| secret.name).collect();
    Config {
        version: object.metadata.resource_version.unwrap_or_default(),
        data: Account::written(object.automount_service_account_token, &secrets),
    }
}

fn of_namespace(object: PartialObjectMeta<Namespace>) -> Config {
    Config {
        version: object.metadata.resource_version.unwrap_or_default(),
        data: written_namespace(object.metadata.labels.unwrap_or_default()),
    }
}

fn of_limit_ranges(list: ObjectList<LimitRange>) -> Config {
    let ranges = list.items.into_iter().map(|range| {
        let spec = range.spec.unwrap_or_default();
        // It was JSON a moment ago.
        let spec = serde_json::to_vec(&spec).unwrap_or_default();
        (range.metadata.name.unwrap_or_default(), spec)
    });
    Config {
        version: list.metadata.resource_version.unwrap_or_default(),
        data: ranges.collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hearth_core::ids::Key;
    use hearth_core::podspec::{Admission, Configs};
    use hearth_core::tokens::{Job, Minted, Owner, TokenNeed};
    use hearth_test::api::ScriptedApi;
    use serde_json::json;

    #[test]
    fn what_goes_to_a_node_is_understood_there() {
        let account = json!({
            "metadata": {"resourceVersion": "1"},
            "automountServiceAccountToken": false, "imagePullSecrets": [{"name": "a"}, {"name": "b"}],
        });
        let namespace = json!({"metadata": {"resourceVersion": "2", "labels": {
            "pod-security.kubernetes.io/enforce": "baseline", "team": "x"
        }}});
        let ranges = json!({"metadata": {"resourceVersion": "3"}, "items": [{
            "metadata": {"name": "most"}, "spec": {"limits": [{"type": "Pod", "max": {"cpu": "1"}}]}
        }]});
        let namespace = of_namespace(serde_json::from_value(namespace).unwrap());
        assert_eq!(namespace.data.len(), 1, "only what matters");
        let known = [
            (
                ConfigRef::new(ConfigKind::ServiceAccount, "robot"),
                of_account(serde_json::from_value(account).unwrap()),
            ),
            (ConfigRef::new(ConfigKind::Namespace, ""), namespace),
            (
                ConfigRef::new(ConfigKind::LimitRanges, ""),
                of_limit_ranges(serde_json::from_value(ranges).unwrap()),
            ),
        ];
        let known = known
            .into_iter()
            .map(|(key, config)| (key, Some(Arc::new(config))));
        let admission = Admission::read(
            "robot",
            &Configs {
                known: known.collect(),
            },
        )
        .unwrap();
        assert_eq!(admission.level, hearth_core::podsecurity::Level::Baseline);
        assert_eq!(admission.limits[0].name, "most");
        let pull_secrets = vec!["a".to_owned(), "b".to_owned()];
        assert_eq!(
            admission.account,
            Account::There {
                automount: false,
                pull_secrets
            }
        );
    }

    /// Tokens in a cluster where nothing has been asked of the API server.
    fn with_tokens_of(uid: &str) -> Arc<Shared> {
        let shared = Arc::new(Shared::default());
        let owner = Owner {
            key: Key::new("ns", "box"),
            uid: uid.into(),
        };
        let need = TokenNeed::of(&json!({"automountServiceAccountToken": true})).map(Arc::new);
        let mut state = shared.state.lock();
        let now = Duration::ZERO;
        state.tokens.set(&owner, need, now);
        let Some(Job::Mint { requests, .. }) = state.tokens.next(now) else {
            panic!("there are tokens to make");
        };
        let hour = Duration::from_secs(3600);
        let minted = Minted {
            secret: "1".to_owned(),
            lives: requests.into_iter().map(|one| (one, hour)).collect(),
        };
        assert!(state.tokens.minted(&owner.uid, Some(minted), now));
        assert_eq!(state.tokens.next(now), None);
        drop(state);
        shared
    }

    #[tokio::test]
    async fn a_secret_that_went_unseen_is_missed_in_the_next_list() {
        let shared = with_tokens_of("u");
        let reader = Reader::new(ScriptedApi::new([]).client(), Arc::clone(&shared));
        let secret = |name: &str| Named {
            key: ConfigKey {
                namespace: "ns".to_owned(),
                config: ConfigRef::new(ConfigKind::Secret, name),
            },
            version: "1".to_owned(),
        };
        let mut listings = BTreeMap::new();
        let mut hear = |event| reader.heard(ConfigKind::Secret, Ok(event), &mut listings);
        hear(Event::Init);
        hear(Event::InitApply(secret("hearth-token-u")));
        hear(Event::InitDone);
        let next = || shared.state.lock().tokens.next(shared.now());
        assert_eq!(next(), None, "it is there");
        hear(Event::Init);
        hear(Event::InitApply(secret("another")));
        hear(Event::InitDone);
        assert!(matches!(next(), Some(Job::Mint { secret: None, .. })));
    }

    #[test]
    fn a_config_map_has_texts_and_bytes_and_a_secret_bytes() {
        let object = json!({
            "metadata": {"resourceVersion": "7"}, "data": {"a": "text"}, "binaryData": {"b": "AP8="}
        });
        let config = of_config_map(serde_json::from_value(object).unwrap());
        assert_eq!(config.version, "7");
        assert_eq!(config.data["a"], b"text");
        assert_eq!(config.data["b"], [0, 0xff]);
        let object = json!({"metadata": {"resourceVersion": "8"}, "data": {"a": "dGV4dA=="}});
        let config = of_secret(serde_json::from_value(object).unwrap());
        assert_eq!(config.data["a"], b"text");
    }
}
