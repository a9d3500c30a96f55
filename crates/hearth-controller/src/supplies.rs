//! ConfigMaps and Secrets on their way to the nodes whose sandboxes name them, and with them what the namespaces and
//! ServiceAccounts of these sandboxes say of pods.
//!
//! The index says which node needs which ([`Supplies::set`]). One task ([`reader`]) reads them, again whenever a watch of
//! their metadata, or of what the index follows itself ([`Supplies::changed`]), says that they changed; what they hold is
//! kept here and taken by the nodes' sessions through their [`Outlet`]s. Tokens of ServiceAccounts go the same way; another
//! task ([`minter`]) has them made. All of it is bounded by what the sandboxes name: what is due is a set of keys, not a
//! queue.

mod minter;
mod reader;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use hearth_core::effects::ConfigKey;
use hearth_core::ids::{Key, NodeName, SandboxUid};
use hearth_core::podspec::{Account, Config, ConfigKind, ConfigRef};
use hearth_core::tokens::{Ledger, Owner, TokenNeed};
use kube::Client;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What is known of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Content {
    /// It has not been read yet.
    Unread,
    /// There is no such object.
    Absent,
    /// It is there.
    Here(Arc<Config>),
}

/// One thing to tell a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Supply {
    /// The object holds this; `None`: there is none.
    Holds(ConfigKey, Option<Arc<Config>>),
    /// No sandbox of the node names it any more.
    Forget(ConfigKey),
}

/// Which node needs what, and what it holds.
#[derive(Clone, Debug, Default)]
pub struct Supplies {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    started: Instant,
    state: Mutex<State>,
    /// Something is to be read.
    to_read: Notify,
    /// Something may have to be done about tokens.
    to_mint: Notify,
}

impl Default for Shared {
    fn default() -> Self {
        Self {
            started: Instant::now(),
            state: Mutex::default(),
            to_read: Notify::default(),
            to_mint: Notify::default(),
        }
    }
}

#[derive(Debug, Default)]
struct State {
    objects: HashMap<ConfigKey, Object>,
    shelves: HashMap<NodeName, Shelf>,
    /// Wanted objects that are to be read, for the first time or again.
    unread: BTreeSet<ConfigKey>,
    tokens: Ledger,
    /// Which sandbox of a name has the tokens under it.
    holders: HashMap<ConfigKey, SandboxUid>,
}

#[derive(Debug)]
struct Object {
    content: Content,
    /// Who needs it, for how many reasons.
    nodes: HashMap<NodeName, usize>,
}

impl Object {
    fn new() -> Self {
        Self {
            content: Content::Unread,
            nodes: HashMap::new(),
        }
    }
}

/// What a node is to be told.
#[derive(Debug, Default)]
struct Shelf {
    due: BTreeSet<ConfigKey>,
    changed: Arc<Notify>,
}

impl Supplies {
    /// Starts the tasks that read, over the client for `watching`, and have tokens made; they end when `token` is
    /// cancelled. Nothing is asked of the API server before a sandbox names something.
    #[must_use]
    pub fn start(
        watching: Client,
        writing: Client,
        tracker: &TaskTracker,
        token: &CancellationToken,
    ) -> Self {
        let supplies = Self::default();
        let reader = reader::Reader::new(watching, Arc::clone(&supplies.shared));
        let minter = minter::Minter::new(writing, Arc::clone(&supplies.shared));
        let work = token.clone();
        tracker.spawn(async move {
            // Cancel-safe: a read has no effect.
            tokio::select! {
                () = work.cancelled() => {}
                () = reader.run() => {}
            }
        });
        let work = token.clone();
        tracker.spawn(async move {
            // What is cut off is done again by the next leader: a Secret is found by its name.
            tokio::select! {
                () = work.cancelled() => {}
                () = minter.run() => {}
            }
        });
        supplies
    }

    /// A sandbox is to have these tokens, on this node; or none any more.
    pub fn set_tokens(&self, owner: &Owner, wanted: Option<(NodeName, Arc<TokenNeed>)>) {
        let key = tokens_of(owner);
        let now = self.shared.now();
        let mut state = self.shared.state.lock();
        match wanted {
            Some((node, need)) => {
                state.holders.insert(key.clone(), owner.uid.clone());
                state.move_to(&node, &key);
                state.tokens.set(owner, Some(need), now);
            }
            None => {
                // Another sandbox may have its name by now.
                if state.holders.get(&key) == Some(&owner.uid) {
                    state.holders.remove(&key);
                    state.forget(&key);
                }
                state.tokens.set(owner, None, now);
            }
        }
        drop(state);
        self.shared.to_mint.notify_one();
    }

    /// A node needs an object, or does not any more.
    pub fn set(&self, node: &NodeName, key: ConfigKey, wanted: bool) {
        let mut state = self.shared.state.lock();
        if wanted {
            if state.want(node, &key) {
                self.shared.to_read.notify_one();
            }
        } else {
            state.unwant(node, &key);
        }
    }

    /// A watch says that the object of this version is there, or that there is none: if that is not what is known, it is
    /// read again. For what is watched for the index as well.
    pub fn changed(&self, key: &ConfigKey, version: Option<&str>) {
        if self.shared.state.lock().changed(key, version) {
            self.shared.to_read.notify_one();
        }
    }

    /// A watch says that there are objects of a kind in these namespaces and in no others.
    pub fn listed(&self, kind: ConfigKind, namespaces: &HashSet<String>) {
        let mut state = self.shared.state.lock();
        for key in state.wanted(kind) {
            if !namespaces.contains(&key.namespace) && state.changed(&key, None) {
                self.shared.to_read.notify_one();
            }
        }
    }

    /// Where a node's session takes what the node is to be told.
    #[must_use]
    pub fn outlet(&self, node: &NodeName) -> Outlet {
        let mut state = self.shared.state.lock();
        let changed = Arc::clone(&state.shelves.entry(node.clone()).or_default().changed);
        Outlet {
            shared: Arc::clone(&self.shared),
            node: node.clone(),
            changed,
        }
    }
}

/// What the tokens of a sandbox are known by on their way.
fn tokens_of(owner: &Owner) -> ConfigKey {
    ConfigKey {
        namespace: owner.key.namespace.clone(),
        config: ConfigRef::new(ConfigKind::Tokens, &owner.key.name),
    }
}

impl Shared {
    /// The clock by which tokens are made anew.
    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// An object was read.
    fn put(&self, key: &ConfigKey, content: Content) {
        let mut state = self.state.lock();
        if key.config.kind == ConfigKind::ServiceAccount && state.objects.contains_key(key) {
            let automounts = match &content {
                Content::Here(config) => Some(Account::automounts(&config.data)),
                Content::Unread | Content::Absent => None,
            };
            let account = Key::new(key.namespace.clone(), key.config.name.clone());
            state.tokens.set_account(account, automounts, self.now());
            self.to_mint.notify_one();
        }
        state.put(key, content);
    }
}

impl State {
    /// This node, and no other, needs what is not read but made.
    fn move_to(&mut self, node: &NodeName, key: &ConfigKey) {
        let object = self.objects.entry(key.clone()).or_insert_with(Object::new);
        let others = std::mem::replace(&mut object.nodes, [(node.clone(), 1)].into());
        let known = object.content != Content::Unread;
        for other in others.keys().filter(|other| *other != node) {
            self.tell(other, key);
        }
        if known && !others.contains_key(node) {
            self.tell(node, key);
        }
    }

    /// Nobody needs it any more.
    fn forget(&mut self, key: &ConfigKey) {
        let nodes = self.objects.remove(key).map(|object| object.nodes);
        for node in nodes.iter().flat_map(HashMap::keys) {
            self.tell(node, key);
        }
    }

    /// A sandbox of the node names it. True when something has to be read.
    fn want(&mut self, node: &NodeName, key: &ConfigKey) -> bool {
        let mut is_new = self.add(node, key);
        for secret in self.secrets_of(key) {
            is_new |= self.add(node, &secret);
        }
        is_new
    }

    fn unwant(&mut self, node: &NodeName, key: &ConfigKey) {
        for secret in self.secrets_of(key) {
            self.remove(node, &secret);
        }
        self.remove(node, key);
    }

    /// The Secrets that a ServiceAccount names for the images of its pods: who needs it needs them as well.
    fn secrets_of(&self, account: &ConfigKey) -> BTreeSet<ConfigKey> {
        match self.objects.get(account).map(|object| &object.content) {
            Some(Content::Here(config)) if account.config.kind == ConfigKind::ServiceAccount => {
                let secrets = Account::pull_secrets(&config.data).into_iter();
                let key = |name: String| ConfigKey {
                    namespace: account.namespace.clone(),
                    config: ConfigRef::new(ConfigKind::Secret, &name),
                };
                secrets.map(key).collect()
            }
            _ => BTreeSet::new(),
        }
    }

    /// One more reason for the node to have it. True when it has to be read.
    fn add(&mut self, node: &NodeName, key: &ConfigKey) -> bool {
        let is_new = !self.objects.contains_key(key);
        let object = self.objects.entry(key.clone()).or_insert_with(Object::new);
        let reasons = object.nodes.entry(node.clone()).or_default();
        *reasons += 1;
        if *reasons == 1 && object.content != Content::Unread {
            self.tell(node, key);
        }
        if is_new {
            self.unread.insert(key.clone());
        }
        is_new
    }

    /// One reason less.
    fn remove(&mut self, node: &NodeName, key: &ConfigKey) {
        let Some(object) = self.objects.get_mut(key) else {
            return;
        };
        let Some(reasons) = object.nodes.get_mut(node) else {
            return;
        };
        *reasons -= 1;
        if *reasons > 0 {
            return;
        }
        object.nodes.remove(node);
        if object.nodes.is_empty() {
            self.objects.remove(key);
            self.unread.remove(key);
            if key.config.kind == ConfigKind::ServiceAccount {
                let account = Key::new(key.namespace.clone(), key.config.name.clone());
                self.tokens.forget_account(&account);
            }
        }
        self.tell(node, key);
    }

    fn tell(&mut self, node: &NodeName, key: &ConfigKey) {
        let shelf = self.shelves.entry(node.clone()).or_default();
        shelf.due.insert(key.clone());
        shelf.changed.notify_one();
    }

    /// The object was read.
    fn put(&mut self, key: &ConfigKey, content: Content) {
        let Some(object) = self.objects.get(key) else {
            return;
        };
        if object.content == content {
            return;
        }
        let nodes: Vec<_> = object.nodes.keys().cloned().collect();
        let before = self.secrets_of(key);
        if let Some(object) = self.objects.get_mut(key) {
            object.content = content;
        }
        let after = self.secrets_of(key);
        for node in &nodes {
            self.tell(node, key);
            for secret in after.difference(&before) {
                self.add(node, secret);
            }
            for secret in before.difference(&after) {
                self.remove(node, secret);
            }
        }
    }

    /// The watch says that the object may differ from what is known.
    fn changed(&mut self, key: &ConfigKey, version: Option<&str>) -> bool {
        let known = match self.objects.get(key).map(|object| &object.content) {
            None => return false,
            Some(Content::Here(config)) => version == Some(config.version.as_str()),
            // It is being read, or about to be.
            Some(Content::Unread) => self.unread.contains(key),
            Some(Content::Absent) => version.is_none(),
        };
        !known && self.unread.insert(key.clone())
    }

    /// All wanted objects of a kind.
    fn wanted(&self, kind: ConfigKind) -> Vec<ConfigKey> {
        let keys = self.objects.keys();
        keys.filter(|key| key.config.kind == kind)
            .cloned()
            .collect()
    }
}

/// What one node is to be told, for its session.
#[derive(Clone, Debug)]
pub struct Outlet {
    shared: Arc<Shared>,
    node: NodeName,
    changed: Arc<Notify>,
}

impl Outlet {
    /// A session begins: all that the node needs. Of all that is known [`Self::next`] tells again.
    #[must_use]
    pub fn begin(&self) -> Vec<ConfigKey> {
        let mut state = self.shared.state.lock();
        let needed = |object: &Object| object.nodes.contains_key(&self.node);
        let keys: Vec<_> = state
            .objects
            .iter()
            .filter(|(_, object)| needed(object))
            .map(|(key, _)| key.clone())
            .collect();
        let shelf = state.shelves.entry(self.node.clone()).or_default();
        shelf.due = keys.iter().cloned().collect();
        shelf.changed.notify_one();
        keys
    }

    /// The next thing to tell the node. Cancel-safe.
    pub async fn next(&self) -> Supply {
        loop {
            if let Some(supply) = self.take() {
                return supply;
            }
            self.changed.notified().await;
        }
    }

    fn take(&self) -> Option<Supply> {
        let mut state = self.shared.state.lock();
        loop {
            let key = state.shelves.get_mut(&self.node)?.due.pop_first()?;
            let object = state.objects.get(&key);
            let content = object
                .filter(|object| object.nodes.contains_key(&self.node))
                .map(|object| object.content.clone());
            match content {
                None => return Some(Supply::Forget(key)),
                Some(Content::Here(config)) => return Some(Supply::Holds(key, Some(config))),
                Some(Content::Absent) => return Some(Supply::Holds(key, None)),
                // It will be told once it was read.
                Some(Content::Unread) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    fn key(name: &str) -> ConfigKey {
        ConfigKey {
            namespace: "ns".to_owned(),
            config: ConfigRef::new(ConfigKind::Secret, name),
        }
    }

    fn config(version: &str) -> Arc<Config> {
        Arc::new(Config {
            version: version.to_owned(),
            ..Config::default()
        })
    }

    fn told(outlet: &Outlet) -> Vec<Supply> {
        std::iter::from_fn(|| outlet.next().now_or_never()).collect()
    }

    #[test]
    fn a_node_is_told_what_it_needs_and_nothing_else() {
        let supplies = Supplies::default();
        let (n, m) = (NodeName::from("n"), NodeName::from("m"));
        let (of_n, of_m) = (supplies.outlet(&n), supplies.outlet(&m));
        supplies.set(&n, key("a"), true);
        supplies.set(&m, key("b"), true);
        assert_eq!(told(&of_n), [], "nothing was read yet");
        let put = |name, content| supplies.shared.state.lock().put(&key(name), content);
        put("a", Content::Here(config("1")));
        put("b", Content::Absent);
        assert_eq!(told(&of_n), [Supply::Holds(key("a"), Some(config("1")))]);
        assert_eq!(told(&of_m), [Supply::Holds(key("b"), None)]);
        put("a", Content::Here(config("2")));
        put("a", Content::Here(config("3")));
        assert_eq!(
            told(&of_n),
            [Supply::Holds(key("a"), Some(config("3")))],
            "the newest, once"
        );
        supplies.set(&n, key("a"), false);
        assert_eq!(told(&of_n), [Supply::Forget(key("a"))]);
        assert!(!supplies.shared.state.lock().objects.contains_key(&key("a")));
    }

    fn account(pull_secrets: &[&str]) -> Content {
        let pull_secrets: Vec<_> = pull_secrets.iter().map(|name| (*name).to_owned()).collect();
        Content::Here(Arc::new(Config {
            version: pull_secrets.join(" "),
            data: Account::written(None, &pull_secrets),
        }))
    }

    #[test]
    fn who_needs_an_account_needs_the_secrets_that_it_names_for_images() {
        let supplies = Supplies::default();
        let n = NodeName::from("n");
        let robot = ConfigKey {
            namespace: "ns".to_owned(),
            config: ConfigRef::new(ConfigKind::ServiceAccount, "robot"),
        };
        let outlet = supplies.outlet(&n);
        let names = || {
            let state = supplies.shared.state.lock();
            let keys = state.objects.keys().map(|key| key.config.name.clone());
            keys.collect::<BTreeSet<_>>()
        };
        let put = |key: &ConfigKey, content| supplies.shared.put(key, content);
        supplies.set(&n, robot.clone(), true);
        supplies.set(&n, key("a"), true);
        put(&robot, account(&["a", "b"]));
        assert_eq!(names(), ["a", "b", "robot"].map(str::to_owned).into());
        put(&key("b"), Content::Here(config("1")));
        assert!(told(&outlet).contains(&Supply::Holds(key("b"), Some(config("1")))));
        put(&robot, account(&["c"]));
        assert_eq!(
            names(),
            ["a", "c", "robot"].map(str::to_owned).into(),
            "a sandbox names a"
        );
        assert!(told(&outlet).contains(&Supply::Forget(key("b"))));
        supplies.set(&n, robot, false);
        assert_eq!(names(), ["a"].map(str::to_owned).into());
    }

    #[test]
    fn a_new_session_is_told_everything_again() {
        let supplies = Supplies::default();
        let n = NodeName::from("n");
        for name in ["a", "b"] {
            supplies.set(&n, key(name), true);
        }
        supplies
            .shared
            .state
            .lock()
            .put(&key("a"), Content::Here(config("1")));
        let outlet = supplies.outlet(&n);
        assert_eq!(told(&outlet).len(), 1);
        let mut wanted = outlet.begin();
        wanted.sort();
        assert_eq!(wanted, [key("a"), key("b")]);
        assert_eq!(told(&outlet), [Supply::Holds(key("a"), Some(config("1")))]);
    }

    #[test]
    fn what_is_watched_elsewhere_is_read_again_when_that_watch_says_so() {
        let supplies = Supplies::default();
        let rules = |namespace: &str| ConfigKey {
            namespace: namespace.to_owned(),
            config: ConfigRef::new(ConfigKind::Namespace, ""),
        };
        let unread = || std::mem::take(&mut supplies.shared.state.lock().unread);
        for namespace in ["a", "b"] {
            supplies.set(&"n".into(), rules(namespace), true);
            let mut state = supplies.shared.state.lock();
            state.put(&rules(namespace), Content::Here(config("1")));
        }
        unread();
        let told = || supplies.shared.to_read.notified().now_or_never().is_some();
        assert!(told(), "of what was wanted");
        supplies.changed(&rules("a"), Some("1"));
        supplies.changed(&rules("c"), Some("2"));
        assert_eq!(unread(), BTreeSet::new(), "known, and wanted by nobody");
        assert!(!told());
        supplies.changed(&rules("a"), Some("2"));
        assert_eq!(unread(), [rules("a")].into());
        assert!(told());
        supplies.listed(ConfigKind::Namespace, &HashSet::from(["a".to_owned()]));
        assert_eq!(unread(), [rules("b")].into(), "it is gone");
        assert!(told());
    }

    #[test]
    fn only_a_wanted_object_of_another_version_is_read_again() {
        let supplies = Supplies::default();
        let mut state = supplies.shared.state.lock();
        assert!(state.want(&"n".into(), &key("a")));
        assert!(!state.want(&"m".into(), &key("a")), "once for all nodes");
        state.unread.clear();
        assert!(!state.changed(&key("other"), Some("1")));
        assert!(
            state.changed(&key("a"), Some("1")),
            "changed while it is being read"
        );
        state.unread.clear();
        state.put(&key("a"), Content::Here(config("2")));
        assert!(!state.changed(&key("a"), Some("2")));
        assert!(state.changed(&key("a"), Some("3")));
        state.unread.clear();
        assert!(state.changed(&key("a"), None), "it was deleted");
    }
}
