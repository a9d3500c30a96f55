//! The values of flags as Go writes them: see `strconv` and `time.ParseDuration`.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use hearth_telemetry::LogFormat;

/// What Go says of text that is no value of a kind.
const PARSE_ERROR: &str = "parse error";
/// What Go says of a number that is too large.
const RANGE_ERROR: &str = "value out of range";

/// A value that a flag can have.
pub(crate) trait FlagValue: Sized {
    /// What usage texts call it.
    const KIND: &'static str;
    /// Whether naming the flag is enough.
    const IS_SWITCH: bool = false;

    /// Reads it.
    ///
    /// # Errors
    /// What is wrong with the text.
    fn parse(text: &str) -> Result<Self, String>;

    /// Writes it so that it can be read again.
    fn show(&self) -> String;
}

impl FlagValue for bool {
    const KIND: &'static str = "";
    const IS_SWITCH: bool = true;

    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
            _ => Err(PARSE_ERROR.to_owned()),
        }
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl FlagValue for i64 {
    const KIND: &'static str = "int";

    fn parse(text: &str) -> Result<Self, String> {
        let (sign, digits) = match text.strip_prefix('-') {
            Some(digits) => ("-", digits),
            None => ("", text.strip_prefix('+').unwrap_or(text)),
        };
        let (radix, digits, prefixed) = radix_of(digits);
        // Go allows underscores between digits, and between a prefix and digits.
        let misplaced = digits.ends_with('_')
            || digits.contains("__")
            || (digits.starts_with('_') && !prefixed);
        let digits = digits.replace('_', "");
        if misplaced || digits.starts_with(['+', '-']) {
            return Err(PARSE_ERROR.to_owned());
        }
        Self::from_str_radix(&format!("{sign}{digits}"), radix).map_err(|error| {
            use std::num::IntErrorKind::{NegOverflow, PosOverflow};
            match error.kind() {
                PosOverflow | NegOverflow => RANGE_ERROR.to_owned(),
                _ => PARSE_ERROR.to_owned(),
            }
        })
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

/// The radix that digits are of, without what says so, and whether anything did.
fn radix_of(digits: &str) -> (u32, &str, bool) {
    for (prefixes, radix) in [(["0x", "0X"], 16), (["0b", "0B"], 2), (["0o", "0O"], 8)] {
        for prefix in prefixes {
            if let Some(digits) = digits.strip_prefix(prefix) {
                return (radix, digits, true);
            }
        }
    }
    match digits.strip_prefix('0') {
        Some(octal) if !octal.is_empty() => (8, octal, true),
        _ => (10, digits, false),
    }
}

/// Without Go's hexadecimal form, which nobody writes a rate in.
impl FlagValue for f64 {
    const KIND: &'static str = "float";

    fn parse(text: &str) -> Result<Self, String> {
        let value: Self = text.parse().map_err(|_| PARSE_ERROR.to_owned())?;
        let named = text.to_ascii_lowercase().contains("inf");
        if value.is_infinite() && !named {
            return Err(RANGE_ERROR.to_owned());
        }
        Ok(value)
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl FlagValue for String {
    const KIND: &'static str = "string";

    fn parse(text: &str) -> Result<Self, String> {
        Ok(text.to_owned())
    }

    fn show(&self) -> String {
        self.clone()
    }
}

/// A duration of Go: nanoseconds, may be negative.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct GoDuration(i64);

impl GoDuration {
    /// None at all.
    pub(crate) const ZERO: Self = Self(0);

    /// So many seconds.
    pub(crate) const fn from_secs(seconds: i64) -> Self {
        Self(seconds * 1_000_000_000)
    }

    /// Zero when it is negative.
    pub(crate) fn or_zero(self) -> Duration {
        Duration::from_nanos(u64::try_from(self.0).unwrap_or(0))
    }
}

impl FlagValue for GoDuration {
    const KIND: &'static str = "duration";

    fn parse(text: &str) -> Result<Self, String> {
        nanoseconds(text)
            .map(Self)
            .ok_or_else(|| PARSE_ERROR.to_owned())
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

/// Units in nanoseconds; longer names before those that they begin with.
const UNITS: [(&str, i128); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("\u{b5}s", 1_000),
    ("\u{3bc}s", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// A sum of decimal numbers, each with a unit, or `0`.
fn nanoseconds(text: &str) -> Option<i64> {
    let (sign, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut sum: i128 = 0;
    while !rest.is_empty() {
        let number = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .map(|end| rest.split_at(end));
        let (number, behind) = number?;
        let (unit, size) = UNITS.iter().find(|(unit, _)| behind.starts_with(unit))?;
        rest = behind.get(unit.len()..)?;
        sum = sum.checked_add(part(number, *size)?)?;
    }
    i64::try_from(sign * sum).ok()
}

/// So many of a unit of `size` nanoseconds; what is less than one is cut off.
fn part(number: &str, size: i128) -> Option<i128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return None;
    }
    let digits = |text: &str| match text {
        "" => Some(0),
        text => text.parse::<i128>().ok(),
    };
    // More digits than a nanosecond of an hour has say nothing.
    let fraction = fraction.get(..fraction.len().min(15))?;
    let scale = 10_i128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    digits(whole)?
        .checked_mul(size)?
        .checked_add(digits(fraction)?.checked_mul(size)? / scale)
}

impl fmt::Display for GoDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanoseconds = self.0.unsigned_abs();
        if self.0 < 0 {
            f.write_str("-")?;
        }
        let decimal = |count: u64, of: u64| {
            let digits = of.ilog10() as usize;
            let text = format!("{}.{:0digits$}", count / of, count % of);
            text.trim_end_matches('0').trim_end_matches('.').to_owned()
        };
        match nanoseconds {
            0 => f.write_str("0s"),
            1..1_000 => write!(f, "{nanoseconds}ns"),
            1_000..1_000_000 => write!(f, "{}\u{b5}s", decimal(nanoseconds, 1_000)),
            1_000_000..1_000_000_000 => write!(f, "{}ms", decimal(nanoseconds, 1_000_000)),
            _ => {
                let minutes = nanoseconds / 60_000_000_000;
                let seconds = decimal(nanoseconds % 60_000_000_000, 1_000_000_000);
                match (minutes / 60, minutes % 60) {
                    (0, 0) => write!(f, "{seconds}s"),
                    (0, minutes) => write!(f, "{minutes}m{seconds}s"),
                    (hours, minutes) => write!(f, "{hours}h{minutes}m{seconds}s"),
                }
            }
        }
    }
}

/// Where something is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BindAddress {
    /// `0`: nowhere.
    Off,
    /// Here.
    At(SocketAddr),
}

impl BindAddress {
    /// All addresses, as `:port` says.
    pub(crate) const fn port(port: u16) -> Self {
        Self::At(SocketAddr::V4(std::net::SocketAddrV4::new(
            std::net::Ipv4Addr::UNSPECIFIED,
            port,
        )))
    }

    /// The address, if there is one.
    pub(crate) fn address(self) -> Option<SocketAddr> {
        match self {
            Self::Off => None,
            Self::At(address) => Some(address),
        }
    }
}

impl FlagValue for BindAddress {
    const KIND: &'static str = "string";

    fn parse(text: &str) -> Result<Self, String> {
        if text == "0" {
            return Ok(Self::Off);
        }
        let full = match (text.strip_prefix(':'), text.strip_prefix("localhost:")) {
            (Some(port), _) => format!("0.0.0.0:{port}"),
            (None, Some(port)) => format!("127.0.0.1:{port}"),
            (None, None) => text.to_owned(),
        };
        full.parse()
            .map(Self::At)
            .map_err(|_| "use ip:port, :port for all addresses, or 0 for none".to_owned())
    }

    fn show(&self) -> String {
        match self {
            Self::Off => "0".to_owned(),
            Self::At(address) => address.to_string(),
        }
    }
}

/// How much is logged, in zap's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LogLevel {
    /// What zap calls error and what ends the process.
    Error,
    /// What an operator reads.
    Info,
    /// What a developer reads.
    Debug,
    /// More than that.
    Trace,
}

impl LogLevel {
    /// The filter of the log. What our libraries say of connections is only in the last one.
    pub(crate) fn filter(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Info => "info",
            Self::Debug => "debug,h2=info,hyper=info,hyper_util=info,rustls=info,tower=info",
            Self::Trace => "trace",
        }
    }
}

impl FlagValue for LogLevel {
    const KIND: &'static str = "level";

    fn parse(text: &str) -> Result<Self, String> {
        match text.to_ascii_lowercase().as_str() {
            "debug" => Ok(Self::Debug),
            "info" => Ok(Self::Info),
            // Zap logs what panics; here that is what ends the process, and is logged as an error.
            "error" | "panic" => Ok(Self::Error),
            number => match number.parse::<u8>() {
                Ok(1) => Ok(Self::Debug),
                Ok(2..) => Ok(Self::Trace),
                _ => Err(format!(
                    "invalid log level {text:?}: use debug, info, error, panic or a number above 0"
                )),
            },
        }
    }

    fn show(&self) -> String {
        match self {
            Self::Error => "error",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "2",
        }
        .to_owned()
    }
}

/// How log lines look, where it was said: zap's `json` and `console`, ours `json` and `text`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Encoding(pub(crate) Option<LogFormat>);

impl FlagValue for Encoding {
    const KIND: &'static str = "encoding";

    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "" => Ok(Self(None)),
            "json" => Ok(Self(Some(LogFormat::Json))),
            "console" | "text" => Ok(Self(Some(LogFormat::Text))),
            _ => Err(format!(
                "invalid encoder value {text:?}: use json or console"
            )),
        }
    }

    fn show(&self) -> String {
        match self.0 {
            None => "",
            Some(LogFormat::Json) => "json",
            Some(LogFormat::Text) => "console",
        }
        .to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn switches_are_go_s() {
        for text in ["1", "t", "T", "TRUE", "true", "True"] {
            assert_eq!(bool::parse(text), Ok(true), "{text}");
        }
        for text in ["0", "f", "F", "FALSE", "false", "False"] {
            assert_eq!(bool::parse(text), Ok(false), "{text}");
        }
        for text in ["", "yes", "tRUE", "on"] {
            assert_eq!(bool::parse(text), Err("parse error".into()), "{text}");
        }
    }

    #[test]
    fn integers_are_go_s() {
        for (text, expected) in [
            ("0", Ok(0)),
            ("300", Ok(300)),
            ("-1", Ok(-1)),
            ("+7", Ok(7)),
            ("0x10", Ok(16)),
            ("-0b11", Ok(-3)),
            ("0o17", Ok(15)),
            ("017", Ok(15)),
            ("1_000", Ok(1000)),
            ("0x_ff", Ok(255)),
            ("", Err("parse error")),
            ("-", Err("parse error")),
            ("--1", Err("parse error")),
            ("1.5", Err("parse error")),
            ("_1", Err("parse error")),
            ("1_", Err("parse error")),
            ("1__0", Err("parse error")),
            ("09", Err("parse error")),
            ("9223372036854775808", Err("value out of range")),
        ] {
            assert_eq!(i64::parse(text), expected.map_err(str::to_owned), "{text}");
        }
    }

    #[test]
    fn rates_are_go_s() {
        for (text, expected) in [
            ("-1", -1.0),
            ("2.5", 2.5),
            (".5", 0.5),
            ("1e2", 100.0),
            ("+Inf", f64::INFINITY),
        ] {
            assert_eq!(f64::parse(text), Ok(expected), "{text}");
        }
        assert!(f64::parse("NaN").unwrap().is_nan());
        assert_eq!(f64::parse("1e999"), Err("value out of range".into()));
        assert_eq!(f64::parse("ten"), Err("parse error".into()));
    }

    #[test]
    fn durations_are_go_s() {
        for (text, expected, shown) in [
            ("0", 0, "0s"),
            ("0s", 0, "0s"),
            ("5m", 300_000_000_000, "5m0s"),
            ("1h2m3.5s", 3_723_500_000_000, "1h2m3.5s"),
            ("300ms", 300_000_000, "300ms"),
            ("1.5ms", 1_500_000, "1.5ms"),
            ("20us", 20_000, "20\u{b5}s"),
            ("20\u{b5}s", 20_000, "20\u{b5}s"),
            ("20\u{3bc}s", 20_000, "20\u{b5}s"),
            ("7ns", 7, "7ns"),
            (".5s", 500_000_000, "500ms"),
            ("1.s", 1_000_000_000, "1s"),
            ("-1s", -1_000_000_000, "-1s"),
            ("+1m30s", 90_000_000_000, "1m30s"),
            ("48h", 172_800_000_000_000, "48h0m0s"),
        ] {
            let duration = GoDuration::parse(text).unwrap();
            assert_eq!(
                (duration.0, duration.to_string().as_str()),
                (expected, shown),
                "{text}"
            );
            assert_eq!(GoDuration::parse(shown), Ok(duration), "{shown}");
        }
        for text in [
            "",
            "-",
            "5",
            "1x",
            "s",
            ".s",
            "1.2.3s",
            "1 s",
            "99999999999h",
        ] {
            assert_eq!(GoDuration::parse(text), Err("parse error".into()), "{text}");
        }
    }

    #[test]
    fn what_is_negative_is_no_time_to_wait() {
        assert_eq!(GoDuration::from_secs(-1).or_zero(), Duration::ZERO);
        assert_eq!(GoDuration::from_secs(2).or_zero(), Duration::from_secs(2));
    }

    #[test]
    fn addresses_may_be_go_s() {
        let at =
            |address: [u8; 4], port: u16| Ok(BindAddress::At(SocketAddr::from((address, port))));
        assert_eq!(BindAddress::parse(":8080"), at([0, 0, 0, 0], 8080));
        assert_eq!(BindAddress::parse("127.0.0.1:0"), at([127, 0, 0, 1], 0));
        assert_eq!(BindAddress::parse("localhost:1"), at([127, 0, 0, 1], 1));
        assert!(BindAddress::parse("[::]:8080").is_ok());
        assert_eq!(BindAddress::parse("0"), Ok(BindAddress::Off));
        assert_eq!(BindAddress::parse(":8080"), Ok(BindAddress::port(8080)));
        for text in ["8080", "", "controller:8080"] {
            assert!(BindAddress::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn zap_s_levels_and_encoders_are_known() {
        for (text, expected) in [
            ("debug", LogLevel::Debug),
            ("1", LogLevel::Debug),
            ("INFO", LogLevel::Info),
            ("error", LogLevel::Error),
            ("panic", LogLevel::Error),
            ("7", LogLevel::Trace),
        ] {
            assert_eq!(LogLevel::parse(text), Ok(expected), "{text}");
        }
        for text in ["", "0", "-1", "loud"] {
            assert!(LogLevel::parse(text).is_err(), "{text}");
        }
        assert_eq!(Encoding::parse("json"), Ok(Encoding(Some(LogFormat::Json))));
        assert_eq!(
            Encoding::parse("console"),
            Ok(Encoding(Some(LogFormat::Text)))
        );
        assert!(Encoding::parse("xml").is_err());
    }
}
