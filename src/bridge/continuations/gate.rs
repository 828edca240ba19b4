//! The store behind a time limit: one that is down or answers nothing is left alone for a while, so that no call
//! waits for it twice. A question that takes too long fails alone where the store answers others. One that can be
//! read and takes nothing new is read on. Each outage is told once, here.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use futures_util::future::BoxFuture;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use crate::model::ResponseId;
use crate::store::{Lookup, ResponseStore, StoreError, StoredResponse};
use crate::tasks::Tasks;

/// How long a store that failed is left alone; then one call tries again.
const PAUSE: Duration = Duration::from_secs(1);
/// No response has this id: to ask for it costs a store next to nothing.
const NOBODY: &str = "nobody";

/// The way to the store.
#[derive(Debug)]
pub(super) struct Gate {
    store: Arc<dyn ResponseStore>,
    limit: Duration,
    tasks: Tasks,
    /// `None` while the store works. Never held across an await.
    outage: Mutex<Option<Outage>>,
    /// Why nothing is put, and since when; `None` while the store takes responses. Never held across an await.
    refusal: Mutex<Option<(String, Instant)>>,
}

#[derive(Debug)]
struct Outage {
    reason: String,
    since: Instant,
    try_at: Instant,
}

impl Gate {
    pub(super) fn new(store: Arc<dyn ResponseStore>, limit: Duration, tasks: &Tasks) -> Self {
        Self { store, limit, tasks: tasks.clone(), outage: Mutex::default(), refusal: Mutex::default() }
    }

    pub(super) fn durability(&self) -> &'static str {
        self.store.durability()
    }

    /// The store itself, for what no call waits for.
    pub(super) fn unbounded(&self) -> &dyn ResponseStore {
        &*self.store
    }

    /// Why the store is not available, or takes nothing new, if that is so.
    pub(super) fn outage(&self) -> Option<String> {
        let down = lock(&self.outage).as_ref().map(|outage| outage.reason.clone());
        down.or_else(|| lock(&self.refusal).as_ref().map(|(reason, _)| reason.clone()))
    }

    /// Puts a response into the store.
    pub(super) async fn put(&self, response: StoredResponse) -> Result<Lookup<()>, StoreError> {
        let put = self.ask(|store| store.put(response)).await;
        match &put {
            Ok(_) => {
                if let Some((_, since)) = lock(&self.refusal).take() {
                    info!(after = ?since.elapsed(), "the response store takes new responses again");
                }
            }
            Err(StoreError::Refused { reason }) => {
                let mut refusal = lock(&self.refusal);
                if refusal.is_none() {
                    warn!(
                        reason,
                        "the response store takes no new responses; they are kept in memory only meanwhile"
                    );
                }
                let since = refusal.as_ref().map_or_else(Instant::now, |(_, since)| *since);
                *refusal = Some((reason.clone(), since));
            }
            // A chain that is too large says nothing of others.
            Err(
                StoreError::Unavailable { .. } | StoreError::Unreadable { .. } | StoreError::TooLarge { .. },
            ) => {}
        }
        put
    }

    /// Asks the store, unless it has just failed.
    pub(super) async fn ask<'a, T>(
        &'a self,
        question: impl FnOnce(&'a dyn ResponseStore) -> BoxFuture<'a, Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        if let Some(outage) = &mut *lock(&self.outage) {
            let now = Instant::now();
            if now < outage.try_at {
                return Err(StoreError::Unavailable { reason: outage.reason.clone() });
            }
            outage.try_at = now + self.limit.max(PAUSE);
        }
        match self.within_limit(question(&*self.store)).await {
            Ok(answer) => {
                match &answer {
                    Err(StoreError::Unavailable { reason }) => self.failed(reason),
                    _ => self.worked(),
                }
                answer
            }
            Err(answers_others) => {
                let reason = format!("no answer within {:?}", self.limit);
                if answers_others {
                    debug!(reason, "the response store answers other questions");
                    self.worked();
                } else {
                    self.failed(&reason);
                }
                Err(StoreError::Unavailable { reason })
            }
        }
    }

    /// The answer; without one in time, whether the store has answered another question meanwhile, which is asked
    /// once half of the time is gone.
    async fn within_limit<T>(
        &self,
        mut question: BoxFuture<'_, Result<T, StoreError>>,
    ) -> Result<Result<T, StoreError>, bool> {
        let until = Instant::now() + self.limit;
        if let Ok(answer) = tokio::time::timeout(self.limit / 2, &mut question).await {
            return Ok(answer);
        }
        let mut probed = self.probe();
        tokio::time::timeout_at(until, question).await.map_err(|_| probed.try_recv() == Ok(true))
    }

    /// Whether the store answers. Asked to the end, whoever still wants to know: to some stores a call that is given
    /// up is the end of a connection.
    fn probe(&self) -> oneshot::Receiver<bool> {
        let (tell, told) = oneshot::channel();
        let (store, limit) = (Arc::clone(&self.store), self.limit);
        self.tasks.spawn("store probe", async move {
            let nobody = ResponseId::new(NOBODY);
            let touched = tokio::time::timeout(limit, store.touch(&nobody, SystemTime::now())).await;
            let answered = !matches!(touched, Err(_) | Ok(Err(StoreError::Unavailable { .. })));
            // Nobody may wait for it any more.
            let _ = tell.send(answered);
        });
        told
    }

    fn failed(&self, reason: &str) {
        let now = Instant::now();
        let mut outage = lock(&self.outage);
        if outage.is_none() {
            warn!(reason, "the response store is not available; responses are kept in memory only meanwhile");
        }
        let since = outage.as_ref().map_or(now, |outage| outage.since);
        *outage = Some(Outage { reason: reason.to_owned(), since, try_at: now + PAUSE });
    }

    fn worked(&self) {
        if let Some(outage) = lock(&self.outage).take() {
            info!(after = ?outage.since.elapsed(), "the response store is available again");
        }
    }
}

fn lock<T>(state: &Mutex<T>) -> MutexGuard<'_, T> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
