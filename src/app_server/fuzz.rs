//! Whatever the app-server says is read or turned away.

use serde_json::Value;

use super::convert;
use super::wire::{self, Incoming};
use crate::fuzzing;

fn read(text: &str) {
    match Incoming::parse(text) {
        Ok(Incoming::Notification { method, params }) => {
            drop(convert::notification(&method, params.get()));
        }
        Ok(Incoming::Request { id, method, params }) => {
            drop(serde_json::from_str::<wire::ToolCall<'_>>(params.get()));
            let _ = super::server_requests::answer(&method);
            let answer = wire::encode_result(id, &()).expect("an id is JSON");
            let answer: Value = serde_json::from_slice(&answer).expect("JSON");
            assert_eq!(answer["id"], serde_json::from_str::<Value>(id.get()).expect("JSON"));
        }
        Ok(Incoming::Reply { outcome: Ok(result), .. }) => {
            drop(serde_json::from_str::<wire::ThreadResponse>(result.get()));
            drop(serde_json::from_str::<wire::TurnResponse>(result.get()));
            drop(serde_json::from_str::<wire::ModelList>(result.get()));
            drop(serde_json::from_str::<wire::AccountResponse>(result.get()));
            drop(serde_json::from_str::<wire::RateLimitsResponse>(result.get()));
        }
        Ok(Incoming::Reply { outcome: Err(refusal), .. }) => drop(format!("{refusal:?}")),
        Err(_) => {}
    }
}

#[test]
fn fuzz_envelope() {
    fuzzing::bytes("envelope", &[], |bytes| read(&String::from_utf8_lossy(bytes)));
}

/// What gets past the parser: known methods with strange parameters.
#[test]
fn fuzz_messages() {
    fuzzing::json("messages", &[], |message| read(&message.to_string()));
}

/// What we write comes back as it was.
#[test]
fn fuzz_encoder() {
    fuzzing::bytes("encoder", &[], |bytes| {
        let text = String::from_utf8_lossy(bytes);
        let sent = wire::encode_request(7, &text, &[&text]).expect("JSON");
        let read = Incoming::parse(std::str::from_utf8(&sent).expect("UTF-8"));
        let Ok(Incoming::Request { id, method, params }) = read else { panic!("{read:?}") };
        let params: Vec<String> = serde_json::from_str(params.get()).expect("a list");
        assert_eq!((id.get(), &*method, params.as_slice()), ("7", &*text, &[text.to_string()][..]));
    });
}
