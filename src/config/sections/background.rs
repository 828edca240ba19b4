//! `background.*`.

use std::time::Duration;

/// Responses that nobody waits for.
#[derive(Debug, Clone)]
pub struct BackgroundConfig {
    /// Most that have not ended.
    pub max_jobs: usize,
    /// Most bytes of their requests.
    pub request_bytes: usize,
    /// Longest wait for a slot.
    pub queue_timeout: Duration,
    /// Most bytes of all event logs together.
    pub log_bytes: usize,
    /// A log is kept this long after its end.
    pub keep: Duration,
    /// How long a bridge that shares its store may be silent before another one takes up what it had.
    pub lease: Duration,
}

impl Default for BackgroundConfig {
    fn default() -> Self {
        Self {
            max_jobs: 100,
            request_bytes: 64 * 1024 * 1024,
            // Nobody waits at the other end.
            queue_timeout: Duration::from_secs(3600),
            log_bytes: 64 * 1024 * 1024,
            keep: Duration::from_secs(600),
            lease: Duration::from_secs(30),
        }
    }
}
