//! The model list, kept for a minute.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::launch::Live;
use super::runtime::AppServer;
use super::{AppServerError, DisconnectReason};
use crate::model::ModelInfo;

/// Read again after this long.
const MAX_AGE: Duration = Duration::from_secs(60);

/// A list this young is fresh enough for anybody: unknown names sent in a row must not keep the app-server
/// busy.
const FRESH: Duration = Duration::from_secs(1);

/// What is known. Owned by the runtime's shared part.
#[derive(Debug, Default)]
pub(super) struct ModelList {
    /// Held across the one read at a time; the others wait and take what it found.
    known: tokio::sync::Mutex<Option<Known>>,
    expired: AtomicBool,
}

#[derive(Debug)]
struct Known {
    models: Arc<[ModelInfo]>,
    generation: u64,
    read: Instant,
}

impl ModelList {
    /// Has the list read again by the next call.
    pub(super) fn expire(&self) {
        self.expired.store(true, Ordering::Release);
    }

    #[cfg(test)]
    pub(super) fn is_expired(&self) -> bool {
        self.expired.load(Ordering::Acquire)
    }
}

impl AppServer {
    /// The catalogue, hidden models included; at most a minute old, and never older than the last change
    /// the app-server told of.
    pub async fn models(&self) -> Result<Arc<[ModelInfo]>, AppServerError> {
        self.models_within(MAX_AGE).await
    }

    /// The catalogue as it is now: before an unknown model is refused.
    pub async fn models_fresh(&self) -> Result<Arc<[ModelInfo]>, AppServerError> {
        let models = self.models_within(FRESH).await?;
        // Our child's catalogue was fixed at its start: a model that came since is found this way only.
        self.check_soon();
        Ok(models)
    }

    async fn models_within(&self, age: Duration) -> Result<Arc<[ModelInfo]>, AppServerError> {
        match self.read_models(age).await {
            // Asked again of the one that takes its place.
            Err(AppServerError::Disconnected(reason)) if reason.is_loss() => self.read_models(age).await,
            read => read,
        }
    }

    async fn read_models(&self, age: Duration) -> Result<Arc<[ModelInfo]>, AppServerError> {
        let list = &self.shared().models;
        let asked = Instant::now();
        let live = self.live().await?;
        let mut known = list.known.lock().await;
        let expired = list.expired.swap(false, Ordering::AcqRel);
        if let Some(known) = &*known
            && known.generation == live.generation
            && !expired
            && (known.read >= asked || known.read.elapsed() < age)
        {
            return Ok(Arc::clone(&known.models));
        }
        let read = Instant::now();
        match self.unless_silent(&live, live.connection.models()).await {
            Ok(models) => {
                let models: Arc<[ModelInfo]> =
                    models.into_iter().map(|model| with_stock(model, &live)).collect();
                *known = Some(Known { models: Arc::clone(&models), generation: live.generation, read });
                Ok(models)
            }
            // Another one is asked in its place.
            Err(error @ AppServerError::Disconnected(DisconnectReason::Silent(_))) => {
                list.expire();
                Err(error)
            }
            Err(error) => {
                list.expire();
                match &*known {
                    Some(known) if known.generation == live.generation => {
                        tracing::warn!(%error, "the model list could not be read again; the last one stands in");
                        Ok(Arc::clone(&known.models))
                    }
                    _ => Err(error),
                }
            }
        }
    }
}

/// With what only the stock catalogue tells.
fn with_stock(mut model: ModelInfo, live: &Live) -> ModelInfo {
    if let Some(stock) = live.stock.as_ref().and_then(|stock| stock.model(&model.id)) {
        model.context_window = stock.context_window;
        model.web_search = Some(stock.web_search);
    }
    model
}
