//! The stand-in answers whatever it is asked.

use super::conversation::Conversation;
use super::rules;
use crate::fuzzing;

#[test]
fn fuzz_standin() {
    fuzzing::json("standin", &[], |body| drop(rules::answer(&Conversation::read(body))));
}

#[test]
fn fuzz_directives() {
    fuzzing::bytes("directives", &[], |bytes| {
        let body = serde_json::json!({"input": String::from_utf8_lossy(bytes)});
        drop(rules::answer(&Conversation::read(&body)));
    });
}
