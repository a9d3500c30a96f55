//! The node's base packet filter, through the `nft` tool.
//!
//! One table `inet hearth-<instance>` holds everything, is replaced in one transaction and goes in one piece. Another,
//! `bridge hearth-<instance>`, is [`crate::traffic`]'s.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use crate::command;
pub use crate::command::CommandError;

/// What every table's name begins with.
const PREFIX: &str = "hearth-";

/// What the node's table says: pods reach neither the node's own addresses nor link-local ones (where clouds keep
/// their metadata), and go elsewhere under the node's address. Packets between pods of the bridge do not come by here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodePolicy {
    /// The instance id.
    pub instance: String,
    /// The bridge of the pods.
    pub bridge: String,
    /// The pods' addresses in CIDR notation, IPv4.
    pub pod_cidr: String,
}

impl NodePolicy {
    fn check(&self) -> Result<(), CommandError> {
        let invalid = |what, value: &str| {
            Err(CommandError::Invalid {
                what,
                value: value.to_owned(),
            })
        };
        if !is_name(&self.instance) {
            return invalid("instance id", &self.instance);
        }
        if !is_name(&self.bridge) {
            return invalid("link name", &self.bridge);
        }
        if !is_cidr(&self.pod_cidr) {
            return invalid("IPv4 network", &self.pod_cidr);
        }
        Ok(())
    }

    /// A transaction that replaces the table, whether there was one or not.
    fn ruleset(&self) -> String {
        let Self {
            instance,
            bridge,
            pod_cidr,
        } = self;
        let delete = deletion("inet", instance);
        format!(
            r#"{delete}table inet {PREFIX}{instance} {{
    chain input {{
        type filter hook input priority filter; policy accept;
        iifname "{bridge}" ct state established,related accept
        iifname "{bridge}" drop
    }}
    chain forward {{
        type filter hook forward priority filter; policy accept;
        iifname "{bridge}" ip daddr 169.254.0.0/16 drop
    }}
    chain postrouting {{
        type nat hook postrouting priority srcnat; policy accept;
        ip saddr {pod_cidr} ip daddr != {pod_cidr} oifname != "{bridge}" masquerade
    }}
}}
"#
        )
    }
}

/// A deletion that succeeds when there is no table: it makes an empty one first.
fn deletion(family: &str, instance: &str) -> String {
    let table = format!("table {family} {PREFIX}{instance}");
    format!("{table} {{}}\ndelete {table}\n")
}

/// Family and name of a table of the instance.
///
/// # Errors
/// [`CommandError::Invalid`] for what cannot be part of one.
pub(crate) fn table_name(family: &str, instance: &str) -> Result<String, CommandError> {
    if is_name(instance) {
        Ok(format!("{family} {PREFIX}{instance}"))
    } else {
        Err(CommandError::Invalid {
            what: "instance id",
            value: instance.to_owned(),
        })
    }
}

fn is_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() < 16
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
}

fn is_cidr(cidr: &str) -> bool {
    let Some((address, prefix)) = cidr.split_once('/') else {
        return false;
    };
    address.parse::<Ipv4Addr>().is_ok() && prefix.parse::<u8>().is_ok_and(|prefix| prefix <= 32)
}

/// The `nft` tool.
#[derive(Debug, Clone)]
pub struct Nft {
    binary: PathBuf,
    within: Duration,
}

impl Nft {
    /// The tool at `binary` (a bare name is looked up in `PATH`), each run of which may take `within`.
    #[must_use]
    pub fn new(binary: impl Into<PathBuf>, within: Duration) -> Self {
        Self {
            binary: binary.into(),
            within,
        }
    }

    /// Makes or replaces the instance's table.
    ///
    /// # Errors
    /// [`CommandError::Invalid`] for a policy whose values cannot be part of a ruleset.
    pub fn apply(&self, policy: &NodePolicy) -> Result<(), CommandError> {
        policy.check()?;
        self.load(&policy.ruleset())
    }

    /// Removes the instance's tables. Success when there are none.
    pub fn delete(&self, instance: &str) -> Result<(), CommandError> {
        table_name("inet", instance)?;
        self.load(&deletion("inet", instance))?;
        match self.load(&deletion("bridge", instance)) {
            // A kernel without tables for bridges has none to delete.
            Err(CommandError::Failed { .. }) if !self.list_tables()?.contains("table bridge ") => {
                Ok(())
            }
            deleted => deleted,
        }
    }

    /// Ids of all instances that have a table.
    pub fn instances(&self) -> Result<Vec<String>, CommandError> {
        let listed = self.list_tables()?;
        let instance = |line: &str| {
            let (family, name) = line.trim().strip_prefix("table ")?.split_once(' ')?;
            let ours = matches!(family, "inet" | "bridge");
            Some(name.strip_prefix(PREFIX).filter(|_| ours)?.to_owned())
        };
        let mut instances: Vec<String> = listed.lines().filter_map(instance).collect();
        instances.sort();
        instances.dedup();
        Ok(instances)
    }

    fn list_tables(&self) -> Result<String, CommandError> {
        command::run(&self.binary, &["list", "tables"], "", self.within)
    }

    /// What a table holds, as the tool prints it.
    pub(crate) fn list_table(&self, table: &str) -> Result<String, CommandError> {
        let args: Vec<&str> = ["list", "table"]
            .into_iter()
            .chain(table.split(' '))
            .collect();
        command::run(&self.binary, &args, "", self.within)
    }

    pub(crate) fn load(&self, ruleset: &str) -> Result<(), CommandError> {
        command::run(&self.binary, &["-f", "-"], ruleset, self.within).map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_would_change_the_rules_are_refused() {
        let good = NodePolicy {
            instance: "t1".to_owned(),
            bridge: "hth-t1".to_owned(),
            pod_cidr: "10.88.0.0/16".to_owned(),
        };
        assert!(good.check().is_ok());
        let check = |policy: NodePolicy, what: &str| {
            let error = policy.check().unwrap_err();
            assert!(error.to_string().contains(what), "{error}");
        };
        check(
            NodePolicy {
                instance: "a b".to_owned(),
                ..good.clone()
            },
            "instance id",
        );
        check(
            NodePolicy {
                bridge: "a\" drop".to_owned(),
                ..good.clone()
            },
            "link name",
        );
        check(
            NodePolicy {
                bridge: "a-name-that-is-too-long".to_owned(),
                ..good.clone()
            },
            "link name",
        );
        check(
            NodePolicy {
                pod_cidr: "10.88.0.0".to_owned(),
                ..good.clone()
            },
            "IPv4 network",
        );
        check(
            NodePolicy {
                pod_cidr: "10.88.0.0/33".to_owned(),
                ..good.clone()
            },
            "IPv4 network",
        );
        check(
            NodePolicy {
                pod_cidr: "10.88.0.0/16 drop".to_owned(),
                ..good
            },
            "IPv4 network",
        );
    }
}
