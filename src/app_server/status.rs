//! How the app-server stands, for health and for the log.

use std::time::SystemTime;

/// Who runs the app-server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AppServerMode {
    /// A child of ours.
    Supervised,
    /// Somebody else; we only connect.
    Connected,
}

impl AppServerMode {
    /// As health shows it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Supervised => "supervised",
            Self::Connected => "connected",
        }
    }
}

/// Where its supervisor is with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AppServerState {
    /// Not ready for the first time yet.
    Starting,
    /// Calls can be made.
    Ready,
    /// It was lost and is being had again.
    Reconnecting,
    /// It cannot be had, or keeps ending; tried again now and then.
    Failed,
    /// Stopped by us.
    Stopped,
}

impl AppServerState {
    /// As health shows it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Reconnecting => "reconnecting",
            Self::Failed => "failed",
            Self::Stopped => "stopped",
        }
    }
}

/// One look at the app-server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppServerStatus {
    /// Where its supervisor is with it.
    pub state: AppServerState,
    /// Who runs it.
    pub mode: AppServerMode,
    /// Why it is not ready, for people.
    pub reason: Option<String>,
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
    /// Since when it is in this state.
    pub since: SystemTime,
    /// Turns of ours that nobody waited for and that were interrupted.
    pub orphans: u64,
    /// Bytes sent on the connections that may be used.
    pub bytes_sent: u64,
    /// Each of them, where several share the load.
    pub processes: Vec<ProcessStatus>,
}

/// One look at one of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessStatus {
    /// Where its supervisor is with it.
    pub state: AppServerState,
    /// Why it is not ready, for people.
    pub reason: Option<String>,
    /// Its own version, once known.
    pub version: Option<String>,
    /// Its connection's: no other one has the same.
    pub generation: u64,
    /// Process id, if it is ours.
    pub pid: Option<u32>,
    /// Resident, bytes, as last looked at.
    pub memory: Option<u64>,
    /// Its databases on disk, bytes, as last looked at.
    pub databases: Option<u64>,
    /// Turns that run on it.
    pub turns: usize,
    /// Threads of ours on it.
    pub threads: usize,
    /// Why its last connection ended.
    pub last_disconnect: Option<String>,
    /// Since when it is in this state.
    pub since: SystemTime,
}
