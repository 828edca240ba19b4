//! The app-server's words into ours.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, SystemTime};

use serde_json::{Map, Value, json};

use super::connection::{Credits, Diagnostics, Notice, RateLimitWindow, RateLimits, ToolCallReply};
use super::error::{DisconnectReason, FailureKind, TurnFailure};
use super::thread::{ItemKind, ThreadEvent, ThreadStatus, TurnStatus};
use super::wire;
use crate::model::{Account, Item, LoginState, ModelInfo, TurnId, Usage};

/// A notification, decoded.
#[derive(Debug)]
pub(super) enum Notification<'a> {
    /// For one thread.
    Thread { thread: std::borrow::Cow<'a, str>, event: ThreadEvent },
    /// For the whole connection.
    Notice(Notice),
    /// Nothing to us.
    Ignored,
}

/// The methods [`notification`] reads.
#[cfg(test)]
pub(super) const READ: &[&str] = &[
    "error",
    "turn/started",
    "turn/completed",
    "item/started",
    "item/completed",
    "rawResponseItem/completed",
    "rawResponse/completed",
    "item/agentMessage/delta",
    "item/reasoning/summaryTextDelta",
    "item/reasoning/summaryPartAdded",
    "item/reasoning/textDelta",
    "thread/tokenUsage/updated",
    "thread/closed",
    "warning",
    "configWarning",
    "account/updated",
    "account/rateLimits/updated",
    "account/login/completed",
];

/// Decodes a notification. Unknown methods are ignored; a known one that cannot be read is an error.
pub(super) fn notification<'a>(method: &str, params: &'a str) -> Result<Notification<'a>, serde_json::Error> {
    let routed = |thread, event| Ok(Notification::Thread { thread, event });
    match method {
        "item/agentMessage/delta" => {
            let wire::TextDelta { thread_id, turn_id, item_id, delta } = serde_json::from_str(params)?;
            routed(thread_id, ThreadEvent::TextDelta { turn: turn(&turn_id), item_id, delta })
        }
        "item/reasoning/summaryTextDelta" => {
            let wire::SummaryDelta { thread_id, turn_id, item_id, delta, summary_index: index } =
                serde_json::from_str(params)?;
            routed(thread_id, ThreadEvent::SummaryDelta { turn: turn(&turn_id), item_id, index, delta })
        }
        "item/reasoning/textDelta" => {
            let wire::ReasoningDelta { thread_id, turn_id, item_id, delta, content_index: index } =
                serde_json::from_str(params)?;
            routed(thread_id, ThreadEvent::ReasoningDelta { turn: turn(&turn_id), item_id, index, delta })
        }
        "item/reasoning/summaryPartAdded" => {
            let wire::SummaryPart { thread_id, turn_id, item_id, summary_index: index } =
                serde_json::from_str(params)?;
            routed(thread_id, ThreadEvent::SummaryPartAdded { turn: turn(&turn_id), item_id, index })
        }
        "rawResponseItem/completed" => raw_item(serde_json::from_str(params)?),
        "rawResponse/completed" => {
            let wire::RawResponse { thread_id, turn_id, response_id, usage } = serde_json::from_str(params)?;
            let usage = usage.as_ref().map(Usage::from);
            routed(thread_id, ThreadEvent::ResponseCompleted { turn: turn(&turn_id), response_id, usage })
        }
        "item/started" => {
            let wire::ItemNotification { thread_id, turn_id, item } = serde_json::from_str(params)?;
            let kind = ItemKind::from_wire(&item.kind);
            routed(thread_id, ThreadEvent::ItemStarted { turn: turn(&turn_id), kind, item_id: item.id })
        }
        "item/completed" => {
            let wire::ItemCompleted { thread_id, turn_id, item } = serde_json::from_str(params)?;
            if let "webSearch" | "imageGeneration" = &*item.kind {
                let wire::OwnCallNotification { item: call } = serde_json::from_str(params)?;
                let done = own_call(&item.kind, &item.id, call);
                let call_id = item.id;
                let event = ThreadEvent::OwnCallDone { turn: turn(&turn_id), call_id, item: done };
                return routed(thread_id, event);
            }
            let kind = ItemKind::from_wire(&item.kind);
            let (item_id, item) = (item.id.clone(), completed_item(&kind, item));
            routed(thread_id, ThreadEvent::ItemCompleted { turn: turn(&turn_id), kind, item_id, item })
        }
        "turn/started" => {
            let wire::TurnNotification { thread_id, turn: started } = serde_json::from_str(params)?;
            routed(thread_id, ThreadEvent::TurnStarted { turn: turn(&started.id) })
        }
        "turn/completed" => {
            let wire::TurnNotification { thread_id, turn: ended } = serde_json::from_str(params)?;
            let id = turn(&ended.id);
            routed(thread_id, ThreadEvent::TurnCompleted { turn: id, status: turn_status(ended) })
        }
        "error" => {
            let wire::ErrorNotification { thread_id, turn_id, error, will_retry } =
                serde_json::from_str(params)?;
            // A failure that is not retried is told again by `turn/completed`.
            if !will_retry {
                return Ok(Notification::Ignored);
            }
            routed(thread_id, ThreadEvent::Retrying { turn: turn(&turn_id), failure: error.into() })
        }
        "thread/tokenUsage/updated" => {
            let wire::TokenUsageUpdated { thread_id, turn_id, token_usage } = serde_json::from_str(params)?;
            let last = Usage::from(&token_usage.last);
            routed(thread_id, ThreadEvent::UsageUpdated { turn: turn(&turn_id), last })
        }
        "thread/closed" => {
            let wire::ThreadClosed { thread_id } = serde_json::from_str(params)?;
            routed(thread_id, ThreadEvent::Closed(DisconnectReason::ThreadClosed))
        }
        "account/updated" => Ok(Notification::Notice(Notice::AccountUpdated)),
        "account/login/completed" => {
            let wire::LoginCompleted { success } = serde_json::from_str(params)?;
            Ok(Notification::Notice(Notice::LoginCompleted { success }))
        }
        "account/rateLimits/updated" => {
            let wire::RateLimitsUpdated { rate_limits } = serde_json::from_str(params)?;
            Ok(Notification::Notice(Notice::RateLimits(rate_limits.into())))
        }
        "warning" => {
            let wire::Warning { message } = serde_json::from_str(params)?;
            Ok(Notification::Notice(Notice::Warning { message }))
        }
        "configWarning" => {
            let wire::ConfigWarning { summary } = serde_json::from_str(params)?;
            Ok(Notification::Notice(Notice::ConfigWarning { summary }))
        }
        _ => Ok(Notification::Ignored),
    }
}

/// The thread and the event of an `item/tool/call`; its answer goes through `reply`.
pub(super) fn tool_call(
    params: &str,
    reply: ToolCallReply,
) -> Result<(std::borrow::Cow<'_, str>, ThreadEvent), serde_json::Error> {
    let wire::ToolCall { thread_id, turn_id, call_id, namespace, tool: name, arguments } =
        serde_json::from_str(params)?;
    Ok((
        thread_id,
        ThreadEvent::ToolCall { turn: turn(&turn_id), call_id, namespace, name, arguments, reply },
    ))
}

/// Codex's own version in `codex_bridge/0.169.0 (Debian …) …`.
pub(super) fn server_version(user_agent: &str) -> Option<&str> {
    let (_, rest) = user_agent.split_once('/')?;
    rest.split_whitespace().next()
}

impl From<wire::Model> for ModelInfo {
    fn from(model: wire::Model) -> Self {
        Self {
            id: model.id,
            display_name: model.display_name,
            description: model.description,
            hidden: model.hidden,
            is_default: model.is_default,
            efforts: model
                .supported_reasoning_efforts
                .into_iter()
                .map(|effort| effort.reasoning_effort)
                .collect(),
            default_effort: model.default_reasoning_effort,
            input_modalities: model.input_modalities,
            service_tiers: model.service_tiers.into_iter().map(|tier| tier.id).collect(),
            context_window: None,
            web_search: None,
        }
    }
}

impl From<wire::AccountResponse> for LoginState {
    fn from(response: wire::AccountResponse) -> Self {
        let wire::AccountResponse { account, user_id, requires_openai_auth, workspace_routing } = response;
        match account {
            Some(account) => {
                let workspace = workspace_routing.and_then(|routing| routing.chatgpt_account_id);
                Self::LoggedIn(Account {
                    identity: identity(&account.kind, user_id, workspace, account.email.as_deref()),
                    kind: account.kind,
                    plan: account.plan_type,
                })
            }
            None if requires_openai_auth => Self::LoggedOut,
            None => Self::NotNeeded,
        }
    }
}

impl From<wire::RateLimitSnapshot> for RateLimits {
    fn from(snapshot: wire::RateLimitSnapshot) -> Self {
        let window = |window: wire::RateLimitWindow| RateLimitWindow {
            used_percent: window.used_percent,
            minutes: window.window_duration_mins,
            resets_at: window
                .resets_at
                .and_then(|at| SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(at))),
        };
        Self {
            primary: snapshot.primary.map(window),
            secondary: snapshot.secondary.map(window),
            plan: snapshot.plan_type,
            reached: snapshot.rate_limit_reached_type,
            meter: snapshot.limit_id,
            credits: snapshot.credits.map(|credits| {
                let wire::Credits { some, unlimited, balance } = credits;
                Credits { has_credits: some, unlimited, balance }
            }),
            allowed: None,
        }
    }
}

impl From<wire::DiagnosticsResponse> for Diagnostics {
    fn from(response: wire::DiagnosticsResponse) -> Self {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "gauges are small counts"
        )]
        let gauge = |name| {
            response.gauges.iter().find(|gauge| gauge.name == name).map(|gauge| gauge.value.max(0.0) as u64)
        };
        Self {
            pid: response.process.id,
            resident_bytes: response.process.resident_memory_bytes,
            threads_live: gauge("core.threads.live"),
            turns_active: gauge("core.turns.active"),
            requests_in_flight: gauge("app.requests.in_flight"),
        }
    }
}

impl From<&wire::TokenUsage> for Usage {
    fn from(usage: &wire::TokenUsage) -> Self {
        let count = |tokens: i64| u64::try_from(tokens).unwrap_or(0);
        Self {
            input_tokens: count(usage.input_tokens),
            cached_input_tokens: count(usage.cached_input_tokens),
            cache_write_input_tokens: count(usage.cache_write_input_tokens),
            output_tokens: count(usage.output_tokens),
            reasoning_tokens: count(usage.reasoning_output_tokens),
            total_tokens: count(usage.total_tokens),
        }
    }
}

impl From<wire::TurnError> for TurnFailure {
    fn from(error: wire::TurnError) -> Self {
        let (kind, status) = match error.codex_error_info {
            Some(info) => failure_kind(&info),
            None => (FailureKind::Other, None),
        };
        Self { kind, message: error.message, details: error.additional_details, status }
    }
}

impl ItemKind {
    fn from_wire(kind: &str) -> Self {
        match kind {
            "agentMessage" => Self::Message,
            "reasoning" => Self::Reasoning,
            "contextCompaction" => Self::ContextCompaction,
            other => Self::Other(other.to_owned()),
        }
    }
}

impl ThreadStatus {
    /// From the `type` of a status.
    pub(super) fn from_wire(kind: &str) -> Self {
        match kind {
            "notLoaded" => Self::NotLoaded,
            "idle" => Self::Idle,
            "active" => Self::Active,
            "systemError" => Self::SystemError,
            other => Self::Unknown(other.to_owned()),
        }
    }
}

fn turn(id: &str) -> TurnId {
    TurnId::new(id)
}

fn raw_item(raw: wire::RawItem<'_>) -> Result<Notification<'_>, serde_json::Error> {
    if raw.is_echo() {
        return Ok(Notification::Ignored);
    }
    let fields: Map<String, Value> = serde_json::from_str(raw.item.get())?;
    let event = ThreadEvent::RawItem { turn: turn(&raw.turn_id), item: Item::new(fields) };
    Ok(Notification::Thread { thread: raw.thread_id, event })
}

/// A thread item as the raw item it was made from, as far as it goes.
fn completed_item(kind: &ItemKind, item: wire::CompletedItem<'_>) -> Option<Item> {
    let parts = |texts: Vec<String>, kind: &str| -> Vec<Value> {
        texts.into_iter().map(|text| json!({"type": kind, "text": text})).collect()
    };
    let mut fields = Map::new();
    let mut set = |name: &str, value: Value| drop(fields.insert(name.to_owned(), value));
    match kind {
        ItemKind::Message => {
            let text = item.text?;
            set("type", "message".into());
            set("id", item.id.into());
            set("role", "assistant".into());
            set("status", "completed".into());
            if let Some(phase) = item.phase {
                set("phase", phase.into());
            }
            let part = json!({"type": "output_text", "text": text, "annotations": [], "logprobs": []});
            set("content", vec![part].into());
        }
        ItemKind::Reasoning => {
            set("type", "reasoning".into());
            set("id", item.id.into());
            set("summary", parts(item.summary?, "summary_text").into());
            let content = item.content.filter(|content| !content.is_empty());
            set("content", content.map_or(Value::Null, |content| parts(content, "reasoning_text").into()));
        }
        ItemKind::ContextCompaction | ItemKind::Other(_) => return None,
    }
    Some(Item::new(fields))
}

/// The Responses API's item for a call that the app-server answered by itself.
fn own_call(kind: &str, call_id: &str, call: wire::OwnCall) -> Item {
    let status = if call.status.as_deref() == Some("failed") { "failed" } else { "completed" };
    let item = if kind == "imageGeneration" {
        let image = call.result.filter(|image| !image.is_empty());
        json!({"type": "image_generation_call", "id": format!("ig_{call_id}"), "status": status, "result": image})
    } else {
        let action = search_action(call.action, call.query.unwrap_or_default());
        json!({"type": "web_search_call", "id": format!("ws_{call_id}"), "status": status, "action": action})
    };
    Item::from_value(item).unwrap_or_else(|| Item::new(Map::new()))
}

fn search_action(action: Option<wire::WebSearchAction>, query: String) -> Value {
    match action {
        Some(wire::WebSearchAction { kind, url, .. }) if kind == "openPage" => {
            json!({"type": "open_page", "url": url})
        }
        Some(wire::WebSearchAction { kind, url, pattern, .. }) if kind == "findInPage" => {
            json!({"type": "find_in_page", "url": url, "pattern": pattern})
        }
        Some(action) => {
            let query = action.query.unwrap_or(query);
            let queries = action.queries.unwrap_or_else(|| vec![query.clone()]);
            json!({"type": "search", "query": query, "queries": queries})
        }
        None => json!({"type": "search", "query": query, "queries": [query]}),
    }
}

fn turn_status(ended: wire::Turn<'_>) -> TurnStatus {
    match &*ended.status {
        "completed" => TurnStatus::Completed,
        "interrupted" => TurnStatus::Interrupted,
        status => TurnStatus::Failed(ended.error.map_or_else(
            || TurnFailure {
                kind: FailureKind::Other,
                message: format!("The turn ended as \"{status}\" without a reason."),
                details: None,
                status: None,
            },
            TurnFailure::from,
        )),
    }
}

fn failure_kind(info: &wire::CodexErrorInfo) -> (FailureKind, Option<u16>) {
    match info {
        wire::CodexErrorInfo::Word(word) => (failure_word(word), None),
        wire::CodexErrorInfo::Tagged(tagged) => {
            let Some((word, details)) = tagged.iter().next() else {
                return (FailureKind::Other, None);
            };
            let status = details.get("httpStatusCode").and_then(Value::as_u64);
            (failure_word(word), status.and_then(|status| u16::try_from(status).ok()))
        }
        wire::CodexErrorInfo::Unreadable(_) => (FailureKind::Other, None),
    }
}

fn failure_word(word: &str) -> FailureKind {
    match word {
        "contextWindowExceeded" => FailureKind::ContextWindowExceeded,
        "sessionBudgetExceeded" => FailureKind::SessionBudgetExceeded,
        "usageLimitExceeded" => FailureKind::UsageLimitExceeded,
        "rateLimitExceeded" => FailureKind::RateLimitExceeded,
        "flexUnavailable" => FailureKind::FlexUnavailable,
        "serverOverloaded" => FailureKind::ServerOverloaded,
        "modelNotFound" => FailureKind::ModelNotFound,
        "policyCapacityUnavailable" => FailureKind::PolicyCapacityUnavailable,
        "inferenceHookDenied" => FailureKind::InferenceHookDenied,
        "cyberPolicy" => FailureKind::CyberPolicy,
        "misalignmentPolicyViolation" => FailureKind::MisalignmentPolicyViolation,
        "tooManyDenials" => FailureKind::TooManyDenials,
        "httpConnectionFailed" => FailureKind::HttpConnectionFailed,
        "responseStreamConnectionFailed" => FailureKind::ResponseStreamConnectionFailed,
        "responseStreamDisconnected" => FailureKind::ResponseStreamDisconnected,
        "responseTooManyFailedAttempts" => FailureKind::ResponseTooManyFailedAttempts,
        "internalServerError" => FailureKind::InternalServerError,
        "unauthorized" => FailureKind::Unauthorized,
        "badRequest" => FailureKind::BadRequest,
        "threadRollbackFailed" => FailureKind::ThreadRollbackFailed,
        "sandboxError" => FailureKind::SandboxError,
        "activeTurnNotSteerable" => FailureKind::ActiveTurnNotSteerable,
        "other" => FailureKind::Other,
        unknown => FailureKind::Unknown(unknown.to_owned()),
    }
}

/// Stable while the same account is logged in. An address is only ever hashed.
fn identity(kind: &str, user: Option<String>, workspace: Option<String>, email: Option<&str>) -> String {
    let user = user.or_else(|| {
        let mut hasher = DefaultHasher::new();
        email?.hash(&mut hasher);
        Some(format!("{:016x}", hasher.finish()))
    });
    [Some(kind.to_owned()), user, workspace].into_iter().flatten().collect::<Vec<_>>().join(":")
}

#[cfg(test)]
mod tests;
