//! What every handler works with.

use std::sync::Arc;
use std::time::Duration;

use super::audio::AudioCheck;
use super::auth::Keys;
use super::auth_backoff::Backoff;
use super::batches::Batches;
use super::classes::Classes;
use super::compactions::Compactions;
use super::conversations::Conversations;
use super::fallback::Fallback;
use super::file_objects::Files;
use super::files::FileReader;
use super::images::ImageFetcher;
use super::intake::{Intake, Room};
use super::items::Media;
use super::origin::Origins;
use super::responses::{Background, Sockets};
use crate::bridge::Bridge;
use crate::config::{AuthConfig, Config, RequestsConfig, StreamConfig};
use crate::model::KeyId;
use crate::store::{Documents, Seal};
use crate::tasks::Tasks;

/// The HTTP side's state. Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
pub struct Edge {
    pub(crate) bridge: Bridge,
    /// What is kept beside the responses.
    pub(crate) documents: Arc<Documents>,
    /// How long a document lives after its last change.
    pub(crate) document_ttl: Duration,
    pub(crate) keys: Arc<Keys>,
    pub(crate) backoff: Arc<Backoff>,
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
    /// Takes what the app-server cannot, where one is configured.
    pub(crate) fallback: Option<Arc<Fallback>>,
    pub(crate) classes: Classes,
    /// Responses that nobody waits for.
    pub(crate) background: Background,
    pub(crate) conversations: Conversations,
    /// Compaction items of our own.
    pub(crate) compactions: Arc<Compactions>,
    /// What is uploaded, and what batches write.
    pub(crate) files: Files,
    pub(crate) batches: Batches,
    pub(crate) sockets: Sockets,
    /// Whether `store: false` responses can be continued.
    pub(crate) keep_unstored: bool,
}

/// Why there is no edge.
#[derive(Debug, thiserror::Error)]
pub enum EdgeError {
    /// No TLS, or no HTTP client with it.
    #[error("nothing can be fetched: {0}")]
    Fetch(#[from] reqwest::Error),
}

impl Edge {
    /// The edge over `bridge`.
    pub fn new(
        bridge: Bridge,
        documents: Arc<Documents>,
        seal: Seal,
        config: &Config,
        tasks: &Tasks,
    ) -> Result<Self, EdgeError> {
        let document_ttl = config.store.document_ttl;
        Ok(Self {
            bridge,
            conversations: Conversations::new(
                Arc::clone(&documents),
                document_ttl,
                config.continuation.max_chain_items,
            ),
            documents: Arc::clone(&documents),
            document_ttl,
            keys: Arc::new(Keys::new(&config.auth)),
            backoff: Arc::default(),
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
            fallback: Fallback::new(&config.fallback)?.map(Arc::new),
            classes: Classes::new(&config.classes),
            files: Files::new(Arc::clone(&documents), config, tasks),
            batches: Batches::new(Arc::clone(&documents), config, tasks),
            background: Background::new(documents, config, tasks),
            compactions: Arc::new(Compactions::new(seal)),
            sockets: Sockets::new(&config.websocket, tasks),
            keep_unstored: config.continuation.keep_unstored,
        })
    }

    /// Takes up what an earlier process left unfinished, and looks after what goes on without its client. Once,
    /// before anything is served.
    pub async fn start(&self) {
        self.background.start(self).await;
        self.batches.start(self).await;
    }

    /// Room for a body of so many bytes; `None` where there was none in time.
    pub(crate) async fn room(&self, key: &KeyId, bytes: usize) -> Option<Room> {
        tokio::time::timeout(self.body_timeout, self.intake.take(key, bytes)).await.ok().flatten()
    }

    /// No response of the background is begun any more, and no row of a batch.
    pub fn begin_drain(&self) {
        self.background.close();
        self.batches.close();
    }

    /// Waits until all of them are as they will be found by the next process; `false` if some are not by `limit`.
    pub async fn drained(&self, limit: Duration) -> bool {
        let settled = async { tokio::join!(self.background.settled(), self.batches.settled()) };
        tokio::time::timeout(limit, settled).await.is_ok()
    }

    /// Takes over keys that were read anew; with a reason instead, the old ones stay and health tells it.
    pub fn reload_keys(&self, read: Result<AuthConfig, String>) {
        self.keys.reload(read);
    }
}
