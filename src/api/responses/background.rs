//! `background: true`: responses that are made without anybody who waits. Each is a job of this bridge's, and a
//! document that outlives it until the response store has the answer.

mod document;
mod job;
mod log;

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use axum::Json;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue, header};
use serde_json::{Map, Value};
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

pub(crate) use self::document::Kept;
use self::document::{Manner, of_key};
pub(crate) use self::job::Job;
use self::job::Runner;
use super::output::with_ids;
use super::wire::Form;
use super::{Asker, Prepared, Transport, decode, prepare};
use crate::api::access::Access;
use crate::api::conversations::Joined;
use crate::api::edge::Edge;
use crate::api::error::ApiError;
use crate::api::identity;
use crate::api::ignored::Ignored;
use crate::api::lease::{CANCEL_TIMEOUT, Held, Leased, Leases};
use crate::api::observe::Call;
use crate::api::time::unix_seconds;
use crate::bridge::BridgeError;
use crate::config::{BackgroundConfig, Config, StoreBackend};
use crate::model::{Item, KeyId, Priority, ResponseId};
use crate::store::{Document, DocumentKind, Documents, StoreError, StoredResponse};
use crate::tasks::Tasks;

const KIND: DocumentKind = <Kept as Leased>::KIND;
/// How often logs that are no longer kept are let go of.
const SWEEP: Duration = Duration::from_secs(5);
/// A response that three bridges have ended under is not begun again.
const MAX_ATTEMPTS: u32 = 3;
/// Documents looked at together.
const PAGE: usize = 4;

/// All jobs of this bridge. Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
pub(crate) struct Background(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    config: BackgroundConfig,
    documents: Arc<Documents>,
    /// How long a document lives.
    ttl: Duration,
    /// Where other bridges have the same documents.
    leases: Option<Leases<Kept>>,
    /// Those that have not ended, and those whose events are still kept. Locked for a moment only.
    jobs: Mutex<HashMap<ResponseId, Arc<Job>>>,
    /// Bytes of all logs.
    logged: AtomicUsize,
    tasks: Tasks,
    /// Cancelled on the way down.
    closing: CancellationToken,
}

/// Where a response is.
pub(super) enum Found {
    Job(Arc<Job>),
    Record(Box<StoredResponse>),
    Document(Box<Kept>),
}

impl Background {
    pub(crate) fn new(documents: Arc<Documents>, config: &Config, tasks: &Tasks) -> Self {
        let shared = config.store.backend == StoreBackend::Redis;
        Self(Arc::new(Inner {
            config: config.background.clone(),
            documents: Arc::clone(&documents),
            ttl: config.store.document_ttl,
            leases: shared.then(|| Leases::new(documents, config.background.lease)),
            jobs: Mutex::default(),
            logged: AtomicUsize::new(0),
            tasks: tasks.clone(),
            closing: CancellationToken::new(),
        }))
    }

    /// Takes up what no bridge has, and goes on looking after the jobs.
    pub(crate) async fn start(&self, edge: &Edge) {
        // Where there are leases, it takes as long as the other bridges let it.
        let all_seen = self.0.leases.is_none() && self.take_up(edge).await;
        self.0.tasks.spawn("background sweeper", sweep(edge.clone(), all_seen));
    }

    /// Nothing is begun any more.
    pub(crate) fn close(&self) {
        self.0.closing.cancel();
    }

    /// Waits until no job is left that has not ended.
    pub(crate) async fn settled(&self) {
        loop {
            let job = self.jobs().values().find(|job| job.settled_at().is_none()).cloned();
            match job {
                Some(job) => job.settled().await,
                None => return,
            }
        }
    }

    /// The response of `key`'s, as far as it is not a stored one.
    pub(super) async fn find(edge: &Edge, id: &ResponseId, key: &KeyId) -> Result<Option<Found>, ApiError> {
        let this = &edge.background;
        if let Some(job) = this.job(id, key).filter(|job| job.settled_at().is_none()) {
            return Ok(Some(Found::Job(job)));
        }
        this.found(edge, id, key).await
    }

    /// The same, of one that is no job here.
    async fn found(&self, edge: &Edge, id: &ResponseId, key: &KeyId) -> Result<Option<Found>, ApiError> {
        if let Some(record) = edge.bridge.stored_response(id, key).await? {
            return Ok(Some(Found::Record(Box::new(record))));
        }
        if let Some(kept) = self.document(id, key).await? {
            return Ok(Some(Found::Document(Box::new(kept))));
        }
        // It may have gone from there to here meanwhile.
        let record = edge.bridge.stored_response(id, key).await?;
        Ok(record.map(Box::new).map(Found::Record))
    }

    /// Its events from `from` on, while they are kept.
    pub(super) async fn stream(
        edge: &Edge,
        id: &ResponseId,
        key: &KeyId,
        from: usize,
    ) -> Result<Option<Response>, ApiError> {
        let this = &edge.background;
        let Some(job) = this.job(id, key).filter(|job| job.streamed && !job.log.is_dropped()) else {
            return Ok(None);
        };
        // Another bridge may have deleted it.
        if this.is_shared() && job.settled_at().is_some() && this.found(edge, id, key).await?.is_none() {
            this.forget(id);
            return Ok(None);
        }
        Ok(Some(event_stream(job.log.read(from, edge.stream.keep_alive))))
    }

    /// Whether a response of `key`'s is still made.
    pub(super) fn is_running(&self, id: &ResponseId, key: &KeyId) -> bool {
        self.job(id, key).is_some_and(|job| job.settled_at().is_none() && !job.is_over())
    }

    /// Whether other bridges have the same documents.
    fn is_shared(&self) -> bool {
        self.0.leases.is_some()
    }

    /// The same, on whichever bridge.
    pub(super) async fn is_open(&self, id: &ResponseId, key: &KeyId) -> Result<bool, ApiError> {
        if self.is_running(id, key) {
            return Ok(true);
        }
        Ok(self.document(id, key).await?.is_some_and(|kept| !kept.is_over()))
    }

    /// Cancels a job. Gives the response object.
    pub(super) async fn cancel(&self, job: &Job) -> Value {
        job.cancel.cancel();
        let _ = tokio::time::timeout(CANCEL_TIMEOUT, job.settled()).await;
        job.object()
    }

    /// The same of a response that is no job here. Gives where it is then; `None` if it is nowhere.
    pub(super) async fn cancel_elsewhere(
        edge: &Edge,
        id: &ResponseId,
        key: &KeyId,
        mut kept: Kept,
    ) -> Result<Option<Found>, ApiError> {
        let this = &edge.background;
        if kept.is_over() {
            return Ok(Some(Found::Document(Box::new(kept))));
        }
        let cancelled = if let Some(leases) = &this.0.leases {
            leases.cancel_elsewhere(id.as_str(), Kept::is_over).await?
        } else {
            // Nobody has it, or it was taken up just now.
            kept.cancelled();
            let is_there = this.0.documents.replace(KIND, &this.written(id, key, &kept)).await?;
            if let Some(job) = this.job(id, key) {
                this.cancel(&job).await;
                return Ok(Some(Found::Job(job)));
            }
            is_there.then_some(kept)
        };
        match cancelled {
            Some(kept) => Ok(Some(Found::Document(Box::new(kept)))),
            // It has ended well meanwhile, or was deleted.
            None => this.found(edge, id, key).await,
        }
    }

    /// Deletes what is not in the response store. Gives whether there was something.
    pub(super) async fn remove(edge: &Edge, id: &ResponseId, key: &KeyId) -> Result<bool, ApiError> {
        let this = &edge.background;
        let job = this.job(id, key);
        if let Some(job) = &job {
            this.cancel(job).await;
        }
        let mut removed = false;
        if let Some(kept) = this.document(id, key).await? {
            if job.is_none() {
                Self::cancel_elsewhere(edge, id, key, kept).await?;
            }
            removed = this.delete(id).await?;
        }
        if job.is_some() {
            this.forget(id);
        }
        Ok(removed)
    }

    /// What the model is given for a response that is not stored.
    pub(super) async fn input(
        edge: &Edge,
        key: &KeyId,
        id: &ResponseId,
    ) -> Result<Option<Vec<Item>>, ApiError> {
        let Some(kept) = edge.background.document(id, key).await? else { return Ok(None) };
        let mut items = Vec::new();
        if let Some(conversation) = kept.conversation() {
            items
                .extend(edge.conversations.items(conversation, key).await?.into_iter().map(|(_, item)| item));
        }
        if let Some(previous) = kept.previous()
            && let Some(chain) = edge.bridge.stored_chain(&previous, key).await?
        {
            items.extend(chain.before.iter().flatten().cloned());
            items.extend(chain.record.input);
            items.extend(chain.record.output);
        }
        items.extend(kept.input());
        Ok(Some(items))
    }

    /// Lets go of logs that ended too long ago.
    fn let_go(&self, now: Instant) {
        let is_due =
            |job: &&Arc<Job>| job.settled_at().is_some_and(|at| now.duration_since(at) >= self.0.config.keep);
        let due: Vec<ResponseId> = self.jobs().values().filter(is_due).map(|job| job.id.clone()).collect();
        for id in due {
            self.forget(&id);
        }
    }

    /// Says that this bridge is there, and looks for what the others want of it.
    async fn renew(&self, leases: &Leases<Kept>) {
        let open: Vec<_> = self.jobs().values().filter(|job| job.is_held()).cloned().collect();
        for job in open {
            match leases.renew(job.id.as_str()).await {
                Ok(Held::Ours) => {}
                Ok(Held::Cancelled) => job.cancel.cancel(),
                Ok(Held::Lost) => job.lost.cancel(),
                Err(error) => warn!(response_id = %job.id, %error, "a lease could not be renewed"),
            }
        }
    }

    fn job(&self, id: &ResponseId, key: &KeyId) -> Option<Arc<Job>> {
        self.jobs().get(id).filter(|job| job.key == *key).cloned()
    }

    fn jobs(&self) -> MutexGuard<'_, HashMap<ResponseId, Arc<Job>>> {
        self.0.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn config(&self) -> &BackgroundConfig {
        &self.0.config
    }

    fn closing(&self) -> &CancellationToken {
        &self.0.closing
    }

    async fn document(&self, id: &ResponseId, key: &KeyId) -> Result<Option<Kept>, StoreError> {
        let document = self.0.documents.get(KIND, id.as_str()).await?;
        document.map_or(Ok(None), |document| of_key(&document, key))
    }

    /// Keeps a new response, as one of this bridge's.
    async fn keep(&self, job: &Job, kept: &Kept) -> Result<(), StoreError> {
        let lease: Vec<_> = self.0.leases.iter().map(Leases::first).collect();
        self.0.documents.put_with(KIND, &self.written(&job.id, &job.key, kept), &lease).await
    }

    /// Keeps what has come of it. Gives whether it is there and this bridge's: if not, nothing is kept.
    async fn save(&self, job: &Job, kept: &Kept) -> Result<bool, StoreError> {
        let document = self.written(&job.id, &job.key, kept);
        match &self.0.leases {
            Some(leases) => leases.replace(&document).await,
            None => self.0.documents.replace(KIND, &document).await,
        }
    }

    fn written(&self, id: &ResponseId, key: &KeyId, kept: &Kept) -> Document {
        Document {
            id: id.as_str().to_owned(),
            owner: key.clone(),
            expires_at: SystemTime::now().checked_add(self.0.ttl),
            body: kept.written(),
        }
    }

    async fn delete(&self, id: &ResponseId) -> Result<bool, StoreError> {
        self.0.documents.delete(KIND, id.as_str()).await
    }

    /// Takes a job in, within the bounds.
    fn admit(&self, job: &Arc<Job>) -> Result<(), ApiError> {
        let mut jobs = self.jobs();
        let open = jobs.values().filter(|job| job.settled_at().is_none());
        let (count, bytes) = open.fold((0, 0), |(count, bytes), job| (count + 1, bytes + job.weight));
        let config = &self.0.config;
        if count >= config.max_jobs || bytes + job.weight > config.request_bytes {
            let message = "Too many background responses have not ended (`background.max_jobs`, \
                           `background.request_bytes`). Try again later.";
            return Err(ApiError::new("rate_limit_exceeded", message));
        }
        jobs.insert(job.id.clone(), Arc::clone(job));
        Ok(())
    }

    fn forget(&self, id: &ResponseId) {
        let job = self.jobs().remove(id);
        if let Some(job) = job {
            self.0.logged.fetch_sub(job.log.clear(), Ordering::Relaxed);
        }
    }

    /// A job has ended: it is kept for its events alone.
    fn settle(&self, job: &Job) {
        if !job.streamed {
            self.forget(&job.id);
        }
    }

    /// Adds events to a job's log, within the bound of all of them.
    fn log(&self, job: &Job, frames: bytes::Bytes) {
        if !job.streamed {
            return;
        }
        let added = job.log.push(frames);
        if self.0.logged.fetch_add(added, Ordering::Relaxed) + added > self.0.config.log_bytes {
            self.make_room(job);
        }
    }

    /// Lets go of the logs that ended first; at last of the one that wants the room.
    fn make_room(&self, wants: &Job) {
        let over = || self.0.logged.load(Ordering::Relaxed) > self.0.config.log_bytes;
        let mut ended: Vec<_> =
            self.jobs().values().filter_map(|job| Some((job.settled_at()?, job.id.clone()))).collect();
        ended.sort();
        for (_, id) in ended {
            if !over() {
                return;
            }
            self.forget(&id);
        }
        if over() {
            warn!(response_id = %wants.id, "a background response's events are no longer kept (`background.log_bytes`)");
            self.0.logged.fetch_sub(wants.log.clear(), Ordering::Relaxed);
        }
    }

    /// Runs every response that no bridge has, or says why not. Gives whether it could look at all of them.
    async fn take_up(&self, edge: &Edge) -> bool {
        let mut all_seen = true;
        let mut after: Option<String> = None;
        loop {
            let listed = match self.0.documents.all(KIND, after.as_deref(), PAGE).await {
                Ok(listed) => listed,
                Err(error) => {
                    error!(%error, "unfinished background responses cannot be looked for");
                    return false;
                }
            };
            after = listed.found.last().map(|document| document.id.clone());
            for document in listed.found {
                if let Err(error) = self.take_up_one(edge, document).await {
                    all_seen &= matches!(error, StoreError::Unreadable { .. });
                    error!(%error, "an unfinished background response could not be taken up");
                }
            }
            if !listed.has_more {
                return all_seen;
            }
        }
    }

    async fn take_up_one(&self, edge: &Edge, listed: Document) -> Result<(), StoreError> {
        let id = ResponseId::new(listed.id.as_str());
        if Kept::of(&listed)?.is_over() || self.jobs().contains_key(&id) {
            return Ok(());
        }
        let mut is_cancelled = false;
        if let Some(leases) = &self.0.leases {
            match leases.take(id.as_str()).await? {
                Held::Ours => {}
                Held::Cancelled => is_cancelled = true,
                Held::Lost => return Ok(()),
            }
        }
        // As it is by now, and as the bridge that had it has left it.
        let Some(document) = self.0.documents.get(KIND, id.as_str()).await? else { return Ok(()) };
        let mut kept = Kept::of(&document)?;
        if kept.is_over() {
            return match &self.0.leases {
                Some(leases) => leases.leave(id.as_str()).await,
                None => Ok(()),
            };
        }
        let key = document.owner;
        match edge.bridge.stored_response(&id, &key).await {
            Ok(None) => {}
            // It was finished, and the end of its bridge came before the document's.
            Ok(Some(record)) => {
                if let Err(error) = conclude(edge, &key, &kept, &record).await {
                    error!(response_id = %id, error = error.message, "an answer could not be added to its conversation");
                }
                return self.delete(&id).await.map(drop);
            }
            // Whether it was, the next look will show.
            Err(error) => return Err(StoreError::Unavailable { reason: error.to_string() }),
        }
        let owner = edge.keys.of_id(&key);
        let job = Job::new(id.clone(), key, &kept);
        if is_cancelled {
            kept.cancelled();
            return self.save(&job, &kept).await.map(drop);
        }
        let refused = if owner.is_none() {
            Some(ApiError::new("invalid_api_key", "The key of this response is no longer there."))
        } else if kept.emitted || kept.attempts >= MAX_ATTEMPTS {
            let message =
                "The bridge ended while this response was made, and what was told of it cannot be repeated.";
            Some(ApiError::new("bridge_restarted", message))
        } else {
            None
        };
        if let Some(error) = refused {
            info!(response_id = %id, code = error.code, "an unfinished background response has failed");
            kept.failed(&error);
            return self.save(&job, &kept).await.map(drop);
        }
        info!(response_id = %id, "an unfinished background response is run again");
        kept.queued();
        let manner = kept.manner();
        let call = Call::in_background(manner.request_id.clone(), &manner.headers(), owner);
        job.set_kept();
        self.jobs().insert(id, Arc::clone(&job));
        let runner = Runner { edge: edge.clone(), job, kept, call };
        self.0.tasks.spawn("background response", runner.resume());
        Ok(())
    }
}

/// Takes a response into the background, and answers with the queued one or with its events.
pub(super) async fn create(
    edge: &Edge,
    call: &Call,
    asked: Option<Priority>,
    max_wait: Option<Duration>,
    head: &HeaderMap,
    body: Map<String, Value>,
) -> Result<Response, ApiError> {
    if edge.background.closing().is_cancelled() {
        return Err(BridgeError::Draining.into());
    }
    let manner = Manner {
        head: identity::kept(head),
        request_id: call.request_id.clone(),
        // Nobody waits, unless the caller says so.
        priority: asked.unwrap_or(Priority::Batch),
        max_wait,
    };
    // What the key is charged is settled when the response has ended, not when this request has.
    let own = Call::in_background(manner.request_id.clone(), head, call.owner());
    let Taken { job, ignored, kept } =
        take_in(edge, &own, manner, body).await.inspect_err(|_| own.settle())?;
    call.note_ignored(&ignored);
    kept.await.map_err(|_| BridgeError::Interrupted)??;
    let mut response = if job.streamed {
        event_stream(job.log.read(0, edge.stream.keep_alive))
    } else {
        Json(job.object()).into_response()
    };
    ignored.report(&mut response);
    Ok(response)
}

/// A response on its way.
struct Taken {
    job: Arc<Job>,
    ignored: Ignored,
    /// Whether it is kept.
    kept: oneshot::Receiver<Result<(), ApiError>>,
}

/// Reads and checks the request, and begins its job: from there on it does not hang on its caller.
async fn take_in(
    edge: &Edge,
    call: &Call,
    manner: Manner,
    body: Map<String, Value>,
) -> Result<Taken, ApiError> {
    let id = ResponseId::generate();
    let mut kept = Kept::new(body.clone(), &manner, unix_seconds(SystemTime::now()));
    let prepared = prepared(edge, call, &id, &kept, true).await?;
    kept.streamed = prepared.stream;
    kept.set_input(&prepared.request.input);
    let job = Job::new(id, call.key(), &kept);
    edge.background.admit(&job)?;
    let (told, is_kept) = oneshot::channel();
    let ignored = prepared.ignored.clone();
    let runner = Runner { edge: edge.clone(), job: Arc::clone(&job), kept, call: call.clone() };
    edge.background.0.tasks.spawn("background response", runner.begin(prepared, told));
    Ok(Taken { job, ignored, kept: is_kept })
}

/// The request as it is kept, read and checked.
async fn prepared(
    edge: &Edge,
    call: &Call,
    id: &ResponseId,
    kept: &Kept,
    pays: bool,
) -> Result<Prepared, ApiError> {
    let manner = kept.manner();
    let access = Access::of(call.clone(), Some(manner.priority));
    let (max_wait, created_at) = (manner.max_wait, kept.created_at);
    let transport = Transport::Http;
    let asker = Asker { call, access: &access, max_wait, pays, transport, created_at };
    let mut prepared = prepare(edge, asker, id.clone(), kept.request.clone()).await?;
    let bridge = edge.bridge.asked_by(call.key());
    prepared.head.model = bridge.resolve_model(prepared.request.model.as_deref()).await?.id;
    Ok(prepared)
}

/// Adds a finished response to its conversation, unless that was done.
async fn conclude(edge: &Edge, key: &KeyId, kept: &Kept, record: &StoredResponse) -> Result<(), ApiError> {
    let decoded = decode(kept.request.clone(), edge.requests)?;
    let Some(conversation) = decoded.conversation else { return Ok(()) };
    let mut joined = Joined::unread(&edge.conversations, conversation, key.clone());
    let mut input = decoded.input.finish(&edge.media).await?;
    edge.compactions.open(key, "input", &mut input)?;
    joined.name(input, &record.id);
    let form = Form { id: record.id.as_str(), encrypted_reasoning: decoded.echo.encrypted_reasoning };
    joined.keep_once(&record.id, with_ids(&record.output, form)).await
}

fn event_stream(body: Body) -> Response {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

/// Looks after the jobs, and after what no bridge has, until it is stopped. Neither waits for the other: a lease is
/// renewed in time, however long it takes to look.
async fn sweep(edge: Edge, all_seen: bool) {
    let stop = edge.background.0.tasks.stop_token().clone();
    tokio::select! {
        () = stop.cancelled() => {}
        _ = async { tokio::join!(look_after_jobs(&edge), look_for_others(&edge, all_seen)) } => {}
    }
}

/// Lets go of logs whose time is up, and renews the leases of what runs here.
async fn look_after_jobs(edge: &Edge) {
    let background = &edge.background;
    let leases = background.0.leases.as_ref();
    let mut ticks = tokio::time::interval(leases.map_or(SWEEP, |leases| SWEEP.min(leases.renewal())));
    loop {
        ticks.tick().await;
        background.let_go(Instant::now());
        if let Some(leases) = leases {
            background.renew(leases).await;
        }
    }
}

/// Takes up what other bridges have left; alone, what an earlier process has, until `all_seen`.
async fn look_for_others(edge: &Edge, mut all_seen: bool) {
    let background = &edge.background;
    let mut ticks = tokio::time::interval(background.0.config.lease);
    while background.is_shared() || !all_seen {
        ticks.tick().await;
        if background.closing().is_cancelled() {
            return;
        }
        all_seen = background.take_up(edge).await;
    }
}

#[cfg(test)]
mod tests;
