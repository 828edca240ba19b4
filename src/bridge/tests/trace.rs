//! What a call's trace says of where it ran.

use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use super::scene::{Running, Scene, after, ask, call, function, item, named, output, told};
use crate::app_server::testing::bounded;
use crate::bridge::BridgeError;
use crate::model::{
    Ended, Rebuilt, ResponseId, Retention, Route, SessionSource, ToolChoice, Trace, TurnRequest, Usage,
};

/// Runs a request that is answered well; gives its trace.
async fn traced(scene: &Scene, request: TurnRequest) -> Trace {
    let trace = request.trace.clone();
    let (turn, running) = scene.start(request).await;
    running.say("hello");
    told(turn).await.1.expect("it ends well");
    trace.read()
}

fn waited(trace: &Trace) -> Option<(Route, Option<Rebuilt>)> {
    trace.route.map(|route| (route, trace.rebuilt_because))
}

#[tokio::test(start_paused = true)]
async fn a_whole_call_is_told_in_order() {
    let scene = Scene::new(|_| {});
    let request = ask("hi");
    let (id, trace) = (request.response_id.clone(), request.trace.clone());
    let (turn, running) = scene.start(request).await;
    let early = trace.read();
    assert_eq!(waited(&early), Some((Route::Fresh, None)));
    assert_eq!((early.phases.first_event, early.phases.done, early.ended), (None, None, None));
    tokio::time::advance(std::time::Duration::from_millis(70)).await;
    running.begin("m").delta("m", "he");
    let ((), trace) = tokio::join!(
        async {
            tokio::time::sleep(std::time::Duration::from_millis(30)).await;
            running.delta("m", "llo").message("m", "hello").response("resp_u", 3, 2).completed();
        },
        async {
            told(turn).await.1.expect("it ends well");
            trace.read()
        }
    );
    assert_eq!(trace.response_id, Some(id));
    assert_eq!(
        (trace.thread.unwrap().as_str(), trace.turn.unwrap().as_str()),
        (&*running.thread, &*running.turn)
    );
    assert_eq!(trace.upstream_response_id.as_deref(), Some("resp_u"));
    assert_eq!((trace.generation, trace.turns, trace.retries), (Some(1), 1, 0));
    assert_eq!((trace.previous, trace.chain_length), (None, Some(1)));
    assert!(trace.kept.is_some_and(|kept| kept.expires_at > std::time::SystemTime::now()));
    assert_eq!((trace.usage.unwrap().input_tokens, trace.ended), (3, Some(Ended::Answered)));
    let phases = trace.phases;
    let all = [phases.queued, phases.starting, phases.first_event, phases.done]
        .map(|at| at.expect("a time").as_millis());
    assert!(all.is_sorted(), "{all:?}");
    assert!(all[2] >= 70 && all[3] >= all[2] + 30, "{all:?}");
    scene.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_chain_says_where_it_goes_on_and_why_it_was_rebuilt() {
    let scene = Scene::new(|_| {});
    let first = traced(&scene, ask("one")).await;
    let first = first.response_id.unwrap();
    let second = traced(&scene, after(&first, "two")).await;
    assert_eq!(waited(&second), Some((Route::Live, None)));
    assert_eq!((second.previous.as_ref(), second.chain_length), (Some(&first), Some(2)));
    // Another branch: the thread has gone on.
    let branch = traced(&scene, after(&first, "other")).await;
    assert_eq!(waited(&branch), Some((Route::Rebuilt, Some(Rebuilt::NotLoaded))));
    assert_eq!(branch.chain_length, Some(2));

    let tip = |trace: &Trace| trace.response_id.clone().unwrap();
    let instructed = TurnRequest { instructions: Some("be brief".into()), ..after(&tip(&branch), "x") };
    let instructed = traced(&scene, instructed).await;
    assert_eq!(waited(&instructed), Some((Route::Rebuilt, Some(Rebuilt::InstructionsChanged))));
    let verbose = TurnRequest { verbosity: Some("high".into()), ..after(&tip(&instructed), "x") };
    let verbose = traced(&scene, verbose).await;
    assert_eq!(waited(&verbose), Some((Route::Rebuilt, Some(Rebuilt::SettingsChanged))));
    let other = TurnRequest {
        model: Some("model-b".into()),
        verbosity: Some("high".into()),
        ..after(&tip(&verbose), "x")
    };
    let other = traced(&scene, other).await;
    assert_eq!(waited(&other), Some((Route::Rebuilt, Some(Rebuilt::ModelChanged))));
    assert_eq!(other.chain_length, Some(5));
    scene.cut();
    scene.nth("initialize", 2).await;
    let elsewhere = TurnRequest { model: Some("model-b".into()), ..after(&tip(&other), "x") };
    let elsewhere = traced(&scene, TurnRequest { verbosity: Some("high".into()), ..elsewhere }).await;
    assert_eq!(waited(&elsewhere).unwrap().0, Route::Rebuilt);
    assert_eq!(elsewhere.generation, Some(2));
    scene.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_held_turn_goes_on_under_its_ids() {
    let scene = Scene::new(|_| {});
    let request = TurnRequest { tools: vec![function("look")], ..ask("hi") };
    let (id, first) = (request.response_id.clone(), request.trace.clone());
    let (turn, running) = scene.start(request).await;
    running.item(call("c1", "look")).ask(100, "c1", "look").response("resp_calls", 10, 4);
    told(turn).await.1.expect("it calls");
    assert_eq!(first.read().ended, Some(Ended::Called));
    let request =
        TurnRequest { tools: vec![function("look")], input: vec![output("c1", "42")], ..after(&id, "") };
    let trace = request.trace.clone();
    let turn = scene.resume(request).await;
    running.say("it is 42");
    told(turn).await.1.expect("it ends well");
    let trace = trace.read();
    assert_eq!(waited(&trace), Some((Route::Held, None)));
    assert_eq!((trace.turn, trace.chain_length), (first.read().turn, Some(2)));
    assert_eq!(trace.upstream_response_id.as_deref(), Some("resp_u"));
    scene.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_held_turn_that_is_given_up_says_why() {
    let scene = Scene::new(|_| {});
    let with_tool = |request| TurnRequest { tools: vec![function("look")], ..request };
    let request = with_tool(ask("hi"));
    let id = request.response_id.clone();
    let (turn, running) = scene.start(request).await;
    running.item(call("c1", "look")).ask(100, "c1", "look").response("resp_calls", 10, 4);
    told(turn).await.1.expect("it calls");
    let request = with_tool(after(&id, ""));
    let request = TurnRequest { input: vec![output("c1", "42")], effort: Some("high".into()), ..request };
    let trace = traced(&scene, request).await;
    assert_eq!(waited(&trace), Some((Route::Rebuilt, Some(Rebuilt::SettingsChanged))));
    scene.end().await;
}

#[tokio::test(start_paused = true)]
async fn the_session_goes_upstream_and_is_inherited_along_the_chain() {
    let scene = Scene::new(|_| {});
    let metadata = [("a".to_owned(), "b".to_owned()), ("client_session_id".to_owned(), "mine".to_owned())];
    let first =
        traced(&scene, named("s1", TurnRequest { client_metadata: metadata.into(), ..ask("one") })).await;
    let sent = |n: usize| scene.seen("turn/start")[n]["params"]["responsesapiClientMetadata"].clone();
    let expected = json!({"a": "b", "client_session_id": "s1", "client_metadata_session_id": "mine"});
    assert_eq!(sent(0), expected, "the caller's own pair is not lost");

    let id = |trace: &Trace| trace.response_id.clone().unwrap();
    let second = traced(&scene, after(&id(&first), "two")).await;
    let third = traced(&scene, after(&id(&second), "three")).await;
    for trace in [&second, &third] {
        let session = trace.session.as_ref().unwrap();
        assert_eq!((session.id().as_str(), session.source()), ("s1", SessionSource::Previous));
        assert!(session.scope().is_some());
    }
    assert_eq!(sent(2), json!({"client_session_id": "s1"}));
    // A name of its own counts more.
    let fourth = traced(&scene, named("s2", after(&id(&third), "four"))).await;
    assert_eq!(fourth.session.unwrap().id().as_str(), "s2");
    assert_eq!(sent(3), json!({"client_session_id": "s2"}));
    scene.end().await;
}

async fn failing(scene: &Scene, play: impl FnOnce(&Running)) -> (Trace, BridgeError) {
    let request = TurnRequest { retention: Retention::Nothing, ..ask("hi") };
    let trace = request.trace.clone();
    let (turn, running) = scene.start(request).await;
    play(&running);
    let error = told(turn).await.1.expect_err("it fails");
    (trace.read(), error)
}

#[tokio::test(start_paused = true)]
async fn failures_and_retries_show() {
    let scene = Scene::new(|_| {});
    let (trace, _) = failing(&scene, |running| {
        let error = json!({"message": "again", "codexErrorInfo": "other", "additionalDetails": null});
        running.tell("error", json!({"error": error, "willRetry": true}));
        running.tell("error", json!({"error": error, "willRetry": true})).failed("no");
    })
    .await;
    assert_eq!((trace.retries, trace.ended, trace.kept), (2, Some(Ended::Failed), None));
    assert!(trace.phases.done.is_some() && trace.phases.first_event.is_none());

    let request = after(&ResponseId::generate(), "hi");
    let trace = request.trace.clone();
    scene.refused(request).await;
    assert_eq!((trace.read().ended, trace.read().route), (Some(Ended::Failed), None));

    let request = ask("hi");
    let trace = request.trace.clone();
    let (turn, running) = scene.start(request).await;
    running.begin("m");
    drop(turn);
    scene.nth("turn/interrupt", 1).await;
    bounded(async {
        while trace.read().ended.is_none() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(trace.read().ended, Some(Ended::Abandoned));
    scene.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_turn_that_was_asked_again_counts_twice() {
    let scene = Scene::new(|_| {});
    let request = TurnRequest {
        tools: vec![function("look")],
        tool_choice: crate::model::ToolChoice::Required(Vec::new()),
        ..ask("hi")
    };
    let trace = request.trace.clone();
    let (turn, running) = scene.start(request).await;
    running.say("no");
    scene.nth("turn/start", 2).await;
    let again = scene.running(1);
    again.item(item(call("c1", "look")).to_value()).ask(100, "c1", "look").response("resp_2", 1, 1);
    told(turn).await.1.expect("it calls");
    let trace = trace.read();
    assert_eq!((trace.turns, trace.ended), (2, Some(Ended::Called)));
    assert_eq!(trace.turn.unwrap().as_str(), again.turn);
    scene.end().await;
}

/// The same answer again, as a repair of `first` asks for it.
fn repair(first: &TurnRequest, spent: Option<Usage>) -> TurnRequest {
    TurnRequest { previous: Some(first.response_id.clone()), spent, ..first.clone() }
}

#[tokio::test(start_paused = true)]
async fn each_attempt_at_an_answer_is_booked_once_and_the_trace_has_them_all() {
    let scene = Scene::new(|_| {});
    let request = ask("hi");
    let trace = request.trace.clone();
    let (turn, running) = scene.start(request.clone()).await;
    running.say("not it");
    let spent = told(turn).await.1.expect("it ends well").usage;
    assert_eq!(trace.read().ended, Some(Ended::Answered));

    let (turn, running) = scene.start(repair(&request, spent)).await;
    assert_eq!((trace.read().ended, trace.read().phases.done), (None, None), "it has not ended after all");
    running.say("this is it");
    assert_eq!(told(turn).await.1.expect("it ends well").usage.expect("usage").total_tokens, 10);
    assert_eq!(trace.read().usage.expect("usage").total_tokens, 10);
    let booked = |scene: &Scene| scene.bridge.spent().1[0].2;
    assert_eq!((booked(&scene).input_tokens, booked(&scene).output_tokens), (6, 4));

    // One that fails has cost what it cost before.
    let (turn, running) = scene.start(repair(&request, spent)).await;
    running.failed("no");
    told(turn).await.1.expect_err("it fails");
    assert_eq!(trace.read().usage, spent);
    assert_eq!((booked(&scene).calls, booked(&scene).input_tokens), (3, 6));
    scene.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_further_attempt_has_what_is_left_of_the_time_and_waits_no_longer_for_a_slot() {
    let scene = Scene::new(|config| config.admission.slots = 1);
    let request = TurnRequest { deadline: Some(Duration::from_secs(30)), ..ask("hi") };
    let began = Instant::now();
    let (turn, running) = scene.start(request.clone()).await;
    let until = Some(turn.deadline());
    tokio::time::sleep(Duration::from_secs(20)).await;
    running.say("not it");
    told(turn).await.1.expect("it ends well");
    let again = || TurnRequest { until, ..repair(&request, None) };
    let (turn, _) = scene.start(again()).await;
    // Nor does one that finds the slot taken.
    let (error, queued) = tokio::join!(told(turn), scene.refused(again()));
    for error in [error.1.expect_err("too late"), queued] {
        assert!(matches!(error, BridgeError::Timeout { .. }), "{error}");
    }
    let took = began.elapsed();
    assert!(took >= Duration::from_secs(30) && took < Duration::from_secs(31), "{took:?}");
    scene.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_demanded_again_in_vain_is_booked_too() {
    let scene = Scene::new(|_| {});
    let tool_choice = ToolChoice::Required(vec!["look".into()]);
    let request = TurnRequest { tools: vec![function("look")], tool_choice, ..ask("hi") };
    let trace = request.trace.clone();
    let (turn, running) = scene.start(request).await;
    running.say("no call");
    scene.nth("turn/start", 2).await;
    scene.running(1).failed("no");
    told(turn).await.1.expect_err("it fails");
    assert_eq!(trace.read().usage.expect("usage").total_tokens, 5);
    assert_eq!(scene.bridge.spent().1[0].2.input_tokens, 3);
    scene.end().await;
}
