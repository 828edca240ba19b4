use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::api::responses::wire::{Echo, ReasoningEcho, TextEcho};
use crate::api::spec;
use crate::model::{IncompleteReason, Item, ResponseId, Route, SessionIdentity, ThreadId, TurnId, Usage};

pub(crate) fn head() -> Head {
    let echo = Echo {
        instructions: Some("be brief".into()),
        metadata: BTreeMap::from([("a".to_owned(), "b".to_owned())]),
        previous_response_id: None,
        conversation: None,
        reasoning: ReasoningEcho { effort: Some("low".into()), summary: Some("auto") },
        text: TextEcho::default(),
        service_tier: "default",
        store: true,
        max_output_tokens: None,
        tools: Vec::new(),
        tool_choice: json!("auto"),
        parallel_tool_calls: true,
        user: None,
        safety_identifier: None,
        prompt_cache_key: None,
        background: false,
        streamed: false,
        encrypted_reasoning: false,
    };
    Head { id: "resp_1".into(), created_at: 1_700_000_000, model: "gpt-6-luna".into(), echo }
}

/// The whole stream of a turn, each event checked against its official schema.
fn stream(events: Vec<TurnEvent>, result: Result<Outcome, BridgeError>) -> Vec<Value> {
    let events = written(Call::for_tests(), events, result);
    check_well_formed(&events);
    events
}

fn written(call: Call, events: Vec<TurnEvent>, result: Result<Outcome, BridgeError>) -> Vec<Value> {
    let (mut encoder, mut out) = (Events::new(head(), call), Frames::default());
    encoder.start(&mut out);
    for event in events {
        encoder.event(0, event, &mut out);
    }
    encoder.finish(0, result, &mut out);
    encoder.end(&mut out);
    let text = String::from_utf8(out.take().to_vec()).unwrap();
    let mut frames: Vec<&str> = text.split_terminator("\n\n").collect();
    assert_eq!(frames.pop(), Some("data: [DONE]"));
    let parse = |frame: &str| {
        let (name, data) = frame.strip_prefix("event: ").unwrap().split_once("\ndata: ").unwrap();
        let event: Value = serde_json::from_str(data).unwrap();
        assert_eq!(event["type"], name);
        event
    };
    frames.into_iter().map(parse).collect()
}

fn check_well_formed(events: &[Value]) {
    for (number, event) in events.iter().enumerate() {
        assert_eq!(event["sequence_number"], number);
        spec::assert_valid(&spec::stream_event(event["type"].as_str().unwrap()), event);
    }
    assert_eq!(events[0]["type"], "response.created");
    assert_eq!(events[1]["type"], "response.in_progress");
    let terminal = ["response.completed", "response.incomplete", "response.failed"];
    let is_terminal = |event: &&Value| terminal.contains(&event["type"].as_str().unwrap());
    assert_eq!(events.iter().filter(is_terminal).count(), 1);
    assert!(events.last().as_ref().is_some_and(is_terminal));
}

/// What a client that only adds up events ends with: for each item, each text by its place.
#[derive(Debug, Default)]
struct Added {
    deltas: BTreeMap<String, String>,
    done: BTreeMap<String, String>,
    items: Vec<Value>,
}

impl Added {
    fn up(events: &[Value]) -> Self {
        let mut added = Self::default();
        let mut open_parts = Vec::new();
        let mut begun = Vec::new();
        for event in events {
            let (words, last) = event["type"].as_str().unwrap().rsplit_once('.').unwrap();
            let place =
                format!("{}/{}{}", event["output_index"], event["summary_index"], event["content_index"]);
            let text =
                ["text", "refusal", "arguments", "input"].iter().find_map(|name| event[*name].as_str());
            match (words, last) {
                ("response.output_item", "added") => {
                    assert_eq!(event["output_index"], begun.len());
                    begun.push(event["item"]["id"].clone());
                }
                ("response.output_item", _) => {
                    let index = usize::try_from(event["output_index"].as_u64().unwrap()).unwrap();
                    assert_eq!(event["item"]["id"], begun[index]);
                    added.items.push(event["item"].clone());
                }
                (part, "added") if part.ends_with("part") => open_parts.push(place),
                (part, "done") if part.ends_with("part") => {
                    let open = open_parts.iter().position(|open| *open == place).expect("an open part");
                    open_parts.remove(open);
                }
                (_, "delta") => {
                    added.deltas.entry(place).or_default().push_str(event["delta"].as_str().unwrap());
                }
                (_, "done") => {
                    let text = text.expect("the whole text").to_owned();
                    assert!(added.done.insert(place, text).is_none(), "one end for each part");
                }
                _ => {}
            }
        }
        assert!(open_parts.is_empty(), "parts left open: {open_parts:?}");
        added
    }
}

/// Joined deltas, done texts, done items and the final object all say the same.
fn check_agreement(events: &[Value]) {
    let added = Added::up(events);
    let said = |texts: &BTreeMap<String, String>| -> BTreeMap<String, String> {
        texts.iter().filter(|(_, text)| !text.is_empty()).map(|(k, v)| (k.clone(), v.clone())).collect()
    };
    assert_eq!(said(&added.deltas), said(&added.done));
    let response = &events.last().unwrap()["response"];
    assert_eq!(response["status"], "completed");
    let output = response["output"].as_array().unwrap();
    let mut texts = BTreeMap::new();
    for (index, item) in output.iter().enumerate() {
        let part = |place: String, text: &Value| (place, text.as_str().unwrap_or_default().to_owned());
        for (at, entry) in item["content"].as_array().into_iter().flatten().enumerate() {
            let text = if entry["refusal"].is_null() { &entry["text"] } else { &entry["refusal"] };
            texts.extend([part(format!("{index}/null{at}"), text)]);
        }
        for (at, entry) in item["summary"].as_array().into_iter().flatten().enumerate() {
            texts.extend([part(format!("{index}/{at}null"), &entry["text"])]);
        }
        for name in ["arguments", "input"] {
            texts.extend(
                [part(format!("{index}/nullnull"), &item[name])].into_iter().filter(|(_, t)| !t.is_empty()),
            );
        }
    }
    assert_eq!(said(&texts), said(&added.done));
    let mut items = added.items;
    items.sort_by_key(|item| output.iter().position(|other| other["id"] == item["id"]));
    assert_eq!(&items, output);
}

fn usage() -> Usage {
    Usage {
        input_tokens: 10,
        cached_input_tokens: 4,
        cache_write_input_tokens: 1,
        output_tokens: 7,
        reasoning_tokens: 3,
        total_tokens: 17,
    }
}

fn outcome(output: &[Item]) -> Outcome {
    Outcome {
        incomplete: None,
        stopped: false,
        kept: None,
        upstream_response_id: None,
        usage: Some(usage()),
        model: "gpt-6-luna".into(),
        output: output.to_vec(),
    }
}

fn item(value: Value) -> Item {
    Item::from_value(value).unwrap()
}

fn message(id: &str, text: &str) -> Item {
    item(json!({ "type": "message", "role": "assistant", "id": id,
        "content": [{ "type": "output_text", "text": text }] }))
}

fn reasoning(id: &str, summary: &[&str]) -> Item {
    let summary: Vec<Value> = summary.iter().map(|s| json!({ "type": "summary_text", "text": s })).collect();
    item(json!({ "type": "reasoning", "id": id, "summary": summary, "encrypted_content": "secret" }))
}

fn call(id: &str) -> Item {
    item(json!({ "type": "function_call", "id": id, "call_id": "c1", "name": "f", "arguments": "{\"a\":1}" }))
}

fn started() -> TurnEvent {
    TurnEvent::Started { thread: ThreadId::new("t"), turn: TurnId::new("1") }
}

fn text(id: &str, delta: &str) -> TurnEvent {
    TurnEvent::TextDelta { item_id: id.into(), delta: delta.into() }
}

fn summary(id: &str, index: u32, delta: &str) -> TurnEvent {
    TurnEvent::SummaryDelta { item_id: id.into(), index, delta: delta.into() }
}

/// Times are the one thing that differs between runs.
fn settled(mut events: Vec<Value>) -> Vec<Value> {
    let at = events.last_mut().and_then(|event| event["response"].get_mut("completed_at"));
    if let Some(at) = at.filter(|at| at.is_u64()) {
        *at = json!("[time]");
    }
    events
}

fn kinds(events: &[Value]) -> Vec<&str> {
    events.iter().map(|event| event["type"].as_str().unwrap()).collect()
}

#[test]
fn a_streamed_answer() {
    let output = [reasoning("rs_1", &["thinking", "more"]), message("msg_1", "Hello there")];
    let events = vec![
        started(),
        TurnEvent::ReasoningStarted { item_id: "rs_1".into() },
        TurnEvent::SummaryPartAdded { item_id: "rs_1".into(), index: 0 },
        summary("rs_1", 0, "think"),
        summary("rs_1", 0, "ing"),
        TurnEvent::SummaryPartAdded { item_id: "rs_1".into(), index: 1 },
        summary("rs_1", 1, "more"),
        TurnEvent::ItemDone(output[0].clone()),
        TurnEvent::MessageStarted { item_id: "msg_1".into() },
        text("msg_1", "Hello"),
        text("msg_1", " there"),
        TurnEvent::ItemDone(output[1].clone()),
    ];
    let events = stream(events, Ok(outcome(&output)));
    check_agreement(&events);
    insta::assert_json_snapshot!(settled(events));
}

#[test]
fn items_without_earlier_events_get_the_whole_series() {
    let output = [
        reasoning("rs_1", &["thought"]),
        call("fc_1"),
        item(
            json!({ "type": "custom_tool_call", "id": "ctc_1", "call_id": "c2", "name": "g", "input": "x" }),
        ),
        item(
            json!({ "type": "web_search_call", "id": "ws_1", "action": { "type": "search", "query": "q" } }),
        ),
        item(json!({ "type": "message", "role": "assistant", "id": "msg_1", "content": [
            { "type": "output_text", "text": "Hello", "annotations": [
                { "type": "url_citation", "url": "http://a", "start_index": 0, "end_index": 1, "title": "t" }] },
            { "type": "refusal", "refusal": "no" },
        ] })),
    ];
    let events = output.iter().cloned().map(TurnEvent::ItemDone).collect();
    let events = stream(events, Ok(outcome(&output)));
    check_agreement(&events);
    insta::assert_json_snapshot!(settled(events));
}

#[test]
fn a_failure_in_mid_stream() {
    let events = vec![started(), TurnEvent::ItemDone(reasoning("rs_1", &[])), text("msg_1", "Hel")];
    let error =
        BridgeError::RateLimited { message: "slow down".into(), retry_after: Some(Duration::from_secs(1)) };
    insta::assert_json_snapshot!(settled(stream(events, Err(error))));
}

#[test]
fn failures_have_official_codes() {
    let code = |error| stream(vec![], Err(error)).pop().unwrap()["response"]["error"]["code"].clone();
    assert_eq!(code(BridgeError::Interrupted), "server_error");
    assert_eq!(code(BridgeError::ContextLengthExceeded { message: "long".into() }), "invalid_prompt");
    assert_eq!(
        code(BridgeError::UsageLimit { message: "used up".into(), resets_at: None }),
        "rate_limit_exceeded"
    );
}

#[test]
fn the_outcome_alone_is_enough() {
    let output = [message("msg_1", "Hello"), call("fc_1")];
    let events = stream(vec![started()], Ok(outcome(&output)));
    check_agreement(&events);
    assert!(kinds(&events).contains(&"response.output_text.delta"));
}

#[test]
fn items_without_ids_keep_the_ones_they_get() {
    let output = [
        item(
            json!({ "type": "message", "role": "assistant", "content": [{ "type": "output_text", "text": "a" }] }),
        ),
        item(
            json!({ "type": "message", "role": "assistant", "content": [{ "type": "output_text", "text": "b" }] }),
        ),
    ];
    let events = stream(output.iter().cloned().map(TurnEvent::ItemDone).collect(), Ok(outcome(&output)));
    check_agreement(&events);
    assert_eq!(events.last().unwrap()["response"]["output"][1]["id"], "msg_101");
}

#[test]
fn text_that_never_came_as_a_delta_comes_with_the_end() {
    let output = [message("msg_1", "Hello there")];
    let events = vec![text("msg_1", "Hello"), TurnEvent::ItemDone(output[0].clone())];
    let events = stream(events, Ok(outcome(&output)));
    check_agreement(&events);
}

#[test]
fn deltas_of_a_finished_item_are_not_sent() {
    let output = [message("msg_1", "Hello")];
    let events = vec![
        TurnEvent::ItemDone(output[0].clone()),
        text("msg_1", "again"),
        TurnEvent::ItemDone(output[0].clone()),
    ];
    check_agreement(&stream(events, Ok(outcome(&output))));
}

#[test]
fn an_abandoned_item_is_closed() {
    let events = vec![text("msg_0", "Hel"), TurnEvent::ReasoningStarted { item_id: "rs_0".into() }];
    let events = stream(events, Ok(outcome(&[message("msg_1", "Hello")])));
    let added = Added::up(&events);
    let statuses: Vec<&Value> = added.items.iter().map(|item| &item["status"]).collect();
    assert_eq!(statuses, ["completed", "incomplete", "incomplete"]);
    assert_eq!(events.last().unwrap()["response"]["output"].as_array().unwrap().len(), 1);
}

#[test]
fn an_answer_that_was_cut_is_incomplete_and_says_why() {
    for (reason, said) in [
        (IncompleteReason::MaxOutputTokens, "max_output_tokens"),
        (IncompleteReason::ContentFilter, "content_filter"),
    ] {
        let mut cut = message("msg_1", "Hel").to_value();
        cut["status"] = json!("incomplete");
        let cut = item(cut);
        let outcome = Outcome { incomplete: Some(reason), ..outcome(std::slice::from_ref(&cut)) };
        let events = stream(vec![text("msg_1", "Hel"), TurnEvent::ItemDone(cut)], Ok(outcome));
        let last = events.last().unwrap();
        assert_eq!(last["type"], "response.incomplete");
        let response = &last["response"];
        assert_eq!((&response["status"], &response["completed_at"]), (&json!("incomplete"), &Value::Null));
        assert_eq!(response["incomplete_details"]["reason"], said);
        assert_eq!(response["output"][0]["status"], "incomplete");
    }
}

#[test]
fn late_usage_is_null_and_the_rest_stands() {
    let outcome = Outcome { usage: None, ..outcome(&[message("msg_1", "x")]) };
    let events = stream(vec![], Ok(outcome));
    assert_eq!(events.last().unwrap()["response"]["usage"], Value::Null);
}

#[test]
fn a_trace_is_one_more_member_of_the_last_response() {
    let ends =
        [("answered", Ok(outcome(&[message("msg_1", "Hello")]))), ("failed", Err(BridgeError::Draining))];
    for (ended, result) in ends {
        let call = Call::for_tests();
        call.begin(&ResponseId::new("resp_1"), &SessionIdentity::fresh())
            .note(|trace| trace.route = Some(Route::Live));
        let told = vec![started(), text("msg_1", "Hello")];
        let mut plain = written(call.clone(), told.clone(), result.clone());
        check_well_formed(&plain);
        call.want_trace();
        let mut traced = written(call, told, result);
        let last = traced.last_mut().unwrap()["response"].as_object_mut().unwrap();
        let bridge = last.shift_remove("bridge").unwrap_or_else(|| panic!("{ended}: {last:?}"));
        assert_eq!(bridge["trace"]["route"], "live");
        assert_eq!(bridge["trace"]["mapping"]["response_id"], "resp_1");
        for events in [&mut plain, &mut traced] {
            events.last_mut().unwrap()["response"]["completed_at"].take();
        }
        assert_eq!(traced, plain, "{ended}");
    }
}

#[test]
fn the_whole_response() {
    let (head, items) = (head(), [reasoning("rs_1", &["s"]), message("msg_1", "Hello")]);
    let output = official_items(&items, head.form());
    let progress = Progress::Completed { at: 1_700_000_001 };
    let response = serde_json::to_value(Response::new(&head, progress, &output, Some(usage()))).unwrap();
    spec::assert_valid("Response", &response);
    insta::assert_json_snapshot!(response);
}

/// How one item of a turn comes: its pieces, and whether it is told piece by piece.
#[derive(Debug, Clone)]
enum Told {
    Message { pieces: Vec<String>, told: usize, started: bool },
    Reasoning { parts: Vec<Vec<String>>, told: bool, announced: bool },
    Call,
}

fn told() -> impl Strategy<Value = Told> {
    let piece = "[a-zé \"\\\\\n]{1,6}";
    prop_oneof![
        (prop::collection::vec(piece, 0..5), 0..6_usize, any::<bool>())
            .prop_map(|(pieces, told, started)| Told::Message { pieces, told, started }),
        (prop::collection::vec(prop::collection::vec(piece, 1..3), 0..3), any::<bool>(), any::<bool>())
            .prop_map(|(parts, told, announced)| Told::Reasoning { parts, told, announced }),
        Just(Told::Call),
    ]
}

/// The steps of such a turn and the items it makes.
fn play(turn: &[Told]) -> (Vec<TurnEvent>, Vec<Item>) {
    let (mut events, mut items) = (vec![started()], Vec::new());
    for (number, told) in turn.iter().enumerate() {
        let id = format!("item_{number}");
        let item = match told {
            Told::Message { pieces, told, started } => {
                if *started {
                    events.push(TurnEvent::MessageStarted { item_id: id.clone() });
                }
                events.extend(pieces.iter().take(*told).map(|piece| text(&id, piece)));
                message(&id, &pieces.concat())
            }
            Told::Reasoning { parts, told, announced } => {
                for (index, pieces) in (0..).zip(parts).filter(|_| *told) {
                    if *announced {
                        events.push(TurnEvent::SummaryPartAdded { item_id: id.clone(), index });
                    }
                    events.extend(pieces.iter().map(|piece| summary(&id, index, piece)));
                }
                let parts: Vec<String> = parts.iter().map(|pieces| pieces.concat()).collect();
                reasoning(&id, &parts.iter().map(String::as_str).collect::<Vec<_>>())
            }
            Told::Call => call(&id),
        };
        events.push(TurnEvent::ItemDone(item.clone()));
        items.push(item);
    }
    (events, items)
}

/// Steps in no order at all.
fn any_step() -> impl Strategy<Value = TurnEvent> {
    let id = "[ab]";
    prop_oneof![
        id.prop_map(|item_id| TurnEvent::MessageStarted { item_id }),
        id.prop_map(|item_id| TurnEvent::ReasoningStarted { item_id }),
        (id, "[a-z]{1,3}").prop_map(|(item_id, delta)| TurnEvent::TextDelta { item_id, delta }),
        (id, 0..4_u32).prop_map(|(item_id, index)| TurnEvent::SummaryPartAdded { item_id, index }),
        (id, 0..4_u32, "[a-z]{1,3}").prop_map(|(item_id, index, delta)| TurnEvent::SummaryDelta {
            item_id,
            index,
            delta
        }),
        (id, 0..4_u32, "[a-z]{1,3}").prop_map(|(item_id, index, delta)| TurnEvent::ReasoningDelta {
            item_id,
            index,
            delta
        }),
        (id, "[a-z]{0,3}").prop_map(|(id, text)| TurnEvent::ItemDone(message(&id, &text))),
        (id, "[a-z]{0,3}").prop_map(|(id, text)| TurnEvent::ItemDone(reasoning(&id, &[&text]))),
        Just(TurnEvent::ItemDone(item(json!({ "type": "surprise" })))),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn deltas_ends_and_the_final_object_agree(turn in prop::collection::vec(told(), 0..5)) {
        let (events, items) = play(&turn);
        check_agreement(&stream(events, Ok(outcome(&items))));
    }

    #[test]
    fn any_steps_make_official_events_and_one_end(
        steps in prop::collection::vec(any_step(), 0..12),
        fails in any::<bool>(),
    ) {
        let result = if fails { Err(BridgeError::Draining) } else { Ok(outcome(&[message("a", "x")])) };
        let events = stream(steps, result);
        if !fails {
            Added::up(&events);
        }
    }
}
