//! What every backend does alike.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use codex_bridge::config::{StoreBackend, StoreConfig};
use codex_bridge::model::Item;
use codex_bridge::store::{Lookup, StoreError, StoredResponse};
use serde_json::json;

use crate::records::{HOUR, World, expired, id, key, now, record, said};

/// Each function, on each backend, plain and sealed.
macro_rules! on_all_backends {
    ($($test:ident)+) => { $(
        mod $test {
            use super::*;

            #[tokio::test]
            async fn memory() {
                super::$test(World::of(StoreBackend::Memory).await).await;
            }

            #[tokio::test]
            async fn embedded() {
                super::$test(World::of(StoreBackend::Embedded).await).await;
            }

            #[tokio::test]
            async fn redis() {
                super::$test(World::of(StoreBackend::Redis).await).await;
            }

            #[tokio::test]
            async fn embedded_sealed() {
                let config = StoreConfig { encryption_key: Some(key(1)), ..StoreConfig::default() };
                super::$test(World::with(config).await).await;
            }

            #[tokio::test]
            async fn redis_sealed() {
                let backend = StoreBackend::Redis;
                let config = StoreConfig { backend, encryption_key: Some(key(1)), ..StoreConfig::default() };
                super::$test(World::with(config).await).await;
            }
        }
    )+ };
}

on_all_backends! {
    a_record_comes_back_as_it_was
    a_chain_holds_each_item_once_and_may_branch
    a_long_chain_is_read_whole
    what_was_never_there_is_unknown
    a_record_that_expired_still_serves_those_that_continue_it
    use_restarts_the_clock
    a_deleted_record_still_serves_those_that_continue_it
    a_buried_record_is_deleted
    with_its_last_child_a_deleted_record_is_emptied
    a_put_replaces_an_earlier_one_and_keeps_its_children
    puts_of_one_id_at_once_leave_one_of_them
    a_chain_with_a_gap_is_an_error
    a_record_that_names_itself_is_no_endless_chain
    a_put_tells_what_was_there_to_continue
    a_closed_store_is_not_available
}

async fn a_record_comes_back_as_it_was(world: World) {
    let odd = json!({"zebra": 1, "apple": {"z": [1, -2, 18_446_744_073_709_551_615_u64], "a": null}, "type": "message", "text": "ä\u{0}\"\\"});
    let full = StoredResponse {
        output: vec![Item::from_value(odd.clone()).expect("an item")],
        ..record("full", None)
    };
    let bare = StoredResponse {
        account: None,
        upstream_response_id: None,
        input: Vec::new(),
        own_input: 0,
        output: Vec::new(),
        open_calls: Vec::new(),
        usage: None,
        ..record("bare", Some("full"))
    };
    for record in [full, bare] {
        world.put(record.clone()).await;
        assert_eq!(world.store.get(&record.id).await, Ok(Lookup::Found(record.clone())));
        let Ok(Lookup::Found(chain)) = world.store.chain(&record.id).await else { panic!("no chain") };
        assert_eq!(chain.record, record);
    }
    let Ok(Lookup::Found(chain)) = world.store.chain(&id("bare")).await else { panic!("no chain") };
    // Equality of objects is blind to their order; the text is not.
    let text = serde_json::to_string(&chain.before[0][1]).expect("JSON");
    assert_eq!(text, odd.to_string());
}

async fn a_chain_holds_each_item_once_and_may_branch(world: World) {
    world.put(record("a", None)).await;
    world.put(record("b", Some("a"))).await;
    world.put(record("c", Some("b"))).await;
    world.put(record("d", Some("b"))).await;
    world.put(record("e", Some("a"))).await;
    assert_eq!(world.texts("c").await, Ok(said(&["a", "b", "c"])));
    assert_eq!(world.texts("d").await, Ok(said(&["a", "b", "d"])));
    assert_eq!(world.texts("e").await, Ok(said(&["a", "e"])));
    assert_eq!(world.texts("a").await, Ok(said(&["a"])));
    let Ok(Lookup::Found(chain)) = world.store.chain(&id("c")).await else { panic!("no chain") };
    assert_eq!(chain.before.iter().map(Vec::len).collect::<Vec<_>>(), [2, 2]);
}

async fn a_long_chain_is_read_whole(world: World) {
    let names: Vec<String> = (0..300).map(|n| format!("n{n}")).collect();
    let mut previous: Option<&str> = None;
    for name in &names {
        world.put(record(name, previous)).await;
        previous = Some(name);
    }
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    assert_eq!(world.texts("n299").await, Ok(said(&names)));
    // All but the last are deleted and still needed; then nothing is.
    for name in &names[..299] {
        assert_eq!(world.store.delete(&id(name)).await, Ok(Lookup::Found(())));
    }
    assert_eq!(world.texts("n299").await, Ok(said(&names)));
    world.store.delete(&id("n299")).await.expect("a delete");
    world.store.sweep(SystemTime::now()).await.expect("a sweep");
    for name in names {
        assert_eq!(world.texts(name).await, Ok(Lookup::Deleted), "{name}");
    }
}

async fn what_was_never_there_is_unknown(world: World) {
    assert_eq!(world.store.get(&id("x")).await, Ok(Lookup::Unknown));
    assert_eq!(world.store.chain(&id("x")).await, Ok(Lookup::Unknown));
    assert_eq!(world.store.touch(&id("x"), now() + HOUR).await, Ok(Lookup::Unknown));
    assert_eq!(world.store.delete(&id("x")).await, Ok(Lookup::Unknown));
    assert_eq!(world.store.sweep(SystemTime::now()).await, Ok(0));
}

async fn a_record_that_expired_still_serves_those_that_continue_it(world: World) {
    world.put(expired("gone", None)).await;
    // A server lets it go at once, where nothing continues it.
    assert!(matches!(world.status("gone").await, Lookup::Expired | Lookup::Unknown));
    let soon = now() + Duration::from_millis(150);
    world.put(StoredResponse { expires_at: soon, ..record("a", None) }).await;
    world.put(record("b", Some("a"))).await;
    while SystemTime::now() < soon {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    for _ in 0..2 {
        assert_eq!(world.status("a").await, Lookup::Expired);
        assert_eq!(world.store.chain(&id("a")).await, Ok(Lookup::Expired));
        assert_eq!(world.store.touch(&id("a"), now() + HOUR).await, Ok(Lookup::Expired));
        assert_eq!(world.store.delete(&id("a")).await, Ok(Lookup::Expired));
        assert_eq!(world.texts("b").await, Ok(said(&["a", "b"])));
        world.store.sweep(SystemTime::now()).await.expect("a sweep");
    }
}

async fn use_restarts_the_clock(world: World) {
    let soon = now() + Duration::from_millis(200);
    world.put(StoredResponse { expires_at: soon, ..record("a", None) }).await;
    world.put(StoredResponse { expires_at: soon, ..record("b", Some("a")) }).await;
    let later = now() + HOUR;
    assert_eq!(world.store.touch(&id("b"), later).await, Ok(Lookup::Found(())));
    while SystemTime::now() < soon {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    world.store.sweep(SystemTime::now()).await.expect("a sweep");
    assert_eq!(world.texts("b").await, Ok(said(&["a", "b"])));
    let Ok(Lookup::Found(record)) = world.store.get(&id("b")).await else { panic!("no record") };
    assert_eq!(record.expires_at, later);
    assert!(record.last_used_at > record.created_at);
}

async fn a_deleted_record_still_serves_those_that_continue_it(world: World) {
    world.put(record("a", None)).await;
    world.put(record("b", Some("a"))).await;
    world.put(record("c", Some("b"))).await;
    assert_eq!(world.store.delete(&id("b")).await, Ok(Lookup::Found(())));
    assert_eq!(world.store.delete(&id("b")).await, Ok(Lookup::Deleted));
    assert_eq!(world.status("b").await, Lookup::Deleted);
    assert_eq!(world.texts("b").await, Ok(Lookup::Deleted));
    assert_eq!(world.store.touch(&id("b"), now() + HOUR).await, Ok(Lookup::Deleted));
    assert_eq!(world.texts("c").await, Ok(said(&["a", "b", "c"])));
    assert_eq!(world.texts("a").await, Ok(said(&["a"])));
}

async fn a_buried_record_is_deleted(world: World) {
    world.put(record("a", None)).await;
    world.put(record("b", Some("a"))).await;
    assert_eq!(world.store.bury(&id("a"), now() + HOUR).await, Ok(Lookup::Found(())));
    assert_eq!(world.store.bury(&id("a"), now() + HOUR).await, Ok(Lookup::Deleted));
    assert_eq!(world.status("a").await, Lookup::Deleted);
    assert_eq!(world.texts("b").await, Ok(said(&["a", "b"])));
    assert_eq!(world.store.bury(&id("never"), now() + HOUR).await, Ok(Lookup::Unknown));
}

async fn with_its_last_child_a_deleted_record_is_emptied(world: World) {
    for (name, previous) in [("a", None), ("b", Some("a")), ("c", Some("b")), ("d", Some("b"))] {
        world.put(record(name, previous)).await;
    }
    for name in ["a", "b", "c"] {
        world.store.delete(&id(name)).await.expect("a delete");
    }
    assert_eq!(world.texts("d").await, Ok(said(&["a", "b", "d"])));
    let before = world.store.size().await.expect("a size");
    world.store.delete(&id("d")).await.expect("a delete");
    for name in ["a", "b", "c", "d"] {
        assert_eq!(world.status(name).await, Lookup::Deleted, "{name}");
    }
    if let (Some((records, before)), Some((left, after))) =
        (before, world.store.size().await.expect("a size"))
    {
        assert_eq!((records, left), (4, 4), "all are remembered");
        assert!(after * 2 < before, "{after} of {before} bytes are left");
        let after_all = SystemTime::now() + 2 * HOUR;
        assert_eq!(world.store.sweep(after_all).await, Ok(4));
        assert_eq!(world.size().await, (0, 0));
    }
}

async fn a_put_replaces_an_earlier_one_and_keeps_its_children(world: World) {
    world.put(record("a", None)).await;
    world.put(record("x", None)).await;
    world.put(record("b", Some("a"))).await;
    world.put(record("c", Some("b"))).await;
    let size = world.store.size().await;
    world.put(record("b", Some("a"))).await;
    assert_eq!(world.store.size().await, size);
    world.put(record("b", Some("x"))).await;
    assert_eq!(world.texts("c").await, Ok(said(&["x", "b", "c"])));
    // Nothing continues `a` any more, and `x` serves in its place.
    for name in ["a", "x", "b"] {
        world.store.delete(&id(name)).await.expect("a delete");
    }
    assert_eq!(world.texts("c").await, Ok(said(&["x", "b", "c"])));
    // A put brings a deleted one back.
    world.put(record("b", Some("x"))).await;
    assert_eq!(world.texts("b").await, Ok(said(&["x", "b"])));
}

async fn puts_of_one_id_at_once_leave_one_of_them(world: World) {
    world.put(record("p", None)).await;
    let puts = (0..40).map(|n: u64| {
        let store = Arc::clone(&world.store);
        async move { store.put(StoredResponse { generation: n, ..record("a", Some("p")) }).await }
    });
    for put in futures_util::future::join_all(puts).await {
        put.expect("a put");
    }
    let Ok(Lookup::Found(found)) = world.store.get(&id("a")).await else { panic!("no record") };
    assert!(found.generation < 40);
    assert_eq!(world.texts("a").await, Ok(said(&["p", "a"])));
    // `p` counts one child: with it, it goes.
    world.store.delete(&id("p")).await.expect("a delete");
    world.store.delete(&id("a")).await.expect("a delete");
    if world.store.size().await.expect("a size").is_some() {
        world.store.sweep(SystemTime::now() + 2 * HOUR).await.expect("a sweep");
        assert_eq!(world.size().await, (0, 0));
    }
}

async fn a_chain_with_a_gap_is_an_error(world: World) {
    world.put(record("b", Some("a"))).await;
    world.put(record("c", Some("b"))).await;
    for name in ["b", "c"] {
        let chain = world.texts(name).await;
        assert!(matches!(chain, Err(StoreError::Unreadable { .. })), "{chain:?}");
        assert_eq!(world.status(name).await, Lookup::Found(()));
    }
    // What it continues may come later.
    world.put(record("a", None)).await;
    assert_eq!(world.texts("c").await, Ok(said(&["a", "b", "c"])));
}

async fn a_record_that_names_itself_is_no_endless_chain(world: World) {
    world.put(record("a", Some("a"))).await;
    assert!(matches!(world.texts("a").await, Err(StoreError::Unreadable { .. })));
    assert_eq!(world.store.delete(&id("a")).await, Ok(Lookup::Found(())));
}

async fn a_put_tells_what_was_there_to_continue(world: World) {
    world.put(record("a", None)).await;
    world.put(expired("expired", None)).await;
    world.put(record("deleted", None)).await;
    world.store.delete(&id("deleted")).await.expect("a delete");
    let put = async |previous| world.store.put(record("b", previous)).await;
    assert_eq!(put(Some("a")).await, Ok(Lookup::Found(())));
    assert_eq!(put(Some("a")).await, Ok(Lookup::Found(())));
    assert_eq!(put(Some("deleted")).await, Ok(Lookup::Deleted));
    assert_eq!(put(Some("never")).await, Ok(Lookup::Unknown));
    let gone = put(Some("expired")).await;
    assert!(matches!(gone, Ok(Lookup::Expired | Lookup::Unknown)), "{gone:?}");
    assert_eq!(put(None).await, Ok(Lookup::Found(())));
    assert_eq!(world.texts("b").await, Ok(said(&["b"])));
}

async fn a_closed_store_is_not_available(world: World) {
    world.put(record("a", None)).await;
    world.store.close().await;
    world.store.close().await;
    assert!(matches!(world.store.put(record("b", None)).await, Err(StoreError::Unavailable { .. })));
    assert!(matches!(world.texts("a").await, Err(StoreError::Unavailable { .. })));
    assert!(matches!(world.store.delete(&id("a")).await, Err(StoreError::Unavailable { .. })));
}

#[test]
fn records_are_written_and_read_off_the_async_threads() {
    for backend in [StoreBackend::Memory, StoreBackend::Embedded, StoreBackend::Redis] {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(1).build();
        runtime.expect("a runtime").block_on(async {
            let world = World::of(backend).await;
            world.put(record("a", None)).await;
            let id = id("a");
            let mut put = world.store.put(record("b", None));
            let mut chain = world.store.chain(&id);
            // The one thread for such work is taken.
            let (go_on, held) = std::sync::mpsc::channel::<()>();
            let tasks = world.tasks.clone();
            world.tasks.spawn("hold", async move {
                let _ = tasks.blocking(move || held.recv()).await;
            });
            tokio::task::yield_now().await;
            let limit = Duration::from_millis(100);
            assert!(tokio::time::timeout(limit, &mut put).await.is_err(), "{backend:?}");
            assert!(tokio::time::timeout(limit, &mut chain).await.is_err(), "{backend:?}");
            drop(go_on);
            put.await.unwrap();
            assert!(matches!(chain.await, Ok(Lookup::Found(_))));
        });
    }
}
