//! The chart by the real helm, and the kustomizations by the real kubectl: what they make is what `deploy/install.yaml` has.
//! `cargo xtask chart` builds both and runs this.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

type Objects = BTreeMap<String, Value>;

fn deploy(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../deploy")
        .join(path)
}

/// A program that the environment names.
fn program(variable: &str) -> Result<Command> {
    let file = std::env::var_os(variable)
        .with_context(|| format!("{variable} is not set; run `cargo xtask chart`"))?;
    Ok(Command::new(file))
}

fn run(command: &mut Command) -> Result<Output> {
    // helm keeps its own files where the user's are, unless it is told otherwise.
    let nowhere = tempfile::tempdir().context("no temporary directory")?;
    for variable in ["HELM_CONFIG_HOME", "HELM_CACHE_HOME", "HELM_DATA_HOME"] {
        command.env(variable, nowhere.path());
    }
    command.env("KUBECONFIG", "/dev/null");
    command.output().context("cannot run it")
}

fn helm(args: &[&str]) -> Result<Output> {
    run(program("HEARTH_HELM")?.args(args))
}

/// What `helm template` makes of the chart.
fn rendered(settings: &[&str]) -> Result<Objects> {
    let chart = deploy("helm/hearth");
    let chart = chart.to_str().context("an odd path")?;
    let mut args = vec!["template", "hearth", chart, "--include-crds"];
    args.extend(settings);
    let output = helm(&args)?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "helm {settings:?}: {said}");
    objects(std::str::from_utf8(&output.stdout)?)
}

/// Why helm refuses these settings.
fn refused(settings: &[&str]) -> Result<String> {
    match rendered(settings) {
        Ok(_) => bail!("helm takes {settings:?}"),
        Err(error) => Ok(format!("{error:#}")),
    }
}

fn kustomized(directory: &str) -> Result<Objects> {
    let mut command = program("HEARTH_KUBECTL")?;
    let output = run(command.arg("kustomize").arg(deploy(directory)))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "kubectl kustomize: {said}");
    objects(std::str::from_utf8(&output.stdout)?)
}

fn installed() -> Result<Objects> {
    let text = std::fs::read_to_string(deploy("install.yaml"))?;
    objects(&text)
}

/// Objects by kind, namespace and name.
fn objects(text: &str) -> Result<Objects> {
    let mut objects = Objects::new();
    for document in format!("\n{text}").split("\n---\n") {
        let is_text = |line: &str| !line.starts_with('#') && !line.trim().is_empty();
        if !document.lines().any(is_text) {
            continue;
        }
        let mut object: Value = serde_saphyr::from_str(document)
            .map_err(|error| anyhow::anyhow!("{error}: in {document}"))?;
        make_whole(&mut object);
        let text = |pointer: &str| {
            let text = object.pointer(pointer).and_then(Value::as_str);
            text.unwrap_or_default().to_owned()
        };
        let key = [
            text("/kind"),
            text("/metadata/namespace"),
            text("/metadata/name"),
        ];
        let key = key.join(" ");
        ensure!(
            objects.insert(key.clone(), object).is_none(),
            "{key} is there twice"
        );
    }
    Ok(objects)
}

/// kustomize writes 0 for 0.0, which JSON takes for another number.
fn make_whole(value: &mut Value) {
    match value {
        Value::Object(fields) => fields.values_mut().for_each(make_whole),
        Value::Array(items) => items.iter_mut().for_each(make_whole),
        Value::Number(number) => {
            let float = number.as_f64().filter(|_| number.is_f64());
            let whole = float.and_then(|float| float.to_string().parse::<i64>().ok());
            if let Some(whole) = whole {
                *value = whole.into();
            }
        }
        Value::Null | Value::Bool(_) | Value::String(_) => {}
    }
}

fn same(found: &Objects, expected: &Objects) -> Result<()> {
    let names: Vec<_> = found.keys().collect();
    let expected_names: Vec<_> = expected.keys().collect();
    ensure!(names == expected_names, "{names:?} and {expected_names:?}");
    for (name, object) in found {
        let other = &expected[name];
        ensure!(object == other, "{name} is\n{object:#}\nand not\n{other:#}");
    }
    Ok(())
}

/// The arguments of the first container.
fn args(objects: &Objects, workload: &str) -> Result<Vec<String>> {
    let workload = objects
        .get(workload)
        .with_context(|| format!("no {workload}"))?;
    let args = workload.pointer("/spec/template/spec/containers/0/args");
    let args = args.and_then(Value::as_array).context("no arguments")?;
    Ok(args
        .iter()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect())
}

const NODE: &str = "DaemonSet hearth-system hearthd";
const CONTROLLER: &str = "Deployment agent-sandbox-system agent-sandbox-controller";

#[test]
fn helm_finds_nothing_wrong() -> Result<()> {
    let chart = deploy("helm/hearth");
    let output = helm(&["lint", "--strict", chart.to_str().context("an odd path")?])?;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    ensure!(output.status.success(), "{said}");
    Ok(())
}

#[test]
fn without_values_the_chart_installs_what_kubectl_does() -> Result<()> {
    same(&rendered(&[])?, &installed()?)
}

#[test]
fn kustomize_makes_what_the_one_file_has() -> Result<()> {
    let installed = installed()?;
    same(&kustomized("install")?, &installed)?;
    // The parts that are applied one by one are parts of the whole.
    let parts = [
        kustomized("")?,
        kustomized("controller")?,
        kustomized("node")?,
    ];
    for (name, object) in parts.iter().flatten() {
        ensure!(installed.get(name) == Some(object), "{name}");
    }
    Ok(())
}

#[test]
fn values_reach_the_pods() -> Result<()> {
    let objects = rendered(&[
        "--set=node.podCidr=10.9.0.0/16",
        "--set=node.clusterDns={10.96.0.10,10.96.0.11}",
        "--set=node.handlers={runc,runsc}",
        "--set=node.allow={hostNetwork,hostPath=/srv/data}",
        "--set=node.extraArgs={--max-sandboxes=9}",
        "--set=node.image.repository=registry.example/hearth-node,node.image.tag=v1",
        "--set=controller.extraArgs={--kube-api-qps=200}",
        "--set=imagePullSecrets[0].name=pull",
    ])?;
    let node = args(&objects, NODE)?;
    for wanted in [
        "--pod-cidr=10.9.0.0/16",
        "--cluster-dns=10.96.0.10,10.96.0.11",
        "--handlers=runc,runsc",
        "--allow=hostNetwork,hostPath=/srv/data",
        "--max-sandboxes=9",
    ] {
        ensure!(
            node.iter().any(|arg| arg == wanted),
            "no {wanted}: {node:?}"
        );
    }
    let controller = args(&objects, CONTROLLER)?;
    let wanted = "--kube-api-qps=200";
    ensure!(controller.iter().any(|arg| arg == wanted), "{controller:?}");
    let pod = &objects[NODE]["spec"]["template"]["spec"];
    let image = &pod["containers"][0]["image"];
    ensure!(image == "registry.example/hearth-node:v1", "{image}");
    ensure!(pod["imagePullSecrets"][0]["name"] == "pull", "{pod}");
    Ok(())
}

#[test]
fn parts_can_be_left_out_and_added() -> Result<()> {
    let all = rendered(&[])?;
    for (setting, gone) in [
        ("--set=node.enabled=false", "DaemonSet "),
        ("--set=rbac.create=false", "ClusterRole "),
        ("--set=namespaces.create=false", "Namespace "),
        ("--set=priorityClasses.create=false", "PriorityClass "),
        ("--set=flowControl.create=false", "FlowSchema "),
        ("--set=storageClass.create=false", "StorageClass "),
        ("--set=runtimeClasses.gvisor=false", "RuntimeClass  gvisor"),
        ("--set=runtimeClasses.runc=false", "RuntimeClass  runc"),
        ("--set=controller.replicas=1", "PodDisruptionBudget "),
    ] {
        let objects = rendered(&[setting])?;
        let has = |objects: &Objects| objects.keys().any(|name| name.starts_with(gone));
        ensure!(has(&all) && !has(&objects), "{setting}");
    }
    let monitored = rendered(&["--set=monitoring.create=true"])?;
    for (name, object) in kustomized("monitoring")? {
        ensure!(monitored.get(&name) == Some(&object), "{name}");
    }
    Ok(())
}

#[test]
fn values_that_make_no_sense_are_refused_by_name() -> Result<()> {
    for (setting, named) in [
        ("--set=controller.replicas=0", "replicas"),
        ("--set=node.handlers={docker}", "handlers"),
        ("--set=node.podCidr=fd00::/64", "podCidr"),
        ("--set=node.allow={everything}", "allow"),
        ("--set=node.extraArgs={max-sandboxes=9}", "extraArgs"),
        ("--set=controller.extraArgs={--enable-webhook}", "extraArgs"),
        (
            "--set=controller.extraArgs={-enable-webhook=true}",
            "extraArgs",
        ),
        ("--set=node.updateStrategy.type=Sometimes", "updateStrategy"),
        ("--set=nodes.enabled=true", "nodes"),
    ] {
        let said = refused(&[setting])?;
        ensure!(said.contains(named), "{setting}: {said}");
    }
    Ok(())
}
