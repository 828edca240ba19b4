//! How a connection is made and bounded.

use std::time::Duration;

use secrecy::SecretString;

/// How a connection is made and bounded.
#[derive(Debug, Clone)]
pub struct ConnectOptions {
    /// For the handshake; only its host and path reach the peer.
    pub url: String,
    /// Sent as `Authorization: Bearer` in the handshake.
    pub token: Option<SecretString>,
    /// Connecting, the handshake and `initialize` together must be done by then.
    pub open_timeout: Duration,
    /// One request must be answered by then, retries after an overload included.
    pub request_timeout: Duration,
    /// Which connection of its supervisor this is; threads of another generation are gone.
    pub generation: u64,
    /// A ping after this long without one.
    pub ping_interval: Duration,
    /// A connection from which nothing has come for this long after a ping is given up.
    pub ping_timeout: Duration,
    /// A connection that takes nothing for this long is given up.
    pub write_timeout: Duration,
    /// Events of one thread held before deltas are merged.
    pub merge_after: usize,
    /// Bytes of events held for one thread; past them deltas are dropped.
    pub event_bytes: usize,
}

impl Default for ConnectOptions {
    fn default() -> Self {
        Self {
            url: "ws://localhost/".into(),
            token: None,
            open_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(30),
            generation: 0,
            ping_interval: Duration::from_secs(15),
            ping_timeout: Duration::from_secs(20),
            write_timeout: Duration::from_secs(30),
            merge_after: 64,
            event_bytes: 32 * 1024 * 1024,
        }
    }
}
