//! Function tools on the real app-server, driven through the engine: what the model really saw.

use std::time::Duration;

use codex_bridge::model::{Item, Outcome, ResponseId, Retention, Tool, TurnRequest};
use serde_json::{Value, json};

use crate::support::bounded;
use crate::world::{FACES, On, World, bare};

fn ask(text: &str) -> TurnRequest {
    let input = vec![Item::input_text("user", text)];
    TurnRequest { tools: vec![tool("look"), tool("listen")], ..TurnRequest::new(input) }
}

fn tool(name: &str) -> Tool {
    let parameters = json!({"type": "object", "properties": {"at": {"type": "string"}}});
    Tool::function(name, Some(&format!("{name} at it")), parameters)
}

fn answering(previous: &ResponseId, outputs: Vec<Item>) -> TurnRequest {
    TurnRequest { previous: Some(previous.clone()), input: outputs, ..ask("") }
}

fn output(call_id: &str, said: &str) -> Item {
    let output = json!({"type": "function_call_output", "call_id": call_id, "output": said});
    Item::from_value(output).expect("an item")
}

async fn run(world: &World, request: TurnRequest) -> Outcome {
    let turn = bounded(world.bridge.run(request)).await.expect("the turn starts");
    bounded(turn.outcome()).await.expect("the turn ends well")
}

/// The turn's calls: ids and names.
fn calls(outcome: &Outcome) -> Vec<(String, String)> {
    let calls = outcome.output.iter().filter(|item| item.kind() == "function_call");
    let field = |item: &Item, name: &str| item.str(name).expect("a field").to_owned();
    calls.map(|call| (field(call, "call_id"), field(call, "name"))).collect()
}

fn text(outcome: &Outcome) -> String {
    let content = outcome.output.last().and_then(|item| item.get("content")).expect("a message");
    content[0]["text"].as_str().expect("a text").to_owned()
}

async fn held(world: &World) -> usize {
    world.bridge.health().await.continuation.held_turns
}

/// The conversation as the model was given it the last time.
fn last_input(world: &World) -> Value {
    let seen = world.seen();
    let mut input = bare(&seen.last().expect("a request").input);
    input.as_array_mut().expect("items").retain(|item| item["type"] != "additional_tools");
    input
}

/// The names of the functions that the model was offered the last time.
fn last_tools(world: &World) -> Vec<String> {
    fn names(value: &Value, found: &mut Vec<String>) {
        match value["type"].as_str() {
            Some("function") => found.push(value["name"].as_str().expect("a name").to_owned()),
            _ => value["tools"].as_array().into_iter().flatten().for_each(|tool| names(tool, found)),
        }
    }
    let seen = world.seen();
    let seen = seen.last().expect("a request");
    let mut found = Vec::new();
    names(&seen.body, &mut found);
    seen.input.as_array().expect("items").iter().for_each(|item| names(item, &mut found));
    found
}

/// The thread that each request came from.
fn threads(world: &World) -> Vec<Value> {
    world.seen().iter().map(|seen| seen.body["prompt_cache_key"].clone()).collect()
}

#[tokio::test]
async fn a_tool_loop_is_one_thread_and_native_items() {
    for face in FACES {
        let world = World::start(face).await;
        let request = ask(r#"CALLTOOL look {"at": "it"}"#);
        let first = request.response_id.clone();
        let outcome = run(&world, request).await;
        let [(call_id, name)] = &calls(&outcome)[..] else { panic!("{outcome:?}") };
        assert_eq!((name.as_str(), held(&world).await), ("look", 1));
        let prefix = last_input(&world);
        let usage = outcome.usage.expect("usage");

        let request = answering(&first, vec![output(call_id, "42")]);
        let second = request.response_id.clone();
        let outcome = run(&world, request).await;
        assert_eq!((text(&outcome).as_str(), held(&world).await), ("tool said: 42", 0));
        let input = last_input(&world);
        let input = input.as_array().expect("items");
        assert_eq!(json!(input[..1]), prefix, "{face:?}");
        assert_eq!((&input[1]["type"], &input[1]["call_id"]), (&json!("function_call"), &json!(call_id)));
        assert_eq!(input[1]["arguments"], r#"{"at": "it"}"#);
        let native = json!({"type": "function_call_output", "call_id": call_id, "output": "42"});
        assert_eq!(input[2], native);
        assert_ne!(outcome.usage.expect("usage"), usage, "each upstream response has its own");

        // And on, on the same thread.
        let more =
            TurnRequest { input: vec![Item::input_text("user", "SAY more")], ..answering(&second, vec![]) };
        assert_eq!(text(&run(&world, more).await), "more");
        let threads = threads(&world);
        assert!(threads.iter().all(|thread| *thread == threads[0]) && threads.len() == 3, "{threads:?}");
        world.end().await;
    }
}

#[tokio::test]
async fn parallel_calls_are_one_batch_and_messages_come_after_their_outputs() {
    for face in FACES {
        let world = World::start(face).await;
        let request = ask("CALLTOOL look {} CALLTOOL listen {}");
        let first = request.response_id.clone();
        let batch = calls(&run(&world, request).await);
        let [(look, _), (listen, _)] = &batch[..] else { panic!("{batch:?}") };
        let partial = answering(&first, vec![output(look, "1")]);
        let error = world.bridge.run(partial).await.expect_err("an output is missing").to_string();
        assert_eq!(error, format!("No tool output found for function call {listen}."));
        assert_eq!(held(&world).await, 1);

        let input = vec![output(listen, "2"), output(look, "1"), Item::input_text("user", "SAY after all")];
        assert_eq!(text(&run(&world, answering(&first, input)).await), "after all");
        let input = last_input(&world);
        let kinds: Vec<_> =
            input.as_array().expect("items").iter().map(|item| item["type"].clone()).collect();
        assert_eq!(
            kinds,
            [
                "message",
                "function_call",
                "function_call",
                "function_call_output",
                "function_call_output",
                "message"
            ]
        );
        world.end().await;
    }
}

#[tokio::test]
async fn three_rounds_stay_in_one_turn() {
    let world = World::start(On::Plain).await;
    let request = ask("CALLTOOL look {}");
    let mut previous = request.response_id.clone();
    let mut outcome = run(&world, request).await;
    for round in 0..3 {
        let (call_id, _) = calls(&outcome).remove(0);
        let next = Item::input_text("user", &format!("CALLTOOL listen {{\"at\": \"{round}\"}}"));
        let request = answering(&previous, vec![output(&call_id, "x"), next]);
        previous = request.response_id.clone();
        outcome = run(&world, request).await;
    }
    let (call_id, _) = calls(&outcome).remove(0);
    assert_eq!(
        text(&run(&world, answering(&previous, vec![output(&call_id, "end")])).await),
        "tool said: end"
    );
    let threads = threads(&world);
    assert!(threads.iter().all(|thread| *thread == threads[0]) && threads.len() == 5, "{threads:?}");
    world.end().await;
}

#[tokio::test]
async fn a_conversation_that_came_whole_goes_on_in_the_same_turn() {
    let world = World::start(On::Plain).await;
    let request =
        TurnRequest { retention: Retention::Nothing, ..ask("THINK \"hm\" CALLTOOL look {\"at\": \"it\"}") };
    let mut input = request.input.clone();
    let (call_id, _) = calls(&run(&world, request).await).remove(0);
    let call =
        json!({"type": "function_call", "call_id": call_id, "name": "look", "arguments": "{\"at\":\"it\"}"});
    input.extend([Item::from_value(call).expect("an item"), output(&call_id, "42")]);
    let request = TurnRequest { input, retention: Retention::Nothing, ..ask("") };
    assert_eq!(text(&run(&world, request).await), "tool said: 42");
    let input = last_input(&world);
    let kinds: Vec<_> = input.as_array().expect("items").iter().map(|item| item["type"].clone()).collect();
    assert_eq!(kinds, ["message", "reasoning", "function_call", "function_call_output"]);
    world.end().await;
}

#[tokio::test]
async fn a_turn_that_was_given_up_is_rebuilt_from_the_same_items() {
    for face in FACES {
        let world = World::configured(face, |config, _| {
            config.continuation.held_ttl = Duration::from_millis(300);
        })
        .await;
        let mut inputs = Vec::new();
        for wait in [false, true] {
            let request = ask(r#"CALLTOOL look {"at": "it"}"#);
            let first = request.response_id.clone();
            let (call_id, _) = calls(&run(&world, request).await).remove(0);
            if wait {
                crate::http::until("the turn is given up", async || (held(&world).await == 0).then_some(()))
                    .await;
            }
            let outcome = run(&world, answering(&first, vec![output(&call_id, "42")])).await;
            assert_eq!(text(&outcome), "tool said: 42");
            let input = last_input(&world).to_string().replace(&call_id, "call");
            inputs.push(serde_json::from_str::<Value>(&input).expect("JSON"));
        }
        assert_eq!(inputs[0], inputs[1], "{face:?}");
        world.end().await;
    }
}

#[tokio::test]
async fn an_abandoned_batch_keeps_nobody_waiting() {
    let world = World::start(On::Plain).await;
    let request = ask("CALLTOOL look {}");
    run(&world, request).await;
    assert_eq!(text(&run(&world, ask("SAY something else")).await), "something else");
    assert_eq!(held(&world).await, 1);
    // The daemon ends with the turn still held.
    world.end().await;
}

#[tokio::test]
async fn names_that_codex_keeps_reach_the_model() {
    let world = World::start(On::Plain).await;
    let names = [
        "exec_command",
        "view_image",
        "apply_patch",
        "update_plan",
        "shell",
        "web_search",
        "mcp__a__b",
        "mcp",
        "a b.c",
        "tool_search",
        "spawn_agent",
        "wait",
        "sleep",
        "local_shell",
        "image_generation",
        "read_file",
        "list_dir",
        "grep_files",
        "test_sync_tool",
        "write_stdin",
        "new_context",
        "multi_tool_use",
        "python",
        "browser",
        "exec",
        "get_memory",
        "request_user_input",
        "send_input",
        "close_agent",
        "resume_agent",
        "get_goal",
        "create_goal",
        "update_goal",
    ];
    let long = "x".repeat(80);
    let names: Vec<&str> = names.into_iter().chain([long.as_str()]).collect();
    let request = TurnRequest { tools: names.iter().map(|name| tool(name)).collect(), ..ask("SAY hi") };
    run(&world, request).await;
    let offered = last_tools(&world);
    assert_eq!(offered.len(), names.len(), "{offered:?}");

    for name in ["exec_command", "mcp__a__b", "a b.c"] {
        // The stand-in calls what it is told to: by the name it was offered.
        let tools = vec![tool(name)];
        let request = TurnRequest { tools: tools.clone(), ..ask("please use the tool") };
        let first = request.response_id.clone();
        let outcome = run(&world, request).await;
        let (call_id, called) = calls(&outcome).remove(0);
        assert_eq!(called, name);
        let request = TurnRequest { tools, ..answering(&first, vec![output(&call_id, "42")]) };
        assert_eq!(text(&run(&world, request).await), "tool said: 42");
    }
    world.end().await;
}

#[tokio::test]
async fn a_function_that_was_not_offered_is_answered_by_the_app_server() {
    let world = World::start(On::Plain).await;
    let outcome = run(&world, ask("CALLTOOL made_up {}")).await;
    assert_eq!((calls(&outcome).len(), outcome.output.len()), (0, 1));
    assert!(text(&outcome).starts_with("tool said: "), "{}", text(&outcome));
    world.end().await;
}

#[tokio::test]
async fn limits_cut_the_real_turn_and_the_cut_answer_is_history() {
    for face in FACES {
        let world = World::start(face).await;
        let request = TurnRequest { max_output_tokens: Some(8), tools: Vec::new(), ..ask("SLOW 400 5") };
        let first = request.response_id.clone();
        let outcome = run(&world, request).await;
        assert!(outcome.incomplete.is_some());
        let said = text(&outcome);
        assert!(said.starts_with("w0 w1") && said.len() < 30, "{said}");
        let next =
            TurnRequest { tools: Vec::new(), ..answering(&first, vec![Item::input_text("user", "SAY ok")]) };
        assert_eq!(text(&run(&world, next).await), "ok");
        assert_eq!(last_input(&world)[1]["content"][0]["text"], said);

        let request = TurnRequest { stop: vec!["three".into()], ..ask("SAY one two three four") };
        assert_eq!(text(&run(&world, request).await), "one two ");

        let outcome = run(&world, ask("FAIL incomplete SAY half of it")).await;
        assert_eq!((text(&outcome).as_str(), outcome.incomplete.is_some()), ("half of it", true));
        world.end().await;
    }
}
