//! What every handler works with.

use std::sync::Arc;
use std::time::Duration;

use super::auth::Keys;
use super::images::ImageFetcher;
use super::origin::Origins;
use crate::bridge::Bridge;
use crate::config::{Config, RequestsConfig, StreamConfig};
use crate::tasks::Tasks;

/// The HTTP side's state. Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
pub struct Edge {
    pub(crate) bridge: Bridge,
    pub(crate) keys: Arc<Keys>,
    pub(crate) origins: Arc<Origins>,
    pub(crate) images: ImageFetcher,
    /// Largest request body, bytes.
    pub(crate) max_body_bytes: usize,
    /// A whole request body must be here by then.
    pub(crate) body_timeout: Duration,
    pub(crate) stream: StreamConfig,
    pub(crate) requests: RequestsConfig,
}

/// Why there is no edge.
#[derive(Debug, thiserror::Error)]
pub enum EdgeError {
    /// No TLS, or no HTTP client with it.
    #[error("images cannot be fetched: {0}")]
    Images(#[from] reqwest::Error),
}

impl Edge {
    /// The edge over `bridge`.
    pub fn new(bridge: Bridge, config: &Config, tasks: &Tasks) -> Result<Self, EdgeError> {
        Ok(Self {
            bridge,
            keys: Arc::new(Keys::new(&config.auth)),
            origins: Arc::new(Origins::new(&config.server)),
            images: ImageFetcher::new(config.images.clone(), tasks.clone())?,
            max_body_bytes: config.server.max_body_bytes,
            body_timeout: config.server.body_timeout,
            stream: config.stream.clone(),
            requests: config.requests,
        })
    }
}
