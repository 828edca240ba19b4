//! What a thread is started with, and what each turn on it brings.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::Value;

use crate::app_server::wire;
use crate::config::Scaffold;
use crate::model::{ThreadId, WebSearch};

const START: &str = "thread/start";
const FORK: &str = "thread/fork";
pub(super) const TURN: &str = "turn/start";

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

/// A request of ours as it would be sent: its method and its parameters.
#[derive(Debug, Clone, PartialEq)]
pub struct Unsent {
    /// `thread/start`, …
    pub method: &'static str,
    /// Without the ids that only the app-server can give.
    pub params: Value,
}

impl ThreadOptions {
    /// What would start a thread with these options, as a fork of `template` where there is one.
    pub fn start_request(&self, template: Option<&ThreadId>) -> Unsent {
        match template {
            Some(template) => Unsent { method: FORK, params: wire::thread_fork(template.as_str(), self) },
            None => Unsent { method: START, params: wire::thread_start(self) },
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

impl TurnOptions {
    /// What would start a turn with these options, on a thread where none was run before.
    pub fn start_request(&self) -> Unsent {
        let params = serde_json::to_value(self.params("", None)).unwrap_or_default();
        Unsent { method: TURN, params: without_thread(params) }
    }

    /// The parameters of `turn/start`.
    pub(in crate::app_server) fn params<'a>(
        &'a self,
        thread_id: &'a str,
        collaboration_mode: Option<wire::Collaboration<'a>>,
    ) -> wire::TurnStart<'a> {
        wire::TurnStart {
            thread_id,
            input: [],
            effort: self.effort.as_deref(),
            summary: self.summary.as_deref().unwrap_or("none"),
            service_tier: self.service_tier.as_deref(),
            output_schema: self.output_schema.as_ref(),
            responsesapi_client_metadata: &self.client_metadata,
            collaboration_mode,
        }
    }
}

fn without_thread(mut params: Value) -> Value {
    if let Value::Object(fields) = &mut params {
        fields.shift_remove("threadId");
    }
    params
}
