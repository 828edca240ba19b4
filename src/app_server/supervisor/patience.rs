//! How long to wait before the next try, and when to call it a crash loop. Pure.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};

use crate::app_server::AppServerMode;
use crate::app_server::launch::LONGEST_START;

/// An app-server that ran this long starts with a clean slate when it is lost.
const STABLE: Duration = Duration::from_secs(30);

/// The first wait; doubled each time, with as much again at random.
const SHORTEST: Duration = Duration::from_millis(100);

/// Starts in a row that took too long, after which nobody waits any more either.
const LATE: u32 = 2;

/// Failures in a row after which nobody waits any more; the tries go on.
const EXHAUSTED: u32 = 5;

/// Counts failures in a row.
#[derive(Debug)]
pub(super) struct Patience {
    builder: ExponentialBuilder,
    waits: ExponentialBackoff,
    failures: u32,
    /// Starts in a row that took too long.
    late: u32,
}

impl Patience {
    pub(super) fn new(mode: AppServerMode) -> Self {
        let longest = match mode {
            AppServerMode::Supervised => Duration::from_secs(30),
            // Somebody starts it beside us, perhaps later: soon found, and asking costs little.
            AppServerMode::Connected => Duration::from_secs(3),
        };
        let builder = ExponentialBuilder::new()
            .with_min_delay(SHORTEST)
            .with_max_delay(longest)
            .with_factor(2.0)
            .with_jitter()
            .without_max_times();
        Self { builder, waits: builder.build(), failures: 0, late: 0 }
    }

    /// A try failed: how long to wait before the next one.
    pub(super) fn failed(&mut self) -> Duration {
        self.failures = self.failures.saturating_add(1);
        // Without a limit on times the series never ends.
        self.waits.next().unwrap_or(SHORTEST)
    }

    /// A start took too long.
    pub(super) fn timed_out(&mut self) {
        self.late = self.late.saturating_add(1);
    }

    /// How long the next start may take, where `setting` is what it may take at first: twice as long after each that
    /// was late, for the machine may have little time for it.
    pub(super) fn start_limit(&self, setting: Duration) -> Duration {
        setting.saturating_mul(
            1_u32.checked_shl(self.late).map_or(LONGEST_START, |times| times.min(LONGEST_START)),
        )
    }

    /// One was ready and is lost after `time`: how long to wait before the next try. A stable one is had
    /// again at once; for the others it counts as a failure.
    pub(super) fn ran(&mut self, time: Duration) -> Duration {
        if time < STABLE {
            return self.failed();
        }
        (self.failures, self.late) = (0, 0);
        self.waits = self.builder.build();
        Duration::ZERO
    }

    pub(super) fn failures(&self) -> u32 {
        self.failures
    }

    pub(super) fn is_exhausted(&self) -> bool {
        self.failures >= EXHAUSTED || self.late >= LATE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_bound_and_start_anew_after_a_stable_run() {
        let mut patience = Patience::new(AppServerMode::Supervised);
        let waits: Vec<_> = (0..20).map(|_| patience.failed()).collect();
        assert!(waits[0] >= SHORTEST && waits[0] <= SHORTEST * 2, "{waits:?}");
        assert!(waits[3] >= SHORTEST * 8, "{waits:?}");
        assert!(waits.iter().all(|wait| *wait <= Duration::from_secs(60)), "{waits:?}");
        assert!(patience.is_exhausted());
        assert_eq!(patience.ran(STABLE), Duration::ZERO);
        assert_eq!((patience.failures(), patience.is_exhausted()), (0, false));
        assert!(patience.failed() <= SHORTEST * 2);
    }

    #[test]
    fn a_start_that_took_too_long_is_given_longer_up_to_a_bound() {
        let mut patience = Patience::new(AppServerMode::Supervised);
        let setting = Duration::from_secs(30);
        let limits: Vec<_> = (0..5)
            .map(|_| {
                let limit = patience.start_limit(setting);
                patience.timed_out();
                limit.as_secs()
            })
            .collect();
        assert_eq!(limits, [30, 60, 120, 120, 120]);
        assert!(patience.is_exhausted());
        patience.ran(STABLE);
        assert_eq!((patience.start_limit(setting), patience.is_exhausted()), (setting, false));
    }

    #[test]
    fn short_runs_are_a_crash_loop() {
        let mut patience = Patience::new(AppServerMode::Connected);
        for _ in 0..EXHAUSTED {
            assert!(!patience.is_exhausted());
            assert!(patience.ran(Duration::from_secs(1)) >= SHORTEST);
        }
        assert!(patience.is_exhausted());
    }
}
