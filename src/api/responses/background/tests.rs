use http_body_util::BodyExt;
use serde_json::json;

use super::*;
use crate::api::responses::events::tests::head as response_head;
use crate::api::responses::kept::tests::record;
use crate::api::responses::wire::{Progress, Response as Object};
use crate::api::spec::assert_valid;
use crate::api::testing::{config, edge, edge_on};
use crate::store::testing::{Mood, Server, Shelf};
use crate::store::{Entry, ResponseStore};

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

/// Its bridge has ended between the answer's record and its conversation.
#[tokio::test]
async fn an_answer_that_its_conversation_lacks_is_added_when_it_is_found() {
    let edge = edge(&config());
    let owner = KeyId::new("tester");
    let begun =
        edge.conversations.create(&owner, std::collections::BTreeMap::new(), Vec::new()).await.unwrap();
    let mut kept = kept();
    kept.request.insert("conversation".into(), json!({ "id": begun.id }));
    let answer = json!({ "type": "message", "id": "msg_a", "role": "assistant", "content": [] });
    let record =
        StoredResponse { id: ResponseId::new("resp_1"), ..record(vec![Item::from_value(answer).unwrap()]) };
    for _ in 0..2 {
        conclude(&edge, &owner, &kept, &record).await.unwrap();
    }
    let items = edge.conversations.items(&begun.id, &owner).await.unwrap();
    let names: Vec<&str> = items.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["msg_1i0000", "msg_a"]);
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

/// A bridge of several on one store and one server.
fn one_of_several(store: &Shelf, server: &Server) -> Edge {
    let mut config = config();
    config.store.backend = StoreBackend::Redis;
    edge_on(store.clone(), server.documents(), &config)
}

fn ids() -> (ResponseId, KeyId) {
    (ResponseId::new("resp_1"), KeyId::new("tester"))
}

/// Keeps `kept`, and takes it up.
async fn running(edge: &Edge, kept: &Kept) -> Arc<Job> {
    let (background, (id, key)) = (&edge.background, ids());
    background.0.documents.put(KIND, &document(kept, key.as_str())).await.unwrap();
    assert!(background.take_up(edge).await);
    background.job(&id, &key).expect("a job")
}

async fn settled(background: &Background) {
    tokio::time::timeout(Duration::from_secs(60), background.settled()).await.expect("an end");
}

fn streamed() -> Kept {
    let mut kept = kept();
    kept.streamed = true;
    kept
}

fn stored() -> StoredResponse {
    let (id, key) = ids();
    StoredResponse {
        id,
        key,
        expires_at: SystemTime::now() + Duration::from_secs(3600),
        ..record(Vec::new())
    }
}

#[tokio::test(start_paused = true)]
async fn what_another_bridge_takes_over_is_let_go_here() {
    let (store, server) = (Shelf::default(), Server::default());
    let edge = one_of_several(&store, &server);
    let background = &edge.background;
    let job = running(&edge, &streamed()).await;
    let reader = job.log.read(0, Duration::from_secs(100));
    let theirs = br#"{"instance":"another","until":0}"#.to_vec();
    let lease = vec![Entry { id: "lease".into(), body: theirs }];
    background.0.documents.append(KIND, job.id.as_str(), lease).await.unwrap();
    background.renew(background.0.leases.as_ref().unwrap()).await;
    settled(background).await;
    assert!(job.settled_at().is_some() && background.jobs().is_empty());
    assert_eq!(background.0.logged.load(Ordering::Relaxed), 0);
    // Its reader is to ask the other bridge.
    assert_eq!(reader.collect().await.unwrap().to_bytes(), "");
    assert!(!background.document(&job.id, &job.key).await.unwrap().unwrap().is_over());
}

#[tokio::test(start_paused = true)]
async fn what_another_bridge_deletes_does_not_come_back() {
    let (store, server) = (Shelf::default(), Server::default());
    let (edge, other) = (one_of_several(&store, &server), one_of_several(&store, &server));
    let background = &edge.background;
    let job = running(&edge, &kept()).await;
    other.background.delete(&job.id).await.unwrap();
    assert_eq!(background.save(&job, &kept()).await, Ok(false));
    background.renew(background.0.leases.as_ref().unwrap()).await;
    settled(background).await;
    assert!(background.jobs().is_empty());
    assert_eq!(background.0.documents.bytes(), Some(0), "something of it is there");
}

#[tokio::test(start_paused = true)]
async fn what_is_not_kept_yet_is_not_lost() {
    let edge = one_of_several(&Shelf::default(), &Server::default());
    let background = &edge.background;
    let (id, key) = ids();
    let job = Job::new(id, key, &kept());
    background.admit(&job).unwrap();
    background.renew(background.0.leases.as_ref().unwrap()).await;
    assert!(!job.lost.is_cancelled());
    background.keep(&job, &kept()).await.unwrap();
    job.set_kept();
    background.renew(background.0.leases.as_ref().unwrap()).await;
    assert!(!job.lost.is_cancelled());
}

#[tokio::test(start_paused = true)]
async fn what_ended_since_it_was_listed_is_not_run_again() {
    let (store, server) = (Shelf::default(), Server::default());
    let edge = one_of_several(&store, &server);
    let (background, (id, key)) = (&edge.background, ids());
    let mut over = kept();
    over.cancelled();
    background.0.documents.put(KIND, &document(&over, key.as_str())).await.unwrap();
    background.take_up_one(&edge, document(&kept(), key.as_str())).await.unwrap();
    assert!(background.jobs().is_empty());
    assert_eq!(background.0.documents.entry(KIND, id.as_str(), "lease").await, Ok(None));
    background.delete(&id).await.unwrap();
    background.take_up_one(&edge, document(&kept(), key.as_str())).await.unwrap();
    assert!(background.jobs().is_empty());
    assert_eq!(background.0.documents.bytes(), Some(0));
}

#[tokio::test(start_paused = true)]
async fn what_may_be_finished_waits_until_the_store_can_tell() {
    let store = Shelf::default();
    let edge = edge_on(store.clone(), Documents::in_memory(), &config());
    let (background, (id, key)) = (&edge.background, ids());
    background.0.documents.put(KIND, &document(&kept(), key.as_str())).await.unwrap();
    store.put(stored()).await.unwrap();
    store.set(Mood::Down);
    background.start(&edge).await;
    assert!(background.jobs().is_empty());
    assert!(!background.document(&id, &key).await.unwrap().unwrap().is_over());
    store.set(Mood::Works);
    tokio::time::sleep(3 * background.0.config.lease).await;
    assert!(background.document(&id, &key).await.unwrap().is_none(), "it is the store's");
}

#[tokio::test(start_paused = true)]
async fn a_cancellation_elsewhere_gives_what_has_come_of_the_response() {
    let (store, server) = (Shelf::default(), Server::default());
    let edge = one_of_several(&store, &server);
    let (background, (id, key)) = (&edge.background, ids());
    let document = document(&kept(), key.as_str());
    let cancel = || Background::cancel_elsewhere(&edge, &id, &key, kept());
    let soon = || tokio::time::sleep(Duration::from_secs(1));
    background.0.documents.put(KIND, &document).await.unwrap();
    let finish = async {
        soon().await;
        store.put(stored()).await.unwrap();
        background.delete(&id).await.unwrap();
    };
    let (found, ()) = tokio::join!(cancel(), finish);
    assert!(matches!(found.unwrap(), Some(Found::Record(_))));

    store.clear();
    background.0.documents.put(KIND, &document).await.unwrap();
    let delete = async {
        soon().await;
        background.delete(&id).await.unwrap();
    };
    let (found, ()) = tokio::join!(cancel(), delete);
    assert!(found.unwrap().is_none());
}

#[tokio::test]
async fn a_cancellation_of_what_nobody_runs_is_kept() {
    let edge = edge(&config());
    let (background, (id, key)) = (&edge.background, ids());
    background.0.documents.put(KIND, &document(&kept(), key.as_str())).await.unwrap();
    let found = Background::cancel_elsewhere(&edge, &id, &key, kept()).await.unwrap();
    assert!(matches!(found, Some(Found::Document(kept)) if kept.object()["status"] == "cancelled"));
    assert!(background.document(&id, &key).await.unwrap().unwrap().is_over());
    assert!(background.take_up(&edge).await && background.jobs().is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_end_is_written_as_soon_as_it_can_be_and_told_before() {
    let server = Server::default();
    let edge = edge_on(Shelf::default(), server.documents(), &config());
    let background = &edge.background;
    let Value::Object(request) = json!({ "input": [], "background": true }) else { unreachable!() };
    let mut streamed = streamed();
    streamed.request = request;
    let job = running(&edge, &streamed).await;
    server.set_down(true);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!((job.object()["status"].as_str(), job.settled_at()), (Some("failed"), None));
    assert!(!background.is_running(&job.id, &job.key));
    assert!(background.job(&job.id, &job.key).is_some());
    // Though it was never begun, its stream has an end.
    let told = job.log.read(0, Duration::from_secs(100)).collect().await.unwrap().to_bytes();
    let told = String::from_utf8(told.to_vec()).unwrap();
    let events: Vec<Value> = told
        .split("data: ")
        .skip(1)
        .filter_map(|event| serde_json::from_str(event.split('\n').next()?).ok())
        .collect();
    let kinds: Vec<_> = events.iter().map(|event| event["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["response.created", "response.failed"], "{told}");
    for event in &events {
        assert_valid("ResponseStreamEvent", event);
    }
    server.set_down(false);
    settled(background).await;
    assert!(background.document(&job.id, &job.key).await.unwrap().unwrap().is_over());
    assert!(background.take_up(&edge).await);
}

#[tokio::test(start_paused = true)]
async fn events_of_what_another_bridge_has_deleted_are_not_told_again() {
    let (store, server) = (Shelf::default(), Server::default());
    let edge = one_of_several(&store, &server);
    let (background, (id, key)) = (&edge.background, ids());
    let job = Job::new(id.clone(), key.clone(), &streamed());
    background.admit(&job).unwrap();
    background.log(&job, bytes::Bytes::from_static(b"data: x\n\n"));
    let stream = async || Background::stream(&edge, &id, &key, 0).await.unwrap();
    assert!(stream().await.is_some(), "it runs");
    store.put(stored()).await.unwrap();
    job.settle();
    assert!(stream().await.is_some(), "it is there");
    store.delete(&id).await.unwrap();
    assert!(stream().await.is_none());
    assert!(background.jobs().is_empty());
}

#[tokio::test]
async fn what_was_fetched_for_a_response_is_not_fetched_again() {
    let edge = edge(&config());
    let (background, (id, key)) = (&edge.background, ids());
    let image = json!({ "type": "input_image", "image_url": "https://nowhere.invalid/a.png" });
    let Value::Object(request) = json!({ "input": [{ "role": "user", "content": [image] }] }) else {
        unreachable!()
    };
    let mut kept = kept();
    kept.request = request;
    let fetched = vec![Item::input_text("user", "as it was fetched")];
    kept.set_input(&fetched);
    background.0.documents.put(KIND, &document(&kept, key.as_str())).await.unwrap();
    assert_eq!(Background::input(&edge, &key, &id).await.unwrap(), Some(fetched));
}
