//! How things stand, for `/v1/health` and `/readyz`.

use crate::model::LoginState;

/// One look at everything.
#[derive(Debug, Clone, Default)]
pub struct Health {
    /// Whether a call made now would be tried.
    pub ready: bool,
    /// Why not, for people.
    pub reason: Option<String>,
    /// On the way down: new calls are refused.
    pub draining: bool,
    /// `None` while it cannot be told.
    pub login: Option<LoginState>,
    /// The peer.
    pub app_server: AppServerHealth,
    /// Admission.
    pub slots: SlotHealth,
    /// What is kept for `previous_response_id`.
    pub continuation: ContinuationHealth,
}

/// The app-server as its supervisor sees it.
#[derive(Debug, Clone, Default)]
pub struct AppServerHealth {
    /// `starting`, `ready`, `reconnecting`, `failed`, `stopped`.
    pub state: &'static str,
    /// `supervised` or `connected`.
    pub mode: &'static str,
    /// Its own version, once known.
    pub version: Option<String>,
    /// Connections made so far.
    pub generation: u64,
    /// Process id of our child.
    pub pid: Option<u32>,
    /// Why the last connection ended.
    pub last_disconnect: Option<String>,
    /// Whether it answered just now, within the bound.
    pub alive: bool,
}

/// Admission figures.
#[derive(Debug, Clone, Copy, Default)]
pub struct SlotHealth {
    /// Configured.
    pub total: usize,
    /// Turns that run.
    pub in_use: usize,
    /// Requests that wait.
    pub queued: usize,
    /// Requests that may wait.
    pub queue_limit: usize,
}

/// Continuation figures.
#[derive(Debug, Clone, Copy, Default)]
pub struct ContinuationHealth {
    /// `memory`: gone with the process.
    pub durability: &'static str,
    /// Records kept.
    pub records: usize,
    /// Bytes of items kept, about.
    pub bytes: usize,
    /// Idle threads kept loaded.
    pub warm_threads: usize,
    /// Threads started ahead.
    pub spare_threads: usize,
    /// Turns that wait for their tools' outputs.
    pub held_turns: usize,
}
