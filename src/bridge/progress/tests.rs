use serde_json::json;

use super::*;

fn message(id: &str, text: &str) -> Item {
    let content = json!([{"type": "output_text", "text": text}]);
    Item::from_value(json!({"type": "message", "id": id, "role": "assistant", "content": content})).unwrap()
}

/// The function `n` and one whose name the app-server keeps for itself.
fn calls(parallel: bool) -> Calls {
    let mut request = crate::bridge::tests::ask("");
    request.tools = ["n", "exec_command"].map(crate::bridge::tests::function).to_vec();
    Calls::new(Tools::offered(&request), parallel)
}

fn call(id: &str, name: &str) -> Item {
    Item::from_value(
        json!({"type": "function_call", "id": id, "call_id": id, "name": name, "arguments": "{}"}),
    )
    .unwrap()
}

fn text(events: &[TurnEvent]) -> String {
    let delta = |event: &TurnEvent| match event {
        TurnEvent::TextDelta { delta, .. } => Some(delta.clone()),
        _ => None,
    };
    events.iter().filter_map(delta).collect()
}

fn progress() -> (Progress, Vec<TurnEvent>) {
    (Progress::new("m".into(), 10_000, None, calls(true)), Vec::new())
}

#[test]
fn a_retry_under_another_id_keeps_the_first_and_repeats_nothing() {
    let (mut progress, mut out) = progress();
    progress.started(Kind::Message, "a", &mut out);
    progress.delta(Part::Text, "a", 0, "w0 w1 ".into(), &mut out).unwrap();
    progress.retried();
    progress.started(Kind::Message, "b", &mut out);
    progress.delta(Part::Text, "b", 0, "w0 w1 w2".into(), &mut out).unwrap();
    progress.item_done(message("b", "w0 w1 w2 w3"), &mut out).unwrap();
    assert_eq!(text(&out), "w0 w1 w2 w3");
    assert_eq!(out.iter().filter(|event| matches!(event, TurnEvent::MessageStarted { .. })).count(), 1);
    assert!(matches!(out.last(), Some(TurnEvent::ItemDone(item)) if item.id() == Some("a")));
}

#[test]
fn a_retry_that_only_new_ids_betray_keeps_the_first_too() {
    let (mut progress, mut out) = progress();
    progress.started(Kind::Message, "a", &mut out);
    progress.delta(Part::Text, "a", 0, "w0 w1 ".into(), &mut out).unwrap();
    // The new attempt thinks once more before it says the same.
    progress.started(Kind::Reasoning, "r", &mut out);
    let thought = json!({"type": "reasoning", "id": "r", "summary": []});
    progress.item_done(Item::from_value(thought).unwrap(), &mut out).unwrap();
    progress.started(Kind::Message, "b", &mut out);
    progress.delta(Part::Text, "b", 0, "w0 w1 w2".into(), &mut out).unwrap();
    progress.item_done(message("b", "w0 w1 w2"), &mut out).unwrap();
    assert_eq!(text(&out), "w0 w1 w2");
    progress.check_complete().unwrap();
    let history: Vec<_> = progress.history().map(|item| item.kind().to_owned()).collect();
    assert_eq!(history, ["reasoning", "message"]);
    let output = progress.into_outcome().output;
    assert_eq!(output.iter().map(Item::kind).collect::<Vec<_>>(), ["message", "reasoning"]);
}

#[test]
fn an_item_that_a_retry_does_not_repeat_is_an_error_only_for_who_saw_it() {
    for unseen in [false, true] {
        let (mut progress, mut out) = progress();
        if unseen {
            progress.set_unseen();
        }
        progress.delta(Part::Text, "a", 0, "one".into(), &mut out).unwrap();
        progress.retried();
        let call =
            json!({"type": "function_call", "id": "f", "call_id": "c", "name": "n", "arguments": "{}"});
        progress.item_done(Item::from_value(call).unwrap(), &mut out).unwrap();
        assert_eq!(progress.check_complete().is_ok(), unseen);
    }
}

#[test]
fn two_messages_of_one_answer_stay_apart() {
    let (mut progress, mut out) = progress();
    for (id, said) in [("a", "one"), ("b", "two")] {
        progress.delta(Part::Text, id, 0, said.into(), &mut out).unwrap();
        progress.item_done(message(id, said), &mut out).unwrap();
    }
    progress.response_completed("r".into(), None);
    assert!(progress.is_answered());
    let ids: Vec<_> =
        progress.into_outcome().output.iter().map(|item| item.id().map(str::to_owned)).collect();
    assert_eq!(ids, [Some("a".to_owned()), Some("b".to_owned())]);
}

#[test]
fn a_final_text_that_contradicts_the_deltas_is_an_error() {
    let (mut progress, mut out) = progress();
    progress.delta(Part::Text, "a", 0, "one".into(), &mut out).unwrap();
    let error = progress.item_done(message("a", "two"), &mut out).unwrap_err();
    assert!(matches!(error, BridgeError::Upstream { code: "retry_diverged", .. }));
}

#[test]
fn text_is_counted_once_and_bounded() {
    let (mut progress, mut out) = (Progress::new("m".into(), 1000, None, calls(true)), Vec::new());
    let half = "x".repeat(400);
    progress.delta(Part::Text, "a", 0, half.clone(), &mut out).unwrap();
    progress.item_done(message("a", &half), &mut out).unwrap();
    let error = progress.delta(Part::Text, "b", 0, "y".repeat(700), &mut out).unwrap_err();
    assert!(matches!(error, BridgeError::AnswerTooLarge { limit: 1000 }));
}

#[test]
fn tool_outputs_and_echoed_input_are_not_output() {
    let (mut progress, mut out) = progress();
    for kind in [
        json!({"type": "function_call_output", "call_id": "c", "output": ""}),
        json!({"type": "message", "role": "user", "content": []}),
    ] {
        progress.item_done(Item::from_value(kind).unwrap(), &mut out).unwrap();
    }
    assert_eq!(out, []);
}

#[test]
fn calls_come_out_under_the_clients_names_and_only_those_it_offered() {
    let (mut progress, mut out) = progress();
    let upstream = progress.calls.tools.dynamic()[1]["name"].as_str().unwrap().to_owned();
    assert_ne!(upstream, "exec_command");
    for item in [call("a", &upstream), call("b", "made_up"), call("c", "n")] {
        progress.item_done(item, &mut out).unwrap();
    }
    assert_eq!(progress.calls(), ["a", "c"]);
    assert!(progress.left_calls_out());
    let names: Vec<_> = progress.history().map(|item| item.str("name").unwrap().to_owned()).collect();
    assert_eq!(names, ["exec_command", "n"]);
}

#[test]
fn where_one_call_is_allowed_the_others_never_happened() {
    let (mut progress, mut out) = (Progress::new("m".into(), 1000, None, calls(false)), Vec::new());
    for item in [call("a", "n"), call("b", "n")] {
        progress.item_done(item, &mut out).unwrap();
    }
    assert_eq!((progress.calls(), out.len(), progress.left_calls_out()), (&["a".to_owned()][..], 1, true));
}

#[test]
fn a_call_of_codex_itself_becomes_what_it_did() {
    let mut request = crate::bridge::tests::ask("");
    request.tools = vec![crate::bridge::tests::function("n")];
    request.image_generation = true;
    let calls = Calls::new(Tools::offered(&request), true);
    let (mut progress, mut out) = (Progress::new("m".into(), 10_000, None, calls), Vec::new());
    let own = |id: &str| {
        let mut fields = call(id, "imagegen").fields().clone();
        fields.insert("namespace".into(), "image_gen".into());
        Item::new(fields)
    };
    progress.item_done(own("o1"), &mut out).unwrap();
    progress.item_done(own("o2"), &mut out).unwrap();
    progress.item_done(call("c1", "n"), &mut out).unwrap();
    progress.response_completed("resp_1".into(), None);
    assert!(!progress.is_batch() && !progress.left_calls_out());
    let image = json!({"type": "image_generation_call", "id": "ig_o1", "status": "completed", "result": "x"});
    let image = Item::from_value(image).unwrap();
    for _ in 0..2 {
        progress.own_call_done("o1", image.clone(), &mut out).unwrap();
    }
    assert!(!progress.is_batch());
    // One of which nothing but the output is told.
    let output = json!({"type": "function_call_output", "call_id": "o2", "output": "it failed"});
    progress.item_done(Item::from_value(output).unwrap(), &mut out).unwrap();
    assert!(progress.is_batch());
    let outcome = progress.into_outcome();
    let kinds: Vec<&str> = outcome.output.iter().map(Item::kind).collect();
    assert_eq!((kinds, out.len()), (vec!["function_call", "image_generation_call"], 2));
}

/// Of a refusal the app-server tells that a message begins, and what it cost.
#[test]
fn an_answer_that_is_not_passed_on_is_no_answer() {
    let usage = |output_tokens| Some(Usage { output_tokens, reasoning_tokens: 2, ..Usage::default() });
    let not_passed_on = |progress: &Progress| {
        let error = progress.check_complete().unwrap_err();
        assert!(matches!(error, BridgeError::Upstream { code: "answer_not_passed_on", .. }), "{error:?}");
    };
    let (mut begun, mut out) = progress();
    begun.started(Kind::Message, "a", &mut out);
    begun.response_completed("r".into(), usage(2));
    not_passed_on(&begun);
    let (mut whole, _) = progress();
    whole.response_completed("r".into(), usage(6));
    not_passed_on(&whole);
    let (mut empty, _) = progress();
    empty.response_completed("r".into(), usage(2));
    empty.check_complete().unwrap();
}
