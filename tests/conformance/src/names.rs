//! The hash that the API's labels carry in place of names. Computed here, not taken from the code under test.

/// FNV-1a with 32 bits over the UTF-8 bytes of a name, as eight lower-case hexadecimal digits.
#[must_use]
pub fn name_hash(name: &str) -> String {
    const BASIS: u32 = 0x811c_9dc5;
    const PRIME: u32 = 0x0100_0193;
    let hash = name.bytes().fold(BASIS, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(PRIME)
    });
    format!("{hash:08x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_those_of_the_recorded_objects() {
        for (name, hash) in [
            ("plain", "d3be3f67"),
            ("svc", "eb4794ed"),
            ("pool", "91dd7983"),
            ("tpl", "9d22159f"),
            ("", "811c9dc5"),
        ] {
            assert_eq!(name_hash(name), hash, "{name}");
        }
    }
}
