//! Slots, the queue, and what happens when both are full.

use std::time::Duration;

use crate::daemon::{Daemon, text_of};

#[tokio::test]
async fn a_full_queue_is_a_429_that_says_when() {
    let mut daemon = Daemon::start(|config| {
        config.admission.slots = 1;
        config.admission.queue = 1;
    })
    .await;
    let first = daemon.ask("first");
    let turn = daemon.peer.turn().await;
    turn.begin();
    let second = daemon.ask("second");
    daemon.until_load((1, 1)).await;
    let refused = daemon.ask("third").answer().await;
    assert_eq!(refused.status, 429);
    assert_eq!(refused.error()["type"], "rate_limit_error");
    assert!(refused.header("retry-after").expect("retry-after").parse::<u64>().expect("seconds") >= 1);

    turn.message("m", "one").response(1, 1).completed();
    assert_eq!(text_of(&first.answer().await.ok()), "one");
    let turn = daemon.peer.turn().await;
    assert_eq!(turn.items[0]["content"][0]["text"], "second");
    turn.answer("two");
    assert_eq!(text_of(&second.answer().await.ok()), "two");
    daemon.finish().await;
}

#[tokio::test]
async fn a_wait_in_the_queue_is_bounded() {
    let mut daemon = Daemon::start(|config| {
        config.admission.slots = 1;
        config.admission.queue_timeout = Duration::from_millis(100);
    })
    .await;
    let first = daemon.ask("first");
    let turn = daemon.peer.turn().await;
    turn.begin();
    let refused = daemon.ask("second").answer().await;
    assert_eq!(refused.status, 429);
    assert!(refused.header("retry-after").is_some());
    turn.message("m", "one").response(1, 1).completed();
    first.answer().await.ok();
    daemon.finish().await;
}

#[tokio::test]
async fn who_waits_is_served_in_order() {
    let mut daemon = Daemon::start(|config| config.admission.slots = 1).await;
    let first = daemon.ask("0");
    let mut turn = daemon.peer.turn().await;
    let mut waiting = vec![first];
    for n in 1..5 {
        waiting.push(daemon.ask(&n.to_string()));
        daemon.until_load((1, n)).await;
    }
    for (n, asking) in waiting.into_iter().enumerate() {
        assert_eq!(turn.items[0]["content"][0]["text"], n.to_string());
        turn.answer(&format!("answer {n}"));
        assert_eq!(text_of(&asking.answer().await.ok()), format!("answer {n}"));
        if n < 4 {
            turn = daemon.peer.turn().await;
        }
    }
    daemon.finish().await;
}

#[tokio::test]
async fn a_failed_turn_gives_its_slot_back() {
    let mut daemon = Daemon::start(|config| config.admission.slots = 1).await;
    for _ in 0..3 {
        let asking = daemon.ask("hi");
        daemon.peer.turn().await.begin().failed(&serde_json::json!("internalServerError"), "no");
        assert_eq!(asking.answer().await.status, 502);
    }
    daemon.finish().await;
}
