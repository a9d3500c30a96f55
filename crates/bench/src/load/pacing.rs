use std::time::Duration;

/// When claims are sent. Pure.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Pacing {
    /// The next one when the one before is answered or lost.
    One { count: usize },
    /// Poisson arrivals, whatever the answers do; as many as the rate says, so that a pool of that size is enough.
    Rate {
        per_second: f64,
        duration: Duration,
        seed: u64,
    },
    /// All at once.
    Burst { count: usize },
}

impl Pacing {
    /// Name in results.
    pub(crate) fn mode(&self) -> &'static str {
        match self {
            Self::One { .. } => "one",
            Self::Rate { .. } => "rate",
            Self::Burst { .. } => "burst",
        }
    }

    /// When each claim is due, from the start of the run; `None`: when the one before is settled.
    pub(crate) fn arrivals(&self) -> Vec<Option<Duration>> {
        match *self {
            Self::One { count } => vec![None; count],
            Self::Rate {
                per_second,
                duration,
                seed,
            } => poisson(per_second, duration, seed)
                .into_iter()
                .map(Some)
                .collect(),
            Self::Burst { count } => vec![Some(Duration::ZERO); count],
        }
    }
}

/// Arrivals of a Poisson process within `duration` of which is known how many they are: they are then spread evenly at
/// random, each for itself.
fn poisson(per_second: f64, duration: Duration, seed: u64) -> Vec<Duration> {
    let mut random = SplitMix64(seed);
    let count = (per_second * duration.as_secs_f64()).round();
    let mut arrivals: Vec<_> = (0_u32..)
        .take_while(|number| f64::from(*number) < count)
        .map(|_| duration.mul_f64(random.unit()))
        .collect();
    arrivals.sort_unstable();
    arrivals
}

/// The SplitMix64 generator. Written out because the arrivals of a seed are part of a published result, and no
/// general-purpose generator promises the same numbers across its versions.
struct SplitMix64(u64);

impl SplitMix64 {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Uniform in [0, 1), 53 bits.
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_generator_gives_the_published_sequence() {
        // Reference values of SplitMix64 for seed 1234567.
        let mut random = SplitMix64(1_234_567);
        let first: Vec<u64> = (0..3).map(|_| random.next()).collect();
        assert_eq!(
            first,
            [
                6_457_827_717_110_365_317,
                3_203_168_211_198_807_973,
                9_817_491_932_198_370_423
            ]
        );
    }

    #[test]
    fn a_seed_decides_the_arrivals() {
        let arrivals = |seed| {
            Pacing::Rate {
                per_second: 45.0,
                duration: Duration::from_secs(10),
                seed,
            }
            .arrivals()
        };
        assert_eq!(arrivals(1), arrivals(1));
        assert_ne!(arrivals(1), arrivals(2));
    }

    #[test]
    fn arrivals_are_ordered_within_the_window_and_come_at_the_rate() {
        let window = Duration::from_secs(200);
        let arrivals = poisson(45.0, window, 7);
        assert!(arrivals.is_sorted());
        assert!(arrivals.iter().all(|at| *at < window));
        assert_eq!(arrivals.len(), 9_000);
        // A Poisson process, not an even one: 1 - 1/e of the gaps are below the mean.
        let mean = Duration::from_secs_f64(1.0 / 45.0);
        let short = arrivals
            .windows(2)
            .filter(|pair| pair[1] - pair[0] < mean)
            .count();
        let share = short as f64 / arrivals.len() as f64;
        assert!((0.60..0.66).contains(&share), "{share}");
    }

    #[test]
    fn one_at_a_time_waits_and_a_burst_does_not() {
        assert_eq!(Pacing::One { count: 2 }.arrivals(), [None, None]);
        assert_eq!(
            Pacing::Burst { count: 2 }.arrivals(),
            [Some(Duration::ZERO); 2]
        );
    }

    #[test]
    fn no_rate_means_no_arrivals() {
        assert!(poisson(0.0, Duration::from_secs(1), 1).is_empty());
    }
}
