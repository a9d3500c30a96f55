use std::fmt;
use std::str::FromStr;

use sha2::{Digest, Sha256};

const LENGTH: usize = 32;

/// SHA-256 of a certificate's DER form; written as 64 lower-case hex digits.
///
/// It is public: it names a key, knowing it opens nothing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint([u8; LENGTH]);

impl Fingerprint {
    /// The fingerprint of a certificate in DER form.
    #[must_use]
    pub fn of_der(certificate: &[u8]) -> Self {
        Self(Sha256::digest(certificate).into())
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({self})")
    }
}

/// A text that is not a fingerprint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a certificate fingerprint is 64 hex digits")]
pub struct ParseFingerprintError;

impl FromStr for Fingerprint {
    type Err = ParseFingerprintError;

    /// Takes upper-case digits too: people paste from tools that print them.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.as_bytes();
        if digits.len() != 2 * LENGTH {
            return Err(ParseFingerprintError);
        }
        let mut bytes = [0; LENGTH];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
        }
        Ok(Self(bytes))
    }
}

fn nibble(digit: u8) -> Result<u8, ParseFingerprintError> {
    match digit {
        b'0'..=b'9' => Ok(digit - b'0'),
        b'a'..=b'f' => Ok(digit - b'a' + 10),
        b'A'..=b'F' => Ok(digit - b'A' + 10),
        _ => Err(ParseFingerprintError),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // SHA-256 of the empty message, from FIPS 180-4's test vectors.
    const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn is_the_sha256_in_lower_case_hex() {
        assert_eq!(Fingerprint::of_der(b"").to_string(), EMPTY);
    }

    #[test]
    fn parses_what_it_prints_and_nothing_else() {
        fn check(text: &str, expect: Result<&str, ParseFingerprintError>) {
            let parsed = text
                .parse::<Fingerprint>()
                .map(|fingerprint| fingerprint.to_string());
            assert_eq!(
                parsed.as_deref().map_err(|error| *error),
                expect,
                "{text:?}"
            );
        }
        check(EMPTY, Ok(EMPTY));
        check(&EMPTY.to_uppercase(), Ok(EMPTY));
        check("", Err(ParseFingerprintError));
        check(&EMPTY[1..], Err(ParseFingerprintError));
        check(&format!("{EMPTY}0"), Err(ParseFingerprintError));
        check(&EMPTY.replace('e', "g"), Err(ParseFingerprintError));
        check(&format!(" {}", &EMPTY[1..]), Err(ParseFingerprintError));
        check(&"é".repeat(32), Err(ParseFingerprintError));
    }
}
