//! One-shot calls that begin alike, and the templates they are forked from.

use std::time::Duration;

use serde_json::{Value, json};

use super::scene::{Running, Scene, ask, told};
use crate::app_server::testing::bounded;
use crate::bridge::Turn;
use crate::config::Config;
use crate::model::{Item, KeyId, Outcome, Retention, TurnRequest, WebSearch};

fn long(word: &str) -> String {
    format!("{word} ").repeat(1200)
}

/// A one-shot call with long instructions.
fn one_shot(instructions: &str, text: &str) -> TurnRequest {
    let input = vec![Item::input_text("developer", instructions), Item::input_text("user", text)];
    TurnRequest { input, retention: Retention::Nothing, ..ask("") }
}

impl Running {
    /// A whole good turn as a fork tells it.
    pub(super) fn fork_says(&self, text: &str) {
        let thought = json!({"type": "reasoning", "id": "rs", "summary": ["hm"], "content": []});
        let said = json!({"type": "agentMessage", "id": "m", "text": text, "phase": null});
        let last = json!({
            "inputTokens": 30, "cachedInputTokens": 20, "cacheWriteInputTokens": 1, "outputTokens": 5,
            "reasoningOutputTokens": 3, "totalTokens": 35,
        });
        self.tell("item/started", json!({"item": {"type": "reasoning", "id": "rs"}}))
            .tell("item/completed", json!({"item": thought}))
            .begin("m")
            .delta("m", text)
            .tell("item/completed", json!({"item": said}))
            .tell("thread/tokenUsage/updated", json!({"tokenUsage": {"total": last, "last": last}}))
            .completed();
    }
}

async fn ended(turn: Turn) -> Outcome {
    told(turn).await.1.unwrap()
}

/// Runs it on whatever thread it gets; gives the outcome if that is a fork.
async fn run(scene: &Scene, request: TurnRequest) -> Option<Outcome> {
    let forks = scene.seen("thread/fork").len();
    let (turn, running) = scene.start(request).await;
    if scene.seen("thread/fork").len() == forks {
        running.say("x");
        ended(turn).await;
        return None;
    }
    running.fork_says("x");
    Some(ended(turn).await)
}

async fn templates(scene: &Scene) -> usize {
    bounded(scene.bridge.health()).await.continuation.templates
}

#[tokio::test(start_paused = true)]
async fn from_the_second_call_on_a_beginning_is_forked() {
    let scene = Scene::new(|_| {});
    let instructions = long("classify");
    assert!(run(&scene, one_shot(&instructions, "a")).await.is_none());
    let (turn, running) = scene.start(one_shot(&instructions, "b")).await;
    let fork = &scene.seen("thread/fork")[0]["params"];
    let start = &scene.seen("thread/start")[1]["params"];
    assert_eq!((&start["ephemeral"], &fork["ephemeral"]), (&json!(false), &json!(true)));
    let template = fork["threadId"].as_str().unwrap();
    let said = |thread: &str| -> Vec<Value> {
        scene.items(thread).iter().map(|item| item["content"][0]["text"].clone()).collect()
    };
    assert_eq!(said(template), [instructions.as_str()]);
    assert_eq!(said(&running.thread), ["b"]);
    running.fork_says("good");
    let outcome = ended(turn).await;
    let usage = outcome.usage.unwrap();
    let tokens = (usage.input_tokens, usage.cached_input_tokens, usage.cache_write_input_tokens);
    assert_eq!((tokens, usage.reasoning_tokens, usage.total_tokens), ((30, 20, 1), 3, 35));
    let ids: Vec<_> = outcome.output.iter().map(|item| (item.kind(), item.id().unwrap())).collect();
    assert_eq!(ids, [("reasoning", "rs"), ("message", "m")]);
    for n in 0..5 {
        assert!(run(&scene, one_shot(&instructions, &n.to_string())).await.is_some());
    }
    assert_eq!(scene.seen("thread/start").len(), 2);
    assert_eq!(templates(&scene).await, 1);
    scene.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_a_fork_cannot_tell_or_may_not_share_is_not_forked() {
    let instructions = long("classify");
    let call = || one_shot(&instructions, "a");
    let forked = [
        ("the same", call(), true),
        ("not stored", TurnRequest { retention: Retention::Continuable, ..call() }, true),
        ("stored", TurnRequest { retention: Retention::Stored, ..call() }, false),
        ("encrypted", TurnRequest { encrypted_reasoning: true, ..call() }, false),
        ("tools", TurnRequest { tools: vec![super::function("look")], ..call() }, false),
        ("web search", TurnRequest { web_search: Some(WebSearch::default()), ..call() }, false),
        ("key", TurnRequest { key: KeyId::new("other"), ..call() }, false),
        ("cache key", TurnRequest { prompt_cache_key: Some("mine".into()), ..call() }, false),
        ("model", TurnRequest { model: Some("model-b".into()), ..call() }, false),
        ("verbosity", TurnRequest { verbosity: Some("low".into()), ..call() }, false),
        ("beginning", one_shot(&long("classifz"), "a"), false),
        ("short", one_shot("classify", "a"), false),
        (
            "a conversation",
            {
                let mut request = call();
                request
                    .input
                    .push(Item::message("assistant", vec![json!({"type": "output_text", "text": "b"})]));
                request.input.push(Item::input_text("user", "c"));
                request
            },
            false,
        ),
    ];
    let scene = Scene::new(|_| {});
    for _ in 0..2 {
        run(&scene, call()).await;
    }
    for (what, request, expected) in forked {
        assert_eq!(run(&scene, request).await.is_some(), expected, "{what}");
    }
    // What differs after the beginning does not matter, and messages of users may be part of it.
    let with = |more: Vec<Item>| {
        let mut request = call();
        request.input.splice(1..1, more);
        request
    };
    assert!(run(&scene, with(vec![Item::input_text("developer", "Today is Monday.")])).await.is_some());
    let examples = |text: &str| {
        let input = vec![
            Item::input_text("developer", "classify"),
            Item::input_text("user", &instructions),
            Item::input_text("user", text),
        ];
        TurnRequest { input, ..call() }
    };
    for (text, forked) in [("a", false), ("b", true), ("c", true)] {
        assert_eq!(run(&scene, examples(text)).await.is_some(), forked, "{text}");
    }
    // An image is not put on disk.
    let image = json!({"type": "input_image", "image_url": "data:image/png;base64,AA"});
    let image = Item::message("user", vec![image]);
    for _ in 0..2 {
        let input =
            vec![image.clone(), Item::input_text("user", &instructions), Item::input_text("user", "a")];
        assert!(run(&scene, TurnRequest { input, ..call() }).await.is_none());
    }
    // Instructions are a beginning as developer items are.
    let request = TurnRequest {
        instructions: Some(instructions.clone()),
        input: vec![Item::input_text("user", "a")],
        ..call()
    };
    assert!(run(&scene, request).await.is_some());
    scene.log_in_and_wait("another@example.com").await;
    assert!(run(&scene, call()).await.is_none(), "account");
    scene.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_template_is_given_up_where_it_cannot_be_forked_and_not_for_an_overload() {
    let scene = Scene::new(|_| {});
    let instructions = long("classify");
    for _ in 0..2 {
        run(&scene, one_shot(&instructions, "a")).await;
    }
    for (code, left) in [(-32001, 1), (-32600, 0)] {
        scene.refuse_forks(Some(code));
        let (turn, running) = scene.start(one_shot(&instructions, "b")).await;
        assert_eq!(scene.items(&running.thread).len(), 2, "on a thread of its own");
        running.say("x");
        ended(turn).await;
        assert_eq!(templates(&scene).await, left, "{code}");
    }
    scene.end().await;
}

#[tokio::test(start_paused = true)]
async fn calls_that_come_at_once_share_one_template() {
    let scene = Scene::new(|_| {});
    let instructions = long("classify");
    run(&scene, one_shot(&instructions, "first")).await;
    let calls = (0..6).map(|n| scene.bridge.run(one_shot(&instructions, &n.to_string())));
    let turns = bounded(futures_util::future::try_join_all(calls)).await.unwrap();
    assert_eq!(scene.seen("thread/fork").len(), 6);
    assert_eq!(scene.seen("thread/start").len(), 2);
    for (n, turn) in turns.into_iter().enumerate() {
        scene.running(n + 1).fork_says("x");
        drop(turn);
    }
    scene.end().await;
}

async fn many(configure: impl FnOnce(&mut Config)) -> usize {
    let scene = Scene::new(configure);
    for _ in 0..3 {
        for word in ["one", "two", "three"] {
            run(&scene, one_shot(&long(word), "a")).await;
        }
    }
    let made = templates(&scene).await;
    let starts = scene.seen("thread/start");
    assert_eq!(starts.iter().filter(|start| start["params"]["ephemeral"] == false).count(), made);
    scene.end().await;
    made
}

#[tokio::test(start_paused = true)]
async fn they_are_bounded_and_can_be_switched_off() {
    assert_eq!(many(|_| {}).await, 3);
    assert_eq!(many(|config| config.continuation.templates = 2).await, 2);
    assert_eq!(many(|config| config.continuation.templates = 0).await, 0);
    assert_eq!(many(|config| config.continuation.template_tokens = 100_000).await, 0);
}

#[tokio::test(start_paused = true)]
async fn they_are_deleted_when_they_expire_make_room_or_the_bridge_ends() {
    let scene = Scene::new(|config| config.continuation.templates = 1);
    let deleted = || -> Vec<Value> {
        let deleted = scene.seen("thread/delete");
        deleted.iter().map(|deletion| deletion["params"]["threadId"].clone()).collect()
    };
    let made = || -> Vec<Value> {
        let forks = scene.seen("thread/fork");
        let mut made: Vec<Value> = forks.iter().map(|fork| fork["params"]["threadId"].clone()).collect();
        made.dedup();
        made
    };
    for _ in 0..2 {
        run(&scene, one_shot(&long("one"), "a")).await;
    }
    // In use, it makes no room; later it does.
    for _ in 0..2 {
        assert!(run(&scene, one_shot(&long("two"), "a")).await.is_none());
    }
    tokio::time::sleep(Duration::from_secs(90)).await;
    assert!(run(&scene, one_shot(&long("two"), "a")).await.is_some());
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(deleted(), made()[..1]);
    tokio::time::sleep(Duration::from_secs(700)).await;
    assert_eq!(deleted(), made());
    assert_eq!(templates(&scene).await, 0);
    for _ in 0..2 {
        run(&scene, one_shot(&long("one"), "a")).await;
    }
    assert_eq!(made().len(), 3);
    bounded(scene.bridge.drain(Duration::from_secs(5))).await;
    assert_eq!(deleted(), made());
    scene.end().await;
}
