//! What a client asks, decoded: the same for both APIs.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{CallTrace, Item, KeyId, RequestId, ResponseId, SessionIdentity, Tool, ToolChoice, WebSearch};

/// One call, decoded and checked at the edge. Items are in the form `thread/inject_items` takes: typed,
/// `developer` instead of `system`, content as parts, images inlined.
#[derive(Debug, Clone)]
pub struct TurnRequest {
    /// The id its response will have; chosen at the edge so that every log line carries it.
    pub response_id: ResponseId,
    /// The HTTP request it came with.
    pub request_id: RequestId,
    /// Whose request it is.
    pub key: KeyId,
    /// Which conversation of the caller's it belongs to; scopes what is looked for beside `previous`. One
    /// that the caller did not name gives way to that of `previous`.
    pub session: SessionIdentity,
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
    /// Most tokens of the answer's text; past it the answer is cut and incomplete.
    pub max_output_tokens: Option<u64>,
    /// Sequences that end the answer's text; none is part of it.
    pub stop: Vec<String>,
    /// Longest time for the app-server's retries, where the client wants less than the setting.
    pub max_retry_wait: Option<Duration>,
    /// What is kept of the call once it has ended.
    pub retention: Retention,
    /// The encrypted content of reasoning items is wanted.
    pub encrypted_reasoning: bool,
    /// Calls with different ones are not to share a prompt cache key.
    pub prompt_cache_key: Option<String>,
    /// Passed on as `responsesapiClientMetadata`, with the session's id.
    pub client_metadata: BTreeMap<String, String>,
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
