//! What a pod reads of what lies outside it: whether all of it is there, and what tells it from what it was before.

use hearth_api::PodMetadata;
use hearth_core::ids::Key;
use hearth_core::sandbox::{Contents, SandboxFact, State};

use super::desired::{DesiredSandbox, NoPlan};
use super::manager::Shared;
use crate::configs;

/// What a pod lacks whose files show its labels or annotations.
const UNHEARD: &str =
    "the API server has not said yet which labels and annotations the sandbox has";

/// What the pod there is reads, or the one that would be made.
pub(super) fn of(
    shared: &Shared,
    key: &Key,
    state: &State,
    desired: Option<&DesiredSandbox>,
) -> Contents {
    let pod = state.pod.as_ref();
    let plan = match (pod, desired) {
        (Some(pod), _) => &pod.plan,
        (None, Some(desired)) => match &desired.plan {
            Ok(plan) => plan,
            Err(NoPlan::Lacking(what)) => return Contents::Lacking(what.clone()),
            Err(NoPlan::Refused(_)) => return Contents::default(),
        },
        (None, None) => return Contents::default(),
    };
    // A pod that is up has mounted its volumes: where they are is known to the kernel.
    let up = pod.is_some_and(|pod| matches!(pod.sandbox, SandboxFact::Up(_)));
    if !up && let Some(lacking) = shared.locations.lacking(key, plan) {
        return Contents::Lacking(lacking);
    }
    let shown = match desired {
        Some(desired) => plan.shown_in_files(&desired.metadata),
        // What an earlier daemon wrote may be newer than the labels that the journal has.
        None if up && !plan.shown_in_files(&PodMetadata::default()).is_empty() => {
            return Contents::Lacking(UNHEARD.to_owned());
        }
        None => Vec::new(),
    };
    let known = shared.configs.of(key, plan);
    configs::contents(plan, &known, &shown, pod.is_some())
}
