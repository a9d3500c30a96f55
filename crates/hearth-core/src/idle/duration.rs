//! Go's duration format, as far as the API takes it: `([0-9]+(\.[0-9]+)?(ms|s|m|h))+`.

use std::time::Duration;

/// The longest time that is told apart from for ever: a hundred years.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// Reads a duration; `None` for what is none. Longer ones than a hundred years are as long as that.
#[must_use]
pub fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut sum = Duration::ZERO;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(end);
        let (unit, after) = unit(after)?;
        sum = sum.saturating_add(times(number, unit)?).min(LONGEST);
        rest = after;
    }
    Some(sum)
}

/// Milliseconds of the unit that the text begins with, and the text after it.
fn unit(text: &str) -> Option<(f64, &str)> {
    // `ms` before `m`, which it begins with.
    [("ms", 1.0), ("s", 1e3), ("m", 60e3), ("h", 3_600e3)]
        .into_iter()
        .find_map(|(name, ms)| Some((ms, text.strip_prefix(name)?)))
}

fn times(number: &str, unit_ms: f64) -> Option<Duration> {
    let well_formed = match number.split_once('.') {
        None => !number.is_empty(),
        Some((whole, part)) => !whole.is_empty() && !part.is_empty() && !part.contains('.'),
    };
    if !well_formed {
        return None;
    }
    let seconds = number.parse::<f64>().ok()? * unit_ms / 1e3;
    Some(Duration::try_from_secs_f64(seconds).unwrap_or(LONGEST))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_writes_them() {
        for (text, ms) in [
            ("30s", 30_000),
            ("1500ms", 1_500),
            ("1.5s", 1_500),
            ("1h30m", 5_400_000),
            ("1h0m0.25s", 3_600_250),
            ("0s", 0),
        ] {
            assert_eq!(
                parse_duration(text),
                Some(Duration::from_millis(ms)),
                "{text}"
            );
        }
        for text in [
            "", "s", "5", "5 s", "-5s", "1..5s", ".5s", "5.s", "1.2.3s", "5d", "ms5", "5s ",
        ] {
            assert_eq!(parse_duration(text), None, "{text:?}");
        }
        let long = "9".repeat(400) + "h";
        assert_eq!(parse_duration(&long), Some(LONGEST));
    }
}
