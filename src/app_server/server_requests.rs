//! Answers to what the app-server asks. Every request but a tool call is answered at once: one that is not
//! would stall its turn. Nobody sits in front of the bridge, so whatever asks for consent is declined.

use std::time::{SystemTime, UNIX_EPOCH};

use jsonrpsee_types::ErrorObjectOwned;
use jsonrpsee_types::error::{INTERNAL_ERROR_CODE, METHOD_NOT_FOUND_CODE};
use serde_json::{Value, json};

const DECLINED: &str = "codex-bridge runs nothing and approves nothing.";

/// Our answer to the request `method`.
pub(super) fn answer(method: &str) -> Result<Value, ErrorObjectOwned> {
    match method {
        "item/commandExecution/requestApproval" | "item/fileChange/requestApproval" => {
            Ok(json!({"decision": "decline"}))
        }
        "item/permissions/requestApproval" => Ok(json!({"permissions": {}, "scope": "turn"})),
        "execCommandApproval" | "applyPatchApproval" => {
            Ok(json!({"decision": {"denied": {"rejection": DECLINED}}}))
        }
        "item/tool/requestUserInput" => Ok(json!({"answers": {}})),
        "mcpServer/elicitation/request" => Ok(json!({"action": "decline", "content": null, "_meta": null})),
        "item/tool/call" => Ok(unanswered_call()),
        "currentTime/read" => Ok(json!({"currentTimeAt": unix_seconds()})),
        "account/chatgptAuthTokens/refresh" | "attestation/generate" => {
            Err(refusal(INTERNAL_ERROR_CODE, "codex-bridge keeps no login of its own; run `codex login`."))
        }
        _ => Err(refusal(METHOD_NOT_FOUND_CODE, "Method not found")),
    }
}

/// The answer to a tool call that nobody answers.
pub(super) fn unanswered_call() -> Value {
    json!({
        "contentItems": [{"type": "inputText", "text": "No tool of this name can be called."}],
        "success": false,
    })
}

fn refusal(code: i32, message: &'static str) -> ErrorObjectOwned {
    ErrorObjectOwned::borrowed(code, message, None)
}

fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_request_of_the_protocol_has_an_answer_and_nothing_is_approved() {
        for method in [
            "item/commandExecution/requestApproval",
            "item/fileChange/requestApproval",
            "item/tool/requestUserInput",
            "mcpServer/elicitation/request",
            "item/permissions/requestApproval",
            "item/tool/call",
            "account/chatgptAuthTokens/refresh",
            "attestation/generate",
            "currentTime/read",
            "applyPatchApproval",
            "execCommandApproval",
        ] {
            match answer(method) {
                Ok(answer) => {
                    let text = answer.to_string();
                    assert!(!text.contains("accept") && !text.contains("\"approved"), "{method}: {text}");
                }
                Err(error) => assert_eq!(error.code(), INTERNAL_ERROR_CODE, "{method}"),
            }
        }
        assert_eq!(answer("brand/new").unwrap_err().code(), METHOD_NOT_FOUND_CODE);
    }

    #[test]
    fn tells_the_time() {
        assert!(answer("currentTime/read").unwrap()["currentTimeAt"].as_u64().unwrap() > 1_700_000_000);
    }
}
