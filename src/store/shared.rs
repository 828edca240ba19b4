//! Records on a server that speaks the Redis protocol (Redis or Valkey, one server or a replicated one; no
//! cluster), which several bridges may share.
//!
//! Each call is one script: one round trip, and nothing comes between its steps. The server's own expiry lets
//! records go. How long a call may take is its caller's to say: one that is given up takes its connection with
//! it, which may hang, and the next call makes a new one.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use futures_util::future::{BoxFuture, FutureExt, ready};
use redis::aio::MultiplexedConnection;
use redis::io::tcp::TcpSettings;
use redis::io::tcp::socket2::TcpKeepalive;
use redis::{
    AsyncConnectionConfig, Client, FromRedisValue, IntoConnectionInfo, RedisError, Script, ScriptInvocation,
};
use secrecy::ExposeSecret;
use tokio::time::timeout;
use tracing::{info, warn};

use super::codec::{Codec, blocking, unreadable};
use super::node::{Node, micros};
use super::{Chain, Lookup, OpenError, ResponseStore, StoreError, StoredResponse};
use crate::config::StoreConfig;
use crate::model::ResponseId;
use crate::tasks::Tasks;

/// The look at the server while the store is opened.
const OPEN_LIMIT: Duration = Duration::from_secs(2);
/// A new connection.
const CONNECT_LIMIT: Duration = Duration::from_secs(1);
/// A connection that lies idle is probed after so long, and as often, so that no firewall forgets it.
const KEEPALIVE: Duration = Duration::from_secs(30);
/// Most predecessors that one look-up reads.
const LONGEST_CHAIN: usize = 10_000;

/// Records on a server.
pub struct RedisStore {
    codec: Arc<Codec>,
    tasks: Tasks,
    prefix: String,
    client: Client,
    scripts: Scripts,
    /// The one connection, on which all calls run; `None` before the first call and after a failure. Held for a
    /// look, never across an await.
    link: Mutex<Option<MultiplexedConnection>>,
    closed: AtomicBool,
}

/// A call that has not ended: given up, it leaves no connection behind that may hang.
struct Running<'a>(Option<&'a RedisStore>);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if let Some(store) = self.0 {
            *store.link() = None;
        }
    }
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
        let address = |error: RedisError| OpenError::Address { reason: error.category().to_owned() };
        let url = config.redis_url.as_ref().ok_or(OpenError::Address { reason: "it is not set".into() })?;
        let keepalive = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE);
        let tcp = TcpSettings::default().set_nodelay(true).set_keepalive(keepalive);
        let server = url.expose_secret().into_connection_info().map_err(address)?.set_tcp_settings(tcp);
        let client = Client::open(server).map_err(address)?;
        let store = Self {
            codec: Arc::new(Codec::new(config.encryption_key.as_ref())),
            tasks: tasks.clone(),
            prefix: format!("{}r:", config.redis_prefix),
            client,
            scripts: Scripts::new(),
            link: Mutex::default(),
            closed: AtomicBool::new(false),
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
        let asked = async { ask.query_async::<(Option<Vec<u8>>,)>(&mut self.connection().await?).await };
        let place = || format!("with the prefix {prefix:?}");
        let asked = timeout(OPEN_LIMIT, self.ended(asked)).await;
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

    /// Runs a script.
    async fn call<T: FromRedisValue>(&self, script: &ScriptInvocation<'_>) -> Result<T, StoreError> {
        if self.closed.load(Ordering::Relaxed) {
            return Err(StoreError::Unavailable { reason: "it was closed".into() });
        }
        let run = async {
            match script.invoke_async(&mut self.connection().await?).await {
                // A connection that was closed while it lay idle is noticed by its next use only.
                Err(error) if error.is_unrecoverable_error() => {
                    *self.link() = None;
                    script.invoke_async(&mut self.connection().await?).await
                }
                result => result,
            }
        };
        self.ended(run).await
    }

    /// The end of a call, and what it says of the connection.
    async fn ended<T>(&self, call: impl Future<Output = Result<T, RedisError>>) -> Result<T, StoreError> {
        let mut running = Running(Some(self));
        let result = call.await;
        running.0 = None;
        result.map_err(|error| {
            // The error's own words may quote what was sent.
            if let Some(code @ ("READONLY" | "OOM" | "MISCONF" | "NOREPLICAS")) = error.code() {
                return StoreError::Refused { reason: format!("its server answers {code}") };
            }
            if error.is_unrecoverable_error() || error.is_timeout() {
                *self.link() = None;
            }
            unavailable(error.category())
        })
    }

    /// The connection, made now if there is none.
    async fn connection(&self) -> Result<MultiplexedConnection, RedisError> {
        if let Some(connection) = &*self.link() {
            return Ok(connection.clone());
        }
        // How long an answer may take is the caller's to say.
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_LIMIT))
            .set_response_timeout(None);
        let connection = self.client.get_multiplexed_async_connection_with_config(&config).await?;
        *self.link() = Some(connection.clone());
        Ok(connection)
    }

    fn link(&self) -> MutexGuard<'_, Option<MultiplexedConnection>> {
        self.link.lock().unwrap_or_else(PoisonError::into_inner)
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
        let reply: Vec<Vec<u8>> = self.call(&call).await?;
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
            status(&self.call::<Vec<u8>>(&call).await?)
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
            status(&self.call::<Vec<u8>>(&call).await?)
        };
        touch.boxed()
    }

    fn delete<'a>(&'a self, id: &'a ResponseId) -> BoxFuture<'a, Result<Lookup<()>, StoreError>> {
        let delete = async {
            let call = self.on(&self.scripts.delete, id, micros(SystemTime::now()));
            status(&self.call::<Vec<u8>>(&call).await?)
        };
        delete.boxed()
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
        self.closed.store(true, Ordering::Relaxed);
        *self.link() = None;
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

fn unavailable(reason: &str) -> StoreError {
    StoreError::Unavailable { reason: reason.to_owned() }
}
