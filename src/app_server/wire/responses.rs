//! Results of our requests. Unknown fields are passed over.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::notifications::RateLimitSnapshot;

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub(in crate::app_server) struct InitializeResponse {
    pub(in crate::app_server) user_agent: String,
    pub(in crate::app_server) codex_home: String,
}

/// `thread/start`, `thread/read`.
#[derive(Deserialize)]
pub(in crate::app_server) struct ThreadResponse {
    pub(in crate::app_server) thread: ThreadHead,
}

#[derive(Deserialize)]
pub(in crate::app_server) struct ThreadHead {
    pub(in crate::app_server) id: String,
    #[serde(default)]
    pub(in crate::app_server) status: Option<Status>,
    #[serde(default)]
    pub(in crate::app_server) cwd: Option<PathBuf>,
    /// Where it is kept, if it is.
    #[serde(default)]
    pub(in crate::app_server) path: Option<PathBuf>,
}

/// `fs/readFile`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::app_server) struct FileResponse {
    /// Base64.
    pub(in crate::app_server) data_base64: String,
}

#[derive(Deserialize)]
pub(in crate::app_server) struct Status {
    #[serde(rename = "type")]
    pub(in crate::app_server) kind: String,
}

/// `turn/start`.
#[derive(Deserialize)]
pub(in crate::app_server) struct TurnResponse {
    pub(in crate::app_server) turn: TurnHead,
}

#[derive(Deserialize)]
pub(in crate::app_server) struct TurnHead {
    pub(in crate::app_server) id: String,
}

/// `model/list`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::app_server) struct ModelList {
    pub(in crate::app_server) data: Vec<Model>,
    #[serde(default)]
    pub(in crate::app_server) next_cursor: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::app_server) struct Model {
    pub(in crate::app_server) id: String,
    #[serde(default)]
    pub(in crate::app_server) display_name: String,
    #[serde(default)]
    pub(in crate::app_server) description: String,
    #[serde(default)]
    pub(in crate::app_server) hidden: bool,
    #[serde(default)]
    pub(in crate::app_server) is_default: bool,
    #[serde(default)]
    pub(in crate::app_server) supported_reasoning_efforts: Vec<Effort>,
    #[serde(default)]
    pub(in crate::app_server) default_reasoning_effort: Option<String>,
    #[serde(default)]
    pub(in crate::app_server) input_modalities: Vec<String>,
    #[serde(default)]
    pub(in crate::app_server) service_tiers: Vec<Tier>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::app_server) struct Effort {
    pub(in crate::app_server) reasoning_effort: String,
}

#[derive(Deserialize)]
pub(in crate::app_server) struct Tier {
    pub(in crate::app_server) id: String,
}

/// `account/read`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::app_server) struct AccountResponse {
    #[serde(default)]
    pub(in crate::app_server) account: Option<Account>,
    #[serde(default)]
    pub(in crate::app_server) user_id: Option<String>,
    #[serde(default)]
    pub(in crate::app_server) requires_openai_auth: bool,
    #[serde(default)]
    pub(in crate::app_server) workspace_routing: Option<WorkspaceRouting>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::app_server) struct Account {
    #[serde(rename = "type")]
    pub(in crate::app_server) kind: String,
    #[serde(default)]
    pub(in crate::app_server) email: Option<String>,
    #[serde(default)]
    pub(in crate::app_server) plan_type: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::app_server) struct WorkspaceRouting {
    #[serde(default)]
    pub(in crate::app_server) chatgpt_account_id: Option<String>,
}

/// `account/rateLimits/read`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::app_server) struct RateLimitsResponse {
    /// The backend's own word on whether the windows let a call through.
    #[serde(default)]
    pub(in crate::app_server) ordinary_usage_allowed: Option<bool>,
    pub(in crate::app_server) rate_limits: RateLimitSnapshot,
}

/// `config/read`.
#[derive(Deserialize)]
pub(in crate::app_server) struct ConfigResponse {
    pub(in crate::app_server) config: Config,
}

#[derive(Deserialize)]
pub(in crate::app_server) struct Config {
    #[serde(default)]
    #[expect(clippy::zero_sized_map_values, reason = "a map on the wire, of which only the keys are read")]
    pub(in crate::app_server) mcp_servers: Option<BTreeMap<String, IgnoredAny>>,
}

/// `thread/loaded/list`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::app_server) struct LoadedThreads {
    pub(in crate::app_server) data: Vec<String>,
    #[serde(default)]
    pub(in crate::app_server) next_cursor: Option<String>,
}

/// `server/diagnostics`.
#[derive(Deserialize)]
pub(in crate::app_server) struct DiagnosticsResponse {
    #[serde(default)]
    pub(in crate::app_server) process: Process,
    #[serde(default)]
    pub(in crate::app_server) gauges: Vec<Gauge>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub(in crate::app_server) struct Process {
    pub(in crate::app_server) id: Option<u32>,
    pub(in crate::app_server) resident_memory_bytes: Option<u64>,
}

#[derive(Deserialize)]
pub(in crate::app_server) struct Gauge {
    pub(in crate::app_server) name: String,
    pub(in crate::app_server) value: f64,
}
