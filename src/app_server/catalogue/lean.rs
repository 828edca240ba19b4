//! Stock catalogue to lean catalogue: pure.

use serde_json::{Map, Value, json};

/// So large that the app-server never compacts, cuts or refuses on its own: the backend's word counts.
const NO_LIMIT_TOKENS: u64 = 2_000_000_000;

/// The same for tool outputs, which are bounded in bytes.
const NO_LIMIT_BYTES: u64 = 1_000_000_000;

/// A catalogue whose models take plain function tools and add nothing of their own to a call. Fields that
/// are not ours to change (and fields unknown here) stay as they are.
pub(crate) fn lean(mut catalogue: Value) -> Value {
    if let Some(models) = catalogue.get_mut("models").and_then(Value::as_array_mut) {
        models.iter_mut().filter_map(Value::as_object_mut).for_each(strip);
    }
    catalogue
}

fn strip(model: &mut Map<String, Value>) {
    // Absent means plain tools and one agent; null is refused for some of them.
    for field in ["tool_mode", "multi_agent_version", "multi_agent_reasoning_effort"] {
        model.shift_remove(field);
    }
    let fixed = [
        // Built-in tools.
        ("apply_patch_tool_type", Value::Null),
        ("shell_type", json!("disabled")),
        ("experimental_supported_tools", json!([])),
        ("supports_search_tool", json!(false)),
        // Instructions.
        ("base_instructions", json!("")),
        ("model_messages", Value::Null),
        // A changed hash on a live thread compacts it.
        ("comp_hash", Value::Null),
        // Compaction and cutting.
        ("context_window", json!(NO_LIMIT_TOKENS)),
        ("max_context_window", json!(NO_LIMIT_TOKENS)),
        ("auto_compact_token_limit", json!(NO_LIMIT_TOKENS)),
        ("truncation_policy", json!({"mode": "bytes", "limit": NO_LIMIT_BYTES})),
        // Sent unasked otherwise.
        ("default_verbosity", Value::Null),
        // An effort would be an item of its own amidst the conversation.
        ("supports_reasoning_effort_updates", json!(false)),
    ];
    for (field, value) in fixed {
        model.insert(field.to_owned(), value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stock_model_becomes_lean() {
        let stock = json!({"etag": "kept", "models": [{
            "slug": "gpt-6-luna",
            "display_name": "GPT-6-Luna",
            "supported_reasoning_levels": [{"effort": "low", "description": "Fast"}],
            "shell_type": "unified_exec",
            "default_verbosity": "low",
            "support_verbosity": true,
            "apply_patch_tool_type": "freeform",
            "truncation_policy": {"mode": "tokens", "limit": 10_000},
            "context_window": 272_000,
            "max_context_window": 872_000,
            "comp_hash": "3000",
            "experimental_supported_tools": ["clock"],
            "supports_search_tool": true,
            "tool_mode": "code_mode_only",
            "multi_agent_version": "v2",
            "multi_agent_reasoning_effort": "xhigh",
            "base_instructions": "You are Codex",
            "model_messages": {"persistent_instructions": "more"},
            "not_known_here": {"kept": true},
        }]});
        assert_eq!(
            lean(stock),
            json!({"etag": "kept", "models": [{
                "slug": "gpt-6-luna",
                "display_name": "GPT-6-Luna",
                "supported_reasoning_levels": [{"effort": "low", "description": "Fast"}],
                "shell_type": "disabled",
                "default_verbosity": null,
                "support_verbosity": true,
                "apply_patch_tool_type": null,
                "truncation_policy": {"mode": "bytes", "limit": 1_000_000_000},
                "context_window": 2_000_000_000,
                "max_context_window": 2_000_000_000,
                "comp_hash": null,
                "experimental_supported_tools": [],
                "supports_search_tool": false,
                "base_instructions": "",
                "model_messages": null,
                "not_known_here": {"kept": true},
                "auto_compact_token_limit": 2_000_000_000,
                "supports_reasoning_effort_updates": false,
            }]})
        );
    }

    #[test]
    fn an_odd_catalogue_passes_through() {
        for odd in [json!(null), json!({"models": "none"}), json!({"models": [1, null]})] {
            assert_eq!(lean(odd.clone()), odd);
        }
    }
}
