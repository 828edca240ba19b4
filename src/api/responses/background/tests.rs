use serde_json::json;

use super::*;
use crate::api::responses::events::tests::head as response_head;
use crate::api::responses::wire::{Progress, Response as Object};
use crate::api::spec::assert_valid;
use crate::api::testing::{config, edge};

fn kept() -> Kept {
    let manner = Manner {
        head: vec![("session-id".into(), "s".into())],
        request_id: crate::model::RequestId::new("req"),
        priority: Priority::Batch,
        max_wait: Some(Duration::from_secs(3)),
    };
    let Value::Object(request) = json!({ "input": "hi", "background": true }) else { unreachable!() };
    let mut kept = Kept::new(request, &manner, 1_700_000_000);
    kept.object = serde_json::to_value(Object::new(&response_head(), Progress::Running, &[], None)).unwrap();
    kept
}

fn document(kept: &Kept, owner: &str) -> Document {
    Document { id: "resp_1".into(), owner: KeyId::new(owner), expires_at: None, body: kept.written() }
}

async fn taken_up(kept: &Kept, owner: &str) -> Kept {
    let edge = edge(&config());
    let background = &edge.background;
    background.0.documents.put(KIND, &document(kept, owner)).await.unwrap();
    background.take_up(&edge).await;
    background.close();
    background.settled().await;
    let found = background.document(&ResponseId::new("resp_1"), &KeyId::new(owner)).await.unwrap();
    found.unwrap()
}

#[test]
fn what_is_kept_comes_back() {
    let kept = kept();
    let again = Kept::of(&document(&kept, "tester")).unwrap();
    let manner = again.manner();
    assert_eq!(again.request, kept.request);
    assert_eq!((manner.priority, manner.max_wait), (Priority::Batch, Some(Duration::from_secs(3))));
    assert_eq!(manner.headers()["session-id"], "s");
    assert!(Kept::of(&Document { body: b"{}".to_vec(), ..document(&kept, "tester") }).is_err());
}

#[tokio::test]
async fn what_was_seen_or_begun_too_often_has_failed() {
    let (mut seen, mut often) = (kept(), kept());
    (seen.emitted, often.attempts) = (true, MAX_ATTEMPTS);
    for (kept, owner, code) in [
        (&seen, "tester", "bridge_restarted"),
        (&often, "tester", "bridge_restarted"),
        (&kept(), "gone", "invalid_api_key"),
    ] {
        let failed = taken_up(kept, owner).await;
        assert!(failed.is_over());
        assert_valid("Response", failed.object());
        assert_eq!(failed.object()["status"], "failed");
        let message = failed.object()["error"]["message"].as_str().unwrap();
        assert!(message.contains(code), "{message}");
    }
}

/// The engine is on its way down here: the response is left to the next one.
#[tokio::test]
async fn what_nobody_has_seen_is_begun_again() {
    let kept = taken_up(&kept(), "tester").await;
    assert!(!kept.is_over());
    assert_eq!(kept.object()["status"], "queued");
}

#[tokio::test]
async fn what_is_over_is_left_alone() {
    let mut over = kept();
    over.cancelled();
    assert_eq!(taken_up(&over, "tester").await.object(), over.object());
}

#[tokio::test]
async fn jobs_are_bounded_in_number_and_bytes() {
    let weight = Job::new(ResponseId::generate(), KeyId::anonymous(), &kept()).weight;
    for (max_jobs, request_bytes) in [(2, usize::MAX), (100, 2 * weight)] {
        let mut config = config();
        (config.background.max_jobs, config.background.request_bytes) = (max_jobs, request_bytes);
        let edge = edge(&config);
        let admit = || edge.background.admit(&Job::new(ResponseId::generate(), KeyId::anonymous(), &kept()));
        assert!(admit().is_ok() && admit().is_ok());
        assert_eq!(admit().unwrap_err().code.as_deref(), Some("rate_limit_exceeded"));
    }
}

#[tokio::test(start_paused = true)]
async fn logs_that_ended_go_first_and_by_time() {
    let mut config = config();
    config.background.log_bytes = 100;
    let edge = edge(&config);
    let background = &edge.background;
    let job = || {
        let mut kept = kept();
        kept.streamed = true;
        let job = Job::new(ResponseId::generate(), KeyId::anonymous(), &kept);
        background.admit(&job).unwrap();
        job
    };
    let frames = |bytes: usize| bytes::Bytes::from([vec![b'x'; bytes - 2], b"\n\n".to_vec()].concat());
    let (first, second, third) = (job(), job(), job());
    background.log(&first, frames(40));
    first.settle();
    background.log(&second, frames(40));
    background.log(&third, frames(40));
    assert!(first.log.is_dropped() && !second.log.is_dropped() && !third.log.is_dropped());
    background.log(&third, frames(90));
    assert!(third.log.is_dropped() && !second.log.is_dropped());
    assert_eq!(background.0.logged.load(Ordering::Relaxed), 40);
    second.settle();
    background.let_go(Instant::now() + config.background.keep);
    assert!(second.log.is_dropped());
    assert_eq!(background.0.logged.load(Ordering::Relaxed), 0);
}
