//! Waiting for what sends no event: files of the kernel, other programs' lists.

use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Result, bail};
use tokio::time::{Instant, sleep_until};

/// Names how many times longer than on an ordinary machine everything may take, for one that is emulated.
const PATIENCE: &str = "HEARTH_PATIENCE";

/// A limit as this machine needs it: limits in tests tell "does not come" from "is slow".
#[must_use]
pub fn patient(limit: Duration) -> Duration {
    static FACTOR: OnceLock<u32> = OnceLock::new();
    let factor = FACTOR.get_or_init(|| {
        let said = std::env::var(PATIENCE).ok();
        said.and_then(|said| said.parse().ok()).unwrap_or(1)
    });
    limit * *factor
}

/// Asks `check` again and again until it is content. Its error says what is missing yet, and becomes part of the failure
/// when `limit` passes.
///
/// # Errors
/// When `limit` passes first.
pub async fn wait_for<T>(
    what: &str,
    limit: Duration,
    mut check: impl AsyncFnMut() -> Result<T, String>,
) -> Result<T> {
    const PAUSE: Duration = Duration::from_millis(20);
    let limit = patient(limit);
    let deadline = Instant::now() + limit;
    loop {
        let not_yet = match check().await {
            Ok(value) => return Ok(value),
            Err(not_yet) => not_yet,
        };
        if Instant::now() >= deadline {
            bail!("{what}: not within {limit:?}, because {not_yet}");
        }
        sleep_until(Instant::now() + PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_last_reason_is_part_of_the_failure() {
        let mut asked = 0;
        let waited = wait_for("it", Duration::from_secs(1), async || {
            asked += 1;
            Err::<(), _>(format!("{asked} is too few"))
        });
        let error = waited.await.unwrap_err().to_string();
        assert!(
            error.starts_with("it: not within 1s, because ") && error.ends_with(" is too few"),
            "{error}"
        );
        assert!(asked > 1);
    }

    #[tokio::test(start_paused = true)]
    async fn it_ends_with_the_first_success() {
        let mut asked = 0;
        let value = wait_for("it", Duration::from_secs(60), async || {
            asked += 1;
            if asked == 3 {
                Ok(asked)
            } else {
                Err(String::new())
            }
        });
        assert_eq!(value.await.unwrap(), 3);
    }
}
