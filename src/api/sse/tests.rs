use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http_body_util::BodyExt;
use serde_json::json;
use tokio::sync::mpsc;

use super::*;
use crate::model::{ThreadId, TurnId};

/// A turn whose steps come from a channel; a closed channel is a turn that says nothing more.
pub(crate) struct Script {
    steps: mpsc::Receiver<TurnStep>,
    dropped: Arc<AtomicBool>,
}

impl Script {
    pub(crate) fn gated() -> (mpsc::Sender<TurnStep>, Self) {
        let (sender, steps) = mpsc::channel(256);
        (sender, Self { steps, dropped: Arc::default() })
    }

    pub(crate) fn of(script: Vec<TurnStep>) -> Self {
        let (sender, turn) = Self::gated();
        for step in script {
            sender.try_send(step).unwrap();
        }
        turn
    }
}

impl Steps for Script {
    async fn next(&mut self) -> TurnStep {
        match self.steps.recv().await {
            Some(step) => step,
            None => std::future::pending().await,
        }
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        self.dropped.store(true, Ordering::SeqCst);
    }
}

/// Writes each call down as one frame.
struct Notes;

impl Encode for Notes {
    fn start(&mut self, out: &mut Frames) {
        out.event(Some("start"), &json!({}));
    }
    fn event(&mut self, index: usize, event: TurnEvent, out: &mut Frames) {
        if let TurnEvent::TextDelta { delta, .. } = event {
            out.event(None, &json!({ "index": index, "delta": delta }));
        }
    }
    fn finish(&mut self, index: usize, result: Result<Outcome, BridgeError>, out: &mut Frames) {
        out.event(None, &json!({ "index": index, "ok": result.is_ok() }));
    }
    fn end(&mut self, out: &mut Frames) {
        out.done();
    }
}

fn started() -> TurnStep {
    TurnStep::Event(TurnEvent::Started { thread: ThreadId::new("t"), turn: TurnId::new("1") })
}

fn delta(text: &str) -> TurnStep {
    TurnStep::Event(TurnEvent::TextDelta { item_id: "msg".into(), delta: text.into() })
}

fn finished() -> TurnStep {
    TurnStep::Finished(Ok(Outcome::default()))
}

async fn chunk(body: &mut Body) -> Option<String> {
    let frame = tokio::time::timeout(Duration::from_secs(120), body.frame()).await.expect("no chunk came");
    frame.map(|frame| String::from_utf8(frame.unwrap().into_data().unwrap().to_vec()).unwrap())
}

#[tokio::test]
async fn a_whole_turn_is_one_stream_of_events() {
    let turn = Script::of(vec![started(), delta("a\nb"), finished()]);
    let response = respond(vec![turn], Notes, &StreamConfig::default()).await.unwrap();
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    assert_eq!(response.headers()["cache-control"], "no-cache");
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let expected = "event: start\ndata: {}\n\ndata: {\"index\":0,\"delta\":\"a\\nb\"}\n\n\
                    data: {\"index\":0,\"ok\":true}\n\ndata: [DONE]\n\n";
    assert_eq!(std::str::from_utf8(&body).unwrap(), expected);
}

#[tokio::test]
async fn each_event_is_written_when_it_is_there() {
    let (steps, turn) = Script::gated();
    steps.send(delta("one")).await.unwrap();
    let mut body = respond(vec![turn], Notes, &StreamConfig::default()).await.unwrap().into_body();
    assert_eq!(
        chunk(&mut body).await.unwrap(),
        "event: start\ndata: {}\n\ndata: {\"index\":0,\"delta\":\"one\"}\n\n"
    );
    steps.send(delta("two")).await.unwrap();
    assert_eq!(chunk(&mut body).await.unwrap(), "data: {\"index\":0,\"delta\":\"two\"}\n\n");
    steps.send(delta("three")).await.unwrap();
    steps.send(finished()).await.unwrap();
    let rest = chunk(&mut body).await.unwrap();
    assert!(rest.contains("three") && rest.ends_with("data: [DONE]\n\n"), "{rest}");
    assert_eq!(chunk(&mut body).await, None);
}

#[tokio::test]
async fn a_failure_before_any_answer_is_an_http_error() {
    let failed = TurnStep::Finished(Err(BridgeError::Busy { retry_after: Duration::from_secs(3) }));
    let turn = Script::of(vec![started(), failed]);
    let (dropped, other) = (turn.dropped.clone(), Script::gated().1);
    let other_dropped = other.dropped.clone();
    let error = respond(vec![turn, other], Notes, &StreamConfig::default()).await.unwrap_err();
    assert!(error.status.is_client_error() || error.status.is_server_error());
    assert!(dropped.load(Ordering::SeqCst) && other_dropped.load(Ordering::SeqCst));
}

#[tokio::test]
async fn a_failure_after_the_head_goes_to_the_encoder() {
    let turn = Script::of(vec![delta("x"), TurnStep::Finished(Err(BridgeError::Interrupted))]);
    let response = respond(vec![turn], Notes, &StreamConfig::default()).await.unwrap();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert!(std::str::from_utf8(&body).unwrap().contains("\"ok\":false"));
}

/// Is over with the first failure.
#[derive(Default)]
struct Brittle(bool);

impl Encode for Brittle {
    fn start(&mut self, _: &mut Frames) {}
    fn event(&mut self, _: usize, _: TurnEvent, _: &mut Frames) {}
    fn finish(&mut self, index: usize, result: Result<Outcome, BridgeError>, out: &mut Frames) {
        self.0 |= result.is_err();
        out.event(None, &index);
    }
    fn is_over(&self) -> bool {
        self.0
    }
    fn end(&mut self, out: &mut Frames) {
        out.done();
    }
}

#[tokio::test]
async fn a_stream_that_is_over_lets_the_other_turns_go() {
    let turn = Script::of(vec![delta("x"), TurnStep::Finished(Err(BridgeError::Interrupted))]);
    let (_steps, other) = Script::gated();
    let dropped = other.dropped.clone();
    let response = respond(vec![turn, other], Brittle::default(), &StreamConfig::default()).await.unwrap();
    let mut body = response.into_body();
    assert_eq!(chunk(&mut body).await.unwrap(), "data: 0\n\ndata: [DONE]\n\n");
    assert!(dropped.load(Ordering::SeqCst));
    assert_eq!(chunk(&mut body).await, None);
}

#[tokio::test(start_paused = true)]
async fn a_silent_model_gets_its_head_in_time_and_keep_alives_after() {
    let config = StreamConfig::default();
    let (steps, turn) = Script::gated();
    steps.send(started()).await.unwrap();
    let before = Instant::now();
    let mut body = respond(vec![turn], Notes, &config).await.unwrap().into_body();
    assert_eq!(before.elapsed(), config.head_timeout);
    assert_eq!(chunk(&mut body).await.unwrap(), "event: start\ndata: {}\n\n");
    let before = Instant::now();
    assert_eq!(chunk(&mut body).await.unwrap(), ": keep-alive\n\n");
    assert_eq!(before.elapsed(), config.keep_alive);
    steps.send(finished()).await.unwrap();
    assert!(chunk(&mut body).await.unwrap().ends_with("data: [DONE]\n\n"));
}

#[tokio::test]
async fn dropping_the_body_drops_the_turn() {
    let (steps, turn) = Script::gated();
    let dropped = turn.dropped.clone();
    steps.send(delta("x")).await.unwrap();
    let response = respond(vec![turn], Notes, &StreamConfig::default()).await.unwrap();
    assert!(!dropped.load(Ordering::SeqCst));
    drop(response);
    assert!(dropped.load(Ordering::SeqCst));
}

#[tokio::test]
async fn several_turns_interleave_and_end_once() {
    let (first_steps, first) = Script::gated();
    let (second_steps, second) = Script::gated();
    first_steps.send(delta("a")).await.unwrap();
    let mut body = respond(vec![first, second], Notes, &StreamConfig::default()).await.unwrap().into_body();
    chunk(&mut body).await.unwrap();
    second_steps.send(delta("b")).await.unwrap();
    assert_eq!(chunk(&mut body).await.unwrap(), "data: {\"index\":1,\"delta\":\"b\"}\n\n");
    first_steps.send(finished()).await.unwrap();
    assert_eq!(chunk(&mut body).await.unwrap(), "data: {\"index\":0,\"ok\":true}\n\n");
    second_steps.send(finished()).await.unwrap();
    assert_eq!(chunk(&mut body).await.unwrap(), "data: {\"index\":1,\"ok\":true}\n\ndata: [DONE]\n\n");
    assert_eq!(chunk(&mut body).await, None);
}

#[test]
fn an_event_that_cannot_be_written_leaves_no_half_frame() {
    let mut frames = Frames::default();
    let unwritable: std::collections::BTreeMap<(u8, u8), u8> = [((1, 2), 3)].into();
    frames.event(Some("bad"), &unwritable);
    assert_eq!(frames.len(), 0);
}
