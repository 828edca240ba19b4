//! Records to keep, and stores to keep them in.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use codex_bridge::config::{EncryptionKey, StoreBackend, StoreConfig};
use codex_bridge::model::{Item, KeyId, ResponseId, Route, SessionId, ThreadId, TurnId, Usage};
use codex_bridge::store::{Lookup, OpenError, ResponseStore, StoreError, StoredResponse, open};
use codex_bridge::tasks::Tasks;
use serde_json::json;
use tempfile::TempDir;

use crate::redis::RedisServer;

pub(crate) const HOUR: Duration = Duration::from_secs(3600);

/// A store and what it stands on.
pub(crate) struct World {
    pub(crate) store: Arc<dyn ResponseStore>,
    pub(crate) config: StoreConfig,
    pub(crate) folder: TempDir,
    pub(crate) tasks: Tasks,
    pub(crate) server: Option<RedisServer>,
}

impl World {
    pub(crate) async fn of(backend: StoreBackend) -> Self {
        Self::with(StoreConfig { backend, ..StoreConfig::default() }).await
    }

    pub(crate) async fn with(mut config: StoreConfig) -> Self {
        let server = (config.backend == StoreBackend::Redis).then(RedisServer::start);
        config.redis_url = server.as_ref().map(|server| server.url().into());
        let folder = tempfile::tempdir().expect("a folder");
        let tasks = Tasks::new();
        let store = open(&config, folder.path(), &tasks).await.expect("a store");
        Self { store, config, folder, tasks, server }
    }

    /// Closes the store and opens it once more.
    pub(crate) async fn reopen(&mut self) {
        self.store.close().await;
        self.store = self.open_again().await.expect("the store again");
    }

    pub(crate) async fn open_again(&self) -> Result<Arc<dyn ResponseStore>, OpenError> {
        open(&self.config, self.folder.path(), &self.tasks).await
    }

    pub(crate) async fn put(&self, record: StoredResponse) {
        self.store.put(record).await.expect("a put");
    }

    /// What was said up to and including `name`.
    pub(crate) async fn texts(&self, name: &str) -> Result<Lookup<Vec<String>>, StoreError> {
        let chain = self.store.chain(&id(name)).await?;
        Ok(chain.map(|chain| {
            let own = chain.record.input.iter().chain(&chain.record.output);
            chain.before.iter().flatten().chain(own).map(text).collect()
        }))
    }

    pub(crate) async fn status(&self, name: &str) -> Lookup<()> {
        self.store.get(&id(name)).await.expect("a look-up").map(drop)
    }

    pub(crate) async fn size(&self) -> (u64, u64) {
        self.store.size().await.expect("a size").expect("a store that knows its size")
    }
}

pub(crate) fn key(byte: u8) -> EncryptionKey {
    EncryptionKey::new([byte; 32])
}

pub(crate) fn id(name: &str) -> ResponseId {
    ResponseId::new(format!("resp_{name}"))
}

/// A record that says its own name twice, in and out.
pub(crate) fn record(name: &str, previous: Option<&str>) -> StoredResponse {
    let now = now();
    StoredResponse {
        id: id(name),
        previous: previous.map(id),
        key: KeyId::new("ci"),
        account: Some("acc".into()),
        session: SessionId::new("session"),
        session_by_caller: true,
        model: "gpt-6-luna".into(),
        route: Route::Live,
        thread: ThreadId::new("thread"),
        turn: TurnId::new("turn"),
        generation: 7,
        upstream_response_id: Some("resp_up".into()),
        own_input: 1,
        incomplete: None,
        head: None,
        input: vec![Item::input_text("user", &format!("{name} in"))],
        output: vec![Item::input_text("assistant", &format!("{name} out"))],
        open_calls: vec!["call_1".into()],
        usage: Some(Usage { input_tokens: 3, total_tokens: 4, ..Usage::default() }),
        chain_length: 1,
        created_at: now,
        last_used_at: now,
        expires_at: now + HOUR,
    }
}

/// A record whose time is up.
pub(crate) fn expired(name: &str, previous: Option<&str>) -> StoredResponse {
    StoredResponse { expires_at: now() - Duration::from_secs(1), ..record(name, previous) }
}

/// A record of about so many bytes, last used so many seconds after others.
pub(crate) fn sized(name: &str, bytes: usize, used: u64) -> StoredResponse {
    let item = json!({"type": "message", "role": "user", "content": [{"type": "input_text", "text": "x".repeat(bytes)}]});
    let input = Item::from_value(item).into_iter().collect();
    let last_used_at = now() - HOUR + Duration::from_secs(used);
    StoredResponse { input, last_used_at, ..record(name, None) }
}

/// What `record(name, ..)` says.
pub(crate) fn said(names: &[&str]) -> Lookup<Vec<String>> {
    Lookup::Found(names.iter().flat_map(|name| [format!("{name} in"), format!("{name} out")]).collect())
}

fn text(item: &Item) -> String {
    item.get("content").and_then(|content| content[0]["text"].as_str()).unwrap_or_default().to_owned()
}

/// To the microsecond, which is what stores keep.
pub(crate) fn now() -> SystemTime {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("a clock past 1970");
    SystemTime::UNIX_EPOCH + Duration::from_micros(u64::try_from(since.as_micros()).expect("a date"))
}
