//! One of the app-servers, as its supervisor tells of it.

use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use crate::app_server::launch::Live;
use crate::app_server::supervisor::{Order, Phase, Snapshot};
use crate::app_server::{AppServerError, AppServerState, ProcessStatus};

/// One app-server, as its supervisor tells of it.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) snapshot: watch::Receiver<Snapshot>,
    pub(super) orders: mpsc::Sender<Order>,
}

impl Member {
    pub(super) fn status(&self) -> ProcessStatus {
        self.snapshot.borrow().status()
    }
}

impl Snapshot {
    pub(super) fn status(&self) -> ProcessStatus {
        let (state, live, reason) = match &self.phase {
            Phase::Starting => (AppServerState::Starting, None, None),
            Phase::Ready(live) => (AppServerState::Ready, Some(live), None),
            Phase::Reconnecting { reason } => (AppServerState::Reconnecting, None, Some(reason)),
            Phase::Failed { reason } => (AppServerState::Failed, None, Some(reason)),
            Phase::Stopped => (AppServerState::Stopped, None, None),
        };
        ProcessStatus {
            state,
            reason: reason.cloned(),
            version: live.and_then(|live| live.version.clone()),
            generation: self.generation,
            pid: live.and_then(|live| live.pid),
            memory: self.measured.memory,
            databases: self.measured.databases,
            turns: live.map_or(0, |live| live.connection.running_turns()),
            threads: live.map_or(0, |live| live.connection.threads()),
            last_disconnect: self.last_disconnect.clone(),
            since: self.since,
        }
    }
}

impl Phase {
    /// The app-server, if it is ready. One that has just ended stays in view until its supervisor has noticed.
    pub(super) fn live(&self) -> Option<Arc<Live>> {
        match self {
            Self::Ready(live) if !live.connection.is_closed() => Some(Arc::clone(live)),
            _ => None,
        }
    }
}

/// Where none is ready: what is waited for, or why there is nothing to wait for.
pub(super) fn outlook(phases: &[Phase]) -> Result<Option<String>, AppServerError> {
    let mut failed = None;
    for phase in phases {
        match phase {
            Phase::Ready(_) | Phase::Starting => return Ok(None),
            Phase::Reconnecting { reason } => return Ok(Some(reason.clone())),
            Phase::Failed { reason } => failed = failed.or(Some(reason)),
            Phase::Stopped => {}
        }
    }
    let reason = failed.cloned().unwrap_or_else(|| "it is stopped".into());
    Err(AppServerError::Unavailable { reason })
}
