//! What is said of a sandbox's Service while the controller has said nothing.

use hearth_api::SandboxStatus;

use super::ServiceFact;

impl ServiceFact {
    /// What is known of it: what the controller has said, or else what the status says already. `wanted` is
    /// `spec.service`: a sandbox that asks for a Service is not ready before anybody has seen one.
    #[must_use]
    pub fn or_as_written(self, previous: &SandboxStatus, wanted: Option<bool>) -> Self {
        match self {
            Self::NotAsked if wanted == Some(false) => Self::Absent,
            Self::NotAsked if !previous.service.is_empty() => Self::There {
                name: previous.service.clone(),
                fqdn: previous.service_fqdn.clone(),
            },
            Self::NotAsked if wanted == Some(true) => Self::Missing,
            Self::NotAsked => Self::Absent,
            known => known,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn before_the_controller_has_spoken_the_status_goes_on_saying_what_it_says() {
        let there = |name: &str| ServiceFact::There {
            name: name.into(),
            fqdn: format!("{name}.fqdn"),
        };
        let none = SandboxStatus::default();
        let old = SandboxStatus {
            service: "old".into(),
            service_fqdn: "old.fqdn".into(),
            ..SandboxStatus::default()
        };
        for (known, previous, wanted, expect) in [
            (ServiceFact::NotAsked, &none, None, ServiceFact::Absent),
            (
                ServiceFact::NotAsked,
                &none,
                Some(true),
                ServiceFact::Missing,
            ),
            (
                ServiceFact::NotAsked,
                &none,
                Some(false),
                ServiceFact::Absent,
            ),
            (ServiceFact::NotAsked, &old, None, there("old")),
            (ServiceFact::NotAsked, &old, Some(true), there("old")),
            (
                ServiceFact::NotAsked,
                &old,
                Some(false),
                ServiceFact::Absent,
            ),
            (ServiceFact::Absent, &old, Some(true), ServiceFact::Absent),
            (there("new"), &old, None, there("new")),
        ] {
            let text = format!("{known:?} {wanted:?} {}", previous.service);
            assert_eq!(known.or_as_written(previous, wanted), expect, "{text}");
        }
    }
}
