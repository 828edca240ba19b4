//! The names under which the app-server gets the client's tools and namespaces: by the same rule each time,
//! whether or not the tool is still offered.

use std::borrow::Cow;

use sha2::{Digest, Sha256};

use crate::model::ToolName;

/// Longest name the backend takes.
const MAX_NAME: usize = 64;
/// What a name of ours ends in: this and so many hexadecimal digits.
const MARK: &str = "_r";
const DIGITS: usize = 10;

/// Names that Codex keeps for tools of its own: a client's tool of such a name would be refused, or disappear
/// without a word.
const RESERVED_TOOLS: &[&str] = &[
    "apply_patch",
    "code_mode",
    "container.exec",
    "exec",
    "exec_command",
    "image_generation",
    "image_gen",
    "list_agents",
    "list_mcp_resource_templates",
    "list_mcp_resources",
    "local_shell",
    "mcp",
    "new_context",
    "read_mcp_resource",
    "request_permissions",
    "request_user_input",
    "send_input",
    "send_message",
    "shell",
    "shell_command",
    "sleep",
    "spawn_agent",
    "tool_search",
    "tool_suggest",
    "update_plan",
    "view_image",
    "wait",
    "wait_agent",
    "web_search",
    "write_stdin",
];

/// Namespaces that Codex and the backend keep for themselves: a client's would be refused.
const RESERVED_NAMESPACES: &[&str] = &[
    "api_tool",
    "browser",
    "computer",
    "container",
    "file_search",
    FUNCTIONS,
    "image_gen",
    "mcp",
    "multi_tool_use",
    "python",
    "submodel_delegator",
    "terminal",
    "tool_search",
    "web",
];

/// Where some models find the tools that stand in no namespace.
const FUNCTIONS: &str = "functions";

/// The app-server's name for the client's tool.
pub(super) fn upstream(tool: &ToolName) -> ToolName {
    ToolName {
        namespace: tool.namespace.as_deref().map(|namespace| upstream_namespace(namespace).into_owned()),
        name: upstream_name(&tool.name).into_owned(),
    }
}

/// A name as the model or the app-server writes it.
pub(super) fn written(namespace: Option<&str>, name: &str) -> ToolName {
    let namespace = namespace.filter(|namespace| *namespace != FUNCTIONS);
    ToolName { namespace: namespace.map(str::to_owned), name: name.to_owned() }
}

/// The app-server's name for a tool.
pub(super) fn upstream_name(name: &str) -> Cow<'_, str> {
    taken(name, RESERVED_TOOLS)
}

/// The app-server's name for a namespace.
pub(super) fn upstream_namespace(name: &str) -> Cow<'_, str> {
    taken(name, RESERVED_NAMESPACES)
}

/// A name that the app-server takes: the client's own where that will do. Others keep what can be read of
/// theirs, and a digest keeps them apart; a name that looks like such a one is renamed too.
fn taken<'a>(name: &'a str, reserved: &[&str]) -> Cow<'a, str> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    let kept = reserved.contains(&name) || name.starts_with("mcp__");
    if !kept && !is_ours(name) && (1..=MAX_NAME).contains(&name.len()) && name.chars().all(fits) {
        return Cow::Borrowed(name);
    }
    let prefix = if name.starts_with("mcp") { "fn_" } else { "" };
    let room = MAX_NAME - prefix.len() - MARK.len() - DIGITS;
    let readable: String = name.chars().take(room).map(|c| if fits(c) { c } else { '_' }).collect();
    let digest = format!("{:x}", Sha256::digest(name));
    Cow::Owned(format!("{prefix}{readable}{MARK}{}", &digest[..DIGITS]))
}

/// Whether `name` ends as the names do that are made here.
fn is_ours(name: &str) -> bool {
    name.rsplit_once(MARK).is_some_and(|(_, digits)| {
        digits.len() == DIGITS && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ordinary_names_stay_and_others_are_readable() {
        for name in ["get_weather", "a", "getWeather-2", &"x".repeat(64)] {
            assert_eq!(upstream_name(name), name);
        }
        for (name, start) in [
            ("exec_command", "exec_command_r"),
            ("mcp__a__b", "fn_mcp__a__b_r"),
            ("get weather!", "get_weather__r"),
        ] {
            assert!(upstream_name(name).starts_with(start), "{}", upstream_name(name));
        }
    }

    #[test]
    fn namespaces_have_reserved_names_of_their_own() {
        assert_eq!(
            (upstream_namespace("crm"), upstream_namespace("exec_command")),
            ("crm".into(), "exec_command".into())
        );
        for name in ["functions", "web", "mcp", "mcp__a", "a b", ""] {
            assert_ne!(upstream_namespace(name), name);
        }
        assert_eq!(written(Some("functions"), "f"), ToolName::from("f"));
        assert_eq!(written(Some("crm"), "f").to_string(), "crm.f");
    }

    proptest! {
        #[test]
        fn names_are_taken_by_the_app_server_and_never_meet(
            names in prop::collection::hash_set("\\PC{1,80}|mcp__[a-z]{1,4}|[a-z]{60,70}|a[ ./]b", 1..30),
        ) {
            // What a client that saw our names might call its own.
            let mut names: HashSet<String> = names;
            let ours: Vec<String> = names.iter().map(|name| upstream_name(name).into_owned()).collect();
            names.extend(ours);
            let upstream: HashSet<String> = names.iter().map(|name| upstream_name(name).into_owned()).collect();
            prop_assert_eq!(upstream.len(), names.len());
            for name in &upstream {
                prop_assert!((1..=MAX_NAME).contains(&name.len()));
                prop_assert!(name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-'));
                prop_assert!(!name.starts_with("mcp__") && !RESERVED_TOOLS.contains(&name.as_str()));
            }
        }
    }
}
