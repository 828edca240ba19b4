//! What lies behind the app-server: the account's windows, a backend that fails, and who answers in its place.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;
use url::Url;

/// The account's usage windows.
#[derive(Debug, Clone)]
pub struct UpstreamConfig {
    /// Share of each window that is left to the owner's own Codex, percent.
    pub reserve_percent: u8,
    /// The windows are asked for again when a call comes and they are this old.
    pub refresh: Duration,
}

impl Default for UpstreamConfig {
    fn default() -> Self {
        // Every answer tells them too: this is for what the owner uses elsewhere.
        Self { reserve_percent: 0, refresh: Duration::from_secs(300) }
    }
}

/// The circuit breaker over the backend's failures.
#[derive(Debug, Clone)]
pub struct BreakerConfig {
    /// What it does.
    pub mode: BreakerMode,
    /// Failures within the window that open it, at the least.
    pub failures: usize,
    /// Share of the window's calls that must have failed, percent.
    pub failure_percent: u8,
    /// How far back calls count.
    pub window: Duration,
    /// How long it stays open before a probe.
    pub open: Duration,
    /// Calls let through at once while it is half open; as many must succeed to close it.
    pub probes: usize,
}

impl Default for BreakerConfig {
    fn default() -> Self {
        Self {
            mode: BreakerMode::Observe,
            failures: 10,
            failure_percent: 50,
            window: Duration::from_secs(60),
            // About as long as the app-server's own retries of one call.
            open: Duration::from_secs(30),
            probes: 2,
        }
    }
}

/// What the circuit breaker does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BreakerMode {
    /// Nothing: it does not count either.
    Off,
    /// Counts, and tells what it would do.
    #[default]
    Observe,
    /// Refuses calls while it is open.
    Enforce,
}

/// An OpenAI-compatible server for calls that the app-server cannot take.
#[derive(Clone)]
pub struct FallbackConfig {
    /// Its address, up to and with `/v1`; none: no fallback.
    pub base_url: Option<Url>,
    /// Sent to it as a bearer token.
    pub api_key: Option<SecretString>,
    /// The file that `api_key` was read from, where it was one.
    pub api_key_file: Option<PathBuf>,
    /// What it calls the model, for models that `models` does not name; `None` passes the name on.
    pub model: Option<String>,
    /// What it calls each model of the client's.
    pub models: BTreeMap<String, String>,
    /// Classes of tasks it may take; empty for all, and for calls without a class.
    pub task_classes: Vec<String>,
    /// When it takes a call.
    pub on: Vec<FallbackReason>,
    /// Its whole answer must be there by then.
    pub timeout: Duration,
    /// Calls it has at once; with more the call fails as it would without it.
    pub max_calls: usize,
}

impl Default for FallbackConfig {
    fn default() -> Self {
        Self {
            base_url: None,
            api_key: None,
            api_key_file: None,
            model: None,
            models: BTreeMap::new(),
            task_classes: Vec::new(),
            on: FallbackReason::ALL.to_vec(),
            timeout: Duration::from_secs(120),
            max_calls: 8,
        }
    }
}

impl fmt::Debug for FallbackConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FallbackConfig")
            .field("base_url", &self.base_url.as_ref().map(Url::as_str))
            .field("model", &self.model)
            .field("models", &self.models)
            .field("task_classes", &self.task_classes)
            .field("on", &self.on)
            .field("timeout", &self.timeout)
            .field("max_calls", &self.max_calls)
            .finish_non_exhaustive()
    }
}

/// Why the native path cannot take a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FallbackReason {
    /// No app-server, or the circuit breaker is open.
    Down,
    /// Nobody is logged in, or the login is good no more.
    LoggedOut,
    /// The account's window is used up, or down to the reserve.
    UsedUp,
}

impl FallbackReason {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Down, Self::LoggedOut, Self::UsedUp];

    /// The word for it in settings, headers and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Down => "down",
            Self::LoggedOut => "logged_out",
            Self::UsedUp => "used_up",
        }
    }
}
