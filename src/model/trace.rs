//! What became of one call: where it ran, how long each phase took. No text.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::{Kept, ResponseId, Route, SessionIdentity, ThreadId, TurnId, Usage};

/// The trace of one answer, written by the engine while it runs and read by the edge at any time: also after a
/// failure, and after its client has left. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct CallTrace(Arc<Shared>);

struct Shared {
    since: Instant,
    /// Never held across an await.
    trace: Mutex<Trace>,
}

/// What is known of a call so far.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Trace {
    /// The response it makes.
    pub response_id: Option<ResponseId>,
    /// The caller's conversation.
    pub session: Option<SessionIdentity>,
    /// How it found its thread.
    pub route: Option<Route>,
    /// Why no thread or turn that was there did, where one was looked for.
    pub rebuilt_because: Option<Rebuilt>,
    /// The native thread.
    pub thread: Option<ThreadId>,
    /// The native turn.
    pub turn: Option<TurnId>,
    /// Of the app-server's connection.
    pub generation: Option<u64>,
    /// The upstream response's own id.
    pub upstream_response_id: Option<String>,
    /// The response that is continued.
    pub previous: Option<ResponseId>,
    /// Responses in the chain, this one included.
    pub chain_length: Option<u32>,
    /// What is kept of it for its continuation; `None` where nothing is.
    pub kept: Option<Kept>,
    /// When each phase had ended.
    pub phases: Phases,
    /// Turns run for the answer: more than one where an answer was asked for again.
    pub turns: u32,
    /// How often the app-server tried again upstream.
    pub retries: u32,
    /// Turns run again because the app-server was lost under them, before the client had seen anything.
    pub reruns: u32,
    /// Figures of the upstream response.
    pub usage: Option<Usage>,
    /// How it ended.
    pub ended: Option<Ended>,
}

/// Since the call was handed to the engine; each no later than the next.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Phases {
    /// A slot was free.
    pub queued: Option<Duration>,
    /// The app-server had accepted the turn.
    pub starting: Option<Duration>,
    /// The first sign of the answer had come.
    pub first_event: Option<Duration>,
    /// It was over.
    pub done: Option<Duration>,
}

/// Why a conversation that was to go on was rebuilt on a fresh thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rebuilt {
    /// No thread with that tip is loaded: it was let go, another request took it, or it ended with another bridge.
    NotLoaded,
    /// The thread belongs to an earlier connection.
    Disconnected,
    /// Tools, verbosity, web search or image generation differ, which belong to a thread; where a turn waited for
    /// its tools' outputs, anything that shapes the answer.
    SettingsChanged,
    /// Another model is asked for: the app-server would tell the thread so in its own words.
    ModelChanged,
    /// The instructions differ, which are the thread's first item.
    InstructionsChanged,
    /// The chain was begun under another login.
    OtherAccount,
    /// A compaction stands for what the thread has said.
    Compacted,
    /// The thread or the held turn was lost while it was taken over.
    Lost,
}

/// How a turn ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// The model answered in full.
    Answered,
    /// It wants functions called.
    Called,
    /// A rule of the client's cut the answer.
    Cut,
    /// The backend ended the answer early.
    Incomplete,
    /// There is no answer.
    Failed,
    /// The client left.
    Abandoned,
}

impl CallTrace {
    /// Of the answer that will be `response_id`.
    pub fn new(response_id: ResponseId, session: SessionIdentity) -> Self {
        let trace = Trace { response_id: Some(response_id), session: Some(session), ..Trace::default() };
        Self(Arc::new(Shared { since: Instant::now(), trace: Mutex::new(trace) }))
    }

    /// Since it began.
    pub fn elapsed(&self) -> Duration {
        self.0.since.elapsed()
    }

    /// Writes into it. `write` must not block.
    pub fn note(&self, write: impl FnOnce(&mut Trace)) {
        write(&mut self.0.trace.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// What is known by now.
    pub fn read(&self) -> Trace {
        self.0.trace.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl fmt::Debug for CallTrace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.read().fmt(f)
    }
}

impl Rebuilt {
    /// The word for it in traces.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotLoaded => "not_loaded",
            Self::Disconnected => "disconnected",
            Self::SettingsChanged => "settings_changed",
            Self::ModelChanged => "model_changed",
            Self::OtherAccount => "other_account",
            Self::InstructionsChanged => "instructions_changed",
            Self::Compacted => "compacted",
            Self::Lost => "lost",
        }
    }
}

impl Ended {
    /// The word for it in traces and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Called => "called",
            Self::Cut => "cut",
            Self::Incomplete => "incomplete",
            Self::Failed => "failed",
            Self::Abandoned => "abandoned",
        }
    }
}
