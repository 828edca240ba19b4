//! The way down: a call that has begun comes to its end, with all the turns it takes; nothing else begins.

use std::time::Duration;

use super::scene::{Scene, after, ask};
use crate::app_server::testing::bounded;
use crate::bridge::BridgeError;
use crate::model::TurnRequest;

const LIMIT: Duration = Duration::from_secs(20);

/// Another turn of the same call.
fn sibling(request: &TurnRequest) -> TurnRequest {
    TurnRequest { ticket: request.ticket.clone(), ..ask("the same once more") }
}

async fn until_queued(scene: &Scene, queued: usize) {
    bounded(async {
        while scene.bridge.health().await.slots.queued != queued {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_call_whose_turn_has_ended_may_still_repair_its_answer() {
    let scene = Scene::new(|_| {});
    let request = ask("hi");
    let (turn, running) = scene.start(request.clone()).await;
    let bridge = scene.bridge.clone();
    let mut drained = scene.beside(async move { bridge.drain(LIMIT).await });
    running.say("not what was asked for");
    bounded(turn.outcome()).await.unwrap();
    // Its slot is back, and nothing runs.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(drained.try_recv().is_err(), "the call has not ended");
    assert!(matches!(scene.refused(ask("new")).await, BridgeError::Draining));
    let repair = TurnRequest { ticket: request.ticket.clone(), ..after(&request.response_id, "again") };
    let (turn, running) = scene.start(repair).await;
    running.say("as asked for");
    bounded(turn.outcome()).await.unwrap();
    drop(request);
    let interrupted = bounded(drained).await.unwrap();
    assert_eq!(interrupted, 0);
    scene.end().await;
}

#[tokio::test(start_paused = true)]
async fn the_turns_of_a_call_that_wait_beside_one_that_runs_are_run() {
    let scene = Scene::new(|config| config.admission.slots = 1);
    let request = ask("hi");
    let other = sibling(&request);
    let (first, running) = scene.start(request).await;
    let bridge = scene.bridge.clone();
    let mut waiting = scene.beside(async move { bridge.run(other).await });
    until_queued(&scene, 1).await;
    let bridge = scene.bridge.clone();
    let stranger = scene.beside(async move { bridge.run(ask("somebody else's")).await.map(drop) });
    until_queued(&scene, 2).await;
    let bridge = scene.bridge.clone();
    let drained = scene.beside(async move { bridge.drain(LIMIT).await });
    assert!(matches!(bounded(stranger).await.unwrap(), Err(BridgeError::Draining)));
    until_queued(&scene, 1).await;
    assert!(waiting.try_recv().is_err());
    running.say("one");
    bounded(first.outcome()).await.unwrap();
    let second = bounded(waiting).await.unwrap().expect("it is not refused");
    scene.running(1).say("two");
    bounded(second.outcome()).await.unwrap();
    assert_eq!(bounded(drained).await.unwrap(), 0);
    scene.end().await;
}

/// The bound holds for those too.
#[tokio::test(start_paused = true)]
async fn past_the_bound_nobody_waits_any_more() {
    let scene = Scene::new(|config| config.admission.slots = 1);
    let request = ask("hi");
    let (other, late) = (sibling(&request), sibling(&request));
    let (first, _running) = scene.start(request).await;
    let bridge = scene.bridge.clone();
    let waiting = scene.beside(async move { bridge.run(other).await.map(drop) });
    until_queued(&scene, 1).await;
    let bridge = scene.bridge.clone();
    assert_eq!(bounded(scene.beside(async move { bridge.drain(Duration::from_secs(1)).await })).await, Ok(1));
    assert!(matches!(bounded(waiting).await.unwrap(), Err(BridgeError::Draining)));
    assert!(matches!(bounded(first.outcome()).await, Err(BridgeError::Interrupted)));
    assert!(matches!(scene.refused(late).await, BridgeError::Draining));
    scene.end().await;
}
