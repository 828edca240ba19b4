//! The Response object and the stream's events as they stand on the wire.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::api::observe::Envelope;
use crate::api::time::unix_seconds;
use crate::model::{IncompleteReason, Usage};

/// Fields of a response object that its record tells by itself.
pub(super) const TOLD_BY_RECORD: &[&str] =
    &["id", "status", "completed_at", "error", "incomplete_details", "model", "output", "usage"];
/// Ours, in what is kept of a response object: whether its reasoning items carry their encrypted content.
pub(super) const ENCRYPTED_REASONING: &str = "encrypted_reasoning";
/// Ours, in the same place: whether a background response was asked for as a stream.
pub(super) const STREAMED: &str = "streamed";

/// An output item, in official fields only.
pub(crate) type OutputItem = Map<String, Value>;

/// What an answer repeats of its request.
#[derive(Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "each is a field of the request's")]
pub(crate) struct Echo {
    pub(crate) instructions: Option<String>,
    pub(crate) metadata: BTreeMap<String, String>,
    pub(crate) previous_response_id: Option<String>,
    pub(crate) conversation: Option<String>,
    pub(crate) reasoning: ReasoningEcho,
    pub(crate) text: TextEcho,
    pub(crate) service_tier: &'static str,
    pub(crate) store: bool,
    pub(crate) max_output_tokens: Option<u64>,
    pub(crate) tools: Vec<Value>,
    pub(crate) tool_choice: Value,
    pub(crate) parallel_tool_calls: bool,
    pub(crate) user: Option<String>,
    pub(crate) safety_identifier: Option<String>,
    pub(crate) prompt_cache_key: Option<String>,
    pub(crate) background: bool,
    /// Whether a background response can be streamed again; not repeated itself.
    pub(crate) streamed: bool,
    /// Whether reasoning items carry their encrypted content; not repeated itself.
    pub(crate) encrypted_reasoning: bool,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct ReasoningEcho {
    pub(crate) effort: Option<String>,
    pub(crate) summary: Option<&'static str>,
}

#[derive(Debug, Clone, JsonSchema, Serialize)]
pub(crate) struct TextEcho {
    pub(crate) format: Value,
    /// Left out where the model's own default applies.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) verbosity: Option<&'static str>,
}

impl Default for TextEcho {
    fn default() -> Self {
        Self { format: json!({ "type": "text" }), verbosity: None }
    }
}

/// What all forms of one response have in common.
#[derive(Debug, Clone)]
pub(crate) struct Head {
    pub(crate) id: String,
    /// Unix seconds.
    pub(crate) created_at: u64,
    pub(crate) model: String,
    pub(crate) echo: Echo,
}

/// What the form of output items hangs on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Form<'a> {
    /// Of the response.
    pub(crate) id: &'a str,
    /// Whether reasoning items carry their encrypted content.
    pub(crate) encrypted_reasoning: bool,
}

impl Head {
    pub(crate) fn form(&self) -> Form<'_> {
        Form { id: &self.id, encrypted_reasoning: self.echo.encrypted_reasoning }
    }
}

/// How far a response has come.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Progress<'a> {
    Queued,
    Running,
    Cancelled,
    Completed {
        /// Unix seconds.
        at: u64,
    },
    Incomplete {
        reason: &'static str,
    },
    Failed {
        code: &'static str,
        message: &'a str,
    },
}

/// The official Response object.
#[derive(Debug, JsonSchema, Serialize)]
pub(crate) struct Response<'a> {
    id: &'a str,
    object: &'static str,
    created_at: u64,
    status: &'static str,
    background: bool,
    completed_at: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    conversation: Option<ConversationEcho<'a>>,
    error: Option<ResponseError<'a>>,
    // As `temperature`.
    frequency_penalty: f64,
    incomplete_details: Option<IncompleteDetails>,
    instructions: Option<&'a str>,
    max_output_tokens: Option<u64>,
    max_tool_calls: Option<u64>,
    metadata: &'a BTreeMap<String, String>,
    model: &'a str,
    output: &'a [OutputItem],
    parallel_tool_calls: bool,
    // As `temperature`.
    presence_penalty: f64,
    previous_response_id: Option<&'a str>,
    prompt_cache_key: Option<&'a str>,
    reasoning: Reasoning<'a>,
    safety_identifier: Option<&'a str>,
    service_tier: &'static str,
    store: bool,
    // The backend's own: nobody can set it.
    temperature: f64,
    text: &'a TextEcho,
    tool_choice: &'a Value,
    tools: &'a [Value],
    top_logprobs: u8,
    // As `temperature`.
    top_p: f64,
    truncation: &'static str,
    usage: Option<ResponseUsage>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<&'a str>,
    /// Ours, only where it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    bridge: Option<Envelope>,
}

#[derive(Debug, JsonSchema, Serialize)]
struct ConversationEcho<'a> {
    id: &'a str,
}

#[derive(Debug, JsonSchema, Serialize)]
struct ResponseError<'a> {
    code: &'static str,
    message: &'a str,
}

#[derive(Debug, JsonSchema, Serialize)]
struct IncompleteDetails {
    reason: &'static str,
}

#[derive(Debug, JsonSchema, Serialize)]
struct Reasoning<'a> {
    effort: Option<&'a str>,
    summary: Option<&'static str>,
}

#[derive(Debug, JsonSchema, Serialize)]
pub(super) struct ResponseUsage {
    input_tokens: u64,
    input_tokens_details: InputTokensDetails,
    output_tokens: u64,
    output_tokens_details: OutputTokensDetails,
    total_tokens: u64,
}

#[derive(Debug, JsonSchema, Serialize)]
struct InputTokensDetails {
    cached_tokens: u64,
    cache_write_tokens: u64,
}

#[derive(Debug, JsonSchema, Serialize)]
struct OutputTokensDetails {
    reasoning_tokens: u64,
}

impl<'a> Response<'a> {
    pub(crate) fn new(
        head: &'a Head,
        progress: Progress<'a>,
        output: &'a [OutputItem],
        usage: Option<Usage>,
    ) -> Self {
        let echo = &head.echo;
        let (status, completed_at, error) = match progress {
            Progress::Queued => ("queued", None, None),
            Progress::Running => ("in_progress", None, None),
            Progress::Cancelled => ("cancelled", None, None),
            Progress::Completed { at } => ("completed", Some(at), None),
            Progress::Incomplete { .. } => ("incomplete", None, None),
            Progress::Failed { code, message } => ("failed", None, Some(ResponseError { code, message })),
        };
        let incomplete_details = match progress {
            Progress::Incomplete { reason } => Some(IncompleteDetails { reason }),
            _ => None,
        };
        Self {
            id: &head.id,
            object: "response",
            created_at: head.created_at,
            status,
            background: echo.background,
            completed_at,
            conversation: echo.conversation.as_deref().map(|id| ConversationEcho { id }),
            error,
            frequency_penalty: 0.0,
            incomplete_details,
            instructions: echo.instructions.as_deref(),
            max_output_tokens: echo.max_output_tokens,
            max_tool_calls: None,
            metadata: &echo.metadata,
            model: &head.model,
            output,
            parallel_tool_calls: echo.parallel_tool_calls,
            presence_penalty: 0.0,
            previous_response_id: echo.previous_response_id.as_deref(),
            prompt_cache_key: echo.prompt_cache_key.as_deref(),
            reasoning: Reasoning { effort: echo.reasoning.shown_effort(), summary: echo.reasoning.summary },
            safety_identifier: echo.safety_identifier.as_deref(),
            service_tier: echo.service_tier,
            store: echo.store,
            temperature: 1.0,
            text: &echo.text,
            tool_choice: &echo.tool_choice,
            tools: &echo.tools,
            top_logprobs: 0,
            top_p: 1.0,
            truncation: "disabled",
            usage: usage.map(ResponseUsage::from),
            user: echo.user.as_deref(),
            bridge: None,
        }
    }

    /// The same response with its call's trace.
    #[must_use]
    pub(crate) fn with_trace(mut self, trace: Option<Envelope>) -> Self {
        self.bridge = trace;
        self
    }
}

/// What is kept of the response object with its record: all but what the record itself tells.
pub(crate) fn kept_head(head: &Head) -> Option<Arc<str>> {
    let mut object = serde_json::to_value(Response::new(head, Progress::Running, &[], None)).ok()?;
    let fields = object.as_object_mut()?;
    fields.retain(|name, _| !TOLD_BY_RECORD.contains(&name.as_str()));
    // Not repeated by the object, and wanted for its items.
    fields.insert(ENCRYPTED_REASONING.into(), head.echo.encrypted_reasoning.into());
    if head.echo.streamed {
        fields.insert(STREAMED.into(), true.into());
    }
    Some(object.to_string().into())
}

impl Progress<'_> {
    /// How a turn that did not fail has ended.
    pub(crate) fn ended(incomplete: Option<IncompleteReason>) -> Self {
        match incomplete {
            None => Self::Completed { at: unix_seconds(SystemTime::now()) },
            Some(reason) => Self::Incomplete { reason: reason.as_str() },
        }
    }
}

impl ReasoningEcho {
    /// The catalogue may know more efforts than the specification lets an answer name.
    fn shown_effort(&self) -> Option<&str> {
        const OFFICIAL: &[&str] = &["none", "minimal", "low", "medium", "high", "xhigh", "max"];
        self.effort.as_deref().filter(|effort| OFFICIAL.contains(effort))
    }
}

impl From<Usage> for ResponseUsage {
    fn from(usage: Usage) -> Self {
        Self {
            input_tokens: usage.input_tokens,
            input_tokens_details: InputTokensDetails {
                cached_tokens: usage.cached_input_tokens,
                cache_write_tokens: usage.cache_write_input_tokens,
            },
            output_tokens: usage.output_tokens,
            output_tokens_details: OutputTokensDetails { reasoning_tokens: usage.reasoning_tokens },
            total_tokens: usage.total_tokens,
        }
    }
}

/// One event of the stream.
#[derive(Debug, Serialize)]
pub(crate) struct Event<'a> {
    #[serde(rename = "type")]
    pub(crate) kind: &'static str,
    pub(crate) sequence_number: u64,
    #[serde(flatten)]
    pub(crate) body: Body<'a>,
    /// Of a socket's named lane.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) stream_id: Option<&'a str>,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(crate) enum Body<'a> {
    Response {
        response: Box<Response<'a>>,
    },
    Item {
        output_index: usize,
        item: &'a OutputItem,
    },
    Placed {
        #[serde(flatten)]
        place: Place<'a>,
        #[serde(flatten)]
        what: What<'a>,
    },
}

/// Which part of which item an event is about.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Place<'a> {
    pub(crate) item_id: &'a str,
    pub(crate) output_index: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) content_index: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) summary_index: Option<usize>,
}

/// What an event says about its place.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(crate) enum What<'a> {
    Nothing {},
    Part { part: &'a Value },
    TextDelta { delta: &'a str, logprobs: [(); 0] },
    TextDone { text: &'a str, logprobs: [(); 0] },
    Annotation { annotation_index: usize, annotation: &'a Value },
    Delta { delta: &'a str },
    Text { text: &'a str },
    Refusal { refusal: &'a str },
    Arguments { name: &'a str, arguments: &'a str },
    Input { input: &'a str },
}
