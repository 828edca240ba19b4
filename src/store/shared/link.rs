//! The one connection to a server that speaks the Redis protocol: made when it is needed, dropped when it may hang.
//!
//! Each call is one script: one round trip, and nothing comes between its steps. How long a call may take is its
//! caller's to say: one that is given up takes its connection with it, and the next call makes a new one.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::io::tcp::TcpSettings;
use redis::io::tcp::socket2::TcpKeepalive;
use redis::{
    AsyncConnectionConfig, Client, FromRedisValue, IntoConnectionInfo, RedisError, ScriptInvocation,
};
use secrecy::ExposeSecret;

use crate::config::StoreConfig;
use crate::store::{OpenError, StoreError};

/// A new connection.
const CONNECT_LIMIT: Duration = Duration::from_secs(1);
/// A connection that lies idle is probed after so long, and as often, so that no firewall forgets it.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// The way to the server.
pub(in crate::store) struct Link {
    client: Client,
    /// On which all calls run; `None` before the first call and after a failure. Held for a look, never across an
    /// await.
    connection: Mutex<Option<MultiplexedConnection>>,
    closed: AtomicBool,
}

/// A call that has not ended: given up, it leaves no connection behind that may hang.
struct Running<'a>(Option<&'a Link>);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if let Some(link) = self.0 {
            *link.lock() = None;
        }
    }
}

impl Link {
    /// To the server that `config` names; connects to nothing yet. Fails on an address that is none.
    pub(in crate::store) fn new(config: &StoreConfig) -> Result<Self, OpenError> {
        let address = |error: RedisError| OpenError::Address { reason: error.category().to_owned() };
        let url = config.redis_url.as_ref().ok_or(OpenError::Address { reason: "it is not set".into() })?;
        let keepalive = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE);
        let tcp = TcpSettings::default().set_nodelay(true).set_keepalive(keepalive);
        let server = url.expose_secret().into_connection_info().map_err(address)?.set_tcp_settings(tcp);
        let client = Client::open(server).map_err(address)?;
        Ok(Self { client, connection: Mutex::default(), closed: AtomicBool::new(false) })
    }

    /// Runs a script.
    pub(in crate::store) async fn call<T: FromRedisValue>(
        &self,
        script: &ScriptInvocation<'_>,
    ) -> Result<T, StoreError> {
        if self.closed.load(Ordering::Relaxed) {
            return Err(StoreError::Unavailable { reason: "it was closed".into() });
        }
        let run = async {
            match script.invoke_async(&mut self.connection().await?).await {
                // A connection that was closed while it lay idle is noticed by its next use only.
                Err(error) if error.is_unrecoverable_error() => {
                    *self.lock() = None;
                    script.invoke_async(&mut self.connection().await?).await
                }
                result => result,
            }
        };
        self.ended(run).await
    }

    /// The end of a call, and what it says of the connection.
    pub(in crate::store) async fn ended<T>(
        &self,
        call: impl Future<Output = Result<T, RedisError>>,
    ) -> Result<T, StoreError> {
        let mut running = Running(Some(self));
        let result = call.await;
        running.0 = None;
        result.map_err(|error| {
            // The error's own words may quote what was sent.
            if let Some(code @ ("READONLY" | "OOM" | "MISCONF" | "NOREPLICAS")) = error.code() {
                return StoreError::Refused { reason: format!("its server answers {code}") };
            }
            if error.is_unrecoverable_error() || error.is_timeout() {
                *self.lock() = None;
            }
            unavailable(error.category())
        })
    }

    /// The connection, made now if there is none.
    pub(in crate::store) async fn connection(&self) -> Result<MultiplexedConnection, RedisError> {
        if let Some(connection) = &*self.lock() {
            return Ok(connection.clone());
        }
        // How long an answer may take is the caller's to say.
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_LIMIT))
            .set_response_timeout(None);
        let connection = self.client.get_multiplexed_async_connection_with_config(&config).await?;
        *self.lock() = Some(connection.clone());
        Ok(connection)
    }

    /// Later calls fail.
    pub(in crate::store) fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
        *self.lock() = None;
    }

    fn lock(&self) -> MutexGuard<'_, Option<MultiplexedConnection>> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(in crate::store) fn unavailable(reason: &str) -> StoreError {
    StoreError::Unavailable { reason: reason.to_owned() }
}
