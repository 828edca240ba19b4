//! Clients without state before the real app-server: conversations that come whole go on in their threads, and
//! one-shot calls with the same beginning share a cache key.

use std::collections::HashSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use codex_bridge::standin::SeenRequest;
use serde_json::{Value, json};

use crate::http::until;
use crate::world::{FACES, On, World, bare, user};

const CHAT: &str = "/v1/chat/completions";

fn keys(seen: &[SeenRequest]) -> HashSet<String> {
    seen.iter().map(|seen| seen.body["prompt_cache_key"].to_string()).collect()
}

fn message(role: &str, text: &str) -> Value {
    json!({"role": role, "content": text})
}

/// Asks and takes the answer into the conversation, as it came.
async fn turn(world: &World, messages: &mut Vec<Value>, text: &str) -> String {
    messages.push(message("user", text));
    let answer = world.client.post(CHAT, &json!({"messages": messages})).await.ok();
    let answer = answer["choices"][0]["message"].clone();
    let said = answer["content"].as_str().expect("a text").to_owned();
    messages.push(answer);
    said
}

#[tokio::test]
async fn twenty_turns_run_on_one_thread_and_send_nothing_twice() {
    for face in FACES {
        let world = World::start(face).await;
        let mut messages = vec![message("system", "be brief")];
        let sent = async || world.bridge.health().await.app_server.bytes_sent;
        let (mut before, mut bytes) = (sent().await, Vec::new());
        // What follows the answer asked for is so much more that is said.
        let padding = "x".repeat(500);
        for n in 0..20 {
            let answer = format!("answer {n:02} {padding}");
            assert_eq!(turn(&world, &mut messages, &format!("SAY {answer}")).await, answer);
            let after = sent().await;
            bytes.push(after - before);
            before = after;
        }
        // Threads are started and the app-server is asked for this and that beside some turns, hence the median.
        let median = |turns: &[u64]| {
            let mut turns = turns.to_vec();
            turns.sort_unstable();
            turns[turns.len() / 2]
        };
        let (early, late) = (median(&bytes[1..10]), median(&bytes[11..]));
        assert!(late < early + 64, "{face:?}: bytes to the app-server, turn by turn: {bytes:?}");
        let seen = world.seen();
        assert_eq!(seen.len(), 20);
        assert_eq!(keys(&seen).len(), 1, "{face:?}");
        // What the model saw is what the client said.
        let said = messages[..messages.len() - 1].iter().map(|message| {
            let (role, text) = (message["role"].as_str().expect("a role"), &message["content"]);
            match role {
                "assistant" => json!({"type": "message", "role": role, "content": [{"type": "output_text", "text": text}]}),
                role => json!({
                    "type": "message", "role": role.replace("system", "developer"),
                    "content": [{"type": "input_text", "text": text}],
                }),
            }
        });
        assert_eq!(texts(&bare(&seen[19].input)), texts(&said.collect()), "{face:?}");
        if face == On::LoggedIn {
            // Each turn brings its own words alone, however long the conversation is.
            let (second, last) = (seen[1].bytes, seen[19].bytes);
            assert!(last < second + 64, "{second} bytes for the second turn, {last} for the last");
        }
        assert_eq!(world.bridge.health().await.continuation.warm_threads, 1);
        world.end().await;
    }
}

/// Role and text of each message.
fn texts(items: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let items = items.as_array().expect("items").iter();
    items.map(|item| (text(&item["role"]), text(&item["content"][0]["text"]))).collect()
}

#[tokio::test]
async fn a_responses_client_that_sends_everything_back_goes_on_too() {
    for face in FACES {
        let world = World::start(face).await;
        let ask = async |input: &[Value]| {
            let body = json!({"input": input, "store": false, "include": ["reasoning.encrypted_content"]});
            world.client.post("/v1/responses", &body).await.ok()
        };
        let mut input = vec![user("THINK \"hm\" SAY one")];
        for text in ["THINK \"well\" SAY two", "the last"] {
            let answer = ask(&input).await;
            input.extend(answer["output"].as_array().expect("items").iter().cloned());
            input.push(user(text));
        }
        ask(&input).await;
        let seen = world.seen();
        assert_eq!((seen.len(), keys(&seen).len()), (3, 1), "{face:?}");
        let kinds: Vec<String> = bare(&seen[2].input)
            .as_array()
            .expect("items")
            .iter()
            .map(|item| item["type"].to_string())
            .collect();
        let (message, reasoning) = ("\"message\"", "\"reasoning\"");
        assert_eq!(kinds, [message, reasoning, message, message, reasoning, message, message], "{face:?}");
        world.end().await;
    }
}

#[tokio::test]
async fn a_chat_conversation_keeps_its_own_reasoning_and_another_answer_ends_it() {
    let world = World::start(On::Plain).await;
    let mut messages = Vec::new();
    turn(&world, &mut messages, "THINK \"hm\" SAY one").await;
    let mut other = messages.clone();
    turn(&world, &mut messages, "SAY two").await;
    let seen = world.seen();
    assert_eq!((keys(&seen).len(), seen[1].input[1]["type"].as_str()), (1, Some("reasoning")));
    // The client put words into the model's mouth.
    other[1]["content"] = "uno".into();
    turn(&world, &mut other, "SAY three").await;
    let seen = world.seen();
    assert_eq!(keys(&seen).len(), 2);
    assert_eq!(seen[2].input[1]["content"][0]["text"], "uno");
    assert_eq!(seen[2].input.as_array().map(Vec::len), Some(3));
    world.end().await;
}

#[tokio::test]
async fn switched_off_each_request_has_a_thread_of_its_own() {
    let off = |config: &mut codex_bridge::config::Config, _: &_| config.continuation.affinity = false;
    let world = World::configured(On::Plain, off).await;
    let mut messages = Vec::new();
    for text in ["SAY one", "SAY two", "SAY three"] {
        turn(&world, &mut messages, text).await;
    }
    assert_eq!(keys(&world.seen()).len(), 3);
    world.end().await;
}

/// Some 3,000 tokens.
fn instructions() -> String {
    "Say which of the two it is, and nothing else. ".repeat(260)
}

fn one_shot(text: &str) -> Value {
    json!({"messages": [message("system", &instructions()), message("user", text)]})
}

fn holds(text: &[u8], words: &[u8]) -> bool {
    words.is_empty() || text.windows(words.len()).any(|at| at == words)
}

/// The files below `folder` that hold `words`.
fn files_with(folder: &Path, words: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files_with(&path, words));
        } else if std::fs::read(&path).is_ok_and(|text| holds(&text, words.as_bytes())) {
            found.push(path);
        }
    }
    found
}

#[tokio::test]
async fn two_hundred_one_shots_share_two_cache_keys() {
    for face in FACES {
        let world = World::start(face).await;
        let sessions = world.place.state().join("codex-home/sessions");
        let mut seen = Vec::new();
        // In portions: the stand-in keeps the last requests only.
        for portion in 0..25 {
            let calls = (0..8).map(|n| {
                let n = portion * 8 + n;
                let body = one_shot(&format!("SAY answer {n}"));
                let client = &world.client;
                async move {
                    let answer = client.post(CHAT, &body).await.ok();
                    assert_eq!(answer["choices"][0]["message"]["content"], format!("answer {n}"));
                }
            });
            futures_util::future::join_all(calls).await;
            seen.extend(world.seen());
            world.standin.clear_requests();
        }
        assert_eq!(seen.len(), 200);
        assert!(keys(&seen).len() <= 2, "{face:?}: {} keys", keys(&seen).len());
        for seen in &seen {
            assert_eq!(seen.input.as_array().map(Vec::len), Some(2), "{}", seen.input);
            assert_eq!(seen.input[0]["content"][0]["text"], instructions());
        }
        // Nobody else can read what is on disk, and it goes with the bridge.
        let files = files_with(&world.place.state().join("codex-home"), "nothing else");
        assert_eq!(files.len(), 1, "{files:?}");
        for path in files[0].ancestors().take_while(|path| path.starts_with(&sessions)) {
            let mode = std::fs::metadata(path).expect("it is there").mode() & 0o777;
            assert_eq!(mode, if path.is_dir() { 0o700 } else { 0o600 }, "{}", path.display());
        }
        assert_eq!(world.bridge.health().await.continuation.templates, 1);
        // And nobody ran a shell for it.
        let snapshots = world.place.state().join("codex-home/shell_snapshots");
        assert_eq!(files_with(&snapshots, ""), Vec::<PathBuf>::new());
        let place = world.end().await;
        assert_eq!(files_with(&place.state(), "nothing else"), Vec::<PathBuf>::new());
    }
}

#[tokio::test]
async fn what_a_killed_bridge_left_is_deleted_at_the_start() {
    let world = World::configured(On::Plain, |_, place| {
        let folder = place.state().join("codex-home/sessions/2026/01/02");
        std::fs::create_dir_all(&folder).expect("a folder");
        std::fs::write(folder.join("rollout.jsonl"), "left behind").expect("a file");
    })
    .await;
    world.ask("hi").await.ok();
    assert_eq!(files_with(&world.place.state(), "left behind"), Vec::<PathBuf>::new());
    world.end().await;
}

/// Whether the answer's usage is what the stand-in charged for the request: a quarter of its bytes (which differ
/// by the times that the app-server notes), and a token a word.
fn is_charged(answer: &Value, seen: &SeenRequest) -> bool {
    let usage = &answer["usage"];
    let first = |names: [&str; 2]| names.into_iter().find_map(|name| usage[name].as_u64());
    let input = seen.input.to_string().len() as u64 / 4;
    first(["input_tokens", "prompt_tokens"]) == Some(input)
        && first(["output_tokens", "completion_tokens"]) == Some(4)
        && usage["total_tokens"] == input + 4
}

/// What two answers have in common.
fn comparable(mut answer: Value) -> Value {
    for name in ["id", "created", "created_at", "completed_at", "usage"] {
        answer.as_object_mut().expect("an object").remove(name);
    }
    for item in answer["output"].as_array_mut().into_iter().flatten() {
        let id = item["id"].as_str().unwrap_or_default();
        let prefix = id.split('_').next().unwrap_or_default().to_owned();
        item["id"] = prefix.into();
    }
    answer
}

#[tokio::test]
async fn a_fork_answers_as_a_thread_of_its_own_does() {
    for face in FACES {
        // Room for two of each model.
        let world = World::configured(face, |config, _| config.continuation.templates = 64).await;
        let asked = "THINK \"a thought\" SAY some words";
        let in_chat = |model: &str| {
            let mut body = one_shot(asked);
            body["reasoning"] = json!({"summary": "auto"});
            body["model"] = model.into();
            (CHAT, body)
        };
        let in_responses = |model: &str| {
            let body = json!({
                "model": model, "instructions": instructions(), "input": asked, "store": false,
                "reasoning": {"summary": "auto"},
            });
            ("/v1/responses", body)
        };
        for model in &world.models().await {
            for (path, mut body) in [in_chat(model), in_responses(model)] {
                // Calls with a cache key of their own begin anew.
                body["prompt_cache_key"] = path.into();
                world.standin.clear_requests();
                let alone = world.client.post(path, &body).await.ok();
                let forked = world.client.post(path, &body).await.ok();
                let again = world.client.post(path, &body).await.ok();
                let plain = comparable(alone.clone());
                assert_eq!(comparable(forked.clone()), plain, "{face:?} {model}");
                assert_eq!(comparable(again), plain, "{face:?} {model}");
                let seen = world.seen();
                assert!(is_charged(&alone, &seen[0]), "{face:?} {model} {path}: {}", alone["usage"]);
                assert!(is_charged(&forked, &seen[1]), "{face:?} {model} {path}: {}", forked["usage"]);
                let key = |at: usize| &seen[at].body["prompt_cache_key"];
                assert!(key(0) != key(1) && key(1) == key(2), "{face:?} {model} {path}");
                let shape = |at: usize| {
                    let mut body = (*seen[at].body).clone();
                    let fields = body.as_object_mut().expect("an object");
                    for name in ["client_metadata", "prompt_cache_key", "previous_response_id", "input"] {
                        fields.remove(name);
                    }
                    (body, bare(&seen[at].input))
                };
                assert_eq!(shape(1), shape(0), "{face:?} {model} {path}");
                let text = |event: &Value| {
                    let delta = match path {
                        CHAT => &event["choices"][0]["delta"]["content"],
                        _ if event["type"] == "response.output_text.delta" => &event["delta"],
                        _ => &Value::Null,
                    };
                    delta.as_str().unwrap_or_default().to_owned()
                };
                let streamed = world.client.stream(path, &body).await.rest().await;
                assert_eq!(streamed.iter().map(text).collect::<String>(), "some words");
            }
        }
        world.end().await;
    }
}

#[tokio::test]
async fn a_conversation_that_began_on_a_fork_goes_on_there() {
    for face in FACES {
        let world = World::start(face).await;
        for n in 0..2 {
            world.client.post(CHAT, &one_shot(&format!("SAY {n}"))).await.ok();
        }
        let mut messages = vec![message("system", &instructions())];
        for text in ["THINK \"hm\" SAY one", "SAY two", "SAY three"] {
            turn(&world, &mut messages, text).await;
        }
        let seen = world.seen();
        assert_eq!(keys(&seen[1..]).len(), 1, "{face:?}");
        assert_eq!(seen[4].input.as_array().map(Vec::len), Some(7), "{}", seen[4].input);
        world.end().await;
    }
}

/// Reasoning that says nothing to a model.
fn is_bare_reasoning(item: &Value) -> bool {
    item["type"] == "reasoning" && !item["encrypted_content"].is_string()
}

#[tokio::test]
async fn reasoning_that_a_fork_did_not_tell_is_sent_nowhere() {
    for affinity in [true, false] {
        let world = World::configured(On::Plain, |config, _| config.continuation.affinity = affinity).await;
        let structured = |text: &str| {
            let mut body = one_shot(text);
            body["response_format"] = json!({"type": "json_object"});
            body
        };
        for _ in 0..2 {
            world.client.post(CHAT, &structured("SAY {}")).await.ok();
        }
        world.standin.clear_requests();
        // Neither attempt is JSON.
        assert_eq!(world.client.post(CHAT, &structured("THINK \"hm\" SAY no")).await.status, 502);
        let repaired = world.seen();
        assert_eq!((repaired.len(), keys(&repaired).len()), (2, if affinity { 1 } else { 2 }));

        let stateless =
            |input: &[Value]| json!({"instructions": instructions(), "input": input, "store": false});
        for n in 0..2 {
            world.client.post("/v1/responses", &stateless(&[user(&format!("SAY {n}"))])).await.ok();
        }
        world.standin.clear_requests();
        let mut input = vec![user("THINK \"hm\" SAY one")];
        for text in ["SAY two", "SAY three"] {
            let answer = world.client.post("/v1/responses", &stateless(&input)).await.ok();
            let output = answer["output"].as_array().expect("items");
            assert!(text != "SAY two" || is_bare_reasoning(&output[0]), "{output:?}");
            input.extend(output.iter().cloned());
            input.push(user(text));
        }
        let went_on = world.seen();
        assert_eq!((went_on.len(), keys(&went_on).len()), (2, if affinity { 1 } else { 2 }));
        for seen in repaired.iter().chain(&went_on) {
            let items = seen.input.as_array().expect("items");
            assert!(!items.iter().any(is_bare_reasoning), "{affinity}: {}", seen.input);
        }
        world.end().await;
    }
}

#[tokio::test]
async fn a_template_that_is_gone_costs_nothing_but_its_key() {
    let world = World::configured(On::Plain, |config, _| config.continuation.spare_threads = 0).await;
    let call = async |text: &str| world.client.post(CHAT, &one_shot(text)).await.ok();
    call("SAY a").await;
    call("SAY b").await;
    std::fs::remove_dir_all(world.place.state().join("codex-home/sessions")).expect("it was there");
    for text in ["SAY c", "SAY d", "SAY e"] {
        let answer = call(text).await;
        assert_eq!(answer["choices"][0]["message"]["content"], text[4..]);
    }
    let seen = world.seen();
    assert_eq!(seen.len(), 5);
    // Without it, then a second use, then a new one.
    assert_eq!(keys(&seen[3..]).len(), 2);
    world.end().await;
}

#[tokio::test]
async fn a_failing_or_leaving_caller_of_a_fork_is_told_as_ever() {
    let world = World::start(On::Plain).await;
    for n in 0..2 {
        world.client.post(CHAT, &one_shot(&format!("SAY {n}"))).await.ok();
    }
    assert_eq!(world.client.post(CHAT, &one_shot("FAIL usage")).await.status, 429);
    let mut body = one_shot("SLOW 200 20");
    let mut events = world.client.stream(CHAT, &body).await;
    events.next().await.expect("an event");
    drop(events);
    until("the turn is interrupted", async || (world.bridge.health().await.slots.in_use == 0).then_some(()))
        .await;
    body = one_shot("SLOW 50 5");
    body["max_tokens"] = 3.into();
    let cut = world.client.post(CHAT, &body).await.ok();
    assert_eq!(cut["choices"][0]["finish_reason"], "length");
    let repaired = world.client.post(CHAT, &one_shot("FAIL stream")).await;
    assert_eq!(repaired.status, 502, "{}", repaired.text);
    world.end().await;
}
