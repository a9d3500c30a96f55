//! Kubernetes quantities: `500m`, `64Mi`, `1e3`.

use std::str::FromStr;

/// A non-negative quantity, exact to a thousandth; what is finer is rounded up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Quantity {
    thousandths: u128,
}

/// Why a text is no quantity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a quantity such as 500m, 0.5, 64Mi or 1e3")]
pub struct QuantityError;

/// Digits that a quantity may have; far beyond what any node has.
const MOST_DIGITS: usize = 24;
/// Exponents that a quantity may have, either way.
const MOST_EXPONENT: i32 = 18;

impl Quantity {
    /// In thousandths (of a core), at most `u64::MAX`.
    #[must_use]
    pub fn millis(self) -> u64 {
        u64::try_from(self.thousandths).unwrap_or(u64::MAX)
    }

    /// In units (bytes), rounded up, at most `u64::MAX`.
    #[must_use]
    pub fn units(self) -> u64 {
        u64::try_from(self.thousandths.div_ceil(1000)).unwrap_or(u64::MAX)
    }

    /// In thousandths.
    pub(crate) fn thousandths(self) -> u128 {
        self.thousandths
    }

    /// The sum, at most the largest quantity.
    pub(crate) fn plus(self, other: Self) -> Self {
        Self {
            thousandths: self.thousandths.saturating_add(other.thousandths),
        }
    }
}

impl FromStr for Quantity {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let text = text.strip_prefix('+').unwrap_or(text);
        let end = text
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(text.len());
        let (number, suffix) = text.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let digits = format!("{whole}{fraction}");
        if digits.is_empty()
            || digits.len() > MOST_DIGITS
            || !digits.bytes().all(|b| b.is_ascii_digit())
        {
            return Err(QuantityError);
        }
        let digits: u128 = digits.parse().map_err(|_| QuantityError)?;
        let (factor, exponent) = scale(suffix)?;
        let scaled = digits.checked_mul(factor).ok_or(QuantityError)?;
        let fraction = i32::try_from(fraction.len()).map_err(|_| QuantityError)?;
        Ok(Self {
            thousandths: shift(scaled, exponent + 3 - fraction)?,
        })
    }
}

/// The suffix as a factor and a power of ten.
fn scale(suffix: &str) -> Result<(u128, i32), QuantityError> {
    let binary = |power: u32| Ok((1_u128 << (10 * power), 0));
    match suffix {
        "" => Ok((1, 0)),
        "n" => Ok((1, -9)),
        "u" => Ok((1, -6)),
        "m" => Ok((1, -3)),
        "k" => Ok((1, 3)),
        "M" => Ok((1, 6)),
        "G" => Ok((1, 9)),
        "T" => Ok((1, 12)),
        "P" => Ok((1, 15)),
        "E" => Ok((1, 18)),
        "Ki" => binary(1),
        "Mi" => binary(2),
        "Gi" => binary(3),
        "Ti" => binary(4),
        "Pi" => binary(5),
        "Ei" => binary(6),
        _ => {
            let exponent = suffix.strip_prefix(['e', 'E']).ok_or(QuantityError)?;
            let exponent: i32 = exponent.parse().map_err(|_| QuantityError)?;
            if exponent.abs() > MOST_EXPONENT {
                return Err(QuantityError);
            }
            Ok((1, exponent))
        }
    }
}

/// `number` times ten to the `power`, rounded up.
fn shift(number: u128, power: i32) -> Result<u128, QuantityError> {
    let ten = 10_u128.checked_pow(power.unsigned_abs());
    match (power >= 0, ten) {
        (true, Some(ten)) => number.checked_mul(ten).ok_or(QuantityError),
        (false, Some(ten)) => Ok(number.div_ceil(ten)),
        (true, None) => Err(QuantityError),
        (false, None) => Ok(u128::from(number > 0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_mean_what_kubernetes_says() {
        for (text, millis) in [
            ("0", 0),
            ("1", 1000),
            ("+1", 1000),
            ("500m", 500),
            ("0.5", 500),
            (".5", 500),
            ("1.", 1000),
            ("1.5k", 1_500_000),
            ("1e3", 1_000_000),
            ("1E-3", 1),
            ("100u", 1),
            ("1n", 1),
            ("1Ki", 1_024_000),
            ("0.5Mi", 524_288_000),
            ("2G", 2_000_000_000_000),
        ] {
            assert_eq!(
                text.parse::<Quantity>().map(Quantity::millis),
                Ok(millis),
                "{text}"
            );
        }
        assert_eq!("1Ei".parse::<Quantity>().map(Quantity::units), Ok(1 << 60));
        assert_eq!(
            "1500m".parse::<Quantity>().map(Quantity::units),
            Ok(2),
            "bytes are rounded up"
        );
    }

    #[test]
    fn other_texts_are_refused() {
        for text in [
            "",
            "-1",
            "m",
            "1x",
            "1 Mi",
            "1.2.3",
            "1e",
            "1e99",
            "0x10",
            "1mi",
            "9999999999999999999999999999",
        ] {
            assert_eq!(text.parse::<Quantity>(), Err(QuantityError), "{text}");
        }
    }
}
