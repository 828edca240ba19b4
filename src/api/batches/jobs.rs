//! The batches that this bridge runs.

use std::collections::HashMap;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::document::{Asked, Batch, Status};
use super::results::Finished;
use super::runner::Runner;
use crate::api::edge::Edge;
use crate::api::error::ApiError;
use crate::api::lease::{Held, Leased, Leases};
use crate::bridge::BridgeError;
use crate::config::{BatchesConfig, Config, StoreBackend};
use crate::model::KeyId;
use crate::store::{Document, DocumentKind, Documents, StoreError};
use crate::tasks::Tasks;

const KIND: DocumentKind = <Batch as Leased>::KIND;
/// Documents looked at together.
const PAGE: usize = 16;

/// All batches of this bridge. Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
pub(crate) struct Batches(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    config: BatchesConfig,
    documents: Arc<Documents>,
    /// How long a document lives.
    ttl: Duration,
    /// Where other bridges have the same documents.
    leases: Option<Leases<Batch>>,
    /// How long another bridge may be silent.
    lease: Duration,
    /// Those that have not ended. Locked for a moment only.
    jobs: Mutex<HashMap<String, Arc<Job>>>,
    /// A permit for each row that runs.
    room: Arc<Semaphore>,
    most_running: usize,
    counters: Counters,
    tasks: Tasks,
    /// Cancelled on the way down.
    closing: CancellationToken,
}

#[derive(Debug, Default)]
struct Counters {
    completed: AtomicU64,
    failed: AtomicU64,
    retried: AtomicU64,
}

/// For `/v1/health`.
#[derive(Debug, JsonSchema, Serialize)]
pub(crate) struct Report {
    /// Batches that have not ended.
    open: usize,
    max_open: usize,
    rows_running: usize,
    max_rows_running: usize,
    /// Since the start.
    rows_completed: u64,
    rows_failed: u64,
    rows_retried: u64,
}

/// A batch that has not ended.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) id: String,
    pub(super) key: KeyId,
    batch: Mutex<Batch>,
    /// Held while it is written: the last state is written last.
    saving: tokio::sync::Mutex<()>,
    pub(super) cancel: CancellationToken,
    /// Another bridge has it.
    pub(super) lost: CancellationToken,
    settled: CancellationToken,
}

impl Job {
    fn new(id: String, key: KeyId, batch: Batch) -> Arc<Self> {
        Arc::new(Self {
            id,
            key,
            batch: Mutex::new(batch),
            saving: tokio::sync::Mutex::default(),
            cancel: CancellationToken::new(),
            lost: CancellationToken::new(),
            settled: CancellationToken::new(),
        })
    }

    pub(super) fn read<T>(&self, look: impl FnOnce(&Batch) -> T) -> T {
        look(&self.batch.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut Batch)) {
        change(&mut self.batch.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Counts results.
    pub(super) fn count(&self, finished: &[Finished]) {
        self.change(|batch| {
            for outcome in finished.iter().map(|finished| &finished.outcome) {
                if let Some(answered) = outcome.response.as_ref().filter(|answered| answered.is_good()) {
                    batch.counts.completed += 1;
                    batch.used.add(&answered.body);
                } else {
                    batch.counts.failed += 1;
                }
            }
        });
    }

    fn object(&self) -> Value {
        self.read(|batch| object(batch, &self.id))
    }
}

pub(super) fn object(batch: &Batch, id: &str) -> Value {
    serde_json::to_value(batch.object(id)).unwrap_or_default()
}

impl Batches {
    pub(crate) fn new(documents: Arc<Documents>, config: &Config, tasks: &Tasks) -> Self {
        let shared = config.store.backend == StoreBackend::Redis;
        let lease = config.background.lease;
        // Somebody may always call beside them.
        let most_running = config.batches.concurrency.min(config.admission.slots.saturating_sub(1)).max(1);
        Self(Arc::new(Inner {
            config: config.batches.clone(),
            documents: Arc::clone(&documents),
            ttl: config.store.document_ttl,
            leases: shared.then(|| Leases::new(documents, lease)),
            lease,
            jobs: Mutex::default(),
            room: Arc::new(Semaphore::new(most_running)),
            most_running,
            counters: Counters::default(),
            tasks: tasks.clone(),
            closing: CancellationToken::new(),
        }))
    }

    /// Takes up what no bridge has, and goes on looking after what this one shares with others.
    pub(crate) async fn start(&self, edge: &Edge) {
        // Where there are leases, it takes as long as the other bridges let it.
        if self.0.leases.is_some() || !self.take_up(edge).await {
            self.0.tasks.spawn("batch sweeper", look_after(edge.clone()));
        }
    }

    /// No row is begun any more.
    pub(crate) fn close(&self) {
        self.0.closing.cancel();
    }

    /// Waits until all are as the next process will find them.
    pub(crate) async fn settled(&self) {
        loop {
            let job = self.jobs().values().next().cloned();
            match job {
                Some(job) => job.settled.cancelled().await,
                None => return,
            }
        }
    }

    pub(crate) fn report(&self) -> Report {
        let told = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Report {
            open: self.jobs().len(),
            max_open: self.0.config.max_open,
            rows_running: self.0.most_running.saturating_sub(self.0.room.available_permits()),
            max_rows_running: self.0.most_running,
            rows_completed: told(&self.0.counters.completed),
            rows_failed: told(&self.0.counters.failed),
            rows_retried: told(&self.0.counters.retried),
        }
    }

    /// Keeps a new batch and begins it: from there on it does not hang on its caller.
    pub(super) async fn create(edge: &Edge, key: KeyId, asked: Asked) -> Result<Value, ApiError> {
        let this = &edge.batches;
        if this.closing().is_cancelled() {
            return Err(BridgeError::Draining.into());
        }
        let id = format!("batch_{}", uuid::Uuid::new_v4().simple());
        let job = Job::new(id, key, Batch::new(asked, this.0.config.window));
        this.admit(&job)?;
        let (told, kept) = oneshot::channel();
        let (edge, running) = (edge.clone(), Arc::clone(&job));
        this.spawn("batch", async move {
            let this = &edge.batches;
            let lease: Vec<_> = this.0.leases.iter().map(Leases::first).collect();
            if let Err(error) = this.0.documents.put_with(KIND, &this.written(&running), &lease).await {
                this.forget(&running.id);
                let _ = told.send(Err(error));
                return;
            }
            let object = running.object();
            // Whoever has asked may have left: that changes nothing.
            let _ = told.send(Ok(object));
            Runner::new(edge.clone(), running).run().await;
        });
        Ok(kept.await.map_err(|_| BridgeError::Interrupted)??)
    }

    /// The batch of `key`'s as it is now.
    pub(super) async fn find(&self, id: &str, key: &KeyId) -> Result<Option<Value>, StoreError> {
        if let Some(job) = self.job(id, key) {
            return Ok(Some(job.object()));
        }
        Ok(self.document(id, key).await?.map(|batch| object(&batch, id)))
    }

    /// The same of a document that was read.
    pub(super) fn shown(&self, document: &Document) -> Result<Value, StoreError> {
        match self.job(&document.id, &document.owner) {
            Some(job) => Ok(job.object()),
            None => Ok(object(&Batch::of(document)?, &document.id)),
        }
    }

    /// Cancels it. `None` if it is none of `key`'s.
    pub(super) async fn cancel(&self, id: &str, key: &KeyId) -> Result<Option<Value>, ApiError> {
        if let Some(job) = self.job(id, key) {
            let mut refused = None;
            job.change(|batch| match batch.status {
                Status::Validating | Status::InProgress | Status::Cancelling => {
                    batch.reach(Status::Cancelling);
                }
                other => refused = Some(other),
            });
            if let Some(status) = refused {
                return Err(not_cancellable(status));
            }
            // Whether this is kept or not: nothing more of it is to be run.
            let saved = self.save(&job).await;
            let object = job.object();
            job.cancel.cancel();
            saved?;
            return Ok(Some(object));
        }
        let Some(batch) = self.document(id, key).await? else { return Ok(None) };
        if batch.status.is_over() {
            return Err(not_cancellable(batch.status));
        }
        let Some(leases) = &self.0.leases else { return Ok(Some(object(&batch, id))) };
        let come = |batch: &Batch| batch.status.is_over() || batch.status == Status::Cancelling;
        Ok(leases.cancel_elsewhere(id, come).await?.map(|batch| object(&batch, id)))
    }

    pub(super) fn config(&self) -> &BatchesConfig {
        &self.0.config
    }

    pub(super) fn closing(&self) -> &CancellationToken {
        &self.0.closing
    }

    pub(super) fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.0.tasks.spawn(name, task);
    }

    /// Most rows at once.
    pub(super) fn most_running(&self) -> usize {
        self.0.most_running
    }

    /// Waits until one more row may run.
    pub(super) async fn permit(&self) -> OwnedSemaphorePermit {
        match Arc::clone(&self.0.room).acquire_owned().await {
            Ok(permit) => permit,
            // Never: nobody closes it.
            Err(_) => std::future::pending().await,
        }
    }

    pub(super) fn count_retry(&self) {
        self.0.counters.retried.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count(&self, finished: &[Finished]) {
        for finished in finished {
            let counters = &self.0.counters;
            let counter = if finished.outcome.is_good() { &counters.completed } else { &counters.failed };
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Whether no other bridge has taken it over.
    pub(super) async fn is_ours(&self, id: &str) -> Result<bool, StoreError> {
        match &self.0.leases {
            Some(leases) => Ok(leases.renew(id).await? != Held::Lost),
            None => Ok(true),
        }
    }

    /// Leaves it to the next bridge that looks.
    pub(super) async fn leave(&self, id: &str) -> Result<(), StoreError> {
        match &self.0.leases {
            Some(leases) => leases.leave(id).await,
            None => Ok(()),
        }
    }

    /// Writes a batch as it is now, if it is this bridge's.
    pub(super) async fn save(&self, job: &Job) -> Result<(), StoreError> {
        let _one = job.saving.lock().await;
        let document = self.written(job);
        let is_ours = match &self.0.leases {
            Some(leases) => leases.replace(&document).await?,
            None => self.0.documents.replace(KIND, &document).await?,
        };
        if !is_ours {
            job.lost.cancel();
        }
        Ok(())
    }

    fn written(&self, job: &Job) -> Document {
        Document {
            id: job.id.clone(),
            owner: job.key.clone(),
            expires_at: SystemTime::now().checked_add(self.0.ttl.max(self.0.config.window)),
            body: job.read(Batch::written),
        }
    }

    /// The batch has ended here.
    pub(super) fn forget(&self, id: &str) {
        if let Some(job) = self.jobs().remove(id) {
            job.settled.cancel();
        }
    }

    fn admit(&self, job: &Arc<Job>) -> Result<(), ApiError> {
        let mut jobs = self.jobs();
        if jobs.len() >= self.0.config.max_open {
            let message = "Too many batches have not ended (`batches.max_open`). Try again later.";
            return Err(ApiError::new("rate_limit_exceeded", message));
        }
        jobs.insert(job.id.clone(), Arc::clone(job));
        Ok(())
    }

    fn job(&self, id: &str, key: &KeyId) -> Option<Arc<Job>> {
        self.jobs().get(id).filter(|job| job.key == *key).cloned()
    }

    fn jobs(&self) -> MutexGuard<'_, HashMap<String, Arc<Job>>> {
        self.0.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn document(&self, id: &str, key: &KeyId) -> Result<Option<Batch>, StoreError> {
        let document = self.0.documents.get(KIND, id).await?;
        document.filter(|document| document.owner == *key).map(|document| Batch::of(&document)).transpose()
    }

    /// Goes on with every batch that no bridge has. Gives whether all were seen.
    async fn take_up(&self, edge: &Edge) -> bool {
        let mut after: Option<String> = None;
        let mut all_seen = true;
        loop {
            let listed = match self.0.documents.all(KIND, after.as_deref(), PAGE).await {
                Ok(listed) => listed,
                Err(error) => {
                    error!(%error, "unfinished batches cannot be looked for");
                    return false;
                }
            };
            after = listed.found.last().map(|document| document.id.clone());
            for document in listed.found {
                if let Err(error) = self.take_up_one(edge, document).await {
                    error!(%error, "an unfinished batch could not be taken up");
                    all_seen &= matches!(error, StoreError::Unreadable { .. });
                }
            }
            if !listed.has_more {
                return all_seen;
            }
        }
    }

    async fn take_up_one(&self, edge: &Edge, document: Document) -> Result<(), StoreError> {
        if Batch::of(&document)?.status.is_over() || self.jobs().contains_key(&document.id) {
            return Ok(());
        }
        let mut is_cancelled = false;
        let mut document = document;
        if let Some(leases) = &self.0.leases {
            match leases.take(&document.id).await? {
                Held::Ours => {}
                Held::Cancelled => is_cancelled = true,
                Held::Lost => return Ok(()),
            }
            // As the other bridge has left it.
            match self.0.documents.get(KIND, &document.id).await? {
                Some(now) => document = now,
                None => return Ok(()),
            }
        }
        let mut batch = Batch::of(&document)?;
        if batch.status.is_over() {
            return Ok(());
        }
        if is_cancelled {
            batch.reach(Status::Cancelling);
        }
        let job = Job::new(document.id, document.owner, batch);
        if job.read(|batch| batch.status) == Status::Cancelling {
            job.cancel.cancel();
        }
        info!(batch = job.id, "an unfinished batch is taken up");
        self.jobs().insert(job.id.clone(), Arc::clone(&job));
        self.spawn("batch", Runner::new(edge.clone(), job).run());
        Ok(())
    }

    /// Says that this bridge is there, and looks for what the others want of it.
    async fn renew(&self, leases: &Leases<Batch>) {
        let open: Vec<_> = self.jobs().values().cloned().collect();
        for job in open {
            match leases.renew(&job.id).await {
                Ok(Held::Ours) => {}
                Ok(Held::Cancelled) => {
                    job.change(|batch| {
                        if batch.status != Status::Finalizing {
                            batch.reach(Status::Cancelling);
                        }
                    });
                    if job.read(|batch| batch.status) == Status::Cancelling {
                        job.cancel.cancel();
                    }
                }
                Ok(Held::Lost) => job.lost.cancel(),
                Err(error) => warn!(batch = job.id, %error, "a lease could not be renewed"),
            }
        }
    }
}

fn not_cancellable(status: Status) -> ApiError {
    let status = serde_json::to_value(status).unwrap_or_default();
    let status = status.as_str().unwrap_or_default();
    ApiError::new("batch_not_cancellable", format!("Cannot cancel a batch with status '{status}'."))
}

/// Looks after what this bridge shares with others, and for what could not be seen at the start.
async fn look_after(edge: Edge) {
    let this = &edge.batches;
    let leases = this.0.leases.as_ref();
    let stop = this.0.tasks.stop_token().clone();
    let mut ticks = tokio::time::interval(leases.map_or(this.0.lease, Leases::renewal));
    let mut looked: Option<Instant> = None;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let look = async {
            if let Some(leases) = leases {
                this.renew(leases).await;
            }
            let is_due = looked.is_none_or(|looked| looked.elapsed() >= this.0.lease);
            if is_due && !this.closing().is_cancelled() {
                looked = Some(Instant::now());
                return this.take_up(&edge).await;
            }
            false
        };
        tokio::select! {
            () = stop.cancelled() => return,
            all_seen = look => if all_seen && leases.is_none() { return },
        }
    }
}
