//! Name resolution: what a pod asks for, and the resolver that this makes of the node's and the cluster's.

use super::plan::{DnsPlan, PodPlan};

/// Most resolvers that a C library asks.
const MAX_SERVERS: usize = 3;
/// Most search domains, by Kubernetes' rule.
const MAX_SEARCHES: usize = 32;
/// What Kubernetes gives pods that use the cluster's resolver: a name with fewer dots is tried in the search domains
/// first.
const CLUSTER_OPTIONS: &str = "ndots:5";

/// The lines of a `resolv.conf`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolver {
    /// Addresses of resolvers.
    pub servers: Vec<String>,
    /// Search domains.
    pub searches: Vec<String>,
    /// Options, `name` or `name:value`.
    pub options: Vec<String>,
}

/// The cluster's resolver.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterDns {
    /// Its addresses.
    pub servers: Vec<String>,
    /// Domain of the cluster, such as `cluster.local`.
    pub domain: String,
}

impl Resolver {
    /// Reads a `resolv.conf`. What it does not know it passes over, as resolvers do.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut resolver = Self::default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            let keyword = words.next().unwrap_or_default();
            let words = words.map(str::to_owned);
            match keyword {
                "nameserver" => resolver.servers.extend(words.take(1)),
                // The last of them counts.
                "search" | "domain" => resolver.searches = words.collect(),
                "options" => resolver.options.extend(words),
                _ => {}
            }
        }
        resolver
    }

    /// Adds what a pod asks for besides: an option of the same name takes the place of ours.
    fn add(&mut self, more: &Self) {
        let add = |list: &mut Vec<String>, more: &[String]| {
            for item in more {
                if !list.contains(item) {
                    list.push(item.clone());
                }
            }
        };
        add(&mut self.servers, &more.servers);
        add(&mut self.searches, &more.searches);
        let name = |option: &str| option.split(':').next().map(str::to_owned);
        for option in &more.options {
            self.options.retain(|ours| name(ours) != name(option));
            self.options.push(option.clone());
        }
    }

    fn bounded(mut self) -> Self {
        self.servers.truncate(MAX_SERVERS);
        self.searches.truncate(MAX_SEARCHES);
        self
    }
}

impl PodPlan {
    /// The pod's resolver, on a node that has `node` and knows of `cluster`; `None`: the node's, as it is.
    #[must_use]
    pub fn resolver(
        &self,
        namespace: &str,
        node: &Resolver,
        cluster: Option<&ClusterDns>,
    ) -> Option<Resolver> {
        let more = &self.dns_more;
        let more = Resolver {
            servers: more.servers.clone(),
            searches: more.searches.clone(),
            options: more.options.clone(),
        };
        let mut resolver = match (&self.dns, cluster) {
            (
                DnsPlan::Own {
                    servers,
                    searches,
                    options,
                },
                _,
            ) => Resolver {
                servers: servers.clone(),
                searches: searches.clone(),
                options: options.clone(),
            },
            (DnsPlan::Cluster, Some(ClusterDns { servers, domain })) => {
                let own = [
                    format!("{namespace}.svc.{domain}"),
                    format!("svc.{domain}"),
                    domain.clone(),
                ];
                Resolver {
                    servers: servers.clone(),
                    searches: own
                        .into_iter()
                        .chain(node.searches.iter().cloned())
                        .collect(),
                    options: vec![CLUSTER_OPTIONS.to_owned()],
                }
            }
            _ if more == Resolver::default() => return None,
            _ => node.clone(),
        };
        resolver.add(&more);
        Some(resolver.bounded())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::podspec::DnsMore;

    fn texts(of: &[&str]) -> Vec<String> {
        of.iter().map(|text| (*text).to_owned()).collect()
    }

    fn resolver(servers: &[&str], searches: &[&str], options: &[&str]) -> Resolver {
        Resolver {
            servers: texts(servers),
            searches: texts(searches),
            options: texts(options),
        }
    }

    #[test]
    fn a_resolv_conf_is_read_as_resolvers_read_it() {
        let text = "# made\nnameserver 10.0.0.1\nnameserver\t10.0.0.2 x\nsearch a b\nsearch c d\noptions ndots:2 rotate\nsortlist z\n";
        assert_eq!(
            Resolver::parse(text),
            resolver(
                &["10.0.0.1", "10.0.0.2"],
                &["c", "d"],
                &["ndots:2", "rotate"]
            )
        );
        assert_eq!(Resolver::parse(""), Resolver::default());
    }

    #[test]
    fn a_pod_gets_the_resolver_that_its_policy_means() {
        let node = resolver(&["9.9.9.9"], &["corp"], &["timeout:1"]);
        let cluster = ClusterDns {
            servers: texts(&["10.96.0.10"]),
            domain: "cluster.local".to_owned(),
        };
        let more = DnsMore {
            servers: texts(&["1.1.1.1"]),
            searches: texts(&["corp", "x"]),
            options: texts(&["ndots:1"]),
        };
        let own = DnsPlan::Own {
            servers: texts(&["8.8.8.8"]),
            searches: vec![],
            options: vec![],
        };
        let searches = [
            "ns.svc.cluster.local",
            "svc.cluster.local",
            "cluster.local",
            "corp",
        ];
        let with_x: Vec<_> = searches.iter().copied().chain(["x"]).collect();
        let none = DnsMore::default();
        for (dns, more, known, expect) in [
            (DnsPlan::Node, &none, true, None),
            (DnsPlan::Cluster, &none, false, None),
            (
                DnsPlan::Cluster,
                &none,
                true,
                Some(resolver(&["10.96.0.10"], &searches, &["ndots:5"])),
            ),
            (
                DnsPlan::Cluster,
                &more,
                true,
                Some(resolver(&["10.96.0.10", "1.1.1.1"], &with_x, &["ndots:1"])),
            ),
            (
                DnsPlan::Node,
                &more,
                true,
                Some(resolver(
                    &["9.9.9.9", "1.1.1.1"],
                    &["corp", "x"],
                    &["timeout:1", "ndots:1"],
                )),
            ),
            (own, &none, true, Some(resolver(&["8.8.8.8"], &[], &[]))),
        ] {
            let plan = PodPlan {
                dns: dns.clone(),
                dns_more: more.clone(),
                ..PodPlan::default()
            };
            assert_eq!(
                plan.resolver("ns", &node, known.then_some(&cluster)),
                expect,
                "{dns:?} {known}"
            );
        }
    }

    #[test]
    fn no_more_than_a_c_library_reads() {
        let many: Vec<String> = (0..50).map(|n| format!("d{n}")).collect();
        let own = DnsPlan::Own {
            servers: many.clone(),
            searches: many,
            options: vec![],
        };
        let plan = PodPlan {
            dns: own,
            ..PodPlan::default()
        };
        let resolver = plan.resolver("ns", &Resolver::default(), None).unwrap();
        assert_eq!((resolver.servers.len(), resolver.searches.len()), (3, 32));
    }
}
