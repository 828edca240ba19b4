//! The account's usage windows, as last told.

use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use super::runtime::AppServer;
use super::{AppServerError, RateLimits};

/// Usage windows and when they were told.
#[derive(Debug, Clone, PartialEq)]
pub struct KnownRateLimits {
    /// The windows.
    pub limits: RateLimits,
    /// When the last of it was told.
    pub at: SystemTime,
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

    /// Takes in a sparse update: what is `None` did not change.
    pub(super) fn merge(&self, update: RateLimits) {
        let mut known = self.known();
        let limits = match known.take() {
            None => update,
            Some(KnownRateLimits { limits: old, .. }) => RateLimits {
                primary: update.primary.or(old.primary),
                secondary: update.secondary.or(old.secondary),
                plan: update.plan.or(old.plan),
                reached: update.reached.or(old.reached),
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
        let limits = self.live().await?.connection.rate_limits().await?;
        Ok(self.shared().limits.set(limits))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app_server::RateLimitWindow;

    fn window(used_percent: f64) -> RateLimitWindow {
        RateLimitWindow { used_percent, minutes: None, resets_at: None }
    }

    #[test]
    fn a_sparse_update_leaves_the_rest_as_it_was() {
        let last = LastRateLimits::default();
        assert_eq!(last.get(), None);
        let plan = Some("plus".to_owned());
        last.merge(RateLimits {
            primary: Some(window(10.0)),
            secondary: Some(window(1.0)),
            plan,
            reached: None,
        });
        last.merge(RateLimits { primary: Some(window(20.0)), ..RateLimits::default() });
        let known = last.get().unwrap().limits;
        assert_eq!((known.primary, known.secondary), (Some(window(20.0)), Some(window(1.0))));
        assert_eq!(known.plan.as_deref(), Some("plus"));
        last.forget();
        assert_eq!(last.get(), None);
    }
}
