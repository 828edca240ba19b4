//! Threads started ahead of the calls that use them.

use std::time::Duration;

use super::scene::{Scene, ask, told};
use crate::app_server::testing::bounded;
use crate::bridge::threads::Shape;
use crate::model::TurnRequest;

#[tokio::test(start_paused = true)]
async fn two_kinds_of_calls_keep_their_spare_threads_beside_each_other() {
    let scene = Scene::new(|config| config.continuation.spare_threads = 2);
    for verbosity in [None, Some("low")].repeat(3) {
        let request = TurnRequest { verbosity: verbosity.map(str::to_owned), ..ask("hi") };
        let (turn, running) = scene.start(request).await;
        running.say("x");
        told(turn).await.1.unwrap();
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // One for each call, and one that is ready for the next call of either kind.
    assert_eq!(scene.seen("thread/start").len(), 8);
    assert_eq!(bounded(scene.bridge.health()).await.continuation.spare_threads, 2);
    scene.end().await;
}

/// The login may have changed with it.
#[tokio::test(start_paused = true)]
async fn whoever_has_a_connection_of_before_takes_no_spare_thread_of_its_successor() {
    let scene = Scene::new(|config| config.continuation.spare_threads = 1);
    let inner = &scene.bridge.0;
    let before = inner.app_server.connection().await.unwrap();
    scene.cut();
    scene.nth("initialize", 2).await;
    for _ in 0..2 {
        let (turn, running) = scene.start(ask("hi")).await;
        running.say("x");
        told(turn).await.1.unwrap();
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(bounded(scene.bridge.health()).await.continuation.spare_threads, 1);
    let shape = Shape::of(&ask("hi"), "model-a");
    assert!(bounded(inner.fresh_thread(&before, &shape)).await.is_err());
    let now = inner.app_server.connection().await.unwrap();
    let started = scene.seen("thread/start").len();
    assert!(bounded(inner.fresh_thread(&now, &shape)).await.is_ok());
    assert_eq!(scene.seen("thread/start").len(), started, "it was ready");
    scene.end().await;
}
