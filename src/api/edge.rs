//! What every handler works with.

use std::sync::Arc;
use std::time::Duration;

use super::audio::AudioCheck;
use super::auth::Keys;
use super::files::FileReader;
use super::images::ImageFetcher;
use super::intake::Intake;
use super::items::Media;
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
    pub(crate) media: Media,
    /// Largest request body, bytes.
    pub(crate) max_body_bytes: usize,
    /// Room for all bodies together.
    pub(crate) intake: Intake,
    /// A whole request body must be here by then.
    pub(crate) body_timeout: Duration,
    pub(crate) stream: StreamConfig,
    pub(crate) requests: RequestsConfig,
    /// Whether `store: false` responses can be continued.
    pub(crate) keep_unstored: bool,
}

/// Why there is no edge.
#[derive(Debug, thiserror::Error)]
pub enum EdgeError {
    /// No TLS, or no HTTP client with it.
    #[error("images and files cannot be fetched: {0}")]
    Fetch(#[from] reqwest::Error),
}

impl Edge {
    /// The edge over `bridge`.
    pub fn new(bridge: Bridge, config: &Config, tasks: &Tasks) -> Result<Self, EdgeError> {
        Ok(Self {
            bridge,
            keys: Arc::new(Keys::new(&config.auth)),
            origins: Arc::new(Origins::new(&config.server)),
            media: Media {
                images: ImageFetcher::new(&config.images, tasks.clone())?,
                audio: AudioCheck::new(&config.audio, tasks.clone()),
                files: FileReader::new(&config.files, config.machine.program.clone(), tasks.clone())?,
            },
            max_body_bytes: config.server.max_body_bytes,
            intake: Intake::new(config.server.body_memory),
            body_timeout: config.server.body_timeout,
            stream: config.stream.clone(),
            requests: config.requests,
            keep_unstored: config.continuation.keep_unstored,
        })
    }
}
