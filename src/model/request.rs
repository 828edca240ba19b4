//! What a client asks, decoded: the same for both APIs.

use std::collections::BTreeMap;

use super::{Item, KeyId, RequestId, ResponseId};

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
    /// Function tools the model may call.
    pub tools: Vec<FunctionTool>,
    /// Which of them it may or must call.
    pub tool_choice: ToolChoice,
    /// Whether one answer may hold several calls.
    pub parallel_tool_calls: bool,
    /// The backend's own web search.
    pub web_search: bool,
    /// Most tokens of the answer's text; past it the answer is cut and incomplete.
    pub max_output_tokens: Option<u64>,
    /// Sequences that end the answer's text; none is part of it.
    pub stop: Vec<String>,
    /// What is kept of the call once it has ended.
    pub retention: Retention,
    /// Passed on as `responsesapiClientMetadata`.
    pub client_metadata: BTreeMap<String, String>,
}

/// A function the client offers.
#[derive(Debug, Clone, PartialEq)]
pub struct FunctionTool {
    /// As the client calls it; renamed on the way where the app-server does not take it.
    pub name: String,
    /// For the model.
    pub description: Option<String>,
    /// A JSON schema of the arguments, as the client gave it.
    pub parameters: serde_json::Value,
}

/// Which tools the model may or must call.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum ToolChoice {
    /// It decides.
    #[default]
    Auto,
    /// It may call none.
    None,
    /// It must call at least one of these; any, where the list is empty.
    Required(Vec<String>),
    /// It decides, among these alone.
    Allowed(Vec<String>),
}

/// What is kept of a call once it has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retention {
    /// A retrievable record (`store: true`).
    Stored,
    /// Enough to be continued within the time limit, in memory only (`store: false` on `/v1/responses`).
    Continuable,
    /// Nothing: the thread is let go at once (Chat Completions).
    Nothing,
}
