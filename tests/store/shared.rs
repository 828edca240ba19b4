//! A server that goes away and comes back, and bridges that share it.

use std::time::{Duration, Instant};

use codex_bridge::config::{StoreBackend, StoreConfig};
use codex_bridge::store::{Lookup, OpenError, RedisStore, ResponseStore, StoreError};
use codex_bridge::tasks::Tasks;

use crate::records::{HOUR, World, id, now, record, said};

#[tokio::test]
async fn a_second_bridge_continues_the_firsts_chains() {
    let mut world = World::of(StoreBackend::Redis).await;
    world.put(record("a", None)).await;
    let second = world.open_again().await.expect("a second store");
    let first = std::mem::replace(&mut world.store, second);
    world.put(record("b", Some("a"))).await;
    first.put(record("c", Some("b"))).await.expect("a put");
    assert_eq!(world.texts("c").await, Ok(said(&["a", "b", "c"])));
    // One with another prefix sees nothing of it.
    let other = StoreConfig { redis_prefix: "other:".into(), ..world.config.clone() };
    let other = RedisStore::open(&other, &world.tasks).await.expect("a store");
    assert_eq!(other.get(&id("a")).await, Ok(Lookup::Unknown));
}

#[tokio::test]
async fn while_the_server_is_gone_calls_fail_at_once_and_then_it_is_used_again() {
    let mut world = World::of(StoreBackend::Redis).await;
    let mut server = world.server.take().expect("a server");
    world.put(record("a", None)).await;
    server.stop();
    let began = Instant::now();
    let calls = (0..200).map(|_| async { world.texts("a").await });
    for result in futures_util::future::join_all(calls).await {
        assert!(matches!(result, Err(StoreError::Unavailable { .. })), "{result:?}");
    }
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());

    server.start_again();
    // It is empty now; and the scripts are unknown to it.
    let back = async {
        while world.store.put(record("b", None)).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), back).await.expect("the server is used again");
    assert_eq!(world.texts("a").await, Ok(Lookup::Unknown));
    assert_eq!(world.texts("b").await, Ok(said(&["b"])));
}

#[tokio::test]
async fn a_server_that_hung_is_used_again_by_the_call_after_one_that_was_given_up() {
    let world = World::of(StoreBackend::Redis).await;
    let pid = world.server.as_ref().expect("a server").pid();
    let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).expect("a pid"));
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGSTOP).expect("a signal");
    let limit = Duration::from_millis(300);
    assert!(tokio::time::timeout(limit, world.store.put(record("a", None))).await.is_err());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGCONT).expect("a signal");
    world.put(record("b", None)).await;
}

#[tokio::test]
async fn a_put_that_comes_after_its_record_was_buried_brings_nothing_back() {
    let world = World::of(StoreBackend::Redis).await;
    world.put(record("p", None)).await;
    world.put(record("there", None)).await;
    for (name, found) in [("there", Lookup::Found(())), ("late", Lookup::Unknown)] {
        assert_eq!(world.store.bury(&id(name), now() + HOUR).await, Ok(found));
        world.put(record(name, Some("p"))).await;
        assert_eq!(world.status(name).await, Lookup::Deleted, "{name}");
    }
    // For so long, and no longer.
    let soon = now() + Duration::from_millis(50);
    assert_eq!(world.store.bury(&id("soon"), soon).await, Ok(Lookup::Unknown));
    tokio::time::sleep(Duration::from_millis(100)).await;
    world.put(record("soon", None)).await;
    assert_eq!(world.texts("soon").await, Ok(said(&["soon"])));
}

#[tokio::test]
async fn a_server_that_takes_no_changes_is_read_on() {
    let world = World::of(StoreBackend::Redis).await;
    world.put(record("a", None)).await;
    let client = redis::Client::open(world.server.as_ref().expect("a server").url()).expect("a client");
    let mut connection = client.get_multiplexed_async_connection().await.expect("a connection");
    let mut set_memory = async |bytes: u32| {
        let mut set = redis::cmd("CONFIG");
        set.arg("SET").arg("maxmemory").arg(bytes).exec_async(&mut connection).await.expect("a setting");
    };
    set_memory(1).await;
    let refused = world.store.put(record("b", None)).await.expect_err("no memory");
    assert!(matches!(&refused, StoreError::Refused { reason } if reason.contains("OOM")), "{refused}");
    assert_eq!(world.texts("a").await, Ok(said(&["a"])));
    set_memory(0).await;
    world.put(record("b", None)).await;
}

#[tokio::test]
async fn the_server_itself_lets_records_go_and_keeps_what_a_chain_needs() {
    let world = World::of(StoreBackend::Redis).await;
    let url = world.server.as_ref().expect("a server").url();
    let client = redis::Client::open(url).expect("a client");
    let mut connection = client.get_multiplexed_async_connection().await.expect("a connection");
    let mut life = async |name: &str| {
        let key = format!("codex-bridge:r:{}", id(name));
        redis::cmd("PTTL").arg(key).query_async::<i64>(&mut connection).await.expect("a time to live")
    };
    let hour = i64::try_from(HOUR.as_millis()).expect("an hour");
    world.put(record("a", None)).await;
    world.put(record("b", Some("a"))).await;
    assert!((hour - 60_000..=hour).contains(&life("a").await));
    world.store.touch(&id("b"), now() + 3 * HOUR).await.expect("a touch");
    for name in ["a", "b"] {
        assert!((3 * hour - 60_000..=3 * hour).contains(&life(name).await), "{name}");
    }
    // A deleted record is remembered for its own time only.
    world.store.delete(&id("b")).await.expect("a delete");
    assert!((3 * hour - 60_000..=3 * hour).contains(&life("b").await));
    world.store.delete(&id("a")).await.expect("a delete");
    assert!((hour - 60_000..=hour).contains(&life("a").await), "{}", life("a").await);
}

#[tokio::test]
async fn an_address_that_is_none_is_told_without_it() {
    let config = |url: &str| StoreConfig {
        backend: StoreBackend::Redis,
        redis_url: Some(url.to_owned().into()),
        ..StoreConfig::default()
    };
    let error = RedisStore::open(&config("redis://:hunter2@"), &Tasks::new()).await.expect_err("no address");
    assert!(matches!(&error, OpenError::Address { .. }) && !error.to_string().contains("hunter2"), "{error}");
    // A server that is not there, and one that speaks no TLS, are only away.
    let world = World::of(StoreBackend::Redis).await;
    let plain = world.server.as_ref().expect("a server").url();
    for url in ["redis://:hunter2@127.0.0.1:1", &plain.replace("redis:", "rediss:")] {
        let store = RedisStore::open(&config(url), &world.tasks).await.expect("a store");
        let error = store.put(record("a", None)).await.expect_err("no server");
        assert!(matches!(&error, StoreError::Unavailable { .. }), "{error}");
        assert!(!format!("{error} {store:?}").contains("hunter2"));
    }
}
