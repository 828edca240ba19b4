//! What the app-server tells about itself and the account.

use std::time::SystemTime;

/// What the app-server tells the whole connection.
#[derive(Debug, Clone, PartialEq)]
pub enum Notice {
    /// The login changed (`account/updated`): read the account and the models again.
    AccountUpdated,
    /// A login flow ended (`account/login/completed`).
    LoginCompleted {
        /// Whether it led to a login.
        success: bool,
    },
    /// Usage windows moved; sparse: what is `None` did not change.
    RateLimits(RateLimits),
    /// Something to tell people.
    Warning {
        /// The app-server's words.
        message: String,
    },
    /// Its configuration is at fault.
    ConfigWarning {
        /// The app-server's words.
        summary: String,
    },
}

/// The account's usage windows.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RateLimits {
    /// The short window.
    pub primary: Option<RateLimitWindow>,
    /// The long window.
    pub secondary: Option<RateLimitWindow>,
    /// The plan, where told.
    pub plan: Option<String>,
    /// Which limit is reached, in the backend's word.
    pub reached: Option<String>,
    /// Which of the account's meters it is; `None` is the main one.
    pub meter: Option<String>,
    /// What pays for usage beyond the windows, where told.
    pub credits: Option<Credits>,
    /// The backend's own word on whether the windows let a call through; told when asked, and by no update.
    pub allowed: Option<bool>,
}

/// What pays for usage beyond the windows.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Credits {
    /// There are some.
    pub has_credits: bool,
    /// They never end.
    pub unlimited: bool,
    /// How many, in the backend's words.
    pub balance: Option<String>,
}

/// One usage window.
#[derive(Debug, Clone, PartialEq)]
pub struct RateLimitWindow {
    /// 0 to 100.
    pub used_percent: f64,
    /// Its length.
    pub minutes: Option<u64>,
    /// When it starts anew.
    pub resets_at: Option<SystemTime>,
}

/// `server/diagnostics`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Diagnostics {
    /// The app-server's process id.
    pub pid: Option<u32>,
    /// Its resident memory.
    pub resident_bytes: Option<u64>,
    /// Threads it holds.
    pub threads_live: Option<u64>,
    /// Turns that run.
    pub turns_active: Option<u64>,
    /// Requests it works on.
    pub requests_in_flight: Option<u64>,
}
