//! Kubernetes quantities (`250m`, `1.5Gi`, `2e3`), as far as placement needs them.

/// Thousandths of the unit: `250m` is 250, `2` is 2000. `None` when the text is no quantity.
///
/// Rounds up, as Kubernetes does, and stays at `i64::MAX` instead of overflowing.
#[must_use]
pub fn milli_value(text: &str) -> Option<i64> {
    scaled(text, 1_000)
}

/// Whole units: `1Ki` is 1024, `1500m` is 2. `None` when the text is no quantity.
#[must_use]
pub fn value(text: &str) -> Option<i64> {
    scaled(text, 1)
}

fn scaled(text: &str, unit: i128) -> Option<i64> {
    let digits_end = text
        .find(|c: char| !matches!(c, '0'..='9' | '.' | '+' | '-'))
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(digits_end);
    let (numerator, denominator) = suffix_factor(suffix)?;
    let (mantissa, fraction_digits) = decimal(number)?;
    let scale = 10_i128
        .checked_pow(fraction_digits)?
        .checked_mul(denominator)?;
    let product = mantissa.checked_mul(numerator)?.checked_mul(unit)?;
    let rounded = product.div_euclid(scale) + i128::from(product.rem_euclid(scale) != 0);
    Some(i64::try_from(rounded).unwrap_or(if rounded < 0 { i64::MIN } else { i64::MAX }))
}

/// What a suffix multiplies by, as a fraction.
fn suffix_factor(suffix: &str) -> Option<(i128, i128)> {
    const BINARY: [&str; 6] = ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    const DECIMAL: [&str; 6] = ["k", "M", "G", "T", "P", "E"];
    if let Some(power) = BINARY.iter().position(|&s| s == suffix) {
        return Some((1024_i128.pow(u32::try_from(power).ok()? + 1), 1));
    }
    if let Some(power) = DECIMAL.iter().position(|&s| s == suffix) {
        return Some((1000_i128.pow(u32::try_from(power).ok()? + 1), 1));
    }
    match suffix {
        "" => Some((1, 1)),
        "m" => Some((1, 1_000)),
        "u" => Some((1, 1_000_000)),
        "n" => Some((1, 1_000_000_000)),
        _ => exponent(suffix),
    }
}

fn exponent(suffix: &str) -> Option<(i128, i128)> {
    let digits = suffix.strip_prefix(['e', 'E'])?;
    let power: i32 = digits.parse().ok()?;
    let factor = 10_i128.checked_pow(power.unsigned_abs())?;
    Some(if power < 0 { (1, factor) } else { (factor, 1) })
}

/// `-1.25` is (-125, 2).
fn decimal(number: &str) -> Option<(i128, u32)> {
    let (negative, digits) = match number.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, number.strip_prefix('+').unwrap_or(number)),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let mantissa: i128 = format!("0{whole}{fraction}").parse().ok()?;
    Some((
        if negative { -mantissa } else { mantissa },
        u32::try_from(fraction.len()).ok()?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_read_as_kubernetes_reads_them() {
        for (text, milli, whole) in [
            ("0", 0, 0),
            ("250m", 250, 1),
            ("2", 2_000, 2),
            ("1.5", 1_500, 2),
            ("0.1", 100, 1),
            (".5", 500, 1),
            ("1Ki", 1_024_000, 1024),
            ("1.5Gi", 1_610_612_736_000, 1_610_612_736),
            ("1k", 1_000_000, 1000),
            ("2e3", 2_000_000, 2000),
            ("1E-1", 100, 1),
            ("100n", 1, 1),
        ] {
            assert_eq!(
                (milli_value(text), value(text)),
                (Some(milli), Some(whole)),
                "{text}"
            );
        }
        for text in ["", "m", "1x", "1.2.3", "Gi", "1e", "--1"] {
            assert_eq!(milli_value(text), None, "{text}");
        }
        assert_eq!(value("9999999Ei"), Some(i64::MAX));
    }
}
