//! Encryption at rest, as the person who sets the key meets it.

use codex_bridge::config::{StoreBackend, StoreConfig};
use codex_bridge::store::{Lookup, OpenError, RedisStore, ResponseStore, StoreError};
use codex_bridge::tasks::Tasks;

use crate::records::{World, id, key, record, said};
use crate::redis::RedisServer;

#[tokio::test]
async fn a_file_opens_with_its_own_key_only() {
    let config = StoreConfig { encryption_key: Some(key(1)), ..StoreConfig::default() };
    let mut world = World::with(config).await;
    world.put(record("secret", None)).await;
    let assert_sealed = || {
        let mut there = 0;
        for file in std::fs::read_dir(world.folder.path()).expect("a folder") {
            let bytes = std::fs::read(file.expect("a file").path()).expect("its bytes");
            assert!(!bytes.windows(9).any(|part| part == b"secret in"));
            // Its id is no secret.
            there += usize::from(bytes.windows(6).any(|part| part == b"secret"));
        }
        assert!(there > 0);
    };
    // In the journal, then in the file.
    assert_sealed();
    world.store.close().await;
    assert_sealed();

    world.config.encryption_key = Some(key(2));
    let error = world.open_again().await.expect_err("the wrong key");
    assert!(matches!(&error, OpenError::WrongKey { .. }), "{error}");
    world.config.encryption_key = None;
    let error = world.open_again().await.expect_err("no key");
    assert!(matches!(&error, OpenError::KeyMissing { .. }), "{error}");
    assert!(error.to_string().contains("store.encryption_key"), "{error}");

    world.config.encryption_key = Some(key(1));
    world.reopen().await;
    assert_eq!(world.texts("secret").await, Ok(said(&["secret"])));
}

#[tokio::test]
async fn a_key_may_be_set_later_and_what_was_there_is_still_read() {
    let mut world = World::of(StoreBackend::Embedded).await;
    world.put(record("a", None)).await;
    world.config.encryption_key = Some(key(1));
    world.reopen().await;
    world.put(record("b", Some("a"))).await;
    assert_eq!(world.texts("b").await, Ok(said(&["a", "b"])));
    world.store.close().await;
    world.config.encryption_key = None;
    assert!(matches!(world.open_again().await, Err(OpenError::KeyMissing { .. })));
}

#[tokio::test]
async fn a_server_tells_the_wrong_key_at_the_start() {
    let server = RedisServer::start();
    let config = |encryption_key| StoreConfig {
        backend: StoreBackend::Redis,
        redis_url: Some(server.url().into()),
        encryption_key,
        ..StoreConfig::default()
    };
    let store = RedisStore::open(&config(Some(key(1))), &Tasks::new()).await.expect("a store");
    store.put(record("a", None)).await.expect("a put");
    assert!(RedisStore::open(&config(Some(key(1))), &Tasks::new()).await.is_ok());
    assert!(matches!(
        RedisStore::open(&config(Some(key(2))), &Tasks::new()).await,
        Err(OpenError::WrongKey { .. })
    ));
    assert!(matches!(
        RedisStore::open(&config(None), &Tasks::new()).await,
        Err(OpenError::KeyMissing { .. })
    ));
}

#[tokio::test]
async fn a_record_of_another_key_is_unreadable() {
    let mut server = RedisServer::start();
    let config = |encryption_key| StoreConfig {
        backend: StoreBackend::Redis,
        redis_url: Some(server.url().into()),
        encryption_key,
        ..StoreConfig::default()
    };
    let (one, two) = (config(Some(key(1))), config(Some(key(2))));
    // A bridge that starts while the server is away cannot be told.
    server.stop();
    let wrong = RedisStore::open(&two, &Tasks::new()).await.expect("a store");
    server.start_again();
    let right = RedisStore::open(&one, &Tasks::new()).await.expect("a store");
    right.put(record("a", None)).await.expect("a put");
    let found = loop {
        match wrong.get(&id("a")).await {
            Err(StoreError::Unavailable { .. }) => {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
            found => break found,
        }
    };
    assert!(matches!(found, Err(StoreError::Unreadable { .. })), "{found:?}");
    assert!(matches!(right.get(&id("a")).await, Ok(Lookup::Found(_))));
    assert!(!format!("{wrong:?}").contains("redis://"));
}
