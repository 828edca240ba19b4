//! Slots come back however a call ends: its future is dropped at every point where it waits.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;

use super::scene::{Scene, after, ask, function, output};
use crate::app_server::testing::bounded;
use crate::bridge::{BridgeError, Turn, WAITING};
use crate::model::{Item, KeyId, Priority, Retention, Route, ToolChoice, TurnRequest};
use futures_util::future::join_all;

/// Polls `future` until it has waited `waits` times; then it is dropped. Gives what it came to before that.
async fn dropped_after<T>(waits: usize, future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    let mut left = waits;
    poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(value) => Poll::Ready(Some(value)),
        Poll::Pending if left == 0 => Poll::Ready(None),
        Poll::Pending => {
            left -= 1;
            Poll::Pending
        }
    })
    .await
}

async fn is_idle(scene: &Scene) -> bool {
    let slots = bounded(scene.bridge.health()).await.slots;
    (slots.in_use, slots.queued) == (0, 0)
}

fn of_key(key: &str, concurrency: Option<usize>, priority: Priority) -> TurnRequest {
    TurnRequest { key: KeyId::new(key), concurrency, priority, ..ask("hi") }
}

/// Waits until no call has or wants a slot.
async fn until_idle(scene: &Scene) {
    bounded(async {
        while !is_idle(scene).await {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    })
    .await;
}

/// Runs a whole good turn.
async fn say(scene: &Scene, request: TurnRequest) {
    let (turn, running) = scene.start(request).await;
    running.say("yes");
    bounded(turn.outcome()).await.unwrap();
}

/// A one-shot call whose beginning is worth a template.
fn one_shot() -> TurnRequest {
    let input =
        vec![Item::input_text("developer", &"classify ".repeat(1200)), Item::input_text("user", "this")];
    TurnRequest { input, retention: Retention::Nothing, ..ask("") }
}

fn with_tool(request: TurnRequest) -> TurnRequest {
    TurnRequest { tools: vec![function("look")], ..request }
}

/// What is started on `route`, after what has to be there before. `nth` tells the calls apart.
async fn starting_on(route: Route, scene: &Scene, nth: i64) -> TurnRequest {
    let first = ask("first");
    let id = first.response_id.clone();
    match route {
        Route::Live => {
            say(scene, first).await;
            after(&id, "go on")
        }
        Route::Held => {
            let (turn, running) = scene.start(with_tool(first)).await;
            running.call("c1", "look").ask(100 + nth, "c1", "look").response("resp_calls", 10, 4);
            bounded(turn.outcome()).await.unwrap();
            TurnRequest { input: vec![output("c1", "42")], ..with_tool(after(&id, "")) }
        }
        Route::Template => {
            if nth == 0 {
                say(scene, one_shot()).await;
                // Makes the template, and is the first fork of it.
                let (turn, running) = scene.start(one_shot()).await;
                running.fork_says("yes");
                bounded(turn.outcome()).await.unwrap();
            }
            one_shot()
        }
        Route::Rebuilt => {
            say(scene, first).await;
            // What its warm thread does not have.
            TurnRequest { instructions: Some("Otherwise.".into()), ..after(&id, "go on") }
        }
        Route::Fresh => first,
    }
}

/// From the first poll to the turn that runs: on a fresh thread, on the warm one of a chain, in the turn that waits
/// for its outputs, on a fork, and on a thread made anew of a chain.
#[tokio::test(start_paused = true)]
async fn a_start_that_is_dropped_anywhere_holds_no_slot() {
    // A warm thread wants one answer of the app-server's, the others more.
    let routes =
        [(Route::Fresh, 2), (Route::Live, 1), (Route::Held, 1), (Route::Template, 2), (Route::Rebuilt, 2)];
    for (route, least) in routes {
        let scene = Scene::new(|config| config.admission.slots = 1);
        let mut waits = 0;
        loop {
            let request = starting_on(route, &scene, i64::try_from(waits).unwrap()).await;
            let trace = request.trace.clone();
            let started: Option<Result<Turn, BridgeError>> =
                bounded(dropped_after(waits, scene.bridge.run(request))).await;
            let whole = started.is_some();
            // Whoever has its turn leaves too: that one is interrupted.
            drop(started.map(|turn| turn.expect("a turn")));
            until_idle(&scene).await;
            if whole {
                assert_eq!(trace.read().route, Some(route));
                break;
            }
            waits += 1;
        }
        assert!(waits >= least, "{route:?} waits more than {waits} times");
        scene.end().await;
    }
}

/// The same of a turn that begins anew: lost with its app-server, or without the call that is demanded.
#[tokio::test(start_paused = true)]
async fn a_turn_whose_client_leaves_anywhere_while_it_begins_anew_holds_no_slot() {
    for lost in [true, false] {
        let scene = Scene::new(|config| config.admission.slots = 1);
        let mut steps = 0;
        loop {
            let (starts, connections) = (scene.seen("turn/start").len(), scene.seen("initialize").len());
            let tool_choice = if lost { ToolChoice::Auto } else { ToolChoice::Required(vec!["look".into()]) };
            let (turn, running) = scene.start(TurnRequest { tool_choice, ..with_tool(ask("hi")) }).await;
            if lost {
                scene.cut();
                scene.nth("initialize", connections + 1).await;
            } else {
                running.say("no call");
            }
            for _ in 0..steps {
                tokio::task::yield_now().await;
            }
            let is_running = scene.seen("turn/start").len() > starts + 1;
            drop(turn);
            until_idle(&scene).await;
            if is_running {
                break;
            }
            steps += 1;
            assert!(steps < 500, "it does not begin anew");
        }
        scene.end().await;
    }
}

/// The same while the only slot is taken, and with the slot granted while nobody looks.
#[tokio::test(start_paused = true)]
async fn a_wait_that_is_dropped_passes_the_slot_on() {
    for granted in [false, true] {
        let scene = Scene::new(|config| config.admission.slots = 1);
        let (turn, running) = scene.start(of_key("a", None, Priority::Interactive)).await;
        let mut waiting = Box::pin(scene.bridge.run(of_key("b", Some(1), Priority::Batch)));
        let queued = async {
            while bounded(scene.bridge.health()).await.slots.queued == 0 {
                assert!(futures_util::poll!(waiting.as_mut()).is_pending());
                tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            }
        };
        bounded(queued).await;
        if granted {
            running.say("done");
            bounded(turn.outcome()).await.unwrap();
            bounded(async {
                while bounded(scene.bridge.health()).await.slots.queued > 0 {
                    tokio::time::sleep(std::time::Duration::from_millis(1)).await;
                }
            })
            .await;
            assert_eq!(scene.load().await.0, 1, "it was granted");
            drop(waiting);
        } else {
            drop(waiting);
            assert_eq!(bounded(scene.bridge.health()).await.slots.queued, 0);
            running.say("done");
            bounded(turn.outcome()).await.unwrap();
        }
        bounded(async {
            while !is_idle(&scene).await {
                tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            }
        })
        .await;
        let (turn, running) = scene.start(of_key("c", Some(1), Priority::Batch)).await;
        running.say("still works");
        bounded(turn.outcome()).await.unwrap();
        scene.end().await;
    }
}

/// Before there is a slot to wait for, a call may wait for the app-server: so many, and no more.
#[tokio::test(start_paused = true)]
async fn who_waits_for_the_app_server_is_bounded() {
    let scene = Scene::new(|config| (config.admission.slots, config.admission.queue) = (WAITING, 1));
    let found = join_all((0..WAITING + 2).map(|_| bounded(scene.bridge.models()))).await;
    let refused: Vec<_> = found.into_iter().filter_map(Result::err).collect();
    assert_eq!(refused.len(), 1);
    assert!(matches!(refused[0], BridgeError::Unavailable { .. }), "{:?}", refused[0]);
    bounded(scene.bridge.models()).await.unwrap();
    scene.end().await;
}

/// One key's burst leaves room for the others.
#[tokio::test(start_paused = true)]
async fn half_of_those_who_wait_for_the_app_server_may_be_of_one_key() {
    let scene = Scene::new(|config| (config.admission.slots, config.admission.queue) = (WAITING, 1));
    let (greedy, other) = (scene.bridge.asked_by(KeyId::new("a")), scene.bridge.asked_by(KeyId::new("b")));
    let burst = join_all((0..WAITING).map(|_| bounded(greedy.models())));
    let (found, models) = tokio::join!(burst, bounded(other.models()));
    assert_eq!(found.into_iter().filter_map(Result::ok).count(), (WAITING + 1).div_ceil(2));
    models.unwrap();
    scene.end().await;
}
