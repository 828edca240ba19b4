//! What the stand-in answers, before it becomes events.

use std::time::Duration;

/// One answer: perhaps a thought, then text or calls; or a planned failure of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    /// The reasoning summary that comes first.
    pub(crate) thought: Option<String>,
    /// What is answered where nothing fails.
    pub(crate) body: Body,
    /// How it fails.
    pub(crate) failure: Option<Planned>,
}

/// Text or function calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Body {
    /// A message, a pause before each of its words.
    Text { text: String, pause: Duration },
    /// A message that says why there is no other.
    Refusal(String),
    /// A web search for this, and a message that cites what it found.
    Search(String),
    /// Function calls, all in one response.
    Calls(Vec<Call>),
    /// A compaction item that holds this summary, after a pause.
    Compaction { summary: String, pause: Duration },
}

impl Body {
    /// A message without pauses.
    pub(crate) fn text(text: impl Into<String>) -> Self {
        Self::Text { text: text.into(), pause: Duration::ZERO }
    }
}

/// One function call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Call {
    pub(crate) namespace: Option<String>,
    pub(crate) name: String,
    /// JSON, as it is sent.
    pub(crate) arguments: String,
}

/// A failure, and whether only the first attempt of the conversation meets it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Planned {
    pub(crate) failure: Failure,
    pub(crate) once: bool,
}

/// How an answer fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    /// This HTTP error, before anything is streamed; `retry_after` in seconds.
    Status { status: u16, retry_after: Option<u64>, code: Option<&'static str> },
    /// A 400 whose words quote what the user said last.
    Quote,
    /// The 429 of a plan's used-up window.
    UsageLimit,
    /// The stream ends after two deltas, without a terminal event.
    Cut,
    /// The stream goes silent after two deltas and stays open.
    Stall,
    /// `response.failed` with this code; `late` after two deltas. `retry_after`, seconds, is told in its words.
    Failed { code: &'static str, retry_after: Option<u64>, late: bool },
    /// `response.incomplete` with this reason.
    Incomplete(&'static str),
}
