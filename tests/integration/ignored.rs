//! What has no effect is left out and named, over HTTP: both APIs, whole and streamed.

use codex_bridge::config::UnknownTools;
use serde_json::{Value, json};

use crate::daemon::Daemon;

const HEADER: &str = "x-codex-bridge-ignored";

/// A good request to `path` with a tool that is not served beside one that is.
fn with_tools(path: &str, stream: bool) -> Value {
    let function = json!({"name": "look", "parameters": {"type": "object", "properties": {}}});
    let unknown = json!({"type": "code_interpreter", "container": {"type": "auto"}});
    if path == "/v1/responses" {
        let mut tool = function;
        tool["type"] = "function".into();
        json!({"input": "hi", "stream": stream, "tools": [unknown, tool]})
    } else {
        let tool = json!({"type": "function", "function": function});
        let messages = json!([{"role": "user", "content": "hi"}]);
        json!({"messages": messages, "stream": stream, "tools": [unknown, tool]})
    }
}

#[tokio::test]
async fn tools_of_unknown_types_are_left_out_where_that_is_wanted_and_else_refused() {
    let mut lenient = Daemon::start(|config| config.requests.unknown_tools = UnknownTools::Ignore).await;
    let strict = Daemon::start(|_| {}).await;
    for path in ["/v1/responses", "/v1/chat/completions"] {
        for stream in [false, true] {
            let asking = lenient.post(path, with_tools(path, stream));
            lenient.peer.turn().await.answer("hello");
            let answer = asking.answer().await;
            assert_eq!(answer.status, 200, "{}", answer.text);
            assert_eq!(answer.header(HEADER), Some("tools[].code_interpreter"), "{path}, streamed: {stream}");
            let started = lenient.peer.seen("thread/start");
            assert!(!started.is_empty());
            for thread in &started {
                let tools = &thread["params"]["dynamicTools"];
                assert_eq!((tools[0]["name"].as_str(), tools.get(1)), (Some("look"), None), "{tools}");
            }

            let refused = strict.client.post(path, &with_tools(path, stream)).await;
            assert_eq!(refused.failure(), (400, "unsupported_tool".into()));
        }
    }
    assert_eq!(strict.peer.seen("thread/start").len(), 0);
    lenient.finish().await;
    strict.finish().await;
}
