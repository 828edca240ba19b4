use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::*;
use crate::config::{StoreBackend, StoreConfig};
use crate::model::ResponseId;
use crate::store::{Lookup, RedisStore};

#[expect(dead_code, reason = "the store's own tests use all of it")]
#[path = "../../../../tests/support/redis.rs"]
mod redis_server;

/// The way to `server`. The connections made before `hang` says `true` stay open and carry nothing more.
async fn way_to(server: String, hang: watch::Receiver<bool>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let way = format!("redis://{}", listener.local_addr().unwrap());
    let tasks = crate::tasks::Tasks::new();
    let accepting = tasks.clone();
    tasks.spawn("way", async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let mut far = TcpStream::connect(&server).await.unwrap();
            let mut hang = hang.clone();
            let earlier = !*hang.borrow();
            accepting.spawn("connection", async move {
                let hangs = async { hang.wait_for(|hang| *hang && earlier).await.is_ok() };
                let hangs = tokio::select! {
                    _ = copy_bidirectional(&mut near, &mut far) => false,
                    hangs = hangs => hangs,
                };
                if hangs {
                    std::future::pending::<()>().await;
                }
            });
        }
    });
    way
}

#[tokio::test]
async fn a_connection_that_hangs_is_not_used_again() {
    let server = redis_server::RedisServer::start();
    let (hang, hangs) = watch::channel(false);
    let way = way_to(server.url().replace("redis://", ""), hangs).await;
    let config =
        StoreConfig { backend: StoreBackend::Redis, redis_url: Some(way.into()), ..StoreConfig::default() };
    let store = RedisStore::open(&config, &crate::tasks::Tasks::new()).await.unwrap();
    let gate = Gate::new(Arc::new(store), Duration::from_millis(300), &Tasks::new());
    let id = ResponseId::new("resp_a");
    let ask = || gate.ask(|store| store.get(&id));
    assert_eq!(ask().await.map(drop), Ok(()));
    hang.send(true).unwrap();
    assert!(matches!(ask().await, Err(StoreError::Unavailable { .. })));
    assert!(gate.outage().is_some());
    // Nobody waits for it a second time.
    let began = Instant::now();
    assert!(matches!(ask().await, Err(StoreError::Unavailable { .. })));
    assert!(began.elapsed() < Duration::from_millis(100));
    tokio::time::sleep_until(began + PAUSE).await;
    assert_eq!(ask().await, Ok(Lookup::Unknown));
    assert_eq!(gate.outage(), None);
}

#[tokio::test(start_paused = true)]
async fn a_question_that_takes_too_long_fails_alone() {
    use crate::store::testing::{Mood, Shelf};

    let shelf = Shelf::default();
    let limit = Duration::from_millis(300);
    let gate = Gate::new(Arc::new(shelf.clone()), limit, &Tasks::new());
    let id = ResponseId::new("resp_a");
    for (mood, outage) in [(Mood::SlowToRead, false), (Mood::Hangs, true)] {
        shelf.set(mood);
        let began = Instant::now();
        let asked = gate.ask(|store| store.chain(&id)).await;
        assert!(matches!(asked, Err(StoreError::Unavailable { .. })), "{mood:?}");
        assert_eq!((began.elapsed(), gate.outage().is_some()), (limit, outage), "{mood:?}");
    }
    // One that answers again has no outage, whatever took too long.
    tokio::time::advance(PAUSE).await;
    shelf.set(Mood::SlowToRead);
    assert!(gate.ask(|store| store.chain(&id)).await.is_err());
    assert_eq!(gate.outage(), None);
}
