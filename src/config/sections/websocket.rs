//! `websocket.*`.

use std::time::Duration;

/// The sockets of `GET /v1/responses`.
#[derive(Debug, Clone)]
pub struct SocketConfig {
    /// How long one may be used.
    pub max_age: Duration,
    /// Longest time without a request or an answer.
    pub idle_timeout: Duration,
}

impl Default for SocketConfig {
    fn default() -> Self {
        Self {
            // As the official service.
            max_age: Duration::from_secs(3600),
            // A client that runs its tools meanwhile may take its time.
            idle_timeout: Duration::from_secs(900),
        }
    }
}
