//! What one runtime honours of a plan and another does not.

use super::plan::PodPlan;
use super::policy::check_own_kernel;
use super::read::{Cause, Refusal, UnsupportedField};
use crate::placement::DEFAULT_HANDLER;

/// The CRI handler of gVisor.
const GVISOR: &str = "runsc";

/// Whether pods of this CRI handler can have all that the plan asks for.
///
/// # Errors
/// Names each field that the runtime would pass over without a word.
pub fn honoured_by(handler: &str, plan: &PodPlan) -> Result<(), Refusal> {
    let mut fields = if handler == DEFAULT_HANDLER {
        Vec::new()
    } else {
        check_own_kernel(plan, handler)
    };
    // gVisor's network stack is its own; runsc reads none of the parameters that Kubernetes calls safe.
    if handler == GVISOR && !plan.security.sysctls.is_empty() {
        let names: Vec<&str> = plan.security.sysctls.keys().map(String::as_str).collect();
        fields.push(UnsupportedField {
            path: "spec.podTemplate.spec.securityContext.sysctls".to_owned(),
            value: names.join(", "),
            remedy: "gVisor has a network stack of its own that takes none; leave them out, or use another \
                     runtimeClassName"
                .to_owned(),
        });
    }
    if fields.is_empty() {
        Ok(())
    } else {
        Err(Refusal {
            fields,
            cause: Cause::Spec,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_runtime_would_pass_over_is_refused() {
        let mut plan = PodPlan::default();
        assert_eq!(honoured_by("runsc", &plan), Ok(()));
        let sysctl = ("net.ipv4.tcp_fin_timeout".to_owned(), "17".to_owned());
        plan.security.sysctls.extend([sysctl]);
        assert_eq!(honoured_by("runc", &plan), Ok(()));
        assert_eq!(
            honoured_by("runsc", &plan).unwrap_err().to_string(),
            "spec.podTemplate.spec.securityContext.sysctls is net.ipv4.tcp_fin_timeout: gVisor has a network stack of \
             its own that takes none; leave them out, or use another runtimeClassName"
        );
    }
}
