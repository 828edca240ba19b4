//! The made-up account: how full its usage windows are, and whether its tokens are still good.
//!
//! Steered by the directive `WINDOW <percent> <seconds>`, by `PUT /account`, and by whoever holds the stand-in.

use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Deserialize;
use serde_json::{Value, json};

use super::unix_seconds;

/// The plan.
pub(crate) const PLAN: &str = "plus";
/// When a window that nobody steers resets, seconds from now.
pub(crate) const RESETS_IN: u64 = 3600;

/// Names and lengths of the windows, seconds, and what share is used where nobody says otherwise.
const WINDOWS: [(&str, u64, u64); 2] = [("primary", 5 * 3600, 42), ("secondary", 7 * 24 * 3600, 17)];

/// How full one window is until it resets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct Filled {
    /// 0 to 100.
    pub used_percent: u64,
    /// Seconds from when it was said.
    pub resets_in: u64,
}

/// What can be said of the account; what is left out stays as it was.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AccountChange {
    /// The short window.
    pub primary: Option<Filled>,
    /// The long window.
    pub secondary: Option<Filled>,
    /// Whether its tokens are turned away, and not renewed.
    pub revoked: Option<bool>,
    /// Whether what goes beyond the windows is paid for.
    pub credits: Option<bool>,
}

/// Shared by everything that speaks of the account.
#[derive(Debug, Default)]
pub(crate) struct Account(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// In the order of [`WINDOWS`], as they were filled: percent, and when they reset, Unix seconds.
    filled: [Option<(u64, u64)>; 2],
    revoked: bool,
    credits: bool,
}

/// One window as it is now.
struct Window {
    name: &'static str,
    used: u64,
    seconds: u64,
    resets_at: u64,
}

impl Account {
    pub(crate) fn change(&self, change: AccountChange) {
        let mut state = self.lock();
        for (filled, window) in state.filled.iter_mut().zip([change.primary, change.secondary]) {
            if let Some(Filled { used_percent, resets_in }) = window {
                *filled = Some((used_percent.min(100), unix_seconds() + resets_in));
            }
        }
        state.revoked = change.revoked.unwrap_or(state.revoked);
        state.credits = change.credits.unwrap_or(state.credits);
    }

    pub(crate) fn is_revoked(&self) -> bool {
        self.lock().revoked
    }

    /// When a used-up window resets, Unix seconds; `None` while the model answers.
    pub(crate) fn used_up_until(&self) -> Option<u64> {
        let state = self.lock();
        let full = windows(&state).into_iter().filter(|window| window.used >= 100);
        full.map(|window| window.resets_at).max().filter(|_| !state.credits)
    }

    /// As the event that comes before an answer.
    pub(crate) fn event(&self) -> Value {
        let mut limits = self.limits();
        for window in windows(&self.lock()) {
            limits[window.name] = json!({
                "used_percent": window.used, "window_minutes": window.seconds / 60, "reset_at": window.resets_at,
            });
        }
        json!({"type": "codex.rate_limits", "plan_type": PLAN, "rate_limits": limits})
    }

    /// As headers of an answer over HTTP.
    pub(crate) fn headers(&self) -> Vec<(String, u64)> {
        let of = |window: Window| {
            [
                ("used-percent", window.used),
                ("window-minutes", window.seconds / 60),
                ("reset-at", window.resets_at),
            ]
            .map(|(what, value)| (format!("x-codex-{}-{what}", window.name), value))
        };
        windows(&self.lock()).into_iter().flat_map(of).collect()
    }

    /// As `GET wham/usage` tells it.
    pub(crate) fn usage(&self) -> Value {
        let mut limits = self.limits();
        let state = self.lock();
        for window in windows(&state) {
            limits[format!("{}_window", window.name)] = json!({
                "used_percent": window.used, "limit_window_seconds": window.seconds,
                "reset_after_seconds": window.resets_at.saturating_sub(unix_seconds()),
                "reset_at": window.resets_at,
            });
        }
        let balance = if state.credits { "100" } else { "0" };
        json!({
            "plan_type": PLAN,
            "rate_limit": limits,
            "credits": {"has_credits": state.credits, "unlimited": false, "balance": balance},
        })
    }

    fn limits(&self) -> Value {
        let reached = self.used_up_until().is_some();
        json!({"allowed": !reached, "limit_reached": reached})
    }

    /// Never held across an await.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn windows(state: &State) -> [Window; 2] {
    let now = unix_seconds();
    let mut filled = state.filled.iter();
    WINDOWS.map(|(name, seconds, usual)| {
        let filled = filled.next().copied().flatten().filter(|(_, resets_at)| *resets_at > now);
        let (used, resets_at) = filled.unwrap_or((usual, now + RESETS_IN));
        Window { name, used, seconds, resets_at }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn primary(used_percent: u64, resets_in: u64) -> AccountChange {
        AccountChange { primary: Some(Filled { used_percent, resets_in }), ..AccountChange::default() }
    }

    #[test]
    fn a_full_window_is_told_everywhere_until_it_resets() {
        let account = Account::default();
        assert_eq!(account.used_up_until(), None);
        assert_eq!(account.event()["rate_limits"]["primary"]["used_percent"], 42);
        account.change(primary(100, 60));
        let until = account.used_up_until().unwrap();
        assert!((59..=60).contains(&(until - unix_seconds())));
        assert_eq!(account.event()["rate_limits"]["limit_reached"], true);
        assert_eq!(account.usage()["rate_limit"]["primary_window"]["reset_at"], until);
        assert!(account.headers().contains(&("x-codex-primary-used-percent".into(), 100)));
        account.change(primary(100, 0));
        assert_eq!(account.used_up_until(), None);
    }

    #[test]
    fn who_has_credits_goes_on() {
        let account = Account::default();
        account.change(AccountChange { credits: Some(true), ..primary(100, 60) });
        assert_eq!(account.used_up_until(), None);
        assert_eq!(account.usage()["credits"]["has_credits"], true);
    }
}
