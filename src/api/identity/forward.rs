//! `metadata` on its way upstream: folded by the app-server into the metadata of its own turn.

use std::collections::BTreeMap;

use crate::api::ignored::Ignored;

/// Most bytes of it: the app-server sends it as a header, and servers take headers of about 8 KiB.
const MAX_BYTES: usize = 4096;

/// Before a name that the app-server keeps for itself: it would drop the pair without a word.
const PREFIX: &str = "client_";

/// The names that the app-server keeps, beside those that begin like its own headers.
pub(super) const KEPT: &[&str] = &[
    "agent_name",
    "analytics_enabled",
    "auto_review_enabled",
    "context_window_id",
    "forked_from_thread_id",
    "history_initialization",
    "installation_id",
    "model",
    "node_repl_auto_review_required",
    "node_repl_disabled",
    "parent_thread_id",
    "reasoning_effort",
    "request_kind",
    "root_turn_id",
    "sandbox",
    "sandbox_mode",
    "session_id",
    "thread_id",
    "thread_source",
    "turn_id",
    "turn_started_at_unix_ms",
    "window_id",
    "window_number",
    "workspaces",
];

/// What is passed on. Pairs past the bound are named as ignored.
pub(crate) fn forwarded(
    metadata: &BTreeMap<String, String>,
    ignored: &mut Ignored,
) -> BTreeMap<String, String> {
    let mut left = MAX_BYTES;
    let mut passed = BTreeMap::new();
    for (name, value) in metadata {
        let upstream = if is_kept(name) { format!("{PREFIX}{name}") } else { name.clone() };
        // Quotes, colon and comma.
        let bytes = escaped(&upstream) + escaped(value) + 6;
        if bytes > left {
            ignored.add(format!("metadata.{name}"));
        } else {
            left -= bytes;
            passed.entry(upstream).or_insert_with(|| value.clone());
        }
    }
    passed
}

fn is_kept(name: &str) -> bool {
    KEPT.contains(&name) || name.starts_with("x-codex-") || name.starts_with("x-openai-")
}

/// Bytes of a text as JSON in ASCII.
fn escaped(text: &str) -> usize {
    let bytes = |c: char| match c {
        '"' | '\\' => 2,
        ' '..='~' => 1,
        _ => 6 * c.len_utf16(),
    };
    text.chars().map(bytes).sum()
}
