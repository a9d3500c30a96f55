//! Members that no longer are what their template says: which ones they are, and how they are replaced.

use hearth_api::{UpdateStrategy, UpdateStrategyType};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{Template, UNCLAIMED, in_classes, members, retire};
use crate::ids::Key;
use crate::index::{Class, Index, Members, SandboxRecord};

/// How a pool's members follow its template.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Rollout {
    /// Stale members go at once, and nobody gets one.
    Recreate,
    /// They stay until they are claimed.
    #[default]
    OnReplenish,
    /// They go a few at a time, and are claimed meanwhile.
    Rolling(Limit),
}

/// How many members may be missing during a rollout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Limit {
    /// So many.
    Members(usize),
    /// So many in a hundred, rounded down.
    Percent(usize),
}

impl Limit {
    /// As of Deployments.
    const DEFAULT: Self = Self::Percent(25);

    fn of(value: &IntOrString) -> Option<Self> {
        match value {
            IntOrString::Int(members) => usize::try_from(*members).ok().map(Self::Members),
            IntOrString::String(text) => {
                let percent = text.strip_suffix('%')?.parse().ok()?;
                Some(Self::Percent(percent))
            }
        }
    }

    /// Of this many, at least one: with none the rollout would never begin.
    fn of_replicas(self, replicas: usize) -> usize {
        let limit = match self {
            Self::Members(members) => members,
            Self::Percent(percent) => replicas.saturating_mul(percent) / 100,
        };
        limit.max(1)
    }
}

impl Rollout {
    pub(crate) fn of(strategy: Option<&UpdateStrategy>) -> Self {
        let Some(strategy) = strategy else {
            return Self::default();
        };
        match strategy.type_ {
            UpdateStrategyType::Recreate => Self::Recreate,
            UpdateStrategyType::OnReplenish => Self::OnReplenish,
            UpdateStrategyType::RollingUpdate => {
                let limits = strategy.rolling_update.as_ref();
                let limit = limits.and_then(|limits| limits.max_unavailable.as_ref());
                Self::Rolling(limit.and_then(Limit::of).unwrap_or(Limit::DEFAULT))
            }
        }
    }
}

/// Whether a member is what its pool's template says no more.
pub(crate) fn is_stale_member(index: &Index, record: &SandboxRecord) -> bool {
    let pool = record.pool_uid().and_then(|uid| index.pool_by_uid(uid));
    let template = pool.and_then(|pool| index.template_of(pool));
    template.is_some_and(|template| is_stale(record, &template))
}

pub(super) fn is_stale(record: &SandboxRecord, template: &Template) -> bool {
    *record.template_ref_hash != *template.ref_hash
        || (*record.template_hash != *template.blueprint_hash
            && record.semantics != template.semantics)
}

/// Has stale members go as far as the strategy says.
pub(super) fn advance(index: &mut Index, key: &Key) {
    let Some(pool) = index.pools.get_mut(key) else {
        return;
    };
    if !std::mem::take(&mut pool.check_stale) {
        return;
    }
    let (rollout, replicas) = (pool.rollout, pool.replicas);
    let template = index
        .pools
        .get(key)
        .and_then(|pool| index.template_of(pool));
    let Some(template) = template.filter(|_| rollout != Rollout::OnReplenish) else {
        return;
    };
    let stale: Vec<(Class, u64)> = in_classes(index, key, &UNCLAIMED)
        .into_iter()
        .filter(|(_, record)| is_stale(record, &template))
        .map(|(class, record)| (class, record.id))
        .collect();
    let going: Vec<u64> = match rollout {
        Rollout::Rolling(limit) => {
            let ready = members(index, key).map_or(0, Members::ready);
            let missing = replicas.saturating_sub(ready);
            chosen(&stale, limit.of_replicas(replicas).saturating_sub(missing))
        }
        Rollout::Recreate | Rollout::OnReplenish => stale.iter().map(|(_, id)| *id).collect(),
    };
    let batch = retire(index, key, &going);
    // What is being made or bound just now is looked at again when it is neither.
    let undecided = members(index, key)
        .is_some_and(|m| m.count(Class::Creating) + m.count(Class::Reserved) > 0);
    if let Some(pool) = index.pools.get_mut(key) {
        pool.check_stale = undecided || batch < stale.len();
    }
}

/// Those that a rolling update replaces now: all that no claim could get anyway, and so many that are ready. One whose
/// node cannot be asked for the moment would only keep a place.
fn chosen(stale: &[(Class, u64)], ready: usize) -> Vec<u64> {
    let of_class = |wanted: fn(Class) -> bool| {
        let found = stale.iter().filter(move |(class, _)| wanted(*class));
        found.map(|(_, id)| *id)
    };
    let unready = of_class(|class| !class.is_ready());
    let ready = of_class(|class| class == Class::Ready).take(ready);
    unready.chain(ready).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn limits_are_read_as_deployments_read_theirs() {
        let rollout =
            |strategy: Value| Rollout::of(Some(&serde_json::from_value(strategy).unwrap()));
        let rolling = |limit: Value| {
            rollout(json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": limit}}))
        };
        assert_eq!(Rollout::of(None), Rollout::OnReplenish);
        assert_eq!(rollout(json!({})), Rollout::OnReplenish);
        assert_eq!(rollout(json!({"type": "Recreate"})), Rollout::Recreate);
        let default = Rollout::Rolling(Limit::Percent(25));
        assert_eq!(rollout(json!({"type": "RollingUpdate"})), default);
        assert_eq!(rolling(json!(3)), Rollout::Rolling(Limit::Members(3)));
        assert_eq!(rolling(json!("10%")), Rollout::Rolling(Limit::Percent(10)));
    }

    #[test]
    fn a_limit_is_never_nothing() {
        for (limit, replicas, expect) in [
            (Limit::Members(3), 2, 3),
            (Limit::Members(0), 2, 1),
            (Limit::Percent(25), 10, 2),
            (Limit::Percent(25), 3, 1),
            (Limit::Percent(100), 7, 7),
            (Limit::Percent(50), 0, 1),
        ] {
            assert_eq!(
                limit.of_replicas(replicas),
                expect,
                "{limit:?} of {replicas}"
            );
        }
    }
}
