//! Releases of upstream.

use std::fmt;
use std::str::FromStr;

use serde::Deserialize;

/// A release, as `v1.0.4`. Later ones are greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub struct Release {
    major: u16,
    minor: u16,
    patch: u16,
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "v{}.{}.{}", self.major, self.minor, self.patch)
    }
}

impl FromStr for Release {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let numbers = text.strip_prefix('v').map(|numbers| {
            let numbers = numbers.split('.').map(str::parse::<u16>);
            numbers.collect::<Result<Vec<u16>, _>>()
        });
        match numbers {
            Some(Ok(numbers)) => match numbers.as_slice() {
                [major, minor, patch] => Ok(Self {
                    major: *major,
                    minor: *minor,
                    patch: *patch,
                }),
                _ => Err(format!("{text} is no release like v1.0.4")),
            },
            _ => Err(format!("{text} is no release like v1.0.4")),
        }
    }
}

impl TryFrom<String> for Release {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn release(text: &str) -> Release {
        text.parse().unwrap()
    }

    #[test]
    fn releases_are_in_the_order_of_their_numbers() {
        assert!(release("v0.5.6") < release("v1.0.0"));
        assert!(release("v1.0.4") < release("v1.0.12"));
        assert_eq!(release("v1.0.12").to_string(), "v1.0.12");
        for bad in ["", "1.0.4", "v1.0", "v1.0.4.1", "v1.0.x", "v1.0.4-rc1"] {
            assert!(bad.parse::<Release>().is_err(), "{bad}");
        }
    }
}
