//! The account's usage windows, as last told.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use super::runtime::AppServer;
use super::{AppServerError, RateLimitWindow, RateLimits};

/// The meter of ordinary usage. An account may have others, for single models or features.
const MAIN_METER: &str = "codex";

/// No window is longer, as far as anybody knows: a reset further away is not believed.
const LONGEST_WINDOW: Duration = Duration::from_secs(40 * 24 * 3600);

/// Clocks may differ by as much.
const CLOCKS: Duration = Duration::from_secs(3600);

/// Usage windows and when they were told.
#[derive(Debug, Clone, PartialEq)]
pub struct KnownRateLimits {
    /// The windows.
    pub limits: RateLimits,
    /// When the last of it was told.
    pub at: SystemTime,
}

/// A window that lets no call through.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FullWindow {
    /// Its length, where told.
    pub minutes: Option<u64>,
    /// 0 to 100.
    pub used_percent: f64,
    /// When it starts anew.
    pub resets_at: SystemTime,
}

impl RateLimits {
    /// The window of which `percent` or more is used, and which starts anew after `now`: the one that does so last,
    /// where there are several. What cannot be understood fills no window.
    pub fn full(&self, percent: f64, now: SystemTime) -> Option<FullWindow> {
        let windows = [self.primary.as_ref(), self.secondary.as_ref()].into_iter().flatten();
        let full = windows.filter(|window| window.used_percent >= percent).filter_map(|window| {
            let RateLimitWindow { used_percent, minutes, resets_at } = *window;
            let resets_at = resets_at.filter(|at| is_believable(*at, minutes, now))?;
            Some(FullWindow { minutes, used_percent, resets_at })
        });
        full.max_by_key(|window| window.resets_at)
    }

    /// Whether something pays for usage beyond the windows.
    pub fn is_paid_for(&self) -> bool {
        self.credits.as_ref().is_some_and(|credits| credits.has_credits || credits.unlimited)
    }
}

/// Whether a window of that length can start anew then.
fn is_believable(resets_at: SystemTime, minutes: Option<u64>, now: SystemTime) -> bool {
    let length =
        minutes.filter(|minutes| *minutes > 0).map(|minutes| Duration::from_secs(minutes.saturating_mul(60)));
    let length = length.unwrap_or(LONGEST_WINDOW).min(LONGEST_WINDOW);
    resets_at.duration_since(now).is_ok_and(|wait| !wait.is_zero() && wait <= length + CLOCKS)
}

/// The last known windows of the account that is logged in. Owned by the runtime's shared part.
#[derive(Debug, Default)]
pub(super) struct LastRateLimits {
    // A std mutex: held for a copy, never across an await.
    known: Mutex<Option<KnownRateLimits>>,
}

impl LastRateLimits {
    pub(super) fn get(&self) -> Option<KnownRateLimits> {
        self.known().clone()
    }

    /// Another account's windows say nothing about this one.
    pub(super) fn forget(&self) {
        *self.known() = None;
    }

    /// Takes in a sparse update: what is `None` did not change. That of another meter is passed over.
    pub(super) fn merge(&self, update: RateLimits) {
        let mut known = self.known();
        let meter = known.as_ref().and_then(|known| known.limits.meter.as_deref()).unwrap_or(MAIN_METER);
        if update.meter.as_deref().is_some_and(|of| of != meter) {
            return;
        }
        let limits = match known.take() {
            None => update,
            Some(KnownRateLimits { limits: old, .. }) => RateLimits {
                primary: update.primary.or(old.primary),
                secondary: update.secondary.or(old.secondary),
                plan: update.plan.or(old.plan),
                reached: update.reached.or(old.reached),
                meter: update.meter.or(old.meter),
                credits: update.credits.or(old.credits),
                // Said of the windows as they were.
                allowed: None,
            },
        };
        *known = Some(KnownRateLimits { limits, at: SystemTime::now() });
    }

    fn set(&self, limits: RateLimits) -> KnownRateLimits {
        let now = KnownRateLimits { limits, at: SystemTime::now() };
        *self.known() = Some(now.clone());
        now
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Option<KnownRateLimits>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AppServer {
    /// The account's usage windows as last told; never waits.
    pub fn rate_limits(&self) -> Option<KnownRateLimits> {
        self.shared().limits.get()
    }

    /// Asks for the usage windows as they are now (with a ChatGPT login a request to the backend).
    pub async fn read_rate_limits(&self) -> Result<KnownRateLimits, AppServerError> {
        let live = self.live().await?;
        let limits = live.connection.rate_limits().await?;
        // One that has been replaced meanwhile may have another account.
        if !self.current().contains(&live.generation) {
            return Ok(KnownRateLimits { limits, at: SystemTime::now() });
        }
        Ok(self.shared().limits.set(limits))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app_server::Credits;

    fn window(used_percent: f64) -> RateLimitWindow {
        RateLimitWindow { used_percent, minutes: None, resets_at: None }
    }

    fn primary(used_percent: f64) -> RateLimits {
        RateLimits { primary: Some(window(used_percent)), ..RateLimits::default() }
    }

    #[test]
    fn a_sparse_update_leaves_the_rest_as_it_was() {
        let last = LastRateLimits::default();
        assert_eq!(last.get(), None);
        let credits = Some(Credits { has_credits: true, ..Credits::default() });
        last.merge(RateLimits {
            secondary: Some(window(1.0)),
            plan: Some("plus".to_owned()),
            credits: credits.clone(),
            allowed: Some(true),
            ..primary(10.0)
        });
        last.merge(primary(20.0));
        let known = last.get().unwrap().limits;
        assert_eq!((known.primary, known.secondary), (Some(window(20.0)), Some(window(1.0))));
        assert_eq!((known.plan.as_deref(), known.credits, known.allowed), (Some("plus"), credits, None));
        last.forget();
        assert_eq!(last.get(), None);
    }

    #[test]
    fn another_meter_is_not_this_one() {
        let last = LastRateLimits::default();
        let of = |meter: &str, used| RateLimits { meter: Some(meter.into()), ..primary(used) };
        last.merge(of("codex_other", 100.0));
        assert_eq!(last.get(), None);
        last.merge(of("codex", 5.0));
        last.merge(of("codex_other", 100.0));
        assert_eq!(last.get().unwrap().limits.primary, Some(window(5.0)));
        last.merge(primary(6.0));
        assert_eq!(last.get().unwrap().limits.primary, Some(window(6.0)));
    }

    #[test]
    fn a_window_is_full_until_it_resets_and_only_if_it_makes_sense() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let after = |seconds| Some(now + Duration::from_secs(seconds));
        let limits = |used_percent, minutes, resets_at| RateLimits {
            primary: Some(RateLimitWindow { used_percent, minutes, resets_at }),
            secondary: Some(RateLimitWindow { used_percent: 30.0, minutes: None, resets_at: after(9) }),
            ..RateLimits::default()
        };
        let full = |limits: RateLimits, percent| limits.full(percent, now).map(|full| Some(full.resets_at));
        assert_eq!(full(limits(100.0, Some(300), after(60)), 100.0), Some(after(60)));
        assert_eq!(full(limits(99.9, Some(300), after(60)), 100.0), None);
        assert_eq!(full(limits(90.0, Some(300), after(60)), 80.0), Some(after(60)));
        assert_eq!(full(limits(90.0, Some(300), after(5)), 30.0), Some(after(9)), "the later one");
        for (minutes, resets_at) in [
            (Some(300), None),
            (Some(300), Some(now)),
            (Some(300), Some(now - CLOCKS)),
            // Milliseconds for seconds, a day for an hour.
            (None, after(1_800_000_000)),
            (Some(60), after(24 * 3600)),
        ] {
            assert_eq!(full(limits(100.0, minutes, resets_at), 100.0), None, "{minutes:?} {resets_at:?}");
        }
        assert_eq!(full(limits(f64::NAN, Some(300), after(60)), 100.0), None);
    }
}
