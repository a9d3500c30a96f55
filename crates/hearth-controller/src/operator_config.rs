//! What an operator says in the ConfigMap `agent-sandbox-config` of the controller's namespace. It is read when the
//! controller starts; the domains of labels are followed from then on. After a change of a flag the Deployment is
//! restarted, as with upstream's controller after any change.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::time::Duration;

use futures::StreamExt;
use hearth_api::constants::CONTROLLER_NAMESPACE;
use hearth_core::index::Settings;
use hearth_kube::ConnectError;
use hearth_telemetry::ErrorChain;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::watcher;
use kube::runtime::watcher::{self, Event};
use thiserror::Error;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

/// Name of the ConfigMap.
pub const NAME: &str = "agent-sandbox-config";
/// Its key with the domains of labels that claims may set on pods.
pub const LABEL_DOMAINS: &str = "allowed-label-domains";

/// Where upstream's manifests mount that key.
const LABEL_DOMAINS_FILE: &str = "/etc/sandbox-config/allowed-label-domains";
/// Where a Pod finds the name of its namespace.
const NAMESPACE_FILE: &str = "/var/run/secrets/kubernetes.io/serviceaccount/namespace";
/// How long one answer may take.
const DEADLINE: Duration = Duration::from_secs(10);
/// Shortest wait before the next try; doubles up to [`LONGEST_WAIT`].
const SHORTEST_WAIT: Duration = Duration::from_millis(200);
/// Longest wait before the next try.
const LONGEST_WAIT: Duration = Duration::from_secs(2);

/// Why the file with the domains cannot be used.
#[derive(Debug, Error)]
#[error("cannot read {path}")]
pub struct DomainsError {
    path: &'static str,
    #[source]
    source: io::Error,
}

/// The namespace that this process runs in: its Pod's, else `agent-sandbox-system`.
#[must_use]
pub fn own_namespace() -> String {
    // Without the file this is not a Pod.
    let text = std::fs::read_to_string(NAMESPACE_FILE).unwrap_or_default();
    match text.trim() {
        "" => CONTROLLER_NAMESPACE.to_owned(),
        namespace => namespace.to_owned(),
    }
}

/// The data of the ConfigMap in `namespace`; nothing when it is not there. While the API server does not answer it is
/// asked again, because who starts with other settings than the operator's does harm.
///
/// # Errors
/// When the kubeconfig cannot be used.
pub async fn read(
    kubeconfig: Option<&Path>,
    namespace: &str,
) -> Result<BTreeMap<String, String>, ConnectError> {
    let api_server = hearth_kube::config(kubeconfig).await?;
    let client = hearth_kube::client(&api_server)?;
    Ok(data_in(&Api::namespaced(client, namespace), namespace).await)
}

async fn data_in(config_maps: &Api<ConfigMap>, namespace: &str) -> BTreeMap<String, String> {
    let mut wait = SHORTEST_WAIT;
    loop {
        let reason = match timeout(DEADLINE, config_maps.get_opt(NAME)).await {
            Ok(Ok(found)) => return found.and_then(|map| map.data).unwrap_or_default(),
            Ok(Err(error)) => ErrorChain(&error).to_string(),
            Err(_) => format!("no response within {DEADLINE:?}"),
        };
        tracing::warn!(namespace, name = NAME, reason, retry_in = ?wait, "cannot read the ConfigMap");
        // Between tries, against a busy loop: nothing tells when the API server is back.
        sleep(wait).await;
        wait = (wait * 2).min(LONGEST_WAIT);
    }
}

/// The domains of labels that claims may set on pods: of the file that upstream's manifests mount, else of the
/// ConfigMap's data. None when neither says any: then the default counts.
///
/// # Errors
/// When the file is there and cannot be read.
pub fn label_domains(data: &BTreeMap<String, String>) -> Result<Vec<String>, DomainsError> {
    let mounted = match std::fs::read_to_string(LABEL_DOMAINS_FILE) {
        Ok(text) => Some(text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(source) => {
            return Err(DomainsError {
                path: LABEL_DOMAINS_FILE,
                source,
            });
        }
    };
    let text = mounted.as_ref().or_else(|| data.get(LABEL_DOMAINS));
    Ok(text.map(|text| domains(text)).unwrap_or_default())
}

/// Whether the domains are in a file, which goes before the ConfigMap.
#[must_use]
pub fn has_domains_file() -> bool {
    Path::new(LABEL_DOMAINS_FILE).exists()
}

/// Follows the domains in the ConfigMap, which is the only one that is asked for. Ends when nobody listens.
pub(crate) async fn follow_domains(
    config_maps: Api<ConfigMap>,
    sender: watch::Sender<Vec<String>>,
) {
    let by_name = watcher::Config::default().fields(&format!("metadata.name={NAME}"));
    let mut events = watcher(config_maps, by_name).default_backoff().boxed();
    let mut listed = None;
    while let Some(event) = events.next().await {
        let now = match event {
            Ok(event) => domains_after(event, &mut listed),
            Err(error) => {
                tracing::warn!(name = NAME, error = %ErrorChain(&error), "cannot follow the ConfigMap");
                None
            }
        };
        let Some(now) = now else { continue };
        if sender.is_closed() {
            return;
        }
        sender.send_if_modified(|known| {
            let is_new = *known != now;
            if is_new {
                tracing::info!(domains = ?now, "claims may set labels of these domains from now on");
                *known = now;
            }
            is_new
        });
    }
}

/// The domains after an event, if it says them; `listed` is what a list that is not complete has shown so far.
fn domains_after(event: Event<ConfigMap>, listed: &mut Option<ConfigMap>) -> Option<Vec<String>> {
    match event {
        Event::Init => {
            *listed = None;
            None
        }
        Event::InitApply(map) => {
            *listed = Some(map);
            None
        }
        Event::InitDone => Some(domains_of(listed.take())),
        Event::Apply(map) => Some(domains_of(Some(map))),
        Event::Delete(_) => Some(domains_of(None)),
    }
}

/// The domains that a ConfigMap says, or the default ones.
fn domains_of(map: Option<ConfigMap>) -> Vec<String> {
    let data = map.and_then(|map| map.data).unwrap_or_default();
    let text = data.get(LABEL_DOMAINS).map(String::as_str);
    let said = domains(text.unwrap_or_default());
    if said.is_empty() {
        Settings::default().allowed_label_domains
    } else {
        said
    }
}

/// Domains between commas and line ends, in lower case.
fn domains(text: &str) -> Vec<String> {
    text.split([',', '\n', '\r'])
        .map(|domain| domain.trim().to_lowercase())
        .filter(|domain| !domain.is_empty())
        .collect()
}

#[cfg(test)]
mod tests {
    use hearth_test::api::{Call, ScriptedApi};
    use serde_json::json;

    use super::*;

    /// What is read when the API server answers like this.
    async fn read_of(answers: impl IntoIterator<Item = Call>) -> BTreeMap<String, String> {
        let api = ScriptedApi::new(answers);
        let config_maps = Api::namespaced(api.client(), CONTROLLER_NAMESPACE);
        let data = data_in(&config_maps, CONTROLLER_NAMESPACE).await;
        api.finish().await;
        data
    }

    fn asked() -> Call {
        Call::get("/api/v1/namespaces/agent-sandbox-system/configmaps/agent-sandbox-config")
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_asked_for_until_the_api_server_has_said_what_it_is() {
        let map = json!({"metadata": {"name": NAME}, "data": {"kube-api-qps": "5"}});
        let data = read_of([
            asked().fail(500, "InternalError"),
            asked().hang(),
            asked().fail(403, "Forbidden"),
            asked().reply(&map),
        ]);
        let expected = BTreeMap::from([("kube-api-qps".to_owned(), "5".to_owned())]);
        assert_eq!(data.await, expected);
    }

    #[tokio::test(start_paused = true)]
    async fn none_at_all_says_nothing() {
        assert_eq!(
            read_of([asked().fail(404, "NotFound")]).await,
            BTreeMap::new()
        );
        let empty = json!({"metadata": {"name": NAME}});
        assert_eq!(read_of([asked().reply(&empty)]).await, BTreeMap::new());
    }

    #[test]
    fn domains_stand_between_commas_and_line_ends() {
        assert_eq!(
            domains(" Example.com,\r\nsandbox.users.io\n\n,b.org "),
            ["example.com", "sandbox.users.io", "b.org"]
        );
        assert!(domains(" ,\n").is_empty(), "the default counts");
    }

    #[test]
    fn without_a_file_the_config_map_says_which_domains() {
        let data = BTreeMap::from([(LABEL_DOMAINS.to_owned(), "example.com".to_owned())]);
        assert_eq!(label_domains(&data).unwrap(), ["example.com"]);
        assert!(label_domains(&BTreeMap::new()).unwrap().is_empty());
    }

    #[test]
    fn the_domains_are_those_that_the_config_map_says_now() {
        let saying = |text: &str| {
            let data = BTreeMap::from([(LABEL_DOMAINS.to_owned(), text.to_owned())]);
            ConfigMap {
                data: Some(data),
                ..ConfigMap::default()
            }
        };
        let default = || Some(Settings::default().allowed_label_domains);
        let one = |domain: &str| Some(vec![domain.to_owned()]);
        let mut listed = None;
        for (event, expected) in [
            (Event::Init, None),
            (Event::InitApply(saying("a.org")), None),
            (Event::InitDone, one("a.org")),
            (Event::Apply(saying("b.org")), one("b.org")),
            (Event::Apply(saying(" ,")), default()),
            (Event::Apply(saying("c.org")), one("c.org")),
            (Event::Delete(saying("c.org")), default()),
            // A list that broke off, and one without the ConfigMap.
            (Event::InitApply(saying("d.org")), None),
            (Event::Init, None),
            (Event::InitDone, default()),
        ] {
            let text = format!("{event:?}");
            assert_eq!(domains_after(event, &mut listed), expected, "{text}");
        }
    }
}
