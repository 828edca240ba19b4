//! Records on a server that speaks the Redis protocol (Redis or Valkey, one server or a replicated one; no
//! cluster), which several bridges may share.
//!
//! Each call is one script: one round trip, and nothing comes between its steps. The server's own expiry lets
//! records go.

pub(super) mod link;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::future::{BoxFuture, FutureExt, ready};
use redis::{Script, ScriptInvocation};
use tokio::time::timeout;
use tracing::{info, warn};

use self::link::{Link, unavailable};
use super::codec::{Codec, blocking, unreadable};
use super::node::{Node, micros};
use super::{Chain, Lookup, OpenError, ResponseStore, StoreError, StoredResponse};
use crate::config::StoreConfig;
use crate::model::ResponseId;
use crate::tasks::Tasks;

/// The look at the server while the store is opened.
const OPEN_LIMIT: Duration = Duration::from_secs(2);
/// Most predecessors that one look-up reads.
const LONGEST_CHAIN: usize = 10_000;

/// Records on a server.
pub struct RedisStore {
    codec: Arc<Codec>,
    tasks: Tasks,
    prefix: String,
    scripts: Scripts,
    link: Link,
}

struct Scripts {
    put: Script,
    read: Script,
    touch: Script,
    delete: Script,
}

impl Scripts {
    fn new() -> Self {
        let script = |code: &str| Script::new(&format!("{}\n{code}", include_str!("shared/common.lua")));
        Self {
            put: script(include_str!("shared/put.lua")),
            read: script(include_str!("shared/read.lua")),
            touch: script(include_str!("shared/touch.lua")),
            delete: script(include_str!("shared/delete.lua")),
        }
    }
}

impl RedisStore {
    /// Connects, if the server is there; if not, a later call will. Fails on an address that is none and on
    /// the wrong encryption key.
    pub async fn open(config: &StoreConfig, tasks: &Tasks) -> Result<Self, OpenError> {
        let store = Self {
            codec: Arc::new(Codec::new(config.encryption_key.as_ref())),
            tasks: tasks.clone(),
            prefix: format!("{}r:", config.redis_prefix),
            scripts: Scripts::new(),
            link: Link::new(config)?,
        };
        store.check_key(&config.redis_prefix).await?;
        Ok(store)
    }

    /// Whether what is there was encrypted with this key, and with any. A server that is away is asked nothing:
    /// each record tells for itself.
    async fn check_key(&self, prefix: &str) -> Result<(), OpenError> {
        let key = format!("{prefix}check");
        let check = self.codec.check_value();
        let mut ask = redis::pipe();
        if let Some(check) = &check {
            ask.set_nx(&key, check.as_slice()).ignore();
        }
        ask.get(&key);
        let asked = async { ask.query_async::<(Option<Vec<u8>>,)>(&mut self.link.connection().await?).await };
        let place = || format!("with the prefix {prefix:?}");
        let asked = timeout(OPEN_LIMIT, self.link.ended(asked)).await;
        match asked.unwrap_or_else(|_| Err(unavailable("no answer in time"))) {
            Ok((Some(_),)) if check.is_none() => Err(OpenError::KeyMissing { place: place() }),
            Ok((Some(found),)) if !self.codec.is_right(&found) => Err(OpenError::WrongKey { place: place() }),
            Ok(_) => {
                info!("the response store's server is there");
                Ok(())
            }
            Err(error) => {
                warn!(%error, "the response store's server is not there yet; each call tries it again");
                Ok(())
            }
        }
    }

    /// The call of `script` for `id`; further arguments follow.
    fn on<'a>(&self, script: &'a Script, id: &ResponseId, now: u64) -> ScriptInvocation<'a> {
        let mut call = script.key(format!("{}{id}", self.prefix));
        call.arg(&self.prefix).arg(id.as_str()).arg(now);
        call
    }

    /// The record and its predecessors, newest first.
    async fn read(&self, id: &ResponseId, predecessors: usize) -> Result<Lookup<Found>, StoreError> {
        let mut call = self.on(&self.scripts.read, id, micros(SystemTime::now()));
        call.arg(predecessors);
        let reply: Vec<Vec<u8>> = self.link.call(&call).await?;
        let mut reply = reply.into_iter();
        let status = status(&reply.next().unwrap_or_default())?;
        status.try_map(|()| Found::of(&mut reply).ok_or_else(unknown_reply))
    }

    /// The same, decoded.
    async fn read_as<T: Send + 'static>(
        &self,
        id: &ResponseId,
        predecessors: usize,
        decode: impl FnOnce(Found, &ResponseId, &Codec) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<Lookup<T>, StoreError> {
        let found = self.read(id, predecessors).await?;
        let (codec, id) = (Arc::clone(&self.codec), id.clone());
        blocking(&self.tasks, move || found.try_map(|found| decode(found, &id, &codec))).await
    }
}

/// A record as the server gives it.
struct Found {
    node: Node,
    content: Vec<u8>,
    /// Id and content, newest first.
    before: Vec<(ResponseId, Vec<u8>)>,
}

impl Found {
    fn of(reply: &mut impl Iterator<Item = Vec<u8>>) -> Option<Self> {
        let mut text = || String::from_utf8(reply.next()?).ok();
        let (expires_at, last_used_at) = (text()?.parse().ok()?, text()?.parse().ok()?);
        let previous = text()?;
        let node = Node {
            previous: Some(previous).filter(|id| !id.is_empty()).map(ResponseId::new),
            linked: false,
            children: 0,
            deleted: false,
            expires_at,
            last_used_at,
            size: 0,
        };
        let content = reply.next()?;
        let mut before = Vec::new();
        while let Some(id) = reply.next() {
            before.push((ResponseId::new(String::from_utf8(id).ok()?), reply.next()?));
        }
        Some(Self { node, content, before })
    }

    fn chain(self, id: &ResponseId, codec: &Codec) -> Result<Chain, StoreError> {
        let record = codec.decode(id, &self.node, &self.content)?;
        let items = |(id, content): &(ResponseId, Vec<u8>)| match content.as_slice() {
            [] => Err(unreadable(&"an earlier response of its chain is gone")),
            content => codec.items(id, content),
        };
        let before = self.before.iter().rev().map(items).collect::<Result<_, _>>()?;
        Ok(Chain { record, before })
    }
}

impl ResponseStore for RedisStore {
    fn durability(&self) -> &'static str {
        "shared"
    }

    fn put(&self, record: StoredResponse) -> BoxFuture<'_, Result<Lookup<()>, StoreError>> {
        let put = async move {
            let codec = Arc::clone(&self.codec);
            let encode = move || Ok((codec.encode(&record)?, record));
            let (content, record) = blocking(&self.tasks, encode).await?;
            let now = SystemTime::now();
            let mut call = self.on(&self.scripts.put, &record.id, micros(now));
            call.arg(record.previous.as_ref().map_or("", |previous| previous.as_str()))
                .arg(micros(record.expires_at))
                .arg(micros(record.last_used_at))
                .arg(milliseconds_until(record.expires_at, now))
                .arg(content);
            status(&self.link.call::<Vec<u8>>(&call).await?)
        };
        put.boxed()
    }

    fn chain<'a>(&'a self, id: &'a ResponseId) -> BoxFuture<'a, Result<Lookup<Chain>, StoreError>> {
        self.read_as(id, LONGEST_CHAIN, Found::chain).boxed()
    }

    fn get<'a>(&'a self, id: &'a ResponseId) -> BoxFuture<'a, Result<Lookup<StoredResponse>, StoreError>> {
        self.read_as(id, 0, |found, id, codec| codec.decode(id, &found.node, &found.content)).boxed()
    }

    fn touch<'a>(
        &'a self,
        id: &'a ResponseId,
        expires_at: SystemTime,
    ) -> BoxFuture<'a, Result<Lookup<()>, StoreError>> {
        let touch = async move {
            let now = SystemTime::now();
            let mut call = self.on(&self.scripts.touch, id, micros(now));
            call.arg(micros(expires_at)).arg(milliseconds_until(expires_at, now));
            status(&self.link.call::<Vec<u8>>(&call).await?)
        };
        touch.boxed()
    }

    fn delete<'a>(&'a self, id: &'a ResponseId) -> BoxFuture<'a, Result<Lookup<()>, StoreError>> {
        let delete = async {
            let call = self.on(&self.scripts.delete, id, micros(SystemTime::now()));
            status(&self.link.call::<Vec<u8>>(&call).await?)
        };
        delete.boxed()
    }

    /// A put that is given up may be on a connection of its own.
    fn bury<'a>(
        &'a self,
        id: &'a ResponseId,
        until: SystemTime,
    ) -> BoxFuture<'a, Result<Lookup<()>, StoreError>> {
        let bury = async move {
            let now = SystemTime::now();
            let mut call = self.on(&self.scripts.delete, id, micros(now));
            call.arg(micros(until)).arg(milliseconds_until(until, now));
            status(&self.link.call::<Vec<u8>>(&call).await?)
        };
        bury.boxed()
    }

    /// The server's work.
    fn sweep(&self, _: SystemTime) -> BoxFuture<'_, Result<usize, StoreError>> {
        ready(Ok(0)).boxed()
    }

    /// Not known without a count.
    fn size(&self) -> BoxFuture<'_, Result<Option<(u64, u64)>, StoreError>> {
        ready(Ok(None)).boxed()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        self.link.close();
        ready(()).boxed()
    }
}

/// The address may hold a password.
impl fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisStore").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

fn status(word: &[u8]) -> Result<Lookup<()>, StoreError> {
    match word {
        b"found" => Ok(Lookup::Found(())),
        b"expired" => Ok(Lookup::Expired),
        b"deleted" => Ok(Lookup::Deleted),
        b"unknown" => Ok(Lookup::Unknown),
        _ => Err(unknown_reply()),
    }
}

/// At least one: the server takes nothing less for a time to live.
fn milliseconds_until(time: SystemTime, now: SystemTime) -> u64 {
    let left = time.duration_since(now).unwrap_or_default();
    u64::try_from(left.as_millis()).unwrap_or(u64::MAX).clamp(1, 1 << 52)
}

fn unknown_reply() -> StoreError {
    unreadable(&"the server gave an answer that is none")
}
