//! Parameters of our requests.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::app_server::thread::ThreadOptions;
use crate::config::Scaffold;
use crate::model::{Item, Location, WebSearch};

/// Notifications nobody reads: muted for the connection. Those of a newer app-server are passed over.
pub(in crate::app_server) const OPT_OUT: &[&str] = &[
    "thread/started",
    "thread/status/changed",
    "thread/readState/changed",
    "thread/archived",
    "thread/deleted",
    "thread/unarchived",
    "thread/reverted",
    "skills/changed",
    "thread/name/updated",
    "thread/section/changed",
    "thread/attachment/updated",
    "thread/goal/updated",
    "thread/prediction/updated",
    "thread/goal/cleared",
    "thread/queue/changed",
    "project/changed",
    "thread/project/updated",
    "thread/environment/connected",
    "thread/environment/disconnected",
    "thread/settings/updated",
    "hook/started",
    "hook/completed",
    "turn/diff/updated",
    "turn/plan/updated",
    "item/autoApprovalReview/started",
    "item/autoApprovalReview/completed",
    "autoApprovalReview/strictReviewRequired",
    "item/plan/delta",
    "command/exec/outputDelta",
    "process/outputDelta",
    "process/exited",
    "item/commandExecution/outputDelta",
    "item/commandExecution/terminalInteraction",
    "item/fileChange/outputDelta",
    "item/fileChange/patchUpdated",
    "serverRequest/resolved",
    "item/mcpToolCall/progress",
    "mcpServer/oauthLogin/completed",
    "mcpServer/startupStatus/updated",
    "mcpServer/event/stream/notification",
    "account/gatewayOAuth/changed",
    "app/list/updated",
    "remoteControl/status/changed",
    "externalAgentConfig/import/progress",
    "externalAgentConfig/import/completed",
    "fs/changed",
    "thread/compacted",
    "model/rerouted",
    "model/verification",
    "modelProvider/authRecoveryStarted",
    "modelProvider/authRecoveryCompleted",
    "turn/moderationMetadata",
    "model/safetyBuffering/updated",
    "guardianWarning",
    "deprecationNotice",
    "fuzzyFileSearch/sessionUpdated",
    "fuzzyFileSearch/sessionCompleted",
    "thread/realtime/started",
    "thread/realtime/itemAdded",
    "thread/realtime/item/started",
    "thread/realtime/item/transcript/delta",
    "thread/realtime/item/completed",
    "thread/realtime/transcript/delta",
    "thread/realtime/transcript/done",
    "thread/realtime/outputAudio/delta",
    "thread/realtime/sdp",
    "thread/realtime/error",
    "thread/realtime/closed",
    "windows/worldWritableWarning",
    "windowsSandbox/setupCompleted",
];

/// What Codex would add to a call of its own accord; switched off per thread.
const LEAN_OFF: &[&str] = &[
    "include_environment_context",
    "include_permissions_instructions",
    "include_apps_instructions",
    "include_collaboration_mode_instructions",
    "skills.include_instructions",
    "skills.bundled.enabled",
    "features.shell_tool",
    "features.unified_exec",
    // Runs the user's shell, start-up files and all, once for each fork.
    "features.shell_snapshot",
    "features.goals",
    "features.multi_agent",
    "features.multi_agent_v2",
    "features.view_image",
    "features.apps",
    "features.plugins",
    "features.tool_suggest",
    "features.sleep_tool",
    "features.skill_search",
    "features.hooks",
    "tools.experimental_request_user_input.enabled",
];

/// `initialize`.
pub(in crate::app_server) fn initialize() -> Value {
    json!({
        "clientInfo": {
            "name": "codex_bridge",
            "title": "codex-bridge",
            "version": env!("CARGO_PKG_VERSION"),
        },
        "capabilities": {
            "experimentalApi": true,
            "requestAttestation": false,
            "optOutNotificationMethods": OPT_OUT,
        },
    })
}

/// `thread/start`: an ephemeral thread that adds nothing to what the client says.
pub(in crate::app_server) fn thread_start(options: &ThreadOptions) -> Value {
    let mut params = json!({
        "ephemeral": true,
        "cwd": cwd(&options.cwd),
        "approvalPolicy": "never",
        "sandbox": "read-only",
        "environments": [],
        "model": options.model,
        "config": lean_config(options),
        "experimentalRawEvents": true,
    });
    if let Value::Object(params) = &mut params {
        match options.scaffold {
            Scaffold::None => drop(params.insert("baseInstructions".into(), "".into())),
            Scaffold::Codex => {}
        }
        if !options.dynamic_tools.is_empty() {
            params.insert("dynamicTools".into(), Value::Array(options.dynamic_tools.clone()));
        }
    }
    params
}

/// `thread/start`: a thread that is kept on disk, for others to be forked from. Nobody listens to it.
pub(in crate::app_server) fn template_start(options: &ThreadOptions) -> Value {
    let mut params = thread_start(options);
    params["ephemeral"] = false.into();
    params["experimentalRawEvents"] = false.into();
    params
}

/// `thread/start`: a thread that is kept on disk, for what is written there to be read.
pub(in crate::app_server) fn kept_start(options: &ThreadOptions, service_tier: Option<&str>) -> Value {
    let mut params = thread_start(options);
    params["ephemeral"] = false.into();
    params["serviceTier"] = service_tier.into();
    params
}

/// `thread/fork`: an ephemeral thread that begins with what `template` holds, and else is as `thread/start`
/// makes it. What is left out here would be Codex's own again. It takes no `environments` and no tools, and
/// tells no raw items.
pub(in crate::app_server) fn thread_fork(template: &str, options: &ThreadOptions) -> Value {
    let mut params = thread_start(options);
    if let Value::Object(fields) = &mut params {
        for name in ["environments", "experimentalRawEvents", "dynamicTools"] {
            fields.shift_remove(name);
        }
        fields.insert("threadId".into(), template.into());
        fields.insert("excludeTurns".into(), true.into());
    }
    params
}

/// `thread/inject_items`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::app_server) struct InjectItems<'a> {
    pub(in crate::app_server) thread_id: &'a str,
    pub(in crate::app_server) items: &'a [Item],
}

/// `turn/start`. What sticks on a thread is said every time.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::app_server) struct TurnStart<'a> {
    pub(in crate::app_server) thread_id: &'a str,
    pub(in crate::app_server) input: [(); 0],
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::app_server) effort: Option<&'a str>,
    /// `none` sends no summary upstream; null would leave the last one in place.
    pub(in crate::app_server) summary: &'a str,
    /// Null resets it (being left out does not).
    pub(in crate::app_server) service_tier: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::app_server) output_schema: Option<&'a Value>,
    pub(in crate::app_server) responsesapi_client_metadata: &'a BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::app_server) collaboration_mode: Option<Collaboration<'a>>,
}

/// Puts the effort back to the model's default: the only thing that does, since a null `effort` keeps the
/// last one. Adds nothing to the call under the lean configuration.
#[derive(Serialize)]
pub(in crate::app_server) struct Collaboration<'a> {
    mode: &'static str,
    settings: CollaborationSettings<'a>,
}

#[derive(Serialize)]
struct CollaborationSettings<'a> {
    model: &'a str,
    reasoning_effort: (),
    developer_instructions: (),
}

impl<'a> Collaboration<'a> {
    /// For a turn on `model`.
    pub(in crate::app_server) fn default_effort(model: &'a str) -> Self {
        let settings = CollaborationSettings { model, reasoning_effort: (), developer_instructions: () };
        Self { mode: "default", settings }
    }
}

/// `turn/interrupt`. An empty turn id interrupts whatever runs on the thread.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::app_server) struct Interrupt<'a> {
    pub(in crate::app_server) thread_id: &'a str,
    pub(in crate::app_server) turn_id: &'a str,
}

/// `thread/read` (without turns), `thread/unsubscribe`, `thread/delete`, `thread/compact/start`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::app_server) struct ThreadRef<'a> {
    pub(in crate::app_server) thread_id: &'a str,
}

/// `fs/readFile`.
#[derive(Serialize)]
pub(in crate::app_server) struct ReadFile<'a> {
    pub(in crate::app_server) path: &'a Path,
}

/// One page of a list.
#[derive(Serialize, Default)]
#[serde(rename_all = "camelCase")]
pub(in crate::app_server) struct Page<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::app_server) cursor: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::app_server) limit: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::app_server) include_hidden: Option<bool>,
}

/// `account/read`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::app_server) struct AccountRead {
    pub(in crate::app_server) refresh_token: bool,
}

fn lean_config(options: &ThreadOptions) -> Map<String, Value> {
    let mut config: Map<String, Value> = LEAN_OFF.iter().map(|key| ((*key).into(), false.into())).collect();
    config.insert("features.image_generation".into(), options.image_generation.into());
    let search = options.web_search.as_ref();
    let mode = search.map_or("disabled", |search| if search.live { "live" } else { "cached" });
    config.insert("web_search".into(), mode.into());
    if let Some(settings) = search.map(search_settings).filter(|settings| !settings.is_empty()) {
        config.insert("tools.web_search".into(), settings.into());
    }
    config.insert("project_doc_max_bytes".into(), 0.into());
    // Unloads soon after the unsubscribe; 0 would make the unsubscribe itself slow.
    config.insert("thread_unload_delay_secs".into(), 1.into());
    if let Some(verbosity) = &options.verbosity {
        config.insert("model_verbosity".into(), verbosity.as_str().into());
    }
    if let Some(limit) = options.tool_output_token_limit {
        config.insert("tool_output_token_limit".into(), limit.into());
    }
    if !options.disabled_mcp_servers.is_empty() {
        // Nested, not dotted: a name may hold a dot. Merged with the configured ones by the app-server.
        let servers: Map<String, Value> = options
            .disabled_mcp_servers
            .iter()
            .map(|name| (name.clone(), json!({"enabled": false})))
            .collect();
        config.insert("mcp_servers".into(), servers.into());
    }
    config
}

fn search_settings(search: &WebSearch) -> Map<String, Value> {
    let mut settings = Map::new();
    if let Some(size) = search.context_size {
        settings.insert("context_size".into(), size.into());
    }
    if let Some(domains) = &search.allowed_domains {
        settings.insert("allowed_domains".into(), domains.as_slice().into());
    }
    if let Some(location) = &search.location {
        let Location { country, region, city, timezone } = location;
        let known = [("country", country), ("region", region), ("city", city), ("timezone", timezone)];
        let known = known.into_iter().filter_map(|(name, value)| Some((name.into(), value.clone()?.into())));
        settings.insert("location".into(), Value::Object(known.collect()));
    }
    settings
}

fn cwd(path: &Path) -> std::borrow::Cow<'_, str> {
    path.to_string_lossy()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lean_thread_says_everything_that_shuts_scaffolding_out() {
        let mut options = ThreadOptions::lean("gpt-6-luna", "/empty");
        options.disabled_mcp_servers = vec!["a.b".into()];
        options.verbosity = Some("high".into());
        options.tool_output_token_limit = Some(9);
        let params = thread_start(&options);
        for (key, expected) in [
            ("ephemeral", json!(true)),
            ("cwd", json!("/empty")),
            ("approvalPolicy", json!("never")),
            ("sandbox", json!("read-only")),
            ("environments", json!([])),
            ("baseInstructions", json!("")),
            ("experimentalRawEvents", json!(true)),
        ] {
            assert_eq!(params[key], expected, "{key}");
        }
        let config = params["config"].as_object().unwrap();
        assert_eq!(config.values().filter(|value| **value == json!(false)).count(), LEAN_OFF.len() + 1);
        assert_eq!(config["features.image_generation"], false);
        assert_eq!(config["web_search"], "disabled");
        assert_eq!(config["thread_unload_delay_secs"], 1);
        assert_eq!(config["model_verbosity"], "high");
        assert_eq!(config["tool_output_token_limit"], 9);
        assert_eq!(config["mcp_servers"], json!({"a.b": {"enabled": false}}));
        assert!(params.get("dynamicTools").is_none());

        options.scaffold = Scaffold::Codex;
        options.web_search = Some(WebSearch::default());
        options.image_generation = true;
        options.dynamic_tools = vec![json!({"type": "function"})];
        let params = thread_start(&options);
        assert!(params.get("baseInstructions").is_none());
        assert_eq!(params["config"]["web_search"], "live");
        assert!(params["config"].get("tools.web_search").is_none());
        assert_eq!(params["config"]["features.image_generation"], true);
        assert_eq!(params["dynamicTools"], json!([{"type": "function"}]));
    }

    #[test]
    fn a_fork_is_as_lean_as_a_thread_of_its_own() {
        let options = ThreadOptions::lean("gpt-6-luna", "/empty");
        let (fork, start) = (thread_fork("t", &options), thread_start(&options));
        assert_eq!((&fork["threadId"], &fork["excludeTurns"]), (&json!("t"), &json!(true)));
        for name in ["ephemeral", "cwd", "approvalPolicy", "sandbox", "model", "config", "baseInstructions"] {
            assert_eq!(fork[name], start[name], "{name}");
        }
        assert_eq!(fork.as_object().unwrap().len(), 9);
        let template = template_start(&options);
        assert_eq!(
            (&template["ephemeral"], &template["experimentalRawEvents"]),
            (&json!(false), &json!(false))
        );
    }

    #[test]
    fn a_search_has_its_settings() {
        let mut options = ThreadOptions::lean("gpt-5.5", "/empty");
        options.web_search = Some(WebSearch {
            live: false,
            context_size: Some("low"),
            allowed_domains: Some(vec!["a.org".into()]),
            location: Some(Location { country: Some("DE".into()), ..Location::default() }),
        });
        let config = &thread_start(&options)["config"];
        assert_eq!(config["web_search"], "cached");
        let settings =
            json!({"context_size": "low", "allowed_domains": ["a.org"], "location": {"country": "DE"}});
        assert_eq!(config["tools.web_search"], settings);
    }

    #[test]
    fn nothing_that_is_read_is_muted() {
        for method in crate::app_server::convert::READ {
            assert!(!OPT_OUT.contains(method), "{method} is muted and read");
        }
    }
}
