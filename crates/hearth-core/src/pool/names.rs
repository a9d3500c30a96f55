//! Names of new members.

/// Kubernetes' alphabet for generated names: no vowels, so no words, and nothing that looks like something else.
const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
const SUFFIX_LENGTH: usize = 5;
/// As `generateName` cuts it, so that the name fits a host name.
const BASE_MAX: usize = 63 - SUFFIX_LENGTH;

/// A sequence of random suffixes. Unpredictable when its seed is.
#[derive(Debug)]
pub(crate) struct Suffixes(u64);

impl Suffixes {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// `<base>-xxxxx`.
    pub(crate) fn name(&mut self, base: &str) -> String {
        let mut name = prefix(base);
        let mut bits = self.next();
        let letters = u64::try_from(ALPHABET.len()).unwrap_or(1);
        for _ in 0..SUFFIX_LENGTH {
            let letter = usize::try_from(bits % letters).unwrap_or(0);
            name.push(char::from(ALPHABET[letter]));
            bits /= letters;
        }
        name
    }

    /// SplitMix64.
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// What names made after `base` begin with.
fn prefix(base: &str) -> String {
    let mut prefix = format!("{base}-");
    let mut end = BASE_MAX.min(prefix.len());
    while !prefix.is_char_boundary(end) {
        end -= 1;
    }
    prefix.truncate(end);
    prefix
}

/// Whether a name is one made after `base`.
pub(crate) fn is_named_after(name: &str, base: &str) -> bool {
    name.len() > prefix(base).len() && name.starts_with(&prefix(base))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_differ_and_fit_a_label() {
        let mut suffixes = Suffixes::new(7);
        let names: HashSet<_> = (0..1000).map(|_| suffixes.name("pool")).collect();
        assert!(names.len() > 995, "{}", names.len());
        assert!(
            names
                .iter()
                .all(|name| name.len() == 10 && name.starts_with("pool-"))
        );
        assert_eq!(suffixes.name(&"p".repeat(80)).len(), 63);
        for base in ["pool", &"p".repeat(80)] {
            assert!(is_named_after(&suffixes.name(base), base));
        }
        for name in ["pool", "pool-", "pools-abcde", "other-abcde"] {
            assert!(!is_named_after(name, "pool"), "{name}");
        }
    }
}
