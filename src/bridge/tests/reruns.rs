//! Turns whose app-server is lost under them.

use super::scene::{Running, Scene, after, ask, function, output, texts, told};
use crate::app_server::testing::bounded;
use crate::bridge::{BridgeError, Turn, TurnStep};
use crate::model::{Ended, TurnEvent, TurnRequest};

/// Drops the socket; gives the turn that runs on the next one.
async fn lost(scene: &Scene, turns: usize) -> Running {
    scene.cut();
    scene.nth("turn/start", turns).await;
    scene.running(turns - 1)
}

async fn first_delta(turn: &mut Turn) {
    while !matches!(bounded(turn.next()).await, TurnStep::Event(TurnEvent::TextDelta { .. })) {}
}

#[tokio::test(start_paused = true)]
async fn a_turn_of_which_nothing_was_told_is_run_again_once() {
    let scene = Scene::new(|_| {});
    let request = ask("hi");
    let trace = request.trace.clone();
    let (turn, first) = scene.start(request).await;
    let second = lost(&scene, 2).await;
    assert_ne!(first.thread, second.thread);
    assert_eq!(scene.items(&first.thread), scene.items(&second.thread));
    second.say("here");
    let (text, outcome) = told(turn).await;
    assert_eq!((text.as_str(), texts(&outcome.expect("it ends well"))), ("here", vec!["here".to_owned()]));
    let trace = trace.read();
    assert_eq!((trace.reruns, trace.turns, trace.generation), (1, 2, Some(2)));
    assert_eq!(bounded(scene.bridge.health()).await.app_server.reruns, 1);

    let request = ask("hi");
    let trace = request.trace.clone();
    let (turn, _) = scene.start(request).await;
    lost(&scene, 4).await;
    scene.cut();
    let error = told(turn).await.1.expect_err("not more than once");
    assert!(matches!(error, BridgeError::ConnectionLost { .. }), "{error}");
    assert_eq!((trace.read().reruns, trace.read().ended), (1, Some(Ended::Failed)));
    scene.nth("initialize", 4).await;
    scene.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_wants_the_whole_answer_sees_no_first_half() {
    let scene = Scene::new(|_| {});
    let (turn, first) = scene.start(ask("hi")).await;
    let outcome = scene.beside(turn.outcome());
    tokio::task::yield_now().await;
    first.begin("m").delta("m", "lost");
    tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    lost(&scene, 2).await.say("whole");
    let outcome = bounded(outcome).await.expect("an end").expect("it ends well");
    assert_eq!(texts(&outcome), ["whole"]);
    scene.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_was_told_is_not_told_again_and_the_chain_goes_on() {
    let scene = Scene::new(|_| {});
    let request = ask("one");
    let id = request.response_id.clone();
    let (turn, running) = scene.start(request).await;
    running.say("first");
    told(turn).await.1.expect("it ends well");

    let (mut turn, running) = scene.start(after(&id, "two")).await;
    running.begin("m").delta("m", "sec");
    first_delta(&mut turn).await;
    scene.cut();
    let error = told(turn).await.1.expect_err("half an answer");
    assert!(matches!(error, BridgeError::ConnectionLost { .. }), "{error}");
    scene.nth("initialize", 2).await;

    let (turn, running) = scene.start(after(&id, "two")).await;
    assert_eq!(scene.items(&running.thread).len(), 3, "one, first, two");
    running.say("second");
    assert_eq!(texts(&told(turn).await.1.expect("it ends well")), ["second"]);
    assert_eq!(bounded(scene.bridge.health()).await.app_server.reruns, 0);
    scene.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_resumed_turn_is_rebuilt_from_its_items() {
    let scene = Scene::new(|_| {});
    let request = TurnRequest { tools: vec![function("look")], ..ask("hi") };
    let id = request.response_id.clone();
    let (turn, running) = scene.start(request).await;
    running.call("c1", "look").ask(100, "c1", "look").response("resp_calls", 10, 4);
    told(turn).await.1.expect("it calls");
    let outputs =
        TurnRequest { tools: vec![function("look")], input: vec![output("c1", "42")], ..after(&id, "") };
    let trace = outputs.trace.clone();
    let turn = scene.resume(outputs).await;
    scene.answer(100).await;
    let rebuilt = lost(&scene, 2).await;
    let items = scene.items(&rebuilt.thread);
    let kinds: Vec<_> = items.iter().map(|item| item["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["message", "function_call", "function_call_output"]);
    rebuilt.say("it is 42");
    assert_eq!(texts(&told(turn).await.1.expect("it ends well")), ["it is 42"]);
    assert_eq!(trace.read().reruns, 1);
    scene.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_rerun_that_cannot_start_says_nothing_of_the_backend() {
    let scene = Scene::new(|config| config.breaker.failures = 1);
    let (turn, _) = scene.start(ask("hi")).await;
    scene.refuse(Some(("thread/start", -32001)));
    scene.cut();
    let error = told(turn).await.1.expect_err("no thread");
    assert!(matches!(error, BridgeError::Overloaded { .. }), "{error}");
    let breaker = bounded(scene.bridge.health()).await.breaker;
    assert_eq!((breaker.state, breaker.faults.overloaded), ("closed", 0));
    scene.refuse(None);
    scene.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_a_lost_turn_is_known_to_have_cost_is_counted() {
    let scene = Scene::new(|_| {});
    let (turn, first) = scene.start(ask("hi")).await;
    let outcome = scene.beside(turn.outcome());
    tokio::task::yield_now().await;
    first.begin("m").message("m", "lost").response("resp_1", 10, 4);
    tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    lost(&scene, 2).await.say("whole");
    let usage = bounded(outcome).await.expect("an end").expect("it ends well").usage.expect("usage");
    assert_eq!((usage.input_tokens, usage.output_tokens), (13, 6));
    scene.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_meanwhile_is_not_waited_for() {
    let scene = Scene::new(|_| {});
    let (turn, _) = scene.start(ask("hi")).await;
    scene.cut();
    drop(turn);
    bounded(async {
        while scene.load().await != (0, 0) {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    })
    .await;
    scene.nth("initialize", 2).await;
    assert_eq!(scene.seen("turn/start").len(), 1);
    scene.end().await;
}
