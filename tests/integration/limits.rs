//! Deadline, idle limit, size limit: one clean-up, one error, nothing more collected.

use std::time::Duration;

use crate::daemon::{Daemon, deltas_of, terminal_of, text_of};
use crate::http::until;
use crate::peer::Instead;

#[tokio::test]
async fn a_silent_turn_is_given_up_and_interrupted() {
    let mut daemon = Daemon::start(|config| config.turn.idle_timeout = Duration::from_millis(150)).await;
    let asking = daemon.ask("hi");
    let turn = daemon.peer.turn().await;
    turn.begin();
    let answer = asking.answer().await;
    assert_eq!(answer.status, 504, "{}", answer.text);
    answer.error();
    daemon.until_interrupted(&turn).await;
    assert_eq!(daemon.peer.seen("turn/interrupt")[0]["params"]["turnId"], turn.id);

    let (events, _turn) = daemon.streaming("half").await;
    let events = events.rest().await;
    assert_eq!(terminal_of(&events)["type"], "response.failed");
    daemon.finish().await;
}

#[tokio::test]
async fn a_turn_that_never_stops_talking_meets_its_deadline() {
    let mut daemon = Daemon::start(|config| config.turn.deadline = Duration::from_millis(300)).await;
    let (mut events, turn) = daemon.streaming("w ").await;
    let talking = async {
        loop {
            turn.delta("m", "w ");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let failed = tokio::select! {
        () = talking => unreachable!(),
        failed = events.until("response.failed") => failed,
    };
    assert!(failed["response"]["error"]["message"].as_str().is_some_and(|message| message.contains("300ms")));
    daemon.until_interrupted(&turn).await;
    drop(events);
    daemon.finish().await;
}

#[tokio::test]
async fn an_answer_past_the_size_limit_is_one_failure() {
    let mut daemon = Daemon::start(|config| config.turn.max_output_bytes = 1000).await;
    let (events, turn) = daemon.streaming(&"a".repeat(900)).await;
    for _ in 0..100 {
        turn.delta("m", &"b".repeat(90));
    }
    let events = events.rest().await;
    assert_eq!(terminal_of(&events)["type"], "response.failed");
    assert!(deltas_of(&events).len() <= 1000, "{} bytes were passed on", deltas_of(&events).len());

    // Not only deltas count.
    let asking = daemon.ask("hi");
    let second = daemon.peer.turn().await;
    second.begin().message("m", &"c".repeat(1100)).response(1, 1);
    assert_eq!(asking.answer().await.failure(), (502, "answer_too_large".into()));
    daemon.until_interrupted(&turn).await;
    daemon.until_interrupted(&second).await;
    daemon.finish().await;
}

#[tokio::test]
async fn a_client_that_does_not_read_gets_every_word_later() {
    let mut daemon = Daemon::start(|_| {}).await;
    let (events, turn) = daemon.streaming("0 ").await;
    let mut said = String::from("0 ");
    for n in 1..20_000 {
        let word = format!("{n} ");
        turn.delta("m", &word);
        said.push_str(&word);
    }
    turn.message("m", &said).response(1, 1).completed();
    daemon.until_load((0, 0)).await;
    let events = events.rest().await;
    assert_eq!(terminal_of(&events)["type"], "response.completed");
    assert_eq!(deltas_of(&events), said);
    assert_eq!(text_of(&terminal_of(&events)["response"]), said);
    daemon.finish().await;
}

#[tokio::test]
async fn an_app_server_that_answers_nothing_is_a_timeout() {
    let mut daemon =
        Daemon::start(|config| config.app_server.request_timeout = Duration::from_millis(200)).await;
    daemon.peer.instead("thread/start", Instead::Silence);
    let answer = daemon.ask("hi").answer().await;
    assert_eq!(answer.status, 504, "{}", answer.text);
    answer.error();
    daemon.peer.instead("turn/start", Instead::Silence);
    let answer = daemon.ask("hi").answer().await;
    assert_eq!(answer.status, 504, "{}", answer.text);

    // Still serving; and the turn that may have started nonetheless is stopped.
    let asking = daemon.ask("again");
    daemon.peer.turn().await.answer("here");
    assert_eq!(text_of(&asking.answer().await.ok()), "here");
    until("the unanswered turn is interrupted", async || daemon.peer.seen("turn/interrupt").first().cloned())
        .await;
    daemon.finish().await;
}

#[tokio::test]
async fn health_does_not_wait_for_a_stuck_app_server() {
    let daemon = Daemon::start(|config| config.app_server.request_timeout = Duration::from_secs(30)).await;
    for _ in 0..20 {
        daemon.peer.instead("account/read", Instead::Silence);
    }
    let answer = tokio::time::timeout(Duration::from_secs(3), daemon.client.get("/v1/health")).await;
    let health = answer.expect("an answer within 3 s").json();
    assert_eq!(health["slots"]["in_use"], 0);
    assert_eq!(daemon.client.get("/healthz").await.status, 200);
    daemon.end().await;
}
