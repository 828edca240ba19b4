//! What a thread is started with, and what each turn on it brings.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::Value;

use crate::config::Scaffold;
use crate::model::WebSearch;

/// What belongs to a thread as long as it lives.
#[derive(Debug, Clone, PartialEq)]
pub struct ThreadOptions {
    /// A catalogue id. Not checked by the app-server.
    pub model: String,
    /// An empty folder.
    pub cwd: PathBuf,
    /// `text.verbosity`; `None` leaves the model's own.
    pub verbosity: Option<String>,
    /// How much of Codex's own instructions the thread carries.
    pub scaffold: Scaffold,
    /// MCP servers of the app-server's configuration that must not start for this thread.
    pub disabled_mcp_servers: Vec<String>,
    /// Longest tool output that goes through whole, tokens; for app-servers with the stock catalogue.
    pub tool_output_token_limit: Option<u64>,
    /// Codex's own web search.
    pub web_search: Option<WebSearch>,
    /// Codex's own image generation.
    pub image_generation: bool,
    /// Tools in the app-server's form.
    pub dynamic_tools: Vec<Value>,
}

impl ThreadOptions {
    /// A lean thread: nothing but what the client says.
    pub fn lean(model: impl Into<String>, cwd: impl Into<PathBuf>) -> Self {
        Self {
            model: model.into(),
            cwd: cwd.into(),
            verbosity: None,
            scaffold: Scaffold::None,
            disabled_mcp_servers: Vec::new(),
            tool_output_token_limit: None,
            web_search: None,
            image_generation: false,
            dynamic_tools: Vec::new(),
        }
    }
}

/// What one turn brings.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct TurnOptions {
    /// Reasoning effort; `None` is the model's default.
    pub effort: Option<String>,
    /// Reasoning summary (`auto`, `concise`, `detailed`, `none`); `None` asks for none.
    pub summary: Option<String>,
    /// `flex`, `priority`, …; `None` is the standard one.
    pub service_tier: Option<String>,
    /// A JSON schema the answer must follow; this turn only.
    pub output_schema: Option<Value>,
    /// Passed on as `responsesapiClientMetadata`.
    pub client_metadata: BTreeMap<String, String>,
}
