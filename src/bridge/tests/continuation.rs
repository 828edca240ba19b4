//! Chains: on their own thread, rebuilt from memory, from the store, and not there.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::scene::{Scene, after, ask, function, item, output, told};
use crate::app_server::testing::bounded;
use crate::bridge::BridgeError;
use crate::config::ContinuationConfig;
use crate::model::{Item, KeyId, Outcome, Rebuilt, ResponseId, Retention, TurnRequest};
use crate::store::testing::{Mood, Shelf};
use crate::store::{EmbeddedStore, Lookup, ResponseStore};
use crate::tasks::Tasks;

/// Longer than what was read of the login counts.
const LOGIN_AGE: Duration = Duration::from_secs(10);

fn stored(request: TurnRequest) -> TurnRequest {
    TurnRequest { retention: Retention::Stored, ..request }
}

/// A scene whose chains are all rebuilt, and on a store.
fn cold(store: &Shelf) -> Scene {
    Scene::with_store(store.clone(), |config| config.continuation.warm_threads = 0)
}

/// Runs a turn that says `answer`; gives its id, its thread's items and its outcome.
async fn say(scene: &Scene, request: TurnRequest, answer: &str) -> (ResponseId, Vec<String>, Outcome) {
    let id = request.response_id.clone();
    let (turn, running) = scene.start(request).await;
    running.say(answer);
    let outcome = told(turn).await.1.expect("it ends well");
    (id, said(&scene.items(&running.thread)), outcome)
}

fn said(items: &[Value]) -> Vec<String> {
    let text = |item: &Value| match item["type"].as_str() {
        Some("message") => item["content"][0]["text"].as_str().unwrap_or_default().to_owned(),
        Some(kind) => kind.to_owned(),
        None => String::new(),
    };
    items.iter().map(text).collect()
}

async fn is_missing(scene: &Scene, request: TurnRequest) -> bool {
    matches!(scene.refused(request).await, BridgeError::PreviousNotFound { .. })
}

#[tokio::test(start_paused = true)]
async fn another_bridge_goes_on_with_the_same_items() {
    let store = Shelf::default();
    let (one, two) = (cold(&store), cold(&store));
    let (first, _, outcome) = say(&one, stored(ask("a")), "b").await;
    let kept = outcome.kept.unwrap();
    assert_eq!((kept.durability, kept.chain_length), ("shared", 1));
    let (second, _, outcome) = say(&one, stored(after(&first, "c")), "d").await;
    assert_eq!(outcome.kept.unwrap().chain_length, 2);
    let record = store.record(&second).unwrap();
    assert_eq!((record.previous, record.chain_length), (Some(first.clone()), 2));
    assert_eq!((record.input.len(), record.output.len()), (1, 1), "only its own");

    let (_, items, _) = say(&two, stored(after(&second, "e")), "f").await;
    assert_eq!(items, ["a", "b", "c", "d", "e"]);
    let (_, items, _) = say(&two, stored(after(&first, "g")), "h").await;
    assert_eq!(items, ["a", "b", "g"]);
    let counts = two.bridge.health().await.continuation.counts;
    assert_eq!((counts.found_recent, counts.found_stored), (0, 2));
    one.end().await;
    two.end().await;
}

#[tokio::test(start_paused = true)]
async fn the_record_is_there_before_the_end_is_told() {
    let store = Shelf::default();
    let scene = cold(&store);
    let request = stored(ask("a"));
    let id = request.response_id.clone();
    let (turn, running) = scene.start(request).await;
    store.set(Mood::Hangs);
    running.say("b");
    let began = Instant::now();
    let outcome = told(turn).await.1.unwrap();
    assert!(began.elapsed() >= ContinuationConfig::default().store_timeout);
    assert_eq!(outcome.kept.unwrap().durability, "memory");
    assert!(store.record(&id).is_none());
    store.set(Mood::Works);
    scene.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_down_costs_durability_and_nothing_else() {
    let store = Shelf::default();
    let scene = cold(&store);
    let (first, ..) = say(&scene, stored(ask("a")), "b").await;
    store.set(Mood::Down);
    let (second, _, outcome) = say(&scene, stored(after(&first, "c")), "d").await;
    assert_eq!(outcome.kept.unwrap().durability, "memory");
    let health = scene.bridge.health().await.continuation;
    assert_eq!(health.store.outage.as_deref(), Some("it is down"));
    assert_eq!(health.counts.not_stored, 1);
    let (third, items, _) = say(&scene, stored(after(&second, "e")), "f").await;
    assert_eq!(items, ["a", "b", "c", "d", "e"]);
    // Left alone for a while.
    let calls = store.calls();
    let (_, items, _) = say(&scene, stored(after(&second, "x")), "y").await;
    assert_eq!((items.len(), store.calls()), (5, calls));
    // What may be in the store cannot be told to be unknown.
    let elsewhere = ResponseId::new("resp_elsewhere");
    let other = KeyId::new("other");
    for (id, key) in
        [(&elsewhere, &KeyId::anonymous()), (&elsewhere, &other), (&first, &other), (&third, &other)]
    {
        let request = TurnRequest { key: key.clone(), ..after(id, "x") };
        let error = scene.refused(request).await;
        assert!(matches!(error, BridgeError::StoreUnavailable), "{id} {key}: {error:?}");
        let error = scene.bridge.delete_response(id, key).await.unwrap_err();
        assert!(matches!(error, BridgeError::StoreUnavailable), "{id} {key}: {error:?}");
    }

    store.set(Mood::Works);
    tokio::time::advance(Duration::from_secs(2)).await;
    let (fourth, ..) = say(&scene, stored(after(&third, "g")), "h").await;
    assert_eq!(scene.bridge.health().await.continuation.store.outage, None);
    // The record has what the store missed meanwhile.
    let record = store.record(&fourth).unwrap();
    assert_eq!((record.previous.as_ref(), record.chain_length), (Some(&first), 4));
    let other = cold(&store);
    let (_, items, _) = say(&other, after(&fourth, "i"), "j").await;
    assert_eq!(items, ["a", "b", "c", "d", "e", "f", "g", "h", "i"]);
    other.end().await;
    scene.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_has_expired_is_not_continued_while_the_store_is_down() {
    for mood in [Mood::Hangs, Mood::Down] {
        let store = Shelf::default();
        let scene = cold(&store);
        let (in_store, ..) = say(&scene, stored(ask("a")), "b").await;
        let (in_memory, ..) = say(&scene, ask("a"), "b").await;
        store.set(mood);
        tokio::time::advance(ContinuationConfig::default().ttl).await;
        // Another bridge may have used the one; what the other was is not known any more.
        for id in [&in_store, &in_memory] {
            let error = scene.refused(after(id, "x")).await;
            assert!(matches!(error, BridgeError::StoreUnavailable), "{mood:?}: {error:?}");
        }
        scene.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn each_miss_has_its_reason() {
    let store = Shelf::default();
    let (scene, other) = (cold(&store), cold(&store));
    let (kept, ..) = say(&scene, stored(ask("a")), "b").await;
    let (deleted, ..) = say(&scene, stored(ask("a")), "b").await;
    let (expired, ..) = say(&scene, stored(ask("a")), "b").await;
    let key = KeyId::new("other");
    assert!(is_missing(&scene, after(&ResponseId::new("resp_unknown"), "x")).await);
    assert!(is_missing(&scene, TurnRequest { key: key.clone(), ..after(&kept, "x") }).await);
    assert!(is_missing(&other, TurnRequest { key: key.clone(), ..after(&kept, "x") }).await);
    assert!(!other.bridge.delete_response(&kept, &key).await.unwrap());
    assert!(!scene.bridge.delete_response(&kept, &key).await.unwrap());

    // On another bridge: this one still has them in memory.
    assert!(other.bridge.delete_response(&deleted, &KeyId::anonymous()).await.unwrap());
    store.expire(&expired);
    for scene in [&scene, &other] {
        assert!(is_missing(scene, after(&deleted, "x")).await);
        assert!(is_missing(scene, after(&expired, "x")).await);
    }
    let third = cold(&store);
    store.set(Mood::Garbled);
    assert!(is_missing(&third, after(&kept, "x")).await);
    store.set(Mood::Works);
    let counts = scene.bridge.health().await.continuation.counts;
    assert_eq!((counts.unknown, counts.other_key, counts.deleted, counts.expired), (1, 1, 1, 1));
    let counts = other.bridge.health().await.continuation.counts;
    assert_eq!((counts.unknown, counts.other_key, counts.deleted, counts.expired), (0, 1, 1, 1));
    assert_eq!(third.bridge.health().await.continuation.counts.unreadable, 1);
    for scene in [scene, other, third] {
        scene.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_not_stored_is_continued_from_memory_alone() {
    let store = Shelf::default();
    let scene = cold(&store);
    let (first, _, outcome) = say(&scene, ask("a"), "b").await;
    assert_eq!(outcome.kept.unwrap().durability, "memory");
    assert!(store.record(&first).is_none());
    // One that is stored holds all of its conversation.
    let (second, items, _) = say(&scene, stored(after(&first, "c")), "d").await;
    assert_eq!(items, ["a", "b", "c"]);
    let other = cold(&store);
    assert!(is_missing(&other, after(&first, "x")).await);
    let (_, items, _) = say(&other, after(&second, "e"), "f").await;
    assert_eq!(items, ["a", "b", "c", "d", "e"]);

    assert!(scene.bridge.delete_response(&first, &KeyId::anonymous()).await.unwrap());
    assert!(is_missing(&scene, after(&first, "x")).await);
    let (_, items, _) = say(&scene, after(&second, "e"), "f").await;
    assert_eq!(items, ["a", "b", "c", "d", "e"]);

    tokio::time::advance(ContinuationConfig::default().ttl).await;
    let (none, _, outcome) =
        say(&scene, TurnRequest { retention: Retention::Nothing, ..ask("a") }, "b").await;
    assert!(outcome.kept.is_none());
    assert!(is_missing(&scene, after(&none, "x")).await);
    scene.end().await;
    other.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_response_deleted_while_it_is_continued_leaves_its_items_to_the_next() {
    let store = Shelf::default();
    let scene = cold(&store);
    let (first, ..) = say(&scene, stored(ask("a")), "b").await;
    let request = stored(after(&first, "c"));
    let second = request.response_id.clone();
    let (turn, running) = scene.start(request).await;
    assert!(scene.bridge.delete_response(&first, &KeyId::anonymous()).await.unwrap());
    running.say("d");
    told(turn).await.1.unwrap();
    let record = store.record(&second).unwrap();
    assert_eq!((record.previous, record.input.len()), (None, 3));
    scene.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_deleted_is_continued_nowhere_and_what_followed_it_goes_on_in_its_thread() {
    let scene = Scene::with_store(Shelf::default(), |_| {});
    let delete = async |id: &ResponseId| {
        assert!(scene.bridge.delete_response(id, &KeyId::anonymous()).await.unwrap());
    };
    let warm = async || scene.bridge.health().await.continuation.warm_threads;
    let (first, ..) = say(&scene, stored(ask("a")), "b").await;
    let (second, ..) = say(&scene, stored(after(&first, "c")), "d").await;
    delete(&first).await;
    assert!(is_missing(&scene, after(&first, "x")).await);
    assert_eq!(warm().await, 1);
    let (third, items, _) = say(&scene, stored(after(&second, "e")), "f").await;
    assert_eq!((items, scene.seen("thread/start").len()), (vec!["a".into(), "c".into(), "e".into()], 1));
    // With its tip the thread goes.
    delete(&third).await;
    assert_eq!(warm().await, 0);
    assert!(is_missing(&scene, after(&third, "x")).await);
    let (_, items, _) = say(&scene, stored(after(&second, "g")), "h").await;
    assert_eq!(items, ["a", "b", "c", "d", "g"]);
    scene.end().await;
}

#[tokio::test(start_paused = true)]
async fn another_cache_key_goes_on_in_a_thread_of_its_own() {
    let with =
        |key: Option<&str>, request| TurnRequest { prompt_cache_key: key.map(str::to_owned), ..request };
    for (earlier, later) in
        [(None, Some("b")), (Some("a"), Some("b")), (Some("a"), None), (Some("a"), Some("a"))]
    {
        let scene = Scene::new(|_| {});
        let (first, ..) = say(&scene, with(earlier, ask("a")), "b").await;
        let request = with(later, after(&first, "c"));
        let trace = request.trace.clone();
        let (_, items, _) = say(&scene, request, "d").await;
        let same = earlier == later;
        assert_eq!(scene.seen("thread/start").len(), if same { 1 } else { 2 }, "{earlier:?} {later:?}");
        assert_eq!(items, if same { vec!["a", "c"] } else { vec!["a", "b", "c"] });
        assert_eq!(trace.read().rebuilt_because, (!same).then_some(Rebuilt::SettingsChanged));
        scene.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_store_loses_goes_on_from_memory() {
    let store = Shelf::default();
    let (scene, other) = (cold(&store), cold(&store));
    let (first, ..) = say(&scene, stored(ask("a")), "b").await;
    let (second, ..) = say(&scene, stored(after(&first, "c")), "d").await;
    store.clear();
    let (third, items, _) = say(&scene, stored(after(&second, "e")), "f").await;
    assert_eq!(items, ["a", "b", "c", "d", "e"]);
    let (_, items, _) = say(&other, stored(after(&third, "g")), "h").await;
    assert_eq!(items, ["a", "b", "c", "d", "e", "f", "g"]);

    // And what another bridge deletes in the middle of a turn.
    let request = stored(after(&third, "i"));
    let fourth = request.response_id.clone();
    let (turn, running) = scene.start(request).await;
    assert!(other.bridge.delete_response(&third, &KeyId::anonymous()).await.unwrap());
    running.say("j");
    told(turn).await.1.unwrap();
    assert_eq!(store.record(&fourth).unwrap().previous, None);
    let (_, items, _) = say(&other, stored(after(&fourth, "k")), "l").await;
    assert_eq!(items.len(), 9);
    scene.end().await;
    other.end().await;
}

/// An embedded store in `folder`.
async fn on_disk(folder: &std::path::Path, tasks: &Tasks) -> Arc<EmbeddedStore> {
    let store = EmbeddedStore::open(folder.join("responses"), 100, 1 << 20, None, tasks).await;
    Arc::new(store.expect("the store opens"))
}

#[tokio::test]
async fn what_is_told_to_be_stored_holds_what_the_store_let_go_of_meanwhile() {
    // It expires and is swept, or is deleted behind this bridge's back.
    for swept in [true, false] {
        let (folder, tasks) = (tempfile::tempdir().unwrap(), Tasks::new());
        let store = on_disk(folder.path(), &tasks).await;
        let scene = Scene::over(Arc::clone(&store) as _, |config| config.continuation.warm_threads = 0);
        let (first, ..) = say(&scene, stored(ask("a")), "b").await;
        let (second, ..) = say(&scene, after(&first, "c"), "d").await;
        if swept {
            let later = std::time::SystemTime::now() + 2 * ContinuationConfig::default().ttl;
            assert_eq!(store.sweep(later).await, Ok(1));
        } else {
            assert_eq!(store.delete(&first).await, Ok(Lookup::Found(())));
        }
        let (third, _, outcome) = say(&scene, stored(after(&second, "e")), "f").await;
        assert_eq!(outcome.kept.unwrap().durability, "disk");
        scene.end().await;
        store.close().await;
        drop(store);

        let store = on_disk(folder.path(), &tasks).await;
        let scene = Scene::over(store, |_| {});
        let (_, items, _) = say(&scene, after(&third, "g"), "h").await;
        assert_eq!(items, ["a", "b", "c", "d", "e", "f", "g"]);
        scene.end().await;
        assert!(tasks.shut_down(Duration::from_secs(30)).await, "a task is left");
    }
}

#[tokio::test(start_paused = true)]
async fn what_follows_a_response_that_was_found_gone_is_stored_whole() {
    let store = Shelf::default();
    let (scene, other) = (cold(&store), cold(&store));
    for deleted in [true, false] {
        let (first, ..) = say(&scene, stored(ask("a")), "b").await;
        let (second, ..) = say(&scene, after(&first, "c"), "d").await;
        if deleted {
            assert!(other.bridge.delete_response(&first, &KeyId::anonymous()).await.unwrap());
        } else {
            store.expire(&first);
        }
        assert!(is_missing(&scene, after(&first, "x")).await);
        let (third, ..) = say(&scene, stored(after(&second, "e")), "f").await;
        let record = store.record(&third).unwrap();
        assert_eq!((record.previous, record.input.len()), (None, 5));
    }
    scene.end().await;
    other.end().await;
}

#[tokio::test(start_paused = true)]
async fn an_answer_made_again_under_its_id_takes_its_place() {
    let store = Shelf::default();
    let scene = cold(&store);
    let (first, ..) = say(&scene, stored(ask("a")), "b").await;
    let again = TurnRequest { response_id: first.clone(), ..stored(after(&first, "no")) };
    let (second, items, _) = say(&scene, again, "c").await;
    assert_eq!((items, &second), (vec!["a".to_owned(), "b".into(), "no".into()], &first));
    let record = store.record(&first).unwrap();
    assert_eq!((record.previous, record.input.len()), (None, 3));
    let (_, items, _) = say(&scene, after(&first, "d"), "e").await;
    assert_eq!(items, ["a", "b", "no", "c", "d"]);
    scene.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_chain_has_at_most_so_many_items() {
    let scene = Scene::new(|config| config.continuation.max_chain_items = 4);
    let (first, ..) = say(&scene, ask("a"), "b").await;
    let (second, ..) = say(&scene, after(&first, "c"), "d").await;
    let error = scene.refused(after(&second, "e")).await;
    assert!(matches!(error, BridgeError::ChainTooLong { items: 5, limit: 4 }), "{error:?}");
    // Elsewhere it goes on; and an answer that was taken may be repaired.
    say(&scene, after(&first, "e"), "f").await;
    let repair = TurnRequest {
        response_id: second.clone(),
        until: Some(Instant::now() + Duration::from_secs(60)),
        ..after(&second, "no")
    };
    say(&scene, repair, "g").await;
    scene.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_turn_that_fails_leaves_its_predecessor() {
    let store = Shelf::default();
    let scene = Scene::with_store(store.clone(), |_| {});
    let (first, ..) = say(&scene, stored(ask("a")), "b").await;
    let request = stored(after(&first, "c"));
    let second = request.response_id.clone();
    let (turn, running) = scene.start(request).await;
    running.failed("no");
    told(turn).await.1.unwrap_err();
    assert!(store.record(&second).is_none());
    assert!(is_missing(&scene, after(&second, "x")).await);
    let (_, items, _) = say(&scene, stored(after(&first, "d")), "e").await;
    assert_eq!(items, ["a", "b", "d"]);
    scene.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_an_earlier_turn_tells_late_is_no_part_of_the_next() {
    let scene = Scene::new(|_| {});
    let request = ask("a");
    let first = request.response_id.clone();
    let (turn, earlier) = scene.start(request).await;
    earlier.say("b");
    told(turn).await.1.unwrap();
    let (turn, running) = scene.start(after(&first, "c")).await;
    assert_eq!(running.thread, earlier.thread);
    earlier.begin("late").delta("late", "no").message("late", "no").response("resp_late", 90, 90).completed();
    running.say("d");
    let (text, outcome) = told(turn).await;
    let outcome = outcome.unwrap();
    assert_eq!((text.as_str(), outcome.output.len()), ("d", 1));
    assert_eq!(outcome.usage.map(|usage| usage.total_tokens), Some(5));
    scene.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_codex_has_done_by_itself_is_in_the_thread_alone_so_the_next_is_rebuilt() {
    let scene = Scene::new(|_| {});
    let searching = |request: TurnRequest| TurnRequest {
        web_search: Some(crate::model::WebSearch::default()),
        tools: vec![function("look")],
        ..request
    };
    let search = || json!({"type": "function_call", "call_id": "s", "namespace": "web", "name": "run", "arguments": "{}"});
    let found = || json!({"type": "function_call_output", "call_id": "s", "output": "found"});
    for beside_a_call in [false, true] {
        let request = searching(ask("a"));
        let mut first = request.response_id.clone();
        let (mut turn, running) = scene.start(request).await;
        running.item(search()).item(found());
        if beside_a_call {
            running.call("c1", "look").ask(100, "c1", "look").response("resp_calls", 1, 1);
            told(turn).await.1.unwrap();
            let answer = TurnRequest { input: vec![output("c1", "42")], ..searching(after(&first, "")) };
            first = answer.response_id.clone();
            // The turn itself goes on.
            turn = scene.resume(answer).await;
        }
        running.say("b");
        told(turn).await.1.unwrap();
        let (turn, next) = scene.start(searching(after(&first, "c"))).await;
        assert_ne!(next.thread, running.thread, "beside a call: {beside_a_call}");
        let items = said(&scene.items(&next.thread));
        let calls = ["function_call", "function_call_output"].into_iter().filter(|_| beside_a_call);
        let expected: Vec<&str> = ["a"].into_iter().chain(calls).chain(["b", "c"]).collect();
        assert_eq!(items, expected);
        next.say("d");
        told(turn).await.1.unwrap();
    }
    scene.end().await;
}

#[tokio::test(start_paused = true)]
async fn of_several_at_once_one_has_the_live_thread() {
    let scene = Scene::with_store(Shelf::default(), |_| {});
    let (first, ..) = say(&scene, stored(ask("a")), "b").await;
    let mut started = Vec::new();
    for branch in ["c", "d", "e"] {
        started.push(scene.start(stored(after(&first, branch))).await);
    }
    let mut threads = Vec::new();
    for (turn, running) in started {
        running.say("f");
        told(turn).await.1.unwrap();
        threads.push(running.thread);
    }
    assert_eq!(said(&scene.items(&threads[0])), ["a", "c"], "its own thread has the rest");
    assert_eq!(said(&scene.items(&threads[1])), ["a", "b", "d"]);
    assert_eq!(said(&scene.items(&threads[2])), ["a", "b", "e"]);
    scene.end().await;
}

#[tokio::test(start_paused = true)]
async fn open_calls_survive_the_bridge() {
    let store = Shelf::default();
    let (one, two) = (cold(&store), cold(&store));
    let request = TurnRequest { tools: vec![function("look")], ..stored(ask("a")) };
    let first = request.response_id.clone();
    let (turn, running) = one.start(request).await;
    running.call("c1", "look").ask(100, "c1", "look").response("resp_u", 1, 1);
    told(turn).await.1.unwrap();
    assert_eq!(store.record(&first).unwrap().open_calls, ["c1"]);

    let error = two.refused(after(&first, "b")).await;
    assert_eq!(error.to_string(), "No tool output found for function call c1.");
    let answer = TurnRequest { input: vec![output("c1", "42")], ..stored(after(&first, "")) };
    let (second, items, _) = say(&two, answer, "done").await;
    assert_eq!(items, ["a", "function_call", "function_call_output"]);
    assert_eq!(store.record(&second).unwrap().open_calls, [""; 0]);
    two.end().await;
    one.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_login_that_changes_while_a_request_waits_is_the_one_it_runs_under() {
    use crate::config::OnAccountChange;

    for change in [OnAccountChange::Fail, OnAccountChange::Rebuild] {
        let store = Shelf::default();
        let scene = Scene::with_store(store.clone(), |config| {
            (config.admission.slots, config.continuation.on_account_change) = (1, change);
        });
        scene.log_in("one@example.com");
        let request = stored(ask("a"));
        let first = request.response_id.clone();
        let (turn, running) = scene.start(request).await;
        let thought = json!({"type": "reasoning", "id": "rs", "summary": [], "encrypted_content": "e"});
        running.item(thought).say("b");
        told(turn).await.1.unwrap();

        let (busy, running) = scene.start(ask("busy")).await;
        let fresh = stored(ask("fresh"));
        let waits = [stored(after(&first, "c")), fresh];
        let ids = waits.each_ref().map(|request| request.response_id.clone());
        let mut waiting = Vec::new();
        for request in waits {
            let bridge = scene.bridge.clone();
            waiting.push(scene.beside(async move { bridge.run(request).await }));
        }
        while scene.bridge.health().await.slots.queued < 2 {
            tokio::task::yield_now().await;
        }
        scene.log_in("two@example.com");
        tokio::time::advance(LOGIN_AGE).await;
        running.say("done");
        told(busy).await.1.unwrap();
        let accounts =
            |id: &ResponseId| (store.record(&first).unwrap().account, store.record(id).unwrap().account);
        for (nth, (waiting, id)) in waiting.into_iter().zip(&ids).enumerate() {
            let turn = waiting.await.unwrap();
            if nth == 0 && change == OnAccountChange::Fail {
                assert!(matches!(turn.unwrap_err(), BridgeError::AccountMismatch { .. }));
                continue;
            }
            let (turn, started) = (turn.unwrap(), scene.seen("turn/start").len());
            let running = scene.running(started - 1);
            running.say("d");
            told(turn).await.1.unwrap();
            let (before, now) = accounts(id);
            assert!(before.is_some() && now.is_some() && before != now);
            if nth == 0 {
                let items = said(&scene.items(&running.thread));
                assert_eq!(items, ["a", "b", "c"], "no reasoning of the other login");
            }
        }
        scene.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn references_stay_within_their_login_and_end_with_their_response() {
    let scene = cold(&Shelf::default());
    let reference =
        || TurnRequest { input: vec![item(json!({"type": "item_reference", "id": "m"}))], ..ask("") };
    scene.log_in("one@example.com");
    let (first, ..) = say(&scene, ask("a"), "b").await;
    let (second, items, _) = say(&scene, reference(), "c").await;
    assert_eq!(items, ["b"]);
    scene.log_in("two@example.com");
    tokio::time::advance(LOGIN_AGE).await;
    let error = scene.refused(reference()).await;
    assert!(matches!(error, BridgeError::InvalidRequest { .. }), "{error:?}");
    scene.log_in("one@example.com");
    tokio::time::advance(LOGIN_AGE).await;
    let (third, items, _) = say(&scene, reference(), "d").await;
    assert_eq!(items, ["c"], "the last item of that id");
    for id in [first, second, third] {
        assert!(scene.bridge.delete_response(&id, &KeyId::anonymous()).await.unwrap());
    }
    let error = scene.refused(reference()).await;
    assert!(matches!(error, BridgeError::InvalidRequest { .. }), "{error:?}");
    scene.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_deleted_while_its_chain_is_read_is_not_there() {
    let store = Shelf::default();
    let (scene, other) = (cold(&store), cold(&store));
    let (first, ..) = say(&scene, stored(ask("a")), "b").await;
    store.set(Mood::DeletedMeanwhile);
    assert!(is_missing(&other, after(&first, "x")).await);
    store.set(Mood::Down);
    // Memory does not have it either.
    assert!(matches!(other.refused(after(&first, "x")).await, BridgeError::StoreUnavailable));
    scene.end().await;
    other.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_put_that_comes_late_brings_nothing_deleted_back() {
    let store = Shelf::default();
    let (scene, other) = (cold(&store), cold(&store));
    store.set(Mood::Delayed);
    let (first, _, outcome) = say(&scene, stored(ask("a")), "b").await;
    assert_eq!(outcome.kept.unwrap().durability, "memory");
    store.set(Mood::Works);
    assert!(scene.bridge.delete_response(&first, &KeyId::anonymous()).await.unwrap());
    store.let_in();
    for scene in [&scene, &other] {
        assert!(is_missing(scene, after(&first, "x")).await);
    }
    scene.end().await;
    other.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_deleted_while_it_is_stored_leaves_nothing() {
    let store = Shelf::default();
    let scene = Scene::with_store(store.clone(), |_| {});
    let request = stored(ask("a"));
    let first = request.response_id.clone();
    let (turn, running) = scene.start(request).await;
    store.set(Mood::Delayed);
    running.say("b");
    while store.delayed() == 0 {
        tokio::task::yield_now().await;
    }
    assert!(scene.bridge.delete_response(&first, &KeyId::anonymous()).await.unwrap());
    let outcome = told(turn).await.1.unwrap();
    assert!(outcome.kept.is_none());
    store.let_in();
    store.set(Mood::Works);
    assert!(is_missing(&scene, after(&first, "x")).await);
    assert_eq!(bounded(scene.bridge.health()).await.continuation.warm_threads, 0);
    scene.end().await;
}

#[tokio::test(start_paused = true)]
async fn encrypted_reasoning_stays_within_its_login() {
    use crate::bridge::continuations::{Continuations, Step, Wanted};
    use crate::config::OnAccountChange;

    let reasoning: Item = item(json!({"type": "reasoning", "summary": [], "encrypted_content": "e"}));
    let plain: Item = item(json!({"type": "reasoning", "summary": [], "encrypted_content": null}));
    let step = Step::new(None, &[Item::input_text("user", "a"), reasoning, plain]);
    for change in [OnAccountChange::Fail, OnAccountChange::Rebuild] {
        let store = Shelf::default();
        let scene = cold(&store);
        let (id, ..) = say(&scene, stored(ask("a")), "b").await;
        let record = store.record(&id).unwrap();
        let config = ContinuationConfig { on_account_change: change, ..ContinuationConfig::default() };
        let continuations = Continuations::new(&config, std::sync::Arc::new(store.clone()), &Tasks::new());
        continuations.record(record, std::sync::Arc::clone(&step), Retention::Continuable).await;
        let key = KeyId::anonymous();
        let wanted = |account| Wanted { id: &id, key: &key, account, more: 1, is_repair: false };
        let same = continuations.find(wanted(None)).await.unwrap();
        assert_eq!((same.step.total(), same.other_account), (3, false));
        let other = continuations.find(wanted(Some("b"))).await;
        match change {
            OnAccountChange::Fail => assert!(matches!(other, Err(BridgeError::AccountMismatch { .. }))),
            OnAccountChange::Rebuild => {
                let other = other.unwrap();
                assert_eq!((other.step.total(), other.other_account), (2, true));
            }
        }
        // What stands for the conversation cannot be left out.
        let compaction = item(json!({"type": "compaction", "encrypted_content": "e"}));
        let record = store.record(&id).unwrap();
        let step = Step::new(Some(std::sync::Arc::clone(&step)), &[compaction]);
        continuations.record(record, step, Retention::Continuable).await;
        assert!(matches!(continuations.find(wanted(None)).await, Ok(found) if found.step.total() == 4));
        let other = continuations.find(wanted(Some("b"))).await;
        assert!(matches!(other, Err(BridgeError::AccountMismatch { .. })), "{other:?}");
        scene.end().await;
    }
}

/// As the caller of a background response that cancels it, or deletes it, just as it ends.
#[tokio::test(start_paused = true)]
async fn what_is_abandoned_at_its_end_is_not_there() {
    let store = Shelf::default();
    let scene = cold(&store);
    // Before it is recorded: its usage is waited for.
    let request = stored(ask("a"));
    let id = request.response_id.clone();
    let (turn, running) = scene.start(request).await;
    running.message("m", "b").completed();
    tokio::time::sleep(Duration::from_millis(100)).await;
    drop(turn);
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(store.get(&id).await, Ok(Lookup::Unknown));
    assert!(is_missing(&scene, after(&id, "x")).await);

    // While it is recorded: memory has it already.
    let request = stored(ask("a"));
    let (id, key) = (request.response_id.clone(), request.key.clone());
    let (turn, running) = scene.start(request).await;
    store.set(Mood::Hangs);
    running.say("b");
    tokio::time::sleep(Duration::from_millis(100)).await;
    drop(turn);
    store.set(Mood::Works);
    assert!(scene.bridge.delete_response(&id, &key).await.unwrap());
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!(is_missing(&scene, after(&id, "x")).await);
    scene.end().await;
}
