use std::time::Duration;

use serde_json::{Value, json};

use super::super::answer::{Answer, Body, Call, Failure, Planned};
use super::super::conversation::Conversation;

#[expect(clippy::needless_pass_by_value, reason = "called with literals")]
fn answer(body: Value) -> Answer {
    super::answer(&Conversation::read(&body))
}

fn said(text: &str) -> Answer {
    answer(json!({"input": text}))
}

fn text(text: &str) -> Answer {
    Answer { thought: None, body: Body::text(text), failure: None }
}

fn calls(calls: &[(&str, &str)]) -> Body {
    let call = |(name, arguments): &(&str, &str)| Call {
        namespace: None,
        name: (*name).into(),
        arguments: (*arguments).into(),
    };
    Body::Calls(calls.iter().map(call).collect())
}

#[expect(clippy::needless_pass_by_value, reason = "called with literals")]
fn with_tools(text: &str, choice: Value) -> Body {
    let tool = |name: &str, key: &str| {
        json!({"type": "function", "name": name, "parameters": {
            "type": "object", "properties": {key: {"type": "string"}}, "required": [key]}})
    };
    let tools = [tool("get_weather", "city"), tool("getTime", "zone"), tool("view_image", "path")];
    answer(json!({"input": text, "tools": tools, "tool_choice": choice})).body
}

#[test]
fn anything_else_is_echoed() {
    assert_eq!(said("hello there"), text("echo: hello there"));
    assert_eq!(answer(json!({"input": []})), text("echo: "));
}

#[test]
fn a_thought_comes_before_whatever_the_rest_asks() {
    let thinking = said(r#"THINK "let me see" SAY done"#);
    assert_eq!(thinking, Answer { thought: Some("let me see".into()), ..text("done") });
    let calling = said(r#"THINK "a" CALLTOOL f {"x":1}"#);
    assert_eq!((calling.thought.as_deref(), calling.body), (Some("a"), calls(&[("f", r#"{"x":1}"#)])));
}

#[test]
fn tool_outputs_win_over_every_directive_but_the_thought() {
    let output = |id: &str, out: &str| json!({"type": "function_call_output", "call_id": id, "output": out});
    let conversation = |text: &str| json!({"input": [{"role": "user", "content": text}, output("1", "sunny"), output("2", "noon")]});
    assert_eq!(answer(conversation("FAIL 500 CALLTOOL f {} SAY x")), text("tool said: sunny, noon"));
    assert_eq!(answer(conversation(r#"THINK "so""#)).thought.as_deref(), Some("so"));
}

#[test]
fn what_the_tools_just_said_leads_on() {
    let call = |id: &str| json!({"type": "function_call", "call_id": id, "name": "f", "arguments": "{}"});
    let output = |id: &str, out: &str| json!({"type": "function_call_output", "call_id": id, "output": out});
    let after = |new: &str| {
        json!({"input": [{"role": "user", "content": "SAY x"}, call("1"), output("1", "CALLTOOL g {}"),
            call("2"), output("2", new)]})
    };
    assert_eq!(answer(after(r#"CALLTOOL f {"n":2}"#)).body, calls(&[("f", r#"{"n":2}"#)]));
    assert_eq!(answer(after(r#"JSON {"a":1}"#)), text(r#"{"a":1}"#));
    assert_eq!(answer(after("done")), text("tool said: CALLTOOL g {}, done"));
    let mut formed = after("42 degrees");
    formed["text"] = json!({"format": {"type": "json_schema", "name": "n", "schema": {
        "type": "object", "properties": {"degrees": {"type": "integer"}}, "required": ["degrees"]}}});
    assert_eq!(answer(formed), text(r#"{"degrees":42}"#));
}

#[test]
fn a_failure_keeps_the_answer_it_fails_on() {
    let failing = said("FAIL once stream SAY one two three");
    assert_eq!(failing.failure, Some(Planned { failure: Failure::Cut, once: true }));
    assert_eq!(failing.body, Body::text("one two three"));
    let status = said("FAIL 429 3").failure;
    assert_eq!(
        status,
        Some(Planned {
            failure: Failure::Status { status: 429, retry_after: Some(3), code: None },
            once: false
        })
    );
}

#[test]
fn what_the_tools_said_can_ask_for_a_failure() {
    let output = |out: &str| json!({"type": "function_call_output", "call_id": "1", "output": out});
    let failing = answer(json!({"input": [{"role": "user", "content": "x"}, output("FAIL 500 SAY y")]}));
    let status = Failure::Status { status: 500, retry_after: None, code: None };
    assert_eq!(failing.failure, Some(Planned { failure: status, once: false }));
    assert_eq!(failing.body, Body::text("y"));
}

#[test]
fn a_pace_is_that_of_any_text() {
    let paced = |text: &str| Body::Text { text: text.into(), pause: Duration::from_millis(5) };
    assert_eq!(said("PACE 5 SAY a b").body, paced("a b"));
    assert_eq!(said("PACE 5 SLOW 2 10").body, paced("w0 w1"));
    assert_eq!(said("PACE 5 CALLTOOL f {}").body, calls(&[("f", "{}")]));
}

#[test]
fn directives_in_their_order() {
    assert_eq!(
        said(r#"CALLTOOL a {} CALLTOOL b {"k":2} JSON {} SAY x"#).body,
        calls(&[("a", "{}"), ("b", r#"{"k":2}"#)])
    );
    assert_eq!(said("JSON [1] SAY x"), text("[1]"));
    assert_eq!(said("SAY SLOW 2 10"), text("SLOW 2 10"));
    let slow = Body::Text { text: "w0 w1".into(), pause: Duration::from_millis(10) };
    assert_eq!(said("SLOW 2 10 RECALL").body, slow);
}

#[test]
fn earlier_texts_are_recalled() {
    let user = |text: &str| json!({"role": "user", "content": text});
    let asked = |question: &str| {
        answer(
            json!({"input": [user("I am Ada"), {"role": "assistant", "content": "hello"}, user("42"), user(question)]}),
        )
    };
    for question in ["RECALL", "What is my name?", "what's the Code Word?", "please RECALL."] {
        assert_eq!(asked(question), text("you said: I am Ada / 42"), "{question}");
    }
    assert_eq!(asked("I recall it"), text("echo: I recall it"));
    assert_eq!(said("RECALL"), text("you said: "));
}

#[test]
fn tools_are_called_when_named() {
    let auto = || json!("auto");
    let weather = calls(&[("get_weather", r#"{"city":"Paris"}"#)]);
    assert_eq!(with_tools("How is the weather in Paris?", auto()), weather);
    assert_eq!(with_tools("use the tool in Paris", auto()), weather);
    assert_eq!(with_tools("time and weather in Rome", auto()), calls(&[("getTime", r#"{"zone":"Rome"}"#)]));
    let both = calls(&[("getTime", r#"{"zone":"Rome"}"#), ("get_weather", r#"{"city":"Rome"}"#)]);
    assert_eq!(with_tools("both time and weather in Rome", auto()), both);
    assert_eq!(with_tools("get the image of it", auto()), Body::text("echo: get the image of it"));
    assert_eq!(with_tools("hello", auto()), Body::text("echo: hello"));
}

#[test]
fn a_forced_choice_is_followed() {
    let hello = |name: &str, key: &str| calls(&[(name, &format!(r#"{{"{key}":"Bonjour"}}"#))]);
    assert_eq!(with_tools("Bonjour", json!("required")), hello("get_weather", "city"));
    assert_eq!(
        with_tools("Bonjour", json!({"type": "function", "name": "getTime"})),
        hello("getTime", "zone")
    );
    assert_eq!(with_tools("weather", json!("none")), Body::text("echo: weather"));
}

#[test]
fn a_schema_is_filled() {
    let schema =
        json!({"type": "object", "properties": {"label": {"enum": ["ham", "spam"]}}, "required": ["label"]});
    let format = |input: &str| {
        answer(
            json!({"input": input, "text": {"format": {"type": "json_schema", "name": "n", "schema": schema}}}),
        )
    };
    assert_eq!(format("this is SPAM"), text(r#"{"label":"spam"}"#));
    assert_eq!(format("SAY no"), text("no"));
}

#[test]
fn a_search_is_made_with_whatever_searches() {
    let ask = |tools: Value| answer(json!({"input": "SEARCH \"red cats\"", "tools": tools})).body;
    assert_eq!(ask(json!([{"type": "web_search"}])), Body::Search("red cats".into()));
    let own = json!([{"type": "namespace", "name": "web", "tools": [{"type": "function", "name": "run"}]}]);
    let Body::Calls(calls) = ask(own) else { panic!("no call") };
    assert_eq!((calls[0].namespace.as_deref(), calls[0].name.as_str()), (Some("web"), "run"));
    assert_eq!(calls[0].arguments, r#"{"search_query":[{"q":"red cats"}]}"#);
    assert!(matches!(ask(json!([])), Body::Text { .. }));
}

#[test]
fn a_compaction_is_a_summary_in_the_form_that_was_asked_for() {
    let user = json!({"role": "user", "content": "SAY one FAIL once 503 PACE 5"});
    let trigger =
        answer(json!({"input": [{"role": "user", "content": "zero"}, user, {"type": "compaction_trigger"}]}));
    let summary = "summary of: zero / SAY one FAIL once 503 PACE 5".to_owned();
    let pause = Duration::from_millis(5);
    assert_eq!(trigger.body, Body::Compaction { summary, pause });
    let failure = Failure::Status { status: 503, retry_after: None, code: None };
    assert_eq!(trigger.failure, Some(Planned { failure, once: true }));
    let words =
        json!({"role": "user", "content": "You are performing a CONTEXT CHECKPOINT COMPACTION. Now."});
    assert_eq!(answer(json!({"input": [user, words]})).thought, None);
    assert_eq!(answer(json!({"input": [{"role": "user", "content": "hi"}, words]})), text("summary of: hi"));
}
