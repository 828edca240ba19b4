//! Parameters of the notifications we read. Unknown fields are passed over.

use std::borrow::Cow;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use serde_json::value::RawValue;

/// `turn/started`, `turn/completed`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::app_server) struct TurnNotification<'a> {
    #[serde(borrow)]
    pub(in crate::app_server) thread_id: Cow<'a, str>,
    #[serde(borrow)]
    pub(in crate::app_server) turn: Turn<'a>,
}

#[derive(Deserialize)]
pub(in crate::app_server) struct Turn<'a> {
    #[serde(borrow)]
    pub(in crate::app_server) id: Cow<'a, str>,
    #[serde(borrow, default)]
    pub(in crate::app_server) status: Cow<'a, str>,
    #[serde(default)]
    pub(in crate::app_server) error: Option<TurnError>,
}

/// `error`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::app_server) struct ErrorNotification<'a> {
    #[serde(borrow)]
    pub(in crate::app_server) thread_id: Cow<'a, str>,
    #[serde(borrow)]
    pub(in crate::app_server) turn_id: Cow<'a, str>,
    pub(in crate::app_server) error: TurnError,
    #[serde(default)]
    pub(in crate::app_server) will_retry: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::app_server) struct TurnError {
    #[serde(default)]
    pub(in crate::app_server) message: String,
    #[serde(default)]
    pub(in crate::app_server) codex_error_info: Option<CodexErrorInfo>,
    #[serde(default)]
    pub(in crate::app_server) additional_details: Option<String>,
}

/// A word, or an object of one key whose value may hold an HTTP status.
#[derive(Deserialize)]
#[serde(untagged)]
pub(in crate::app_server) enum CodexErrorInfo {
    Word(String),
    Tagged(serde_json::Map<String, serde_json::Value>),
    Unreadable(serde::de::IgnoredAny),
}

/// `item/completed`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::app_server) struct ItemCompleted<'a> {
    #[serde(borrow)]
    pub(in crate::app_server) thread_id: Cow<'a, str>,
    #[serde(borrow)]
    pub(in crate::app_server) turn_id: Cow<'a, str>,
    #[serde(borrow)]
    pub(in crate::app_server) item: CompletedItem<'a>,
}

#[derive(Deserialize)]
pub(in crate::app_server) struct CompletedItem<'a> {
    #[serde(borrow, rename = "type")]
    pub(in crate::app_server) kind: Cow<'a, str>,
    #[serde(default)]
    pub(in crate::app_server) id: String,
    /// Of a message.
    #[serde(default, deserialize_with = "if_readable")]
    pub(in crate::app_server) text: Option<String>,
    #[serde(default, deserialize_with = "if_readable")]
    pub(in crate::app_server) phase: Option<String>,
    /// Of reasoning; other items have other things under these names.
    #[serde(default, deserialize_with = "if_readable")]
    pub(in crate::app_server) summary: Option<Vec<String>>,
    #[serde(default, deserialize_with = "if_readable")]
    pub(in crate::app_server) content: Option<Vec<String>>,
}

/// A value of the expected form; any other is as good as none.
fn if_readable<'de, D: Deserializer<'de>, T: DeserializeOwned>(value: D) -> Result<Option<T>, D::Error> {
    Ok(serde_json::from_value(Value::deserialize(value)?).ok())
}

/// `item/started`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::app_server) struct ItemNotification<'a> {
    #[serde(borrow)]
    pub(in crate::app_server) thread_id: Cow<'a, str>,
    #[serde(borrow)]
    pub(in crate::app_server) turn_id: Cow<'a, str>,
    #[serde(borrow)]
    pub(in crate::app_server) item: ItemHead<'a>,
}

#[derive(Deserialize)]
pub(in crate::app_server) struct ItemHead<'a> {
    #[serde(borrow, rename = "type")]
    pub(in crate::app_server) kind: Cow<'a, str>,
    #[serde(default)]
    pub(in crate::app_server) id: String,
}

/// `item/completed` of a `webSearch` or an `imageGeneration`.
#[derive(Deserialize)]
pub(in crate::app_server) struct OwnCallNotification {
    pub(in crate::app_server) item: OwnCall,
}

#[derive(Deserialize)]
pub(in crate::app_server) struct OwnCall {
    #[serde(default)]
    pub(in crate::app_server) query: Option<String>,
    #[serde(default)]
    pub(in crate::app_server) action: Option<WebSearchAction>,
    #[serde(default)]
    pub(in crate::app_server) status: Option<String>,
    /// Base64.
    #[serde(default)]
    pub(in crate::app_server) result: Option<String>,
}

#[derive(Deserialize)]
pub(in crate::app_server) struct WebSearchAction {
    #[serde(rename = "type")]
    pub(in crate::app_server) kind: String,
    #[serde(default)]
    pub(in crate::app_server) query: Option<String>,
    #[serde(default)]
    pub(in crate::app_server) queries: Option<Vec<String>>,
    #[serde(default)]
    pub(in crate::app_server) url: Option<String>,
    #[serde(default)]
    pub(in crate::app_server) pattern: Option<String>,
}

/// `item/agentMessage/delta`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::app_server) struct TextDelta<'a> {
    #[serde(borrow)]
    pub(in crate::app_server) thread_id: Cow<'a, str>,
    #[serde(borrow)]
    pub(in crate::app_server) turn_id: Cow<'a, str>,
    pub(in crate::app_server) item_id: String,
    pub(in crate::app_server) delta: String,
}

/// `item/reasoning/summaryTextDelta`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::app_server) struct SummaryDelta<'a> {
    #[serde(borrow)]
    pub(in crate::app_server) thread_id: Cow<'a, str>,
    #[serde(borrow)]
    pub(in crate::app_server) turn_id: Cow<'a, str>,
    pub(in crate::app_server) item_id: String,
    pub(in crate::app_server) delta: String,
    #[serde(default)]
    pub(in crate::app_server) summary_index: u32,
}

/// `item/reasoning/textDelta`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::app_server) struct ReasoningDelta<'a> {
    #[serde(borrow)]
    pub(in crate::app_server) thread_id: Cow<'a, str>,
    #[serde(borrow)]
    pub(in crate::app_server) turn_id: Cow<'a, str>,
    pub(in crate::app_server) item_id: String,
    pub(in crate::app_server) delta: String,
    #[serde(default)]
    pub(in crate::app_server) content_index: u32,
}

/// `item/reasoning/summaryPartAdded`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::app_server) struct SummaryPart<'a> {
    #[serde(borrow)]
    pub(in crate::app_server) thread_id: Cow<'a, str>,
    #[serde(borrow)]
    pub(in crate::app_server) turn_id: Cow<'a, str>,
    pub(in crate::app_server) item_id: String,
    #[serde(default)]
    pub(in crate::app_server) summary_index: u32,
}

/// `rawResponseItem/completed`. The item may be megabytes of our own input, echoed: decoded only when wanted.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::app_server) struct RawItem<'a> {
    #[serde(borrow)]
    pub(in crate::app_server) thread_id: Cow<'a, str>,
    #[serde(borrow)]
    pub(in crate::app_server) turn_id: Cow<'a, str>,
    #[serde(borrow)]
    pub(in crate::app_server) item: &'a RawValue,
}

impl RawItem<'_> {
    /// Whether it is an injected item, echoed.
    pub(in crate::app_server) fn is_echo(&self) -> bool {
        self.turn_id == "auto-compact-0"
    }
}

/// `rawResponse/completed`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::app_server) struct RawResponse<'a> {
    #[serde(borrow)]
    pub(in crate::app_server) thread_id: Cow<'a, str>,
    #[serde(borrow)]
    pub(in crate::app_server) turn_id: Cow<'a, str>,
    #[serde(default)]
    pub(in crate::app_server) response_id: String,
    #[serde(default)]
    pub(in crate::app_server) usage: Option<TokenUsage>,
}

/// `item/tool/call`, a server request.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::app_server) struct ToolCall<'a> {
    #[serde(borrow)]
    pub(in crate::app_server) thread_id: Cow<'a, str>,
    #[serde(borrow)]
    pub(in crate::app_server) turn_id: Cow<'a, str>,
    pub(in crate::app_server) call_id: String,
    #[serde(default)]
    pub(in crate::app_server) namespace: Option<String>,
    pub(in crate::app_server) tool: String,
    #[serde(default)]
    pub(in crate::app_server) arguments: serde_json::Value,
}

/// `thread/tokenUsage/updated`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::app_server) struct TokenUsageUpdated<'a> {
    #[serde(borrow)]
    pub(in crate::app_server) thread_id: Cow<'a, str>,
    #[serde(borrow)]
    pub(in crate::app_server) turn_id: Cow<'a, str>,
    pub(in crate::app_server) token_usage: ThreadTokenUsage,
}

#[derive(Deserialize)]
pub(in crate::app_server) struct ThreadTokenUsage {
    pub(in crate::app_server) last: TokenUsage,
}

/// Signed on the wire.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
#[expect(clippy::struct_field_names, reason = "the wire's own names")]
pub(in crate::app_server) struct TokenUsage {
    pub(in crate::app_server) total_tokens: i64,
    pub(in crate::app_server) input_tokens: i64,
    pub(in crate::app_server) cached_input_tokens: i64,
    pub(in crate::app_server) cache_write_input_tokens: i64,
    pub(in crate::app_server) output_tokens: i64,
    pub(in crate::app_server) reasoning_output_tokens: i64,
}

/// `thread/closed`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::app_server) struct ThreadClosed<'a> {
    #[serde(borrow)]
    pub(in crate::app_server) thread_id: Cow<'a, str>,
}

/// `warning`.
#[derive(Deserialize)]
pub(in crate::app_server) struct Warning {
    #[serde(default)]
    pub(in crate::app_server) message: String,
}

/// `configWarning`.
#[derive(Deserialize)]
pub(in crate::app_server) struct ConfigWarning {
    #[serde(default)]
    pub(in crate::app_server) summary: String,
}

/// `account/login/completed`.
#[derive(Deserialize)]
pub(in crate::app_server) struct LoginCompleted {
    #[serde(default)]
    pub(in crate::app_server) success: bool,
}

/// `account/rateLimits/updated`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::app_server) struct RateLimitsUpdated {
    pub(in crate::app_server) rate_limits: RateLimitSnapshot,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub(in crate::app_server) struct RateLimitSnapshot {
    pub(in crate::app_server) limit_id: Option<String>,
    pub(in crate::app_server) primary: Option<RateLimitWindow>,
    pub(in crate::app_server) secondary: Option<RateLimitWindow>,
    pub(in crate::app_server) plan_type: Option<String>,
    pub(in crate::app_server) rate_limit_reached_type: Option<String>,
    pub(in crate::app_server) credits: Option<Credits>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub(in crate::app_server) struct Credits {
    #[serde(rename = "hasCredits")]
    pub(in crate::app_server) some: bool,
    pub(in crate::app_server) unlimited: bool,
    pub(in crate::app_server) balance: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub(in crate::app_server) struct RateLimitWindow {
    pub(in crate::app_server) used_percent: f64,
    pub(in crate::app_server) window_duration_mins: Option<u64>,
    pub(in crate::app_server) resets_at: Option<u64>,
}
