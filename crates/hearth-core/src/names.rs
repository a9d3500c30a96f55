//! Names and hashes that are part of the wire contract.

/// Longest label value that the API server accepts.
const LABEL_VALUE_MAX: usize = 63;

/// FNV-1a, 32 bits, over the UTF-8 bytes, as eight lower-case hex digits: the value of every hash label.
#[must_use]
pub fn name_hash(name: &str) -> String {
    format!("{:08x}", fnv1a(name.as_bytes()))
}

/// The value of the label `hearth.dev/node` for a node: its name, or the name's hash when it is too long for a label.
#[must_use]
pub fn node_label_value(node_name: &str) -> String {
    if node_name.len() <= LABEL_VALUE_MAX {
        node_name.to_owned()
    } else {
        name_hash(node_name)
    }
}

/// FNV-1a, 64 bits: tells texts apart where it is compared with what an earlier process has written.
pub(crate) fn fnv1a_64(bytes: &[u8]) -> u64 {
    const OFFSET_BASIS: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0000_0100_0000_01b3;
    bytes.iter().fold(OFFSET_BASIS, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(PRIME)
    })
}

/// FNV-1a, 32 bits.
#[must_use]
pub fn fnv1a(bytes: &[u8]) -> u32 {
    const OFFSET_BASIS: u32 = 0x811c_9dc5;
    const PRIME: u32 = 0x0100_0193;
    bytes.iter().fold(OFFSET_BASIS, |hash, &byte| {
        (hash ^ u32::from(byte)).wrapping_mul(PRIME)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_those_that_upstream_writes() {
        for (name, hash) in [
            ("", "811c9dc5"),
            ("tpl", "9d22159f"),
            ("pool-tcd9s", "ea2ac45d"),
            ("plain", "d3be3f67"),
        ] {
            assert_eq!(name_hash(name), hash, "{name}");
        }
    }

    #[test]
    fn a_node_name_that_fits_is_its_own_label() {
        assert_eq!(node_label_value("worker-1"), "worker-1");
        assert_eq!(node_label_value(&"a".repeat(63)).len(), 63);
        assert_eq!(
            node_label_value(&"a".repeat(64)),
            name_hash(&"a".repeat(64))
        );
    }
}
