//! What a dry run tells, held against the call that follows it.

use futures_util::future::join_all;
use serde_json::{Value, json};

use super::scene::{Running, Scene, after, ask, function, output, told};
use crate::app_server::testing::bounded;
use crate::bridge::dry_run::AT_ONCE;
use crate::bridge::{BridgeError, DryRun, Turn};
use crate::model::{Item, Rebuilt, ResponseId, Retention, Route, TurnRequest};

/// Everything that the peer was asked for that makes or changes something.
const WORK: &[&str] = &[
    "thread/start",
    "thread/fork",
    "thread/inject_items",
    "turn/start",
    "turn/interrupt",
    "thread/unsubscribe",
    "thread/delete",
];

fn work(scene: &Scene) -> usize {
    WORK.iter().map(|method| scene.seen(method).len()).sum()
}

/// A dry run, which asks the peer for nothing and holds nothing.
async fn dry(scene: &Scene, request: &TurnRequest) -> DryRun {
    let before = (work(scene), bounded(scene.bridge.health()).await.slots.in_use);
    let found = bounded(Box::pin(scene.bridge.dry_run(request.clone()))).await.expect("it would be tried");
    assert_eq!((work(scene), bounded(scene.bridge.health()).await.slots.in_use), before);
    found
}

/// Runs what was told to run so on a thread of its own or a live one; every parameter must be as told.
async fn as_told(scene: &Scene, request: TurnRequest, found: &DryRun) -> (Turn, Running) {
    let trace = request.trace.clone();
    let injected = |thread: &str| scene.items(thread).len();
    let threads = ["thread/start", "thread/fork"].map(|method| scene.seen(method).len());
    let seen_before = scene.seen("thread/inject_items").len();
    let (turn, running) = scene.start(request).await;
    let (route, because, length) = {
        let trace = trace.read();
        (trace.route, trace.rebuilt_because, trace.chain_length)
    };
    assert_eq!(
        (route, because, length),
        (Some(found.route), found.rebuilt_because, Some(found.chain_length))
    );

    let mut start = scene.seen("turn/start").pop().unwrap()["params"].clone();
    start.as_object_mut().unwrap().shift_remove("threadId");
    assert_eq!(Some(start), found.turn.as_ref().map(|turn| turn.params.clone()));
    if let Some(thread) = &found.thread {
        let made = scene.seen(thread.method).split_off(threads[usize::from(thread.method == "thread/fork")]);
        let params = &made.last().expect("a thread is started")["params"];
        for (name, value) in thread.params.as_object().unwrap() {
            assert_eq!(&params[name], value, "{name}");
        }
    }
    let items: Vec<Value> = found.items.iter().map(Item::to_value).collect();
    let new = injected(&running.thread) - items.len();
    assert_eq!(scene.items(&running.thread)[new..], items);
    assert!(seen_before < scene.seen("thread/inject_items").len());
    (turn, running)
}

/// Tells of the call, makes it, and lets it say something.
async fn told_and_made(scene: &Scene, request: TurnRequest) -> DryRun {
    let found = dry(scene, &request).await;
    let (turn, running) = as_told(scene, request, &found).await;
    running.say("x");
    assert!(told(turn).await.1.is_ok());
    found
}

fn with_text(text: &str) -> TurnRequest {
    TurnRequest {
        instructions: Some("be brief".into()),
        effort: Some("low".into()),
        verbosity: Some("low".into()),
        service_tier: Some("flex".into()),
        output_schema: Some(json!({"type": "object"})),
        ..ask(text)
    }
}

#[tokio::test(start_paused = true)]
async fn a_fresh_call_and_its_continuations() {
    let scene = Scene::new(|_| {});
    let first = with_text("one two three");
    let id = first.response_id.clone();
    let found = told_and_made(&scene, first).await;
    assert_eq!((found.route, found.items.len(), found.chain_items), (Route::Fresh, 2, 1));
    assert_eq!(found.model.id, "model-a");
    // The texts' five words and the schema's own tokens.
    assert!((5..20).contains(&found.input_tokens), "{}", found.input_tokens);
    assert_eq!(found.thread.unwrap().params["config"]["model_verbosity"], "low");

    let next = |text: &str| TurnRequest { previous: Some(id.clone()), ..with_text(text) };
    let found = told_and_made(&scene, next("more")).await;
    assert_eq!((found.route, found.items.len(), found.chain_length), (Route::Live, 1, 2));
    assert!(found.thread.is_none());
    // The thread has gone on with the first continuation.
    let found = told_and_made(&scene, next("other")).await;
    assert_eq!((found.route, found.rebuilt_because), (Route::Rebuilt, Some(Rebuilt::NotLoaded)));
    assert_eq!(found.chain_items, 3);

    let other = ask("a");
    let tip = other.response_id.clone();
    told_and_made(&scene, other).await;
    let changed = TurnRequest { verbosity: Some("high".into()), ..after(&tip, "b") };
    let found = dry(&scene, &changed).await;
    assert_eq!((found.route, found.rebuilt_because), (Route::Rebuilt, Some(Rebuilt::SettingsChanged)));
    // It was looked at and left where it is.
    assert_eq!(dry(&scene, &after(&tip, "b")).await.route, Route::Live);
    told_and_made(&scene, after(&tip, "b")).await;
    scene.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_conversation_that_comes_whole_is_found_in_its_thread() {
    let scene = Scene::new(|_| {});
    let chat =
        |items: &[Item]| TurnRequest { input: items.to_vec(), retention: Retention::Nothing, ..ask("") };
    let mut said = vec![Item::input_text("user", "a")];
    assert_eq!(told_and_made(&scene, chat(&said)).await.route, Route::Fresh);
    let answer =
        json!({"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "x"}]});
    said.extend([Item::from_value(answer).unwrap(), Item::input_text("user", "b")]);
    let found = told_and_made(&scene, chat(&said)).await;
    assert_eq!((found.route, found.items.len(), found.chain_items), (Route::Live, 1, 3));
    scene.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_long_beginning_would_be_forked() {
    let scene = Scene::new(|_| {});
    let long = "classify ".repeat(1200);
    let request = |text: &str| {
        let input = vec![Item::input_text("developer", &long), Item::input_text("user", text)];
        TurnRequest { input, retention: Retention::Nothing, ..ask("") }
    };
    assert_eq!(told_and_made(&scene, request("a")).await.route, Route::Fresh);
    for (text, is_made) in [("b", false), ("c", true)] {
        let request = request(text);
        let found = dry(&scene, &request).await;
        assert_eq!((found.route, found.items.len()), (Route::Template, 1));
        let thread = found.thread.as_ref().unwrap();
        assert_eq!((thread.method, thread.params.get("threadId").is_some()), ("thread/fork", is_made));
        let (turn, running) = as_told(&scene, request, &found).await;
        running.fork_says("x");
        told(turn).await.1.unwrap();
    }
    scene.end().await;
}

#[tokio::test(start_paused = true)]
async fn outputs_would_go_to_the_turn_that_waits() {
    let scene = Scene::new(|_| {});
    let request = TurnRequest { tools: vec![function("look")], ..ask("look") };
    let id = request.response_id.clone();
    let found = dry(&scene, &request).await;
    assert_eq!(found.thread.unwrap().params["dynamicTools"].as_array().unwrap().len(), 1);
    let (turn, running) = scene.start(request).await;
    running.call("c1", "look").ask(100, "c1", "look").response("resp_calls", 10, 4);
    told(turn).await.1.unwrap();

    let outputs = TurnRequest {
        tools: vec![function("look")],
        input: vec![output("c1", "seen"), Item::input_text("user", "well?")],
        ..after(&id, "")
    };
    let found = dry(&scene, &outputs).await;
    assert_eq!((found.route, found.tool_outputs, found.items.len()), (Route::Held, 1, 1));
    assert!(found.thread.is_none() && found.turn.is_none());
    let turn = scene.resume(outputs).await;
    running.say("x");
    told(turn).await.1.unwrap();
    scene.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_would_be_refused_is_refused() {
    let scene = Scene::new(|config| {
        (config.admission.slots, config.admission.queue) = (1, 0);
    });
    let refused =
        async |request: TurnRequest| bounded(Box::pin(scene.bridge.dry_run(request))).await.unwrap_err();
    let unknown = refused(TurnRequest { model: Some("nope".into()), ..ask("a") }).await;
    assert!(matches!(unknown, BridgeError::ModelNotFound { .. }), "{unknown:?}");
    let unknown = refused(after(&ResponseId::new("resp_none"), "a")).await;
    assert!(matches!(unknown, BridgeError::PreviousNotFound { .. }), "{unknown:?}");
    let unpaired = refused(TurnRequest { input: vec![output("c1", "x")], ..ask("") }).await;
    assert!(matches!(unpaired, BridgeError::InvalidRequest { .. }), "{unpaired:?}");

    // A full house is told, and no reason to refuse.
    let (turn, running) = scene.start(ask("a")).await;
    let found = dry(&scene, &ask("b")).await;
    assert_eq!((found.slots.in_use, found.slots.total, found.draining), (1, 1, false));
    running.say("x");
    told(turn).await.1.unwrap();
    scene.bridge.begin_drain();
    assert!(dry(&scene, &ask("b")).await.draining);
    scene.end().await;
}

/// They take no slot, so that they have a bound of their own.
#[tokio::test(start_paused = true)]
async fn only_so_many_dry_runs_are_made_at_once() {
    let scene = Scene::new(|_| {});
    let found = join_all((0..=AT_ONCE).map(|_| bounded(scene.bridge.dry_run(ask("a"))))).await;
    let (made, refused): (Vec<_>, Vec<_>) = found.into_iter().partition(Result::is_ok);
    assert_eq!((made.len(), refused.len()), (AT_ONCE, 1));
    assert!(matches!(refused[0], Err(BridgeError::Busy { .. })), "{:?}", refused[0]);
    dry(&scene, &ask("a")).await;
    scene.end().await;
}

#[tokio::test(start_paused = true)]
async fn tokens_are_counted_whatever_the_app_server_says_and_one_after_another() {
    let scene = Scene::new(|_| {});
    let (turn, running) = scene.start(TurnRequest { retention: Retention::Stored, ..ask("one two") }).await;
    let id = turn.response_id().clone();
    running.say("three");
    told(turn).await.1.unwrap();
    let count = |request: TurnRequest| Box::pin(bounded(scene.bridge.count_tokens(request)));
    let counts = join_all((0..3 * AT_ONCE).map(|_| count(after(&id, "four five")))).await;
    assert!(counts.iter().all(|count| matches!(count, Ok(5))), "{counts:?}");
    let unknown = count(TurnRequest { model: Some("none".into()), ..ask("a") }).await;
    assert!(matches!(unknown, Err(BridgeError::ModelNotFound { .. })), "{unknown:?}");
    scene.end().await;
}
