//! So many a minute: a bucket that fills again steadily, and can be in debt.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use governor::clock::Clock;
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::{NotKeyed, StateStore};
use governor::{Quota, RateLimiter};
use tokio::time::Instant;

/// Holds a minute's worth, and is full at first.
#[derive(Debug)]
pub(super) struct Bucket {
    quota: Quota,
    limiter: RateLimiter<NotKeyed, Level, SinceMade, NoOpMiddleware<Nanos>>,
    level: Level,
    clock: SinceMade,
}

/// How a bucket stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Standing {
    pub(super) limit: u32,
    /// What can be had at once.
    pub(super) remaining: u32,
    /// Until it is full again.
    pub(super) reset: Duration,
}

/// The time at which the bucket will be full, nanoseconds since it was made. It is the limiter's whole state; here
/// it is shared, so that a debt can be entered and what was not used given back.
#[derive(Debug, Clone, Default)]
struct Level(Arc<AtomicU64>);

/// The runtime's time, which tests can stop.
#[derive(Debug, Clone, Copy)]
struct SinceMade(Instant);

impl Bucket {
    pub(super) fn per_minute(limit: NonZeroU32) -> Self {
        let (quota, level, clock) = (Quota::per_minute(limit), Level::default(), SinceMade(Instant::now()));
        Self { quota, limiter: RateLimiter::new(quota, level.clone(), clock), level, clock }
    }

    /// Takes `cost`, or says how long until it can be had. What costs more than a whole minute is let through when
    /// the bucket is full, and the rest is a debt.
    pub(super) fn take(&self, cost: u32) -> Result<(), Duration> {
        let limit = self.quota.burst_size();
        let Some(cost) = NonZeroU32::new(cost) else { return Ok(()) };
        let at_once = cost.min(limit);
        match self.limiter.check_n(at_once) {
            Ok(Ok(())) => {
                self.owe(u64::from(cost.get() - at_once.get()));
                Ok(())
            }
            Ok(Err(not_until)) => Err(not_until.wait_time_from(self.clock.now())),
            // Never: it is no more than the bucket holds.
            Err(_) => Err(self.reset()),
        }
    }

    /// Takes what has been used already, whether it is there or not.
    pub(super) fn owe(&self, more: u64) {
        let (now, more) = (self.clock.now().as_u64(), self.worth(more));
        self.level.change(|level| if more == 0 { level } else { level.max(now).saturating_add(more) });
    }

    /// Gives back what was taken and not used.
    pub(super) fn give_back(&self, unused: u64) {
        let unused = self.worth(unused);
        self.level.change(|level| level.saturating_sub(unused));
    }

    pub(super) fn standing(&self) -> Standing {
        let (limit, reset) = (self.quota.burst_size().get(), self.reset());
        let missing = reset.as_nanos().div_ceil(self.quota.replenish_interval().as_nanos().max(1));
        let remaining = u32::try_from(u128::from(limit).saturating_sub(missing)).unwrap_or(0);
        Standing { limit, remaining, reset }
    }

    fn reset(&self) -> Duration {
        let level = self.level.0.load(Ordering::Acquire);
        Duration::from_nanos(level.saturating_sub(self.clock.now().as_u64()))
    }

    /// How long so many take to come back, nanoseconds.
    fn worth(&self, count: u64) -> u64 {
        let each = u64::try_from(self.quota.replenish_interval().as_nanos()).unwrap_or(u64::MAX);
        each.saturating_mul(count)
    }
}

impl Level {
    fn change(&self, change: impl Fn(u64) -> u64) {
        let _ = self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, |level| Some(change(level)));
    }
}

impl StateStore for Level {
    type Key = NotKeyed;

    fn measure_and_replace<T, F, E>(&self, _: &NotKeyed, measure: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        loop {
            let level = self.0.load(Ordering::Acquire);
            let (outcome, next) = measure((level > 0).then(|| Nanos::new(level)))?;
            let swapped = self.0.compare_exchange(level, next.as_u64(), Ordering::AcqRel, Ordering::Acquire);
            if swapped.is_ok() {
                return Ok(outcome);
            }
        }
    }
}

impl Clock for SinceMade {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        Nanos::new(u64::try_from(self.0.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    fn bucket(limit: u32) -> Bucket {
        Bucket::per_minute(NonZeroU32::new(limit).unwrap())
    }

    fn left(bucket: &Bucket) -> (u32, u64) {
        let standing = bucket.standing();
        (standing.remaining, standing.reset.as_secs())
    }

    #[tokio::test(start_paused = true)]
    async fn it_empties_and_fills_steadily() {
        let bucket = bucket(60);
        assert_eq!(left(&bucket), (60, 0));
        for _ in 0..60 {
            bucket.take(1).unwrap();
        }
        assert_eq!(left(&bucket), (0, 60));
        assert_eq!(bucket.take(1).unwrap_err().as_secs(), 1);
        assert_eq!(bucket.take(10).unwrap_err().as_secs(), 10);
        advance(Duration::from_secs(10)).await;
        assert_eq!(left(&bucket), (10, 50));
        bucket.take(10).unwrap();
        advance(Duration::from_secs(600)).await;
        assert_eq!(left(&bucket), (60, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_debt_is_carried_and_what_was_not_used_comes_back() {
        let bucket = bucket(60);
        bucket.take(50).unwrap();
        bucket.owe(70);
        assert_eq!(left(&bucket), (0, 120));
        assert_eq!(bucket.take(1).unwrap_err().as_secs(), 61);
        bucket.give_back(100);
        assert_eq!(left(&bucket), (40, 20));
        // More than was taken is not kept.
        bucket.give_back(100);
        assert_eq!(left(&bucket), (60, 0));
        advance(Duration::from_secs(600)).await;
        bucket.owe(5);
        assert_eq!(left(&bucket), (55, 5));
    }

    #[tokio::test(start_paused = true)]
    async fn what_costs_more_than_a_minute_wants_a_full_bucket_and_leaves_a_debt() {
        let bucket = bucket(60);
        bucket.take(100).unwrap();
        assert_eq!(left(&bucket), (0, 100));
        assert_eq!(bucket.take(100).unwrap_err().as_secs(), 100);
        advance(Duration::from_secs(100)).await;
        bucket.take(100).unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn large_limits_are_exact() {
        let bucket = bucket(1_000_000_000);
        bucket.take(400_000_000).unwrap();
        assert_eq!(left(&bucket), (600_000_000, 24));
    }
}
