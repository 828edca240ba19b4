//! How things stand, for `/v1/health` and `/readyz`.

use super::{AccountHealth, BreakerHealth, ContinuationCounts, SlotCounts};
use crate::app_server::ProcessStatus;
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
    /// The account's usage windows.
    pub account: AccountHealth,
    /// The circuit breaker over the backend's failures.
    pub breaker: BreakerHealth,
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
    /// Our child's resident memory, bytes, as last looked at.
    pub memory: Option<u64>,
    /// Why the last connection ended.
    pub last_disconnect: Option<String>,
    /// Whether it answered just now, within the bound.
    pub alive: bool,
    /// Turns run again because the app-server was lost under them.
    pub reruns: u64,
    /// Turns of ours that nobody waited for any more and that were interrupted.
    pub orphans: u64,
    /// Bytes sent on the connections that may be used.
    pub bytes_sent: u64,
    /// Each of them, where several share the load; one where it is one.
    pub processes: Vec<ProcessStatus>,
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
    /// Of these, of class `batch`.
    pub queued_batch: usize,
    /// Requests that may wait.
    pub queue_limit: usize,
    /// What became of requests for slots.
    pub counts: SlotCounts,
}

/// Continuation figures.
#[derive(Debug, Clone, Default)]
pub struct ContinuationHealth {
    /// What stored responses survive: `memory` nothing, `disk` the process, `shared` the machine.
    pub durability: &'static str,
    /// Records kept in memory.
    pub records: usize,
    /// Bytes of items kept in memory, about.
    pub bytes: usize,
    /// Idle threads kept loaded.
    pub warm_threads: usize,
    /// Threads started ahead.
    pub spare_threads: usize,
    /// Templates kept on disk.
    pub templates: usize,
    /// Turns that wait for their tools' outputs.
    pub held_turns: usize,
    /// The response store.
    pub store: StoreHealth,
    /// How look-ups fared.
    pub counts: ContinuationCounts,
}

/// The response store.
#[derive(Debug, Clone, Default)]
pub struct StoreHealth {
    /// Why it is not available; `None` while it is.
    pub outage: Option<String>,
    /// Records in it, where it knows.
    pub records: Option<u64>,
    /// Bytes in it, about, where it knows.
    pub bytes: Option<u64>,
}
