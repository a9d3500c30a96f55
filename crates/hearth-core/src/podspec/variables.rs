//! Variables that come to a pod after it was planned: a claim's, for a member that is there already.

use serde::{Deserialize, Serialize};

use super::container::settle;
use super::late::{EnvSource, LateEnv};
use super::plan::{ContainerPlan, PodPlan};

/// A variable for one container of a pod.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Variable {
    /// Name of the container.
    pub container: String,
    /// Name of the variable.
    pub name: String,
    /// Its value; `$(NAME)` in it is expanded as in a PodSpec.
    pub value: String,
}

impl Variable {
    /// Whether a PodSpec may set a variable of this name.
    #[must_use]
    pub fn is_name(name: &str) -> bool {
        !name.is_empty() && !name.contains(['=', '\0'])
    }

    /// Whether a container can have it at all.
    #[must_use]
    pub fn is_possible(&self) -> bool {
        Self::is_name(&self.name) && !self.container.is_empty() && !self.value.contains('\0')
    }
}

impl PodPlan {
    /// The plan as if the PodSpec had set these variables: in place of what it sets under the same name, or after all of
    /// it. Those of containers that the plan does not have are left out; doing it twice changes nothing more.
    #[must_use]
    pub fn with_variables(&self, variables: &[Variable]) -> Self {
        let mut plan = self.clone();
        for container in &mut plan.containers {
            let own: Vec<_> = variables
                .iter()
                .filter(|variable| variable.container == container.name)
                .collect();
            if !own.is_empty() {
                set(container, &own);
            }
        }
        plan
    }

    /// Whether the plan has a container of this name.
    #[must_use]
    pub fn has_container(&self, name: &str) -> bool {
        self.containers
            .iter()
            .any(|container| container.name == name)
    }
}

fn set(container: &mut ContainerPlan, variables: &[&Variable]) {
    let mut written = as_written(container);
    for variable in variables {
        let value = EnvSource::Value(variable.value.clone());
        match written
            .env
            .iter_mut()
            .find(|(name, _)| *name == variable.name)
        {
            Some((_, source)) => *source = value,
            None => written.env.push((variable.name.clone(), value)),
        }
    }
    settle(container, written);
}

/// Environment, command and arguments as they stand in the PodSpec.
fn as_written(container: &mut ContainerPlan) -> LateEnv {
    let written = container.late.take().or_else(|| container.written.take());
    written.unwrap_or_else(|| {
        // Nothing was expanded, so that they are as they were written.
        let env = std::mem::take(&mut container.env).into_iter();
        LateEnv {
            env: env
                .map(|(name, value)| (name, EnvSource::Value(value)))
                .collect(),
            command: std::mem::take(&mut container.command),
            args: std::mem::take(&mut container.args),
            ..LateEnv::default()
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::podspec::{Admission, Support, plan};
    use hearth_api::{PodSpecJson, SandboxSpec};
    use serde_json::{Value, json};

    fn planned(containers: &Value) -> PodPlan {
        let mut spec = SandboxSpec::default();
        spec.pod_template.spec =
            PodSpecJson::from_value(&json!({"containers": containers})).unwrap();
        plan(&spec, None, &Admission::default(), &Support::default()).unwrap()
    }

    fn variable(container: &str, name: &str, value: &str) -> Variable {
        Variable {
            container: container.into(),
            name: name.into(),
            value: value.into(),
        }
    }

    /// The plan of `before` with `variables` is that of `after`.
    fn check(before: &Value, variables: &[Variable], after: &Value) {
        let changed = planned(before).with_variables(variables);
        assert_eq!(changed, planned(after));
        assert_eq!(changed.with_variables(variables), changed, "twice");
    }

    #[test]
    fn they_are_as_if_the_pod_spec_had_set_them() {
        let container = |env: Value, args: Value| json!([{"name": "a", "image": "i", "args": args, "env": env}, {"name": "b", "image": "i"}]);
        let env = |pairs: &[(&str, &str)]| -> Value {
            let all = pairs
                .iter()
                .map(|(name, value)| json!({"name": name, "value": value}));
            all.collect()
        };
        let none = || json!([]);
        let x = [variable("a", "X", "1")];
        check(
            &container(none(), none()),
            &x,
            &container(env(&[("X", "1")]), none()),
        );
        check(
            &container(env(&[("X", "0"), ("Y", "2")]), none()),
            &x,
            &container(env(&[("X", "1"), ("Y", "2")]), none()),
        );
        // What was expanded with the old value, or was no variable, is expanded anew.
        let args = json!(["$(X)", "$$(X)", "$(Z)"]);
        check(
            &container(env(&[("X", "0"), ("Y", "<$(X)>")]), args.clone()),
            &[variable("a", "X", "1"), variable("a", "Z", "$(Y)$(X)")],
            &container(env(&[("X", "1"), ("Y", "<$(X)>"), ("Z", "$(Y)$(X)")]), args),
        );
        let late =
            json!([{"name": "P", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]);
        let with = json!([late[0], {"name": "X", "value": "1"}]);
        check(
            &container(late.clone(), none()),
            &x,
            &container(with, none()),
        );
        let own = json!([{"name": "P", "value": "mine"}]);
        check(
            &container(late, none()),
            &[variable("a", "P", "mine")],
            &container(own, none()),
        );
    }

    #[test]
    fn other_containers_stay_as_they_are() {
        let before = planned(&json!([{"name": "a", "image": "i"}, {"name": "b", "image": "i"}]));
        let after = before.with_variables(&[variable("b", "X", "1"), variable("c", "X", "1")]);
        assert_eq!(before.containers[0], after.containers[0]);
        assert_eq!(after.containers[1].env, [("X".into(), "1".into())]);
    }
}
