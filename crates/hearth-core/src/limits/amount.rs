//! Quantities that are written as the API server writes them.

use std::fmt;

use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::podspec::{Quantity, QuantityError};

/// A quantity and the manner in which it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Amount {
    quantity: Quantity,
    manner: Manner,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    /// `500m`, `2G`.
    Decimal,
    /// `64Mi`.
    Binary,
    /// `1e3`.
    Exponent,
}

const DECIMAL: [&str; 7] = ["", "k", "M", "G", "T", "P", "E"];
const BINARY: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];

impl Amount {
    /// A quantity in JSON, where it may be a number as well.
    pub(super) fn of(value: &Value) -> Option<Self> {
        match value {
            Value::String(text) => text.parse().ok(),
            Value::Number(number) => number.to_string().parse().ok(),
            _ => None,
        }
    }

    pub(super) fn is_more_than(self, other: Self) -> bool {
        self.quantity > other.quantity
    }

    pub(super) fn is_zero(self) -> bool {
        self.quantity == Quantity::default()
    }

    /// The sum, written like the first that is not zero.
    pub(super) fn plus(self, other: Self) -> Self {
        Self {
            quantity: self.quantity.plus(other.quantity),
            manner: if self.is_zero() {
                other.manner
            } else {
                self.manner
            },
        }
    }

    #[expect(
        clippy::cast_precision_loss,
        reason = "for a ratio, as the API server has it"
    )]
    pub(super) fn as_f64(self) -> f64 {
        self.quantity.thousandths() as f64 / 1000.0
    }
}

impl std::str::FromStr for Amount {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let quantity = text.parse()?;
        let manner = if text.ends_with('i') {
            Manner::Binary
        } else if text.trim_end_matches(['e', 'E']).contains(['e', 'E']) {
            Manner::Exponent
        } else {
            Manner::Decimal
        };
        Ok(Self { quantity, manner })
    }
}

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        Self::of(&value).ok_or_else(|| serde::de::Error::custom(QuantityError))
    }
}

impl fmt::Display for Amount {
    /// The canonical form: the largest unit of which it is a whole number.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let thousandths = self.quantity.thousandths();
        if self.manner == Manner::Binary && thousandths >= 1_024_000 {
            let (mut units, mut power) = (thousandths.div_ceil(1000), 0);
            while units.is_multiple_of(1024) && power + 1 < BINARY.len() {
                units /= 1024;
                power += 1;
            }
            return write!(f, "{units}{}", BINARY[power]);
        }
        if !thousandths.is_multiple_of(1000) {
            return match self.manner {
                Manner::Exponent => write!(f, "{thousandths}e-3"),
                Manner::Decimal | Manner::Binary => write!(f, "{thousandths}m"),
            };
        }
        let (mut units, mut power) = (thousandths / 1000, 0);
        while units > 0 && units.is_multiple_of(1000) && power + 1 < DECIMAL.len() {
            units /= 1000;
            power += 1;
        }
        match self.manner {
            Manner::Exponent if power > 0 => write!(f, "{units}e{}", 3 * power),
            _ => write!(f, "{units}{}", DECIMAL[power]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_written_in_their_largest_unit() {
        for (text, expected) in [
            ("0", "0"),
            ("0.5", "500m"),
            ("1000m", "1"),
            ("1.5", "1500m"),
            ("1200", "1200"),
            ("100000", "100k"),
            ("1250000", "1250k"),
            ("2E", "2E"),
            ("1024Mi", "1Gi"),
            ("1.5Gi", "1536Mi"),
            ("512Ki", "512Ki"),
            ("1Ki", "1Ki"),
            ("0.5Ki", "512"),
            ("1000Ki", "1000Ki"),
            ("1e3", "1e3"),
            ("12e2", "1200"),
            ("1e-3", "1e-3"),
        ] {
            let amount: Amount = text.parse().unwrap();
            assert_eq!(amount.to_string(), expected, "{text}");
        }
    }

    #[test]
    fn a_sum_is_written_like_its_first_part() {
        let plus = |a: &str, b: &str| {
            let (a, b): (Amount, Amount) = (a.parse().unwrap(), b.parse().unwrap());
            a.plus(b).to_string()
        };
        assert_eq!(plus("1Gi", "1G"), "2073741824");
        assert_eq!(plus("0", "1Gi"), "1Gi");
        assert_eq!(plus("500m", "1"), "1500m");
    }
}
