//! The variables that a claim brings: into the PodSpec of a new Sandbox, or to a member and into its PodSpec.

use std::sync::Arc;

use hearth_api::{ClaimEnvVar, InjectionPolicy};
use serde_json::{Map, Value, json};

use super::refusal::Refusal;
use crate::podspec::Variable;

/// Where a PodSpec has containers, and what a claim's variables may name.
const LISTS: [&str; 2] = ["containers", "initContainers"];

/// The variables for a member with this PodSpec; `None` when that member cannot have them: it was made from an older
/// template under which they are not allowed, or they are for what has run already, or no node would take them.
pub(super) fn for_member(
    pod_spec: &str,
    env: &[ClaimEnvVar],
    policy: InjectionPolicy,
) -> Option<Arc<[Variable]>> {
    if env.is_empty() {
        return Some(Arc::default());
    }
    let mut spec: Value = serde_json::from_str(pod_spec).ok()?;
    let ordered = in_order(&spec, env).ok()?;
    let variable = |variable: &ClaimEnvVar| {
        let container = target(&mut spec, &variable.container_name)?;
        let runs_on =
            container.list == LISTS[0] || container.fields.get("restartPolicy")? == "Always";
        let name = container.fields.get("name")?.as_str()?;
        let variable = Variable {
            container: name.to_owned(),
            name: variable.name.clone(),
            value: variable.value.clone(),
        };
        Some(variable).filter(|variable| runs_on && variable.is_possible())
    };
    let variables = ordered.into_iter().map(variable).collect::<Option<_>>()?;
    inject(&mut spec, env, policy).ok()?;
    Some(variables)
}

/// The operations that put the variables into the PodSpec of a member that has them.
pub(super) fn operations(pod_spec: &str, env: &[ClaimEnvVar]) -> Vec<Value> {
    if env.is_empty() {
        return Vec::new();
    }
    let Ok(before) = serde_json::from_str::<Value>(pod_spec) else {
        return Vec::new();
    };
    let mut after = before.clone();
    // Whether they are allowed was decided when it was bound.
    if inject(&mut after, env, InjectionPolicy::Overrides).is_err() {
        return Vec::new();
    }
    let mut operations = Vec::new();
    for list in LISTS {
        let containers = after[list].as_array().into_iter().flatten().enumerate();
        for (index, container) in containers {
            if container["env"] == before[list][index]["env"] {
                continue;
            }
            let path = format!("/spec/podTemplate/spec/{list}/{index}");
            operations.push(
                json!({"op": "test", "path": format!("{path}/name"), "value": container["name"]}),
            );
            operations.push(
                json!({"op": "add", "path": format!("{path}/env"), "value": container["env"]}),
            );
        }
    }
    operations
}

/// Puts the variables into a PodSpec, as far as the template allows it.
pub(super) fn inject(
    pod_spec: &mut Value,
    env: &[ClaimEnvVar],
    policy: InjectionPolicy,
) -> Result<(), Refusal> {
    if env.is_empty() {
        return Ok(());
    }
    if policy == InjectionPolicy::Disallowed {
        return Err(Refusal::env(
            "environment variable injection rejected: environment variable injection is not allowed by the template \
             policy",
        ));
    }
    // That all containers are there comes before what any of them may have.
    let ordered = in_order(pod_spec, env).map_err(|lost| {
        Refusal::error(format!(
            "target container {:?} not found in template for environment variable {:?}",
            lost.container_name, lost.name
        ))
    })?;
    for variable in ordered {
        inject_one(pod_spec, variable, policy)?;
    }
    Ok(())
}

/// The variables in the order in which they are set: container by container, those of init containers first; and in the
/// first main one, those that name it before those that name none.
///
/// # Errors
/// The first variable whose container is not there.
fn in_order<'a>(
    pod_spec: &Value,
    env: &'a [ClaimEnvVar],
) -> Result<Vec<&'a ClaimEnvVar>, &'a ClaimEnvVar> {
    let mut placed = Vec::with_capacity(env.len());
    for variable in env {
        let (list, index) = place(pod_spec, &variable.container_name).ok_or(variable)?;
        let order = (list == LISTS[0], index, variable.container_name.is_empty());
        placed.push((order, variable));
    }
    placed.sort_by_key(|(order, _)| *order);
    Ok(placed.into_iter().map(|(_, variable)| variable).collect())
}

fn inject_one(
    pod_spec: &mut Value,
    variable: &ClaimEnvVar,
    policy: InjectionPolicy,
) -> Result<(), Refusal> {
    let target = target(pod_spec, &variable.container_name).ok_or_else(|| {
        Refusal::error(format!(
            "target container {:?} not found in template for environment variable {:?}",
            variable.container_name, variable.name
        ))
    })?;
    let container = target.fields;
    let uses_env_from = container
        .get("envFrom")
        .and_then(Value::as_array)
        .is_some_and(|list| !list.is_empty());
    if policy == InjectionPolicy::Allowed && uses_env_from {
        let name = container
            .get("name")
            .and_then(Value::as_str)
            .unwrap_or_default();
        return Err(Refusal::env(format!(
            "environment variable injection rejected: container {name:?} uses EnvFrom sources; Allowed policy cannot \
             safely prevent overriding EnvFrom-provided variables"
        )));
    }
    let entry = json!({"name": variable.name, "value": variable.value});
    let list = container.entry("env").or_insert_with(|| json!([]));
    if list.is_null() {
        *list = json!([]);
    }
    let Some(list) = list.as_array_mut() else {
        return Err(Refusal::error("env of the template is no list"));
    };
    match list
        .iter_mut()
        .find(|existing| existing["name"] == variable.name.as_str())
    {
        None => list.push(entry),
        Some(existing) if policy == InjectionPolicy::Overrides => *existing = entry,
        Some(_) => {
            return Err(Refusal::error(format!(
                "environment variable override is not allowed by the template policy for variable {:?}",
                variable.name
            )));
        }
    }
    Ok(())
}

/// A container of a PodSpec.
struct Target<'a> {
    list: &'static str,
    fields: &'a mut Map<String, Value>,
}

/// The container that a variable is for, see [`place`].
fn target<'a>(pod_spec: &'a mut Value, name: &str) -> Option<Target<'a>> {
    let (list, index) = place(pod_spec, name)?;
    let fields = pod_spec.get_mut(list)?.get_mut(index)?.as_object_mut()?;
    Some(Target { list, fields })
}

/// The list and the position there of the container that a variable is for: the first main container, or the named one,
/// init containers included.
fn place(pod_spec: &Value, name: &str) -> Option<(&'static str, usize)> {
    let is_it = |container: &Value| name.is_empty() || container["name"] == name;
    let lists = if name.is_empty() { &LISTS[..1] } else { &LISTS };
    lists.iter().find_map(|list| {
        let containers = pod_spec.get(list)?.as_array()?;
        Some((*list, containers.iter().position(is_it)?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variable(name: &str, value: &str, container: &str) -> ClaimEnvVar {
        ClaimEnvVar {
            name: name.into(),
            value: value.into(),
            container_name: container.into(),
        }
    }

    fn check(env: &[ClaimEnvVar], policy: InjectionPolicy, expect: Result<Value, &str>) {
        let mut spec = json!({
            "initContainers": [{"name": "init"}],
            "containers": [
                {"name": "main", "env": [{"name": "A", "valueFrom": {"x": 1}}]},
                {"name": "side", "envFrom": [{"secretRef": {"name": "s"}}]},
            ],
        });
        let result = inject(&mut spec, env, policy).map_err(|refusal| refusal.message);
        match expect {
            Ok(env) => assert_eq!((result, &spec["containers"][0]["env"]), (Ok(()), &env)),
            Err(part) => assert!(result.clone().unwrap_err().contains(part), "{result:?}"),
        }
    }

    #[test]
    fn the_policy_says_what_a_claim_may_set() {
        use InjectionPolicy::{Allowed, Disallowed, Overrides};
        let a = || json!({"name": "A", "valueFrom": {"x": 1}});
        check(&[], Disallowed, Ok(json!([a()])));
        check(
            &[variable("B", "2", "")],
            Disallowed,
            Err("is not allowed by the template policy"),
        );
        check(
            &[variable("B", "2", "")],
            Allowed,
            Ok(json!([a(), {"name": "B", "value": "2"}])),
        );
        check(
            &[variable("A", "9", "main")],
            Allowed,
            Err("override is not allowed by the template policy for variable \"A\""),
        );
        check(
            &[variable("A", "9", "main")],
            Overrides,
            Ok(json!([{"name": "A", "value": "9"}])),
        );
        check(
            &[variable("B", "2", "side")],
            Allowed,
            Err("uses EnvFrom sources"),
        );
        check(&[variable("B", "2", "side")], Overrides, Ok(json!([a()])));
        check(&[variable("B", "2", "init")], Allowed, Ok(json!([a()])));
        check(
            &[variable("A", "9", "nope")],
            Overrides,
            Err("target container \"nope\" not found in template for environment variable \"A\""),
        );
    }

    #[test]
    fn containers_are_looked_for_before_anything_is_said_of_their_variables() {
        use InjectionPolicy::{Allowed, Overrides};
        let lost = variable("Z", "1", "nope");
        check(
            &[variable("A", "9", "main"), lost.clone()],
            Allowed,
            Err("target container \"nope\" not found in template for environment variable \"Z\""),
        );
        check(
            &[lost, variable("A", "9", "other")],
            Overrides,
            Err("target container \"nope\" not found in template for environment variable \"Z\""),
        );
    }

    #[test]
    fn what_names_the_first_container_comes_before_what_names_none() {
        let env = [
            variable("B", "2", ""),
            variable("C", "3", "main"),
            variable("D", "4", "init"),
        ];
        let spec = json!({"initContainers": [{"name": "init"}], "containers": [{"name": "main"}]});
        let names = |variables: Vec<&ClaimEnvVar>| {
            let names = variables.into_iter().map(|variable| variable.name.clone());
            names.collect::<Vec<_>>()
        };
        assert_eq!(in_order(&spec, &env).map(names).unwrap(), ["D", "C", "B"]);
    }

    #[test]
    fn a_member_has_them_by_container_unless_it_is_too_late() {
        let spec = json!({
            "initContainers": [{"name": "init"}, {"name": "proxy", "restartPolicy": "Always"}],
            "containers": [{"name": "main", "env": [{"name": "A", "value": "1"}]}, {"name": "side"}],
        })
        .to_string();
        let check = |name: &str, container: &str, policy, expect: Option<&str>| {
            let variables = for_member(&spec, &[variable(name, "2", container)], policy);
            let containers = variables.map(|all| all[0].container.clone());
            assert_eq!(containers.as_deref(), expect, "{name} {container:?}");
        };
        use InjectionPolicy::{Allowed, Overrides};
        check("B", "", Allowed, Some("main"));
        check("B", "side", Allowed, Some("side"));
        check("B", "proxy", Allowed, Some("proxy"));
        check("B", "init", Allowed, None);
        check("B", "nope", Allowed, None);
        check("A", "", Allowed, None);
        check("A", "", Overrides, Some("main"));
        check("A=B", "", Overrides, None);
        assert_eq!(for_member(&spec, &[], Allowed), Some(Arc::default()));
        assert_eq!(for_member("{", &[variable("B", "2", "")], Allowed), None);
    }

    #[test]
    fn the_adoption_sets_what_has_changed_and_nothing_else() {
        let spec = json!({
            "initContainers": [{"name": "proxy", "restartPolicy": "Always"}],
            "containers": [{"name": "main"}, {"name": "side", "env": [{"name": "A", "value": "1"}]}],
        })
        .to_string();
        let env = [
            variable("A", "2", "side"),
            variable("B", "3", "side"),
            variable("C", "4", "proxy"),
        ];
        let path = |rest: &str| format!("/spec/podTemplate/spec/{rest}");
        assert_eq!(
            operations(&spec, &env),
            [
                json!({"op": "test", "path": path("containers/1/name"), "value": "side"}),
                json!({"op": "add", "path": path("containers/1/env"),
                       "value": [{"name": "A", "value": "2"}, {"name": "B", "value": "3"}]}),
                json!({"op": "test", "path": path("initContainers/0/name"), "value": "proxy"}),
                json!({"op": "add", "path": path("initContainers/0/env"), "value": [{"name": "C", "value": "4"}]}),
            ]
        );
        assert_eq!(operations(&spec, &[]), [] as [Value; 0]);
    }
}
