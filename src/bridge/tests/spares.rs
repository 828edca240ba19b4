//! Threads started ahead of the calls that use them.

use std::time::Duration;

use super::scene::{Scene, ask, told};
use crate::app_server::testing::bounded;
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
