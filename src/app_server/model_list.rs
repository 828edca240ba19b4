//! The model list, kept for a minute.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
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
    /// Held across the one read at a time; who has to wait for it takes what it found.
    reading: tokio::sync::Mutex<()>,
    /// Locked for a moment only.
    list: Mutex<List>,
    /// What was read before the last change of it is out of date.
    version: AtomicU64,
}

#[derive(Debug, Default)]
struct List {
    known: Option<Known>,
    failed: Option<Failed>,
}

#[derive(Debug)]
struct Known {
    models: Arc<[ModelInfo]>,
    generation: u64,
    version: u64,
    /// When it was asked for.
    read: Instant,
}

/// The last read, where it failed.
#[derive(Debug)]
struct Failed {
    error: AppServerError,
    generation: u64,
    at: Instant,
}

impl ModelList {
    /// Has the list read again by the next call.
    pub(super) fn expire(&self) {
        self.version.fetch_add(1, Ordering::AcqRel);
    }

    #[cfg(test)]
    pub(super) fn is_expired(&self) -> bool {
        self.lock().known.as_ref().is_none_or(|known| known.version != self.version.load(Ordering::Acquire))
    }

    /// What was read of that connection and holds still, where `enough` says that it is young enough.
    fn known(&self, generation: u64, enough: impl Fn(Instant) -> bool) -> Option<Arc<[ModelInfo]>> {
        let version = self.version.load(Ordering::Acquire);
        let list = self.lock();
        let known = list.known.as_ref().filter(|known| known.generation == generation)?;
        (known.version == version && enough(known.read)).then(|| Arc::clone(&known.models))
    }

    /// What was read of that connection at any time: it stands in where it cannot be read again.
    fn stand_in(&self, generation: u64) -> Option<Arc<[ModelInfo]>> {
        let list = self.lock();
        list.known
            .as_ref()
            .filter(|known| known.generation == generation)
            .map(|known| Arc::clone(&known.models))
    }

    /// What became of a read that failed after `asked`.
    fn failed_since(
        &self,
        asked: Instant,
        generation: u64,
    ) -> Option<Result<Arc<[ModelInfo]>, AppServerError>> {
        let since = |failed: &&Failed| failed.at >= asked && failed.generation == generation;
        let error = self.lock().failed.as_ref().filter(since)?.error.clone();
        Some(self.stand_in(generation).ok_or(error))
    }

    fn lock(&self) -> MutexGuard<'_, List> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
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
        let models = &self.shared().models;
        let asked = Instant::now();
        let live = self.live().await?;
        let generation = live.generation;
        let is_young = |read: Instant| read >= asked || read.elapsed() < age;
        if let Some(known) = models.known(generation, is_young) {
            return Ok(known);
        }
        let _reading = if let Ok(reading) = models.reading.try_lock() {
            reading
        } else {
            // Somebody reads it anew: what nobody has called out of date will do meanwhile.
            if age >= MAX_AGE
                && let Some(known) = models.known(generation, |_| true)
            {
                return Ok(known);
            }
            models.reading.lock().await
        };
        // Those who waited take what came of it, and do not each fail anew.
        if let Some(failed) = models.failed_since(asked, generation) {
            return failed;
        }
        if let Some(known) = models.known(generation, is_young) {
            return Ok(known);
        }
        let (read, version) = (Instant::now(), models.version.load(Ordering::Acquire));
        match self.unless_silent(&live, live.connection.models()).await {
            Ok(found) => {
                let found: Arc<[ModelInfo]> =
                    found.into_iter().map(|model| with_stock(model, &live)).collect();
                let mut list = models.lock();
                list.failed = None;
                // Never an older one's over a newer one's.
                if list.known.as_ref().is_none_or(|known| known.generation <= generation) {
                    list.known = Some(Known { models: Arc::clone(&found), generation, version, read });
                }
                Ok(found)
            }
            // Another one is asked in its place.
            Err(error @ AppServerError::Disconnected(DisconnectReason::Silent(_))) => Err(error),
            Err(error) => {
                models.lock().failed = Some(Failed { error: error.clone(), generation, at: Instant::now() });
                let stand_in = models.stand_in(generation);
                if stand_in.is_some() {
                    tracing::warn!(%error, "the model list could not be read again; the last one stands in");
                }
                stand_in.ok_or(error)
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
