use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::model::{Item, KeyId, Route, SessionId, ThreadId, TurnId};

/// Of the one test below.
static FREE: AtomicU64 = AtomicU64::new(u64::MAX);

fn record(name: &str) -> StoredResponse {
    let now = SystemTime::now();
    StoredResponse {
        id: ResponseId::new(name),
        previous: None,
        key: KeyId::new("ci"),
        account: None,
        session: SessionId::new("session"),
        model: "gpt-6-luna".into(),
        route: Route::Live,
        thread: ThreadId::new("thread"),
        turn: TurnId::new("turn"),
        generation: 1,
        upstream_response_id: None,
        input: vec![Item::input_text("user", name)],
        output: Vec::new(),
        open_calls: Vec::new(),
        usage: None,
        chain_length: 1,
        created_at: now,
        last_used_at: now,
        expires_at: now + Duration::from_secs(3600),
    }
}

#[tokio::test]
async fn on_a_full_disk_nothing_is_put_and_all_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let tasks = Tasks::new();
    let plan = Plan {
        path: folder.path().join("r.redb"),
        limits: Limits { records: 100, bytes: 1 << 20 },
        codec: Arc::default(),
        free: |_| Ok(FREE.load(Ordering::Relaxed)),
    };
    let store = EmbeddedStore::start(plan, &tasks).await.unwrap();
    let status = async |name: &str| store.get(&ResponseId::new(name)).await.unwrap().map(drop);
    let id = ResponseId::new("a");
    store.put(record("a")).await.unwrap();
    FREE.store(1 << 20, Ordering::Relaxed);
    for _ in 0..3 {
        let refused = store.put(record("b")).await;
        assert!(matches!(refused, Err(StoreError::Refused { .. })), "{refused:?}");
        let refused = store.delete(&id).await;
        assert!(matches!(refused, Err(StoreError::Refused { .. })), "{refused:?}");
        assert_eq!(status("a").await, Lookup::Found(()));
        assert_eq!(status("b").await, Lookup::Unknown);
    }
    FREE.store(u64::MAX, Ordering::Relaxed);
    store.put(record("b")).await.unwrap();
    assert_eq!(status("b").await, Lookup::Found(()));
    store.close().await;
    assert!(tasks.shut_down(Duration::from_secs(10)).await);
}
