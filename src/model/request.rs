//! What a client asks, decoded: the same for both APIs.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::{
    CallTicket, CallTrace, Item, KeyId, RequestId, ResponseId, SessionIdentity, TaskClass, Tool, ToolChoice,
    Usage, WebSearch,
};

/// One call, decoded and checked at the edge. Items are in the form `thread/inject_items` takes: typed,
/// `developer` instead of `system`, content as parts, images inlined.
#[derive(Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "each is asked for by itself")]
pub struct TurnRequest {
    /// The id its response will have; chosen at the edge so that every log line carries it.
    pub response_id: ResponseId,
    /// The HTTP request it came with.
    pub request_id: RequestId,
    /// Of the call that it is a turn of, perhaps one of several.
    pub ticket: CallTicket,
    /// Whose request it is.
    pub key: KeyId,
    /// Which conversation of the caller's it belongs to; scopes what is looked for beside `previous`. One
    /// that the caller did not name gives way to that of `previous`.
    pub session: SessionIdentity,
    /// The class of task it is, for figures and the log; its defaults are already in the other fields.
    pub task_class: Option<TaskClass>,
    /// Who goes first where there is a queue.
    pub priority: Priority,
    /// Most turns of its key at once.
    pub concurrency: Option<usize>,
    /// Longest time from dispatch to the end, where it is to be less than the setting.
    pub deadline: Option<Duration>,
    /// What becomes of it, for the caller and the log.
    pub trace: CallTrace,
    /// The model as the client named it; the bridge resolves aliases and the default.
    pub model: Option<String>,
    /// Goes in as the first developer item; not carried over by `previous`.
    pub instructions: Option<String>,
    /// The new items, oldest first; never empty unless `previous` is set.
    pub input: Vec<Item>,
    /// The response this one continues.
    pub previous: Option<ResponseId>,
    /// No answer is wanted, but what takes the conversation's place: what was asked in it, and a summary.
    pub compacts: bool,
    /// Reasoning effort, in the backend's words; `None` is the model's default.
    pub effort: Option<String>,
    /// Reasoning summary, in the backend's words; `None` asks for none.
    pub summary: Option<String>,
    /// `text.verbosity`; belongs to the thread.
    pub verbosity: Option<String>,
    /// `flex`, `priority`, …; `None` for `auto` and `default`.
    pub service_tier: Option<String>,
    /// A JSON schema the answer must follow.
    pub output_schema: Option<serde_json::Value>,
    /// Tools of the client's that the model may call.
    pub tools: Vec<Tool>,
    /// Which of them it may or must call.
    pub tool_choice: ToolChoice,
    /// Whether one answer may hold several calls.
    pub parallel_tool_calls: bool,
    /// The backend's own web search.
    pub web_search: Option<WebSearch>,
    /// The backend's own image generation.
    pub image_generation: bool,
    /// What earlier attempts at this answer took; counted with its own.
    pub spent: Option<Usage>,
    /// When it is to be done, the wait for its turn included: a further attempt at an answer has no time of its own.
    pub until: Option<Instant>,
    /// Most tokens of the answer's text; past it the answer is cut and incomplete.
    pub max_output_tokens: Option<u64>,
    /// Sequences that end the answer's text; none is part of it.
    pub stop: Vec<String>,
    /// Longest time for the app-server's retries, where the client wants less than the setting.
    pub max_retry_wait: Option<Duration>,
    /// What is kept of the call once it has ended.
    pub retention: Retention,
    /// What the edge wants to have back with a stored record: text of its own that nobody else reads.
    pub head: Option<Arc<str>>,
    /// The encrypted content of reasoning items is wanted.
    pub encrypted_reasoning: bool,
    /// Calls with different ones are not to share a prompt cache key.
    pub prompt_cache_key: Option<String>,
    /// Passed on as `responsesapiClientMetadata`, with the session's id.
    pub client_metadata: BTreeMap<String, String>,
}

impl TurnRequest {
    /// A request that says `input` and nothing else: nobody's key, no named session, the account's own model and
    /// settings, to be continued from memory.
    pub fn new(input: Vec<Item>) -> Self {
        let (response_id, session) = (ResponseId::generate(), SessionIdentity::fresh());
        Self {
            trace: CallTrace::new(response_id.clone(), session.clone()),
            response_id,
            request_id: RequestId::generate(),
            ticket: CallTicket::default(),
            key: KeyId::anonymous(),
            session,
            task_class: None,
            priority: Priority::default(),
            concurrency: None,
            deadline: None,
            until: None,
            model: None,
            instructions: None,
            input,
            previous: None,
            compacts: false,
            effort: None,
            summary: None,
            verbosity: None,
            service_tier: None,
            output_schema: None,
            tools: Vec::new(),
            tool_choice: ToolChoice::Auto,
            parallel_tool_calls: true,
            web_search: None,
            image_generation: false,
            spent: None,
            max_output_tokens: None,
            stop: Vec::new(),
            max_retry_wait: None,
            retention: Retention::Continuable,
            head: None,
            encrypted_reasoning: false,
            prompt_cache_key: None,
            client_metadata: BTreeMap::new(),
        }
    }

    /// How long it may take, where `setting` is the most.
    pub fn time_limit(&self, setting: Duration) -> Duration {
        self.deadline.map_or(setting, |wanted| wanted.min(setting))
    }
}

/// Who goes first where there is a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub enum Priority {
    /// Somebody waits.
    #[default]
    Interactive,
    /// Nobody does: what is left of the slots is enough.
    Batch,
}

impl Priority {
    /// By its word.
    pub fn named(word: &str) -> Option<Self> {
        [Self::Interactive, Self::Batch].into_iter().find(|priority| priority.as_str() == word)
    }

    /// The word for it in settings, headers, traces and records.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Interactive => "interactive",
            Self::Batch => "batch",
        }
    }

    /// The lower of the two.
    #[must_use]
    pub fn or_lower(self, other: Self) -> Self {
        self.max(other)
    }
}

/// What is kept of a call once it has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retention {
    /// A retrievable record (`store: true`).
    Stored,
    /// Enough to be continued within the time limit, in memory only (`store: false` on `/v1/responses`).
    Continuable,
    /// Nothing that could be named (Chat Completions): at most a thread, for whoever brings all it has said.
    Nothing,
}
