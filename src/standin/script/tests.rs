use serde_json::{Value, json};

use super::super::conversation::Conversation;
use super::super::rules;
use super::*;

fn stamp() -> Stamp {
    Stamp { id: "0".into(), created_at: 1_700_000_000 }
}

/// Steps as the lines of a transcript, the response object of the opening left out.
fn transcript(request: &Value) -> String {
    let answer = rules::answer(&Conversation::read(request));
    let failure = answer.failure.map(|planned| planned.failure);
    let line = |step: Step| match step {
        Step::Event(mut event) => {
            let kind = event["type"].as_str().unwrap_or_default().to_owned();
            if matches!(kind.as_str(), "response.created" | "response.in_progress") {
                event["response"] = json!(event["response"]["id"]);
            }
            event.to_string()
        }
        other => format!("{other:?}"),
    };
    play(request, answer, failure, &stamp()).map(line).collect::<Vec<_>>().join("\n")
}

fn said(text: &str) -> String {
    transcript(&json!({"model": "m", "input": [{"role": "user", "content": text}]}))
}

#[test]
fn a_message() {
    insta::assert_snapshot!(said("SAY two words"));
}

#[test]
fn a_thought_and_a_slow_message() {
    insta::assert_snapshot!(said(r#"THINK "let me see" SLOW 2 10"#));
}

#[test]
fn two_calls() {
    insta::assert_snapshot!(said(r#"CALLTOOL a {"x": 1} CALLTOOL b {}"#));
}

#[test]
fn a_cut_stream() {
    insta::assert_snapshot!(said("FAIL stream SAY one two three"));
}

#[test]
fn a_stalled_stream() {
    insta::assert_snapshot!(said(r#"THINK "a b c" FAIL stall SAY one"#));
}

#[test]
fn a_context_failure() {
    insta::assert_snapshot!(said("FAIL context"));
}

#[test]
fn an_incomplete_answer() {
    insta::assert_snapshot!(said("FAIL incomplete SAY cut short"));
}

#[test]
fn a_warm_up() {
    let request = json!({"model": "m", "input": [], "generate": false});
    let events: Vec<Step> = warm_up(&request, &stamp()).collect();
    let Step::Event(last) = &events[2] else { panic!("{:?}", events[2]) };
    assert_eq!(last["response"]["output"], json!([]));
    assert_eq!(last["response"]["usage"]["total_tokens"], 0);
    assert_eq!(events.len(), 3);
}
