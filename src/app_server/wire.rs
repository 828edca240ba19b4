//! The JSON of the app-server's wire, in its own words. Private to `app_server`.

mod envelope;
mod notifications;
mod requests;
mod responses;

pub(super) use envelope::{
    Incoming, Refusal, RequestId, encode_notification, encode_refusal, encode_request, encode_result,
};
pub(super) use notifications::{
    CodexErrorInfo, CompletedItem, ConfigWarning, Credits, ErrorNotification, ItemCompleted,
    ItemNotification, LoginCompleted, OwnCall, OwnCallNotification, RateLimitSnapshot, RateLimitWindow,
    RateLimitsUpdated, RawItem, RawResponse, ReasoningDelta, SummaryDelta, SummaryPart, TextDelta,
    ThreadClosed, TokenUsage, TokenUsageUpdated, ToolCall, Turn, TurnError, TurnNotification, Warning,
    WebSearchAction,
};
pub(super) use requests::{
    AccountRead, Collaboration, InjectItems, Interrupt, Page, ReadFile, ThreadRef, TurnStart, initialize,
    kept_start, template_start, thread_fork, thread_start,
};
pub(super) use responses::{
    AccountResponse, ConfigResponse, DiagnosticsResponse, FileResponse, InitializeResponse, LoadedThreads,
    Model, ModelList, RateLimitsResponse, ThreadResponse, TurnResponse,
};

/// "Server overloaded; retry later."
pub(super) const OVERLOADED: i32 = -32001;
