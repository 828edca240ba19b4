//! Function tools: turns that are held for their outputs, and what becomes of those that are not answered.

use std::time::Duration;

use serde_json::{Value, json};

use super::scene::{Running, Scene, after, ask, function, item, message, named, output, texts, told};
use crate::app_server::testing::bounded;
use crate::bridge::{BridgeError, Turn, TurnStep};
use crate::model::{
    Item, KeyId, Outcome, Rebuilt, ResponseId, Retention, Strict, Tool, ToolChoice, ToolInput, TurnEvent,
    TurnRequest, WebSearch,
};

fn with_tool(text: &str) -> TurnRequest {
    TurnRequest { tools: vec![function("look")], ..ask(text) }
}

fn answering(previous: &ResponseId, outputs: Vec<Item>) -> TurnRequest {
    TurnRequest { input: outputs, ..after_tool(previous) }
}

fn after_tool(previous: &ResponseId) -> TurnRequest {
    TurnRequest { tools: vec![function("look")], ..after(previous, "") }
}

/// The outcome of a turn that must end well.
async fn ended(turn: Turn) -> Outcome {
    told(turn).await.1.expect("it ends well")
}

/// A turn that waits for the outputs of `calls`, asked for under ids from 100.
async fn waiting(scene: &Scene, request: TurnRequest, calls: &[&str]) -> (ResponseId, Running, Outcome) {
    let id = request.response_id.clone();
    let (turn, running) = scene.start(request).await;
    call_all(&running, 100, calls);
    let outcome = ended(turn).await;
    (id, running, outcome)
}

fn call_all(running: &Running, first: i64, calls: &[&str]) {
    for (id, name) in (first..).zip(calls) {
        running.call(name, "look").ask(id, name, "look");
    }
    running.response("resp_calls", 10, 4);
}

fn call_ids(outcome: &Outcome) -> Vec<&str> {
    outcome.output.iter().filter_map(|item| item.str("call_id")).collect()
}

fn refusal(error: &BridgeError) -> (String, Option<&str>) {
    match error {
        BridgeError::InvalidRequest { message, param, .. } => (message.clone(), param.as_deref()),
        other => panic!("{other:?}"),
    }
}

/// Kinds of the items, or what they say.
fn said(items: &[Value]) -> Vec<String> {
    let said = |item: &Value| match item["type"].as_str() {
        Some("message") => item["content"][0]["text"].as_str().unwrap_or_default().to_owned(),
        Some("function_call") => format!("call {}", item["call_id"].as_str().unwrap_or_default()),
        Some("function_call_output") => format!("output {}", item["call_id"].as_str().unwrap_or_default()),
        other => other.unwrap_or_default().to_owned(),
    };
    items.iter().map(said).collect()
}

#[tokio::test(start_paused = true)]
async fn the_same_turn_goes_on_with_the_output() {
    let scene = Scene::new(|_| {});
    let (first, running, outcome) = waiting(&scene, with_tool("hi"), &["c1"]).await;
    let tools = scene.seen("thread/start")[0]["params"]["dynamicTools"].clone();
    let schema = json!({"type": "object", "properties": {}});
    assert_eq!(
        tools,
        json!([{"type": "function", "name": "look", "description": "does it", "inputSchema": schema}])
    );
    assert_eq!((call_ids(&outcome), outcome.output[0].id()), (vec!["c1"], Some("fc_c1")));
    assert_eq!(outcome.usage.unwrap().total_tokens, 14);
    assert_eq!(scene.load().await, (0, 1));
    assert!(!scene.answered(100), "nobody has answered yet");

    let request = answering(&first, vec![output("c1", "42")]);
    let second = request.response_id.clone();
    let turn = scene.resume(request).await;
    let answer = scene.answer(100).await;
    assert_eq!(answer, json!({"contentItems": [{"type": "inputText", "text": "42"}], "success": true}));
    assert_eq!(scene.load().await, (1, 0));
    running.say("done");
    let outcome = ended(turn).await;
    assert_eq!((texts(&outcome), outcome.usage.unwrap().total_tokens), (vec!["done".to_owned()], 5));

    // The thread is as good as any for what follows.
    let (turn, next) =
        scene.start(TurnRequest { tools: vec![function("look")], ..after(&second, "more") }).await;
    assert_eq!(next.thread, running.thread);
    next.say("ok");
    ended(turn).await;
    assert_eq!(said(&scene.items(&running.thread)), ["hi", "more"]);

    // Elsewhere it is rebuilt, call and output in place.
    let (turn, next) = scene.start(after(&second, "again")).await;
    assert_ne!(next.thread, running.thread);
    assert_eq!(said(&scene.items(&next.thread)), ["hi", "call c1", "output c1", "done", "again"]);
    next.say("ok");
    ended(turn).await;
    scene.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_batch_is_all_calls_of_one_upstream_response() {
    let scene = Scene::new(|_| {});
    let request = with_tool("hi");
    let first = request.response_id.clone();
    let (turn, running) = scene.start(request).await;
    // The app-server asks for the first before the response is complete, for the second after.
    running.call("c1", "look").ask(100, "c1", "look").call("c2", "look").response("resp_calls", 1, 1);
    assert_eq!(call_ids(&ended(turn).await), ["c1", "c2"]);

    let error = scene.refused(answering(&first, vec![output("c1", "1")])).await;
    assert_eq!(refusal(&error), ("No tool output found for function call c2.".into(), Some("input")));
    let error = scene.refused(after(&first, "something else")).await;
    assert_eq!(refusal(&error).0, "No tool output found for function call c1.");
    let outputs = vec![output("c1", "1"), output("c2", "2"), output("c3", "3")];
    let error = scene.refused(answering(&first, outputs)).await;
    let message = "No tool call found for function call output with call_id c3.";
    assert_eq!(refusal(&error), (message.into(), Some("input")));
    assert_eq!(scene.load().await, (0, 1), "it is still held");

    running.ask(101, "c2", "look");
    let turn = scene.resume(answering(&first, vec![output("c2", "2"), output("c1", "1")])).await;
    assert_eq!(scene.answer(100).await["contentItems"][0]["text"], "1");
    assert_eq!(scene.answer(101).await["contentItems"][0]["text"], "2");
    running.say("three");
    ended(turn).await;
    scene.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_turn_may_call_round_after_round() {
    let scene = Scene::new(|_| {});
    let (mut previous, running, _) = waiting(&scene, with_tool("hi"), &["c0"]).await;
    for round in 1..=3 {
        let request = answering(&previous, vec![output(&format!("c{}", round - 1), "x")]);
        previous = request.response_id.clone();
        let turn = scene.resume(request).await;
        assert_eq!(scene.answer(99 + round).await["success"], true);
        let name = format!("c{round}");
        call_all(&running, 100 + round, &[&name]);
        let outcome = ended(turn).await;
        assert_eq!((call_ids(&outcome), outcome.usage.unwrap().total_tokens), (vec![&*name], 14));
    }
    let turn = scene.resume(answering(&previous, vec![output("c3", "x")])).await;
    running.say("done");
    assert_eq!(texts(&ended(turn).await), ["done"]);
    assert_eq!(scene.seen("thread/start").len(), 1);
    scene.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_follows_the_outputs_goes_in_before_them() {
    let scene = Scene::new(|_| {});
    let (first, running, _) = waiting(&scene, with_tool("hi"), &["c1"]).await;
    let image = json!({"type": "input_image", "image_url": "data:image/png;base64,AA"});
    let parts = json!([{"type": "input_text", "text": "see"}, image]);
    let seen = item(json!({"type": "function_call_output", "call_id": "c1", "output": parts}));
    let turn = scene.resume(answering(&first, vec![seen, Item::input_text("user", "hurry")])).await;
    assert_eq!(said(&scene.items(&running.thread)), ["hi", "hurry"], "injected before the answer");
    let content = scene.answer(100).await["contentItems"].clone();
    assert_eq!(content[1], json!({"type": "inputImage", "imageUrl": "data:image/png;base64,AA"}));
    running.say("done");
    ended(turn).await;
    scene.end().await;
}

/// The conversation as a client without state sends it: no ids, no reasoning, arguments written anew.
fn whole(key: &str, last: Vec<Item>) -> TurnRequest {
    let called = json!({"type": "function_call", "call_id": "c1", "name": "look", "arguments": "{\"a\":1}"});
    let mut input = vec![Item::input_text("user", "hi"), item(message("", "let me see")), item(called)];
    input.extend(last);
    TurnRequest { input, key: KeyId::new(key), retention: Retention::Nothing, ..with_tool("") }
}

async fn waiting_stateless(scene: &Scene) -> Running {
    let request = TurnRequest { key: KeyId::new("k"), retention: Retention::Nothing, ..with_tool("hi") };
    let (turn, running) = scene.start(request).await;
    running.item(json!({"type": "reasoning", "id": "rs", "summary": [], "encrypted_content": "e"}));
    running.message("m", "let me see");
    call_all(&running, 100, &["c1"]);
    ended(turn).await;
    running
}

#[tokio::test(start_paused = true)]
async fn a_client_without_state_meets_its_turn_by_the_call() {
    let scene = Scene::new(|_| {});
    let running = waiting_stateless(&scene).await;
    let turn = scene.resume(whole("k", vec![output("c1", "42")])).await;
    scene.answer(100).await;
    running.say("done");
    assert_eq!(texts(&ended(turn).await), ["done"]);
    assert_eq!(scene.load().await, (0, 0));
    scene.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_client_may_continue_an_earlier_response_and_repeat_what_followed() {
    let scene = Scene::new(|_| {});
    let request = with_tool("hi");
    let first = request.response_id.clone();
    let (turn, running) = scene.start(request).await;
    running.say("hello");
    ended(turn).await;
    let (turn, running) =
        scene.start(TurnRequest { tools: vec![function("look")], ..after(&first, "go") }).await;
    call_all(&running, 100, &["c1"]);
    ended(turn).await;
    let called = json!({"type": "function_call", "call_id": "c1", "name": "look", "arguments": "{\"a\":1}"});
    let input = vec![Item::input_text("user", "go"), item(called), output("c1", "42")];
    let turn = scene.resume(answering(&first, input)).await;
    scene.answer(100).await;
    running.say("done");
    assert_eq!(texts(&ended(turn).await), ["done"]);
    assert_eq!(scene.seen("thread/start").len(), 1);
    scene.end().await;
}

#[tokio::test(start_paused = true)]
async fn another_key_never_meets_a_held_turn() {
    let scene = Scene::new(|_| {});
    waiting_stateless(&scene).await;
    let (turn, running) = scene.start(whole("another", vec![output("c1", "42")])).await;
    assert_eq!(scene.load().await, (1, 1));
    assert_eq!(said(&scene.items(&running.thread)), ["hi", "let me see", "call c1", "output c1"]);
    running.say("done");
    ended(turn).await;
    scene.end().await;
}

#[tokio::test(start_paused = true)]
async fn another_session_never_meets_a_held_turn_by_the_call_alone() {
    let scene = Scene::new(|_| {});
    let ask = TurnRequest { key: KeyId::new("k"), retention: Retention::Nothing, ..with_tool("hi") };
    let (turn, held) = scene.start(named("mine", ask)).await;
    held.message("m", "let me see");
    call_all(&held, 100, &["c1"]);
    ended(turn).await;
    let answered = || whole("k", vec![output("c1", "42")]);
    for other in [answered(), named("theirs", answered())] {
        let (turn, running) = scene.start(other).await;
        assert_ne!(running.thread, held.thread);
        running.say("rebuilt");
        ended(turn).await;
        assert_eq!(scene.load().await, (0, 1), "it still waits for its own");
    }
    let turn = scene.resume(named("mine", answered())).await;
    scene.answer(100).await;
    held.say("done");
    assert_eq!(texts(&ended(turn).await), ["done"]);
    scene.end().await;
}

#[tokio::test(start_paused = true)]
async fn whoever_names_the_response_meets_its_turn_under_any_session_but_no_other_cache_key() {
    for (cache_key, meets) in [(None, true), (Some("another"), false)] {
        let scene = Scene::new(|_| {});
        let (first, held, _) = waiting(&scene, named("mine", with_tool("hi")), &["c1"]).await;
        let request = named("renamed", answering(&first, vec![output("c1", "42")]));
        let request = TurnRequest { prompt_cache_key: cache_key.map(str::to_owned), ..request };
        let (turn, running) = if meets {
            (scene.resume(request).await, held)
        } else {
            let (turn, running) = scene.start(request).await;
            assert_ne!(running.thread, held.thread);
            (turn, running)
        };
        running.say("done");
        assert_eq!(texts(&ended(turn).await), ["done"]);
        scene.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn with_its_response_a_held_turn_is_deleted_and_what_follows_an_earlier_one_is_not() {
    let scene = Scene::new(|_| {});
    let request = with_tool("hi");
    let first = request.response_id.clone();
    let (turn, running) = scene.start(request).await;
    running.say("hello");
    ended(turn).await;
    let go_on = || TurnRequest { tools: vec![function("look")], ..after(&first, "go") };
    let delete = async |id: &ResponseId| {
        assert!(scene.bridge.delete_response(id, &KeyId::anonymous()).await.unwrap());
    };
    let (deleted, held, _) = waiting(&scene, go_on(), &["c1"]).await;
    delete(&deleted).await;
    assert_eq!(scene.nth("turn/interrupt", 1).await["threadId"], held.thread);
    let error = scene.refused(answering(&deleted, vec![output("c1", "42")])).await;
    assert!(matches!(error, BridgeError::PreviousNotFound { .. }), "{error:?}");

    let request = go_on();
    let second = request.response_id.clone();
    let (turn, held) = scene.start(request).await;
    call_all(&held, 200, &["c2"]);
    ended(turn).await;
    delete(&first).await;
    let turn = scene.resume(answering(&second, vec![output("c2", "42")])).await;
    scene.answer(200).await;
    held.say("done");
    assert_eq!(texts(&ended(turn).await), ["done"]);
    scene.end().await;
}

#[tokio::test(start_paused = true)]
async fn whatever_has_changed_the_conversation_is_rebuilt() {
    type Change = fn(&mut TurnRequest);
    let settings = Some(Rebuilt::SettingsChanged);
    let changes: [(Option<Rebuilt>, Change); 11] = [
        (None, |request| request.input[0] = Item::input_text("user", "hello")),
        (Some(Rebuilt::ModelChanged), |request| request.model = Some("model-b".into())),
        (settings, |request| request.effort = Some("high".into())),
        (Some(Rebuilt::InstructionsChanged), |request| request.instructions = Some("be brief".into())),
        (settings, |request| request.tools.push(function("another"))),
        (settings, |request| request.tool_choice = ToolChoice::None),
        (settings, |request| request.output_schema = Some(json!({"type": "object"}))),
        (settings, |request| request.verbosity = Some("low".into())),
        (settings, |request| request.web_search = Some(WebSearch::default())),
        (settings, |request| request.prompt_cache_key = Some("another".into())),
        (None, |request| request.input.insert(3, Item::input_text("user", "before the output"))),
    ];
    for (because, change) in changes {
        let scene = Scene::new(|_| {});
        let held = waiting_stateless(&scene).await;
        let mut request = whole("k", vec![output("c1", "42")]);
        change(&mut request);
        let instructions = usize::from(request.instructions.is_some());
        let (input, trace) = (request.input.len(), request.trace.clone());
        let (turn, running) = scene.start(request).await;
        assert_ne!(running.thread, held.thread);
        assert_eq!(trace.read().rebuilt_because, because);
        assert_eq!(scene.items(&running.thread).len(), input + instructions);
        // The old turn is interrupted before its call fails.
        assert_eq!(scene.nth("turn/interrupt", 1).await["threadId"], held.thread);
        assert_eq!(scene.nth("thread/unsubscribe", 1).await["threadId"], held.thread);
        assert_eq!(scene.answer(100).await["success"], false);
        assert_eq!(scene.load().await, (1, 0));
        running.say("done");
        ended(turn).await;
        scene.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_output_comes_twice_and_the_second_is_a_branch() {
    let scene = Scene::new(|_| {});
    let (first, running, _) = waiting(&scene, with_tool("hi"), &["c1"]).await;
    let turn = scene.resume(answering(&first, vec![output("c1", "42")])).await;
    let (second, branch) = scene.start(answering(&first, vec![output("c1", "43")])).await;
    assert_eq!(said(&scene.items(&branch.thread)), ["hi", "call c1", "output c1"]);
    branch.say("43");
    running.say("42");
    assert_eq!(
        (texts(&ended(turn).await), texts(&ended(second).await)),
        (vec!["42".into()], vec!["43".into()])
    );
    let error = scene.refused(answering(&first, vec![output("c1", "1"), output("c1", "2")])).await;
    assert_eq!(refusal(&error).0, "Duplicate tool output found for function call c1.");
    scene.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_never_returns_is_given_up_and_may_return_later() {
    let scene = Scene::new(|config| config.continuation.held_ttl = Duration::from_secs(60));
    let (first, held, _) = waiting(&scene, with_tool("hi"), &["c1"]).await;
    tokio::time::sleep(Duration::from_secs(59)).await;
    assert_eq!(scene.load().await, (0, 1));
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(scene.load().await, (0, 0));
    assert_eq!(scene.nth("thread/unsubscribe", 1).await["threadId"], held.thread);

    let (turn, running) = scene.start(answering(&first, vec![output("c1", "42")])).await;
    assert_eq!(said(&scene.items(&running.thread)), ["hi", "call c1", "output c1"]);
    running.say("done");
    assert_eq!(texts(&ended(turn).await), ["done"]);
    scene.end().await;
}

#[tokio::test(start_paused = true)]
async fn held_turns_are_bounded_and_the_oldest_goes() {
    let scene = Scene::new(|config| config.continuation.held_turns = 1);
    let (first, _, _) = waiting(&scene, with_tool("one"), &["c1"]).await;
    let (second, running, _) = waiting(&scene, with_tool("two"), &["c2"]).await;
    assert_eq!(scene.load().await, (0, 1));
    let (turn, rebuilt) = scene.start(answering(&first, vec![output("c1", "1")])).await;
    rebuilt.say("1");
    ended(turn).await;
    let turn = scene.resume(answering(&second, vec![output("c2", "2")])).await;
    running.say("2");
    ended(turn).await;
    scene.end().await;

    let scene = Scene::new(|config| config.continuation.held_turns = 0);
    let (first, _, _) = waiting(&scene, with_tool("one"), &["c1"]).await;
    assert_eq!(scene.load().await, (0, 0));
    let (turn, rebuilt) = scene.start(answering(&first, vec![output("c1", "1")])).await;
    rebuilt.say("1");
    ended(turn).await;
    scene.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_lost_socket_loses_no_history() {
    let scene = Scene::new(|_| {});
    let (first, held, _) = waiting(&scene, with_tool("hi"), &["c1"]).await;
    scene.cut();
    scene.nth("initialize", 2).await;
    let (turn, running) = scene.start(answering(&first, vec![output("c1", "42")])).await;
    assert_eq!(scene.load().await, (1, 0));
    assert_ne!(running.thread, held.thread);
    assert_eq!(said(&scene.items(&running.thread)), ["hi", "call c1", "output c1"]);
    running.say("done");
    ended(turn).await;
    scene.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_turn_that_goes_on_by_itself_is_not_held() {
    let scene = Scene::new(|_| {});
    let (first, held, _) = waiting(&scene, with_tool("hi"), &["c1"]).await;
    held.begin("m").delta("m", "I did not wait");
    scene.nth("thread/unsubscribe", 1).await;
    let (turn, running) = scene.start(answering(&first, vec![output("c1", "42")])).await;
    running.say("done");
    assert_eq!(texts(&ended(turn).await), ["done"]);
    scene.end().await;
}

#[tokio::test(start_paused = true)]
async fn an_output_that_is_never_asked_for_is_put_into_a_rebuilt_conversation() {
    let scene = Scene::new(|_| {});
    let request = with_tool("hi");
    let first = request.response_id.clone();
    let (turn, running) = scene.start(request).await;
    running.call("c1", "look").response("resp_calls", 1, 1);
    ended(turn).await;
    let (turn, running) = scene.start(answering(&first, vec![output("c1", "42")])).await;
    assert_eq!(said(&scene.items(&running.thread)), ["hi", "call c1", "output c1"]);
    running.say("done");
    ended(turn).await;
    scene.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_a_resumed_turn_leaves_nothing_behind() {
    let scene = Scene::new(|_| {});
    let (first, running, _) = waiting(&scene, with_tool("hi"), &["c1"]).await;
    let turn = scene.resume(answering(&first, vec![output("c1", "42")])).await;
    drop(turn);
    assert_eq!(scene.nth("turn/interrupt", 1).await["turnId"], running.turn);
    scene.nth("thread/unsubscribe", 1).await;
    assert_eq!(scene.load().await, (0, 0));
    // The calls are still answerable.
    let (turn, running) = scene.start(answering(&first, vec![output("c1", "42")])).await;
    running.say("done");
    ended(turn).await;
    scene.end().await;
}

#[tokio::test(start_paused = true)]
async fn on_the_way_down_held_turns_are_let_go() {
    let scene = Scene::new(|_| {});
    waiting(&scene, with_tool("hi"), &["c1"]).await;
    assert_eq!(scene.load().await, (0, 1));
    scene.end().await;
}

#[tokio::test(start_paused = true)]
async fn where_one_call_is_allowed_the_rest_never_happened() {
    let scene = Scene::new(|_| {});
    let request = TurnRequest { parallel_tool_calls: false, ..with_tool("hi") };
    let (first, held, outcome) = waiting(&scene, request, &["c1", "c2"]).await;
    assert_eq!(call_ids(&outcome), ["c1"]);
    assert_eq!(scene.nth("turn/interrupt", 1).await["turnId"], held.turn);
    let request = TurnRequest { parallel_tool_calls: false, ..answering(&first, vec![output("c1", "42")]) };
    let (turn, running) = scene.start(request).await;
    assert_eq!(said(&scene.items(&running.thread)), ["hi", "call c1", "output c1"]);
    running.say("done");
    ended(turn).await;

    // A single one is held as always.
    let request = TurnRequest { parallel_tool_calls: false, ..with_tool("hi") };
    waiting(&scene, request, &["c3"]).await;
    assert_eq!(scene.load().await, (0, 1));
    scene.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_call_of_something_never_offered_is_no_part_of_the_answer() {
    let scene = Scene::new(|_| {});
    let request = with_tool("hi");
    let first = request.response_id.clone();
    let (turn, running) = scene.start(request).await;
    // The app-server answers it by itself and goes on.
    running.call("c1", "made_up").response("resp_1", 1, 1).say("sorry");
    let outcome = ended(turn).await;
    assert_eq!((outcome.output.len(), texts(&outcome)), (1, vec!["sorry".to_owned()]));
    let (turn, running) =
        scene.start(TurnRequest { input: vec![Item::input_text("user", "so")], ..after_tool(&first) }).await;
    assert_eq!(said(&scene.items(&running.thread)), ["hi", "sorry", "so"]);
    running.say("done");
    ended(turn).await;
    scene.end().await;
}

#[tokio::test(start_paused = true)]
async fn names_that_codex_keeps_are_the_clients_own_again_on_the_way_out() {
    let scene = Scene::new(|_| {});
    let tools = vec![function("exec_command")];
    let request = TurnRequest { tools: tools.clone(), ..ask("hi") };
    let first = request.response_id.clone();
    let (turn, running) = scene.start(request).await;
    let upstream = scene.seen("thread/start")[0]["params"]["dynamicTools"][0]["name"].clone();
    let upstream = upstream.as_str().unwrap();
    assert!(upstream.starts_with("exec_command_"), "{upstream}");
    running.call("c1", upstream).ask(100, "c1", upstream).response("resp_calls", 1, 1);
    let outcome = ended(turn).await;
    assert_eq!(outcome.output[0].str("name"), Some("exec_command"));

    // Rebuilt, the history has the name the model knows, though the tool is no more offered.
    let request = TurnRequest { input: vec![output("c1", "42")], ..after(&first, "") };
    let (turn, running) = scene.start(request).await;
    assert_eq!(scene.items(&running.thread)[1]["name"], upstream);
    running.say("done");
    ended(turn).await;
    scene.end().await;
}

#[tokio::test(start_paused = true)]
async fn the_choice_decides_what_is_offered() {
    let scene = Scene::new(|_| {});
    let tools = vec![function("look"), function("listen")];
    for (choice, expected) in [
        (ToolChoice::Auto, vec!["look", "listen"]),
        (ToolChoice::None, vec![]),
        (ToolChoice::Allowed(vec!["listen".into()]), vec!["listen"]),
        (ToolChoice::Required(vec!["listen".into()]), vec!["listen"]),
        (ToolChoice::Required(vec![]), vec!["look", "listen"]),
    ] {
        let before = scene.seen("thread/start").len();
        let request = TurnRequest {
            tools: tools.clone(),
            tool_choice: choice.clone(),
            web_search: Some(WebSearch::default()),
            ..ask("hi")
        };
        let (turn, running) = scene.start(request).await;
        let params = scene.seen("thread/start")[before]["params"].clone();
        let offered: Vec<_> = params["dynamicTools"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|tool| tool["name"].clone())
            .collect();
        assert_eq!(offered, expected);
        assert_eq!(params["config"]["web_search"], "live");
        if matches!(choice, ToolChoice::Required(_)) {
            running.call("c1", "listen").call("c2", "look").response("resp_calls", 1, 1);
            let allowed = if expected.contains(&"look") { vec!["c1", "c2"] } else { vec!["c1"] };
            assert_eq!(call_ids(&ended(turn).await), allowed);
            continue;
        }
        running.say("done");
        ended(turn).await;
    }
    scene.end().await;
}

fn demanding(text: &str) -> TurnRequest {
    TurnRequest { tool_choice: ToolChoice::Required(vec!["look".into()]), ..with_tool(text) }
}

#[tokio::test(start_paused = true)]
async fn a_demanded_call_is_asked_for_and_no_part_of_the_conversation() {
    let scene = Scene::new(|_| {});
    let (first, held, outcome) = waiting(&scene, demanding("hi"), &["c1"]).await;
    assert_eq!(call_ids(&outcome), ["c1"]);
    let items = scene.items(&held.thread);
    assert_eq!((items.len(), items[1]["role"].as_str()), (2, Some("developer")));
    assert!(said(&items)[1].contains("`look`"));
    // With another choice the turn cannot go on.
    let (turn, running) = scene.start(answering(&first, vec![output("c1", "42")])).await;
    assert_eq!(said(&scene.items(&running.thread)), ["hi", "call c1", "output c1"]);
    running.say("done");
    ended(turn).await;
    scene.end().await;
}

#[tokio::test(start_paused = true)]
async fn an_answer_without_the_demanded_call_is_asked_for_once_more() {
    let scene = Scene::new(|_| {});
    let (turn, running) = scene.start(demanding("hi")).await;
    running.say("I would rather not");
    scene.nth("turn/start", 2).await;
    let second = scene.running(1);
    assert_ne!(second.thread, running.thread);
    call_all(&second, 100, &["c1"]);
    let (text, outcome) = told(turn).await;
    let outcome = outcome.unwrap();
    assert_eq!((text.as_str(), call_ids(&outcome)), ("", vec!["c1"]));
    assert_eq!(outcome.usage.unwrap().total_tokens, 5 + 14, "of both attempts");
    assert_eq!(scene.load().await, (0, 1));
    scene.end().await;
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_never_asked_for_again_under_another_login() {
    let scene = Scene::new(|_| {});
    scene.log_in("one@example.com");
    let (turn, running) = scene.start(demanding("hi")).await;
    scene.log_in_and_wait("two@example.com").await;
    running.say("I would rather not");
    let (_, outcome) = told(turn).await;
    assert!(matches!(outcome, Err(BridgeError::ConnectionLost { .. })), "{outcome:?}");
    assert_eq!(scene.seen("turn/start").len(), 1);
    scene.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_demand_that_is_not_met_twice_is_an_error() {
    let scene = Scene::new(|_| {});
    let (turn, running) = scene.start(demanding("hi")).await;
    running.say("no");
    scene.nth("turn/start", 2).await;
    scene.running(1).say("no");
    let (text, outcome) = told(turn).await;
    assert_eq!(text, "");
    assert!(
        matches!(outcome, Err(BridgeError::Upstream { code: "tool_choice_not_honoured", .. })),
        "{outcome:?}"
    );
    assert_eq!(scene.load().await, (0, 0));
    scene.end().await;
}

#[tokio::test(start_paused = true)]
async fn calls_after_which_the_upstream_was_cut_off_are_handed_over() {
    let scene = Scene::new(|config| config.turn.idle_timeout = Duration::from_secs(30));
    let (turn, running) = scene.start(with_tool("hi")).await;
    running.call("c1", "look").ask(100, "c1", "look");
    assert_eq!(call_ids(&ended(turn).await), ["c1"]);
    assert_eq!(scene.load().await, (0, 1));
    scene.end().await;
}

/// A function whose one argument is a number; the script's calls give it one.
fn strict(strict: Strict) -> TurnRequest {
    let schema = json!({
        "type": "object", "properties": {"a": {"type": "number"}}, "required": ["a"], "additionalProperties": false,
    });
    let tool = Tool { input: ToolInput::Arguments { schema, strict }, ..function("look") };
    TurnRequest { tools: vec![tool], ..ask("hi") }
}

/// The model thinks, and calls with what the schema does not allow.
fn call_badly(running: &Running) {
    running.tell("item/started", json!({"item": {"type": "reasoning", "id": "rs"}}));
    running.item(json!({"type": "reasoning", "id": "rs", "summary": [], "encrypted_content": "e"}));
    let call = json!({
        "type": "function_call", "id": "fc_bad", "call_id": "bad", "name": "look", "arguments": "{}",
    });
    running.item(call).ask(99, "bad", "look").response("resp_bad", 7, 3);
}

/// The answer as a client that wants all of it at once gets it, or as a stream ends.
async fn asked_in_each_way(
    request: TurnRequest,
    whole: bool,
    play: impl AsyncFnOnce(&Scene, Running),
) -> Result<Outcome, BridgeError> {
    let scene = Scene::new(|_| {});
    let (turn, running) = scene.start(request).await;
    let read = scene.beside(async move { if whole { turn.outcome().await } else { told(turn).await.1 } });
    tokio::task::yield_now().await;
    play(&scene, running).await;
    let outcome = bounded(read).await.unwrap();
    scene.end().await;
    outcome
}

#[tokio::test(start_paused = true)]
async fn a_call_that_does_not_fit_is_asked_for_once_more_whatever_was_thought_before() {
    for asked in [Strict::Asked, Strict::Unasked] {
        // Unasked, a stream is not held back: its reasoning is told, and so the call handed over.
        for whole in [true, false].into_iter().filter(|whole| *whole || asked == Strict::Asked) {
            let outcome = asked_in_each_way(strict(asked), whole, async |scene: &Scene, running: Running| {
                call_badly(&running);
                scene.nth("turn/start", 2).await;
                call_all(&scene.running(1), 100, &["good"]);
            });
            assert_eq!(call_ids(&outcome.await.unwrap()), ["good"], "{asked:?} {whole}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_never_fits_is_refused_if_the_client_asked_for_that_and_else_handed_over() {
    for (asked, whole) in [Strict::Asked, Strict::Unasked].into_iter().flat_map(|s| [(s, true), (s, false)]) {
        let outcome = asked_in_each_way(strict(asked), whole, async |scene: &Scene, running: Running| {
            call_badly(&running);
            if whole || asked == Strict::Asked {
                scene.nth("turn/start", 2).await;
                call_badly(&scene.running(1));
            }
        });
        match (asked, outcome.await) {
            (Strict::Asked, Err(BridgeError::Upstream { code: "invalid_tool_input", .. })) => {}
            (Strict::Unasked, Ok(outcome)) => assert_eq!(call_ids(&outcome), ["bad"]),
            (_, other) => panic!("{asked:?} {whole} {other:?}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_told_before_a_call_that_does_not_fit_is_not_taken_back() {
    let (request, whole) = (strict(Strict::Asked), /*whole*/ false);
    let outcome = asked_in_each_way(request, whole, async |_: &Scene, running: Running| {
        running.begin("m").delta("m", "let me see").message("m", "let me see");
        call_badly(&running);
    });
    let code = "invalid_tool_input";
    assert!(matches!(outcome.await, Err(BridgeError::Upstream { code: told, .. }) if told == code));
}

#[tokio::test(start_paused = true)]
async fn what_was_held_back_is_told_with_the_call() {
    let scene = Scene::new(|_| {});
    let (mut turn, running) = scene.start(strict(Strict::Asked)).await;
    running.item(json!({"type": "reasoning", "id": "rs", "summary": [], "encrypted_content": "e"}));
    call_all(&running, 100, &["good"]);
    let mut kinds = Vec::new();
    loop {
        match bounded(turn.next()).await {
            TurnStep::Event(TurnEvent::ItemDone(item)) => kinds.push(item.kind().to_owned()),
            TurnStep::Event(_) => {}
            TurnStep::Finished(result) => break assert!(result.is_ok()),
        }
    }
    assert_eq!(kinds, ["reasoning", "function_call"]);
    scene.end().await;
}
