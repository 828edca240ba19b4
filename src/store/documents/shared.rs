//! On a server that speaks the Redis protocol: values in one hash, keys in one sorted set, in the order of their
//! bytes.

use std::fmt;
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt, ready};
use redis::{FromRedisValue, Script, ScriptInvocation};

use super::kv::{Change, Expected, Kv, Pair, Scan};
use crate::config::StoreConfig;
use crate::store::shared::link::{Link, unavailable};
use crate::store::{OpenError, StoreError};

/// ARGV: keys. Gives their values, in their order.
const GET: &str = "return redis.call('HMGET', KEYS[1], unpack(ARGV))";
/// ARGV: first key, end, limit, whether descending. Gives keys and values in turn.
const SCAN: &str = "
local keys
if ARGV[4] == '1' then
  keys = redis.call('ZREVRANGEBYLEX', KEYS[2], '(' .. ARGV[2], '[' .. ARGV[1], 'LIMIT', 0, ARGV[3])
else
  keys = redis.call('ZRANGEBYLEX', KEYS[2], '[' .. ARGV[1], '(' .. ARGV[2], 'LIMIT', 0, ARGV[3])
end
local reply = {}
for _, key in ipairs(keys) do
  local value = redis.call('HGET', KEYS[1], key)
  if value then
    reply[#reply + 1] = key
    reply[#reply + 1] = value
  end
end
return reply";
/// ARGV: how many values are expected; so many triples of key, whether it is there, value; then the changes, triples
/// of `p` or `r`, key, value. Gives whether they are made.
const WRITE: &str = "
local changes = 2 + 3 * tonumber(ARGV[1])
local is_so = true
for n = 2, changes - 1, 3 do
  local value = redis.call('HGET', KEYS[1], ARGV[n])
  if ARGV[n + 1] == '1' then
    is_so = is_so and value == ARGV[n + 2]
  else
    is_so = is_so and not value
  end
end
if not is_so then
  -- One that is sent again, since its answer was lost, may have made them all.
  for n = changes, #ARGV, 3 do
    local value = redis.call('HGET', KEYS[1], ARGV[n + 1])
    if ARGV[n] == 'p' and value ~= ARGV[n + 2] or ARGV[n] == 'r' and value then
      return 0
    end
  end
  return 1
end
for n = changes, #ARGV, 3 do
  if ARGV[n] == 'p' then
    redis.call('HSET', KEYS[1], ARGV[n + 1], ARGV[n + 2])
    redis.call('ZADD', KEYS[2], 0, ARGV[n + 1])
  else
    redis.call('HDEL', KEYS[1], ARGV[n + 1])
    redis.call('ZREM', KEYS[2], ARGV[n + 1])
  end
end
return 1";

pub(super) struct RedisKv {
    link: Link,
    /// The server must have answered by then.
    limit: Duration,
    /// The hash and the sorted set.
    names: [String; 2],
    get: Script,
    scan: Script,
    write: Script,
}

impl RedisKv {
    pub(super) fn new(config: &StoreConfig, limit: Duration) -> Result<Self, OpenError> {
        let name = |what: &str| format!("{}documents:{what}", config.redis_prefix);
        Ok(Self {
            link: Link::new(config)?,
            limit,
            names: [name("values"), name("keys")],
            get: Script::new(GET),
            scan: Script::new(SCAN),
            write: Script::new(WRITE),
        })
    }

    fn on<'a>(&self, script: &'a Script) -> ScriptInvocation<'a> {
        let mut call = script.prepare_invoke();
        for name in &self.names {
            call.key(name);
        }
        call
    }

    /// Given up, a call takes its connection with it: the next one makes another.
    async fn call<T: FromRedisValue>(&self, script: &ScriptInvocation<'_>) -> Result<T, StoreError> {
        let answer = tokio::time::timeout(self.limit, self.link.call(script)).await;
        answer.unwrap_or_else(|_| Err(unavailable("its server did not answer in time")))
    }
}

impl Kv for RedisKv {
    fn get(&self, keys: Vec<Vec<u8>>) -> BoxFuture<'_, Result<Vec<Option<Vec<u8>>>, StoreError>> {
        if keys.is_empty() {
            return ready(Ok(Vec::new())).boxed();
        }
        let mut call = self.on(&self.get);
        for key in keys {
            call.arg(key);
        }
        async move { self.call(&call).await }.boxed()
    }

    fn scan(&self, scan: Scan) -> BoxFuture<'_, Result<Vec<Pair>, StoreError>> {
        let mut call = self.on(&self.scan);
        call.arg(scan.keys.start).arg(scan.keys.end).arg(scan.limit).arg(u8::from(scan.descending));
        let read = async move {
            let reply: Vec<Vec<u8>> = self.call(&call).await?;
            let mut reply = reply.into_iter();
            Ok(std::iter::from_fn(|| Some((reply.next()?, reply.next()?))).collect())
        };
        read.boxed()
    }

    fn write_if(
        &self,
        expected: Vec<Expected>,
        changes: Vec<Change>,
    ) -> BoxFuture<'_, Result<bool, StoreError>> {
        let mut call = self.on(&self.write);
        call.arg(expected.len());
        for (key, value) in expected {
            call.arg(key).arg(u8::from(value.is_some())).arg(value.unwrap_or_default());
        }
        for change in changes {
            match change {
                Change::Put(key, value) => call.arg("p").arg(key).arg(value),
                Change::Remove(key) => call.arg("r").arg(key).arg(""),
            };
        }
        async move { Ok(self.call::<u8>(&call).await? == 1) }.boxed()
    }

    /// The server's to bound.
    fn bytes(&self) -> Option<u64> {
        None
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        self.link.close();
        ready(()).boxed()
    }
}

/// The address may hold a password.
impl fmt::Debug for RedisKv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisKv").field("names", &self.names).finish_non_exhaustive()
    }
}
