//! What a manifest names is there.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::manifests::{all, at, deploy, list, objects, repository, text, title};

const WORKLOADS: [&str; 2] = ["Deployment", "DaemonSet"];

/// Objects by what they are, and the references that lead nowhere.
struct Objects {
    all: Vec<Value>,
    problems: Vec<String>,
}

impl Objects {
    fn new() -> Self {
        Self {
            all: all(),
            problems: Vec::new(),
        }
    }

    fn of_kind<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Value> {
        let is = move |object: &&Value| at(object, "/kind") == kind;
        self.all.iter().filter(is)
    }

    fn has(&self, kind: &str, namespace: &str, name: &str) -> bool {
        self.of_kind(kind).any(|object| {
            at(object, "/metadata/namespace") == namespace && at(object, "/metadata/name") == name
        })
    }

    /// Notes that `object` names something that is not there.
    fn must_have(&mut self, object: &Value, kind: &str, namespace: &str, name: &str) {
        if !self.has(kind, namespace, name) {
            let object = title(object);
            self.problems
                .push(format!("{object} names the {kind} {namespace}/{name}"));
        }
    }

    fn workloads(&self) -> Vec<Value> {
        let kinds = WORKLOADS.iter();
        kinds
            .flat_map(|kind| self.of_kind(kind).cloned().collect::<Vec<_>>())
            .collect()
    }

    /// The workloads of a namespace whose Pods have these labels.
    fn selected(&self, namespace: &str, labels: &Value) -> Vec<Value> {
        self.workloads()
            .into_iter()
            .filter(|workload| at(workload, "/metadata/namespace") == namespace)
            .filter(|workload| {
                let pod = workload.pointer("/spec/template/metadata/labels");
                pod.is_some_and(|pod| selects(labels, pod))
            })
            .collect()
    }

    #[track_caller]
    fn end(self) {
        assert!(self.problems.is_empty(), "{:#?}", self.problems);
    }
}

/// Whether labels have all that a selector asks for; one that asks for nothing selects nothing here.
fn selects(selector: &Value, labels: &Value) -> bool {
    selector.as_object().is_some_and(|selector| {
        !selector.is_empty()
            && selector
                .iter()
                .all(|(name, value)| labels.get(name) == Some(value))
    })
}

/// The numbers of a Pod's port with this name.
fn ports(workload: &Value, name: &str) -> Vec<u64> {
    list(workload, "/spec/template/spec/containers")
        .iter()
        .flat_map(|container| list(container, "/ports"))
        .filter(|port| at(port, "/name") == name)
        .filter_map(|port| port["containerPort"].as_u64())
        .collect()
}

#[test]
fn every_object_has_a_name_once_and_a_namespace_that_there_is() {
    let mut objects = Objects::new();
    let mut titles: Vec<_> = objects.all.iter().map(title).collect();
    titles.sort();
    let count = titles.len();
    titles.dedup();
    assert_eq!(titles.len(), count, "an object is there twice");
    assert!(count > 40, "only {count} objects");
    for object in objects.all.clone() {
        for pointer in ["/apiVersion", "/kind", "/metadata/name"] {
            assert!(
                !at(&object, pointer).is_empty(),
                "{}: no {pointer}",
                title(&object)
            );
        }
        let namespace = at(&object, "/metadata/namespace");
        if !namespace.is_empty() {
            objects.must_have(&object, "Namespace", "", namespace);
        }
    }
    objects.end();
}

#[test]
fn bindings_lead_from_accounts_to_roles() {
    let mut objects = Objects::new();
    for binding in objects.all.clone() {
        let kind = at(&binding, "/kind");
        if kind != "RoleBinding" && kind != "ClusterRoleBinding" {
            continue;
        }
        let role = at(&binding, "/roleRef/kind");
        let namespace = match role {
            "Role" => at(&binding, "/metadata/namespace"),
            _ => "",
        };
        objects.must_have(&binding, role, namespace, at(&binding, "/roleRef/name"));
        for subject in list(&binding, "/subjects") {
            let (namespace, name) = (at(subject, "/namespace"), at(subject, "/name"));
            objects.must_have(&binding, at(subject, "/kind"), namespace, name);
        }
    }
    objects.end();
}

#[test]
fn pods_have_what_they_name() {
    let mut objects = Objects::new();
    let workloads = objects.workloads();
    assert_eq!(workloads.len(), 2);
    for workload in workloads {
        let namespace = at(&workload, "/metadata/namespace");
        let labels = &workload["spec"]["template"]["metadata"]["labels"];
        let pod = &workload["spec"]["template"]["spec"];
        let account = at(pod, "/serviceAccountName");
        objects.must_have(&workload, "ServiceAccount", namespace, account);
        let class = at(pod, "/priorityClassName");
        objects.must_have(&workload, "PriorityClass", "", class);
        let selector = &workload["spec"]["selector"]["matchLabels"];
        assert!(selects(selector, labels), "{}", title(&workload));
        for spread in list(pod, "/topologySpreadConstraints") {
            let selector = &spread["labelSelector"]["matchLabels"];
            assert!(selects(selector, labels), "{}", title(&workload));
        }
        assert!(pod["terminationGracePeriodSeconds"].is_u64());
        let volumes: Vec<_> = list(pod, "/volumes")
            .iter()
            .map(|volume| at(volume, "/name"))
            .collect();
        for container in list(pod, "/containers") {
            for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
                let port = at(&container[probe], "/httpGet/port");
                let optional = probe == "startupProbe" && port.is_empty();
                assert!(
                    optional || ports(&workload, port).len() == 1,
                    "{}: {probe} asks the port {port:?}",
                    title(&workload)
                );
            }
            // A busy machine answers late, and whoever is ended for that begins anew on a machine that is busier still.
            if at(&workload, "/kind") == "DaemonSet" {
                let patience = container["livenessProbe"]["timeoutSeconds"].as_u64();
                assert_eq!(patience, Some(10), "{}", title(&workload));
            }
            let requests = &container["resources"]["requests"];
            assert!(requests["cpu"].is_string() && requests["memory"].is_string());
            for mount in list(container, "/volumeMounts") {
                assert!(volumes.contains(&at(mount, "/name")), "{mount}");
            }
        }
    }
    objects.end();
}

#[test]
fn services_and_budgets_lead_to_pods() {
    let objects = Objects::new();
    let mut services = 0;
    for service in objects.of_kind("Service") {
        let namespace = at(service, "/metadata/namespace");
        let selected = objects.selected(namespace, &service["spec"]["selector"]);
        let [workload] = selected.as_slice() else {
            panic!("{} does not select one workload", title(service));
        };
        for port in list(service, "/spec/ports") {
            let number = port["port"].as_u64();
            let found = ports(workload, at(port, "/targetPort"));
            assert_eq!(found.first().copied(), number, "{}: {port}", title(service));
        }
        services += 1;
    }
    assert_eq!(services, 2);
    for budget in objects.of_kind("PodDisruptionBudget") {
        let namespace = at(budget, "/metadata/namespace");
        let selector = &budget["spec"]["selector"]["matchLabels"];
        let selected = objects.selected(namespace, selector);
        let [workload] = selected.as_slice() else {
            panic!("{} does not select one workload", title(budget));
        };
        // Else no drain ever ends.
        let (least, there) = (
            &budget["spec"]["minAvailable"],
            &workload["spec"]["replicas"],
        );
        assert!(least.as_u64().unwrap() < there.as_u64().unwrap());
    }
    for monitor in objects.of_kind("ServiceMonitor") {
        let namespace = at(monitor, "/metadata/namespace");
        let selector = &monitor["spec"]["selector"]["matchLabels"];
        let service = objects.of_kind("Service").find(|service| {
            at(service, "/metadata/namespace") == namespace
                && selects(selector, &service["metadata"]["labels"])
        });
        let service = service.unwrap_or_else(|| panic!("{} selects nothing", title(monitor)));
        for endpoint in list(monitor, "/spec/endpoints") {
            let port = at(endpoint, "/port");
            let mut ports = list(service, "/spec/ports").iter();
            assert!(ports.any(|there| at(there, "/name") == port), "{port}");
        }
    }
}

#[test]
fn turns_and_policies_are_of_accounts_that_there_are() {
    let mut objects = Objects::new();
    for object in objects.all.clone() {
        match at(&object, "/kind") {
            "FlowSchema" => {
                let level = at(&object, "/spec/priorityLevelConfiguration/name");
                objects.must_have(&object, "PriorityLevelConfiguration", "", level);
                for rule in list(&object, "/spec/rules") {
                    for subject in list(rule, "/subjects") {
                        let name = at(subject, "/serviceAccount/name");
                        let namespace = at(subject, "/serviceAccount/namespace");
                        objects.must_have(&object, "ServiceAccount", namespace, name);
                    }
                }
            }
            "ValidatingAdmissionPolicyBinding" => {
                let policy = at(&object, "/spec/policyName");
                objects.must_have(&object, "ValidatingAdmissionPolicy", "", policy);
            }
            "ValidatingAdmissionPolicy" => {
                for condition in list(&object, "/spec/matchConditions") {
                    let expression = at(condition, "/expression");
                    let users = expression.split('"').filter_map(|word| {
                        word.strip_prefix("system:serviceaccount:")?.split_once(':')
                    });
                    for (namespace, name) in users {
                        objects.must_have(&object, "ServiceAccount", namespace, name);
                    }
                }
            }
            _ => {}
        }
    }
    objects.end();
}

/// The two images, each named by one container, with the version of the workspace.
#[test]
fn images_are_named_once() {
    let mut found = Vec::new();
    for workload in Objects::new().workloads() {
        for container in list(&workload, "/spec/template/spec/containers") {
            found.push(at(container, "/image").to_owned());
        }
        assert!(list(&workload, "/spec/template/spec/initContainers").is_empty());
    }
    found.sort();
    let version = env!("CARGO_PKG_VERSION");
    let expect = ["agent-sandbox-controller", "hearth-node"];
    assert_eq!(
        found,
        expect.map(|name| format!("localhost/{name}:{version}"))
    );
}

fn yaml_files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            yaml_files(&path, found);
        } else if path
            .extension()
            .is_some_and(|extension| extension == "yaml")
        {
            found.push(path);
        }
    }
}

#[test]
fn every_file_is_named_by_a_kustomization() {
    let mut files = Vec::new();
    for entry in fs::read_dir(deploy("")).unwrap() {
        let path = entry.unwrap().path();
        // The chart has a test of its own.
        if path.is_dir() && path.file_name() != Some("helm".as_ref()) {
            yaml_files(&path, &mut files);
        }
    }
    assert!(files.len() > 20, "found only {} files", files.len());
    for file in files {
        if file.file_name() == Some("kustomization.yaml".as_ref()) {
            continue;
        }
        objects(&file);
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        let above = file.ancestors().skip(1);
        let mut kustomizations = above
            .take_while(|dir| dir.starts_with(deploy("")))
            .map(|dir| dir.join("kustomization.yaml"))
            .filter(|kustomization| kustomization.exists());
        assert!(
            kustomizations.any(|kustomization| text(&kustomization).contains(&name)),
            "{} is named by no kustomization",
            file.display()
        );
    }
    assert!(repository().join("runtimes/kustomization.yaml").exists());
}
