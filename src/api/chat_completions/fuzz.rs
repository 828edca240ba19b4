use super::decode::decode;
use crate::api::spec_samples::samples;
use crate::config::{RequestsConfig, UnknownTools};
use crate::fuzzing;

#[test]
fn fuzz_chat_completions() {
    fuzzing::json("chat_completions", &samples("CreateChatCompletionRequest"), |body| {
        let Some(body) = body.as_object() else { return };
        for unknown_tools in [UnknownTools::Refuse, UnknownTools::Ignore] {
            let config = RequestsConfig { unknown_tools, ..RequestsConfig::default() };
            if let Err(error) = decode(body.clone(), config) {
                assert!(error.status.is_client_error(), "{error:?}");
            }
        }
    });
}
