//! One background response from its place in the queue to its end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::StatusCode;
use serde_json::{Value, json};
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info};

use super::Background;
use super::document::{self, Kept};
use super::log::{Log, Over};
use crate::api::answer::{self, Answer};
use crate::api::conversations::{Joined, not_kept};
use crate::api::edge::Edge;
use crate::api::error::ApiError;
use crate::api::observe::{Call, CallLine};
use crate::api::responses::Prepared;
use crate::api::responses::events::Events;
use crate::api::responses::output::with_ids;
use crate::api::responses::wire::Progress;
use crate::api::sse::{Encode, Frames, Steps};
use crate::bridge::{BridgeError, TurnStep};
use crate::model::{KeyId, Outcome, ResponseId, TurnEvent};
use crate::store::StoreError;

/// How often an answer is tried to be added to its conversation.
const ADDS: usize = 5;
/// Shortest and longest pause between two tries for a slot.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// A response that is not in the response store yet, as everybody sees it.
#[derive(Debug)]
pub(crate) struct Job {
    pub(super) id: ResponseId,
    pub(super) key: KeyId,
    /// Whether its events are kept.
    pub(super) streamed: bool,
    /// Of its request, bytes.
    pub(super) weight: usize,
    pub(super) log: Log,
    /// Cancelled by its caller.
    pub(super) cancel: CancellationToken,
    /// Another bridge has it, or it was deleted.
    pub(super) lost: CancellationToken,
    /// Whether there is a document of it, to be held.
    kept: AtomicBool,
    now: watch::Sender<Now>,
}

#[derive(Debug)]
struct Now {
    object: Value,
    /// Since when it is where it will be found once this job is forgotten.
    settled: Option<Instant>,
}

impl Job {
    pub(super) fn new(id: ResponseId, key: KeyId, kept: &Kept) -> Arc<Self> {
        Arc::new(Self {
            id,
            key,
            streamed: kept.streamed,
            weight: kept.written().len(),
            log: Log::default(),
            cancel: CancellationToken::new(),
            lost: CancellationToken::new(),
            kept: AtomicBool::new(false),
            now: watch::Sender::new(Now { object: kept.object.clone(), settled: None }),
        })
    }

    /// The response object as it is now.
    pub(crate) fn object(&self) -> Value {
        self.now.borrow().object.clone()
    }

    pub(crate) fn is_streamed(&self) -> bool {
        self.streamed
    }

    pub(super) fn settled_at(&self) -> Option<Instant> {
        self.now.borrow().settled
    }

    /// Whether it has ended, kept or not.
    pub(super) fn is_over(&self) -> bool {
        document::is_over(&self.now.borrow().object)
    }

    /// Whether it is to be held: it was kept, and has not ended.
    pub(super) fn is_held(&self) -> bool {
        self.kept.load(Ordering::Relaxed) && self.settled_at().is_none()
    }

    pub(super) fn set_kept(&self) {
        self.kept.store(true, Ordering::Relaxed);
    }

    /// Waits until it has ended and is kept.
    pub(super) async fn settled(&self) {
        let _ = self.now.subscribe().wait_for(|now| now.settled.is_some()).await;
    }

    fn show(&self, object: Value) {
        self.now.send_modify(|now| now.object = object);
    }

    pub(super) fn settle(&self) {
        self.now.send_modify(|now| now.settled = Some(Instant::now()));
    }
}

/// Runs a job.
pub(super) struct Runner {
    pub(super) edge: Edge,
    pub(super) job: Arc<Job>,
    pub(super) kept: Kept,
    pub(super) call: Call,
}

/// How a run has ended.
enum End {
    Done(Box<Outcome>),
    Failed(ApiError),
    Cancelled,
    /// The bridge stops, and nobody has seen any of the answer.
    Interrupted,
    /// Another bridge has taken it over, or it was deleted.
    Lost,
}

/// Writes a job's events.
struct Teller {
    events: Events,
    frames: Frames,
    job: Arc<Job>,
    background: Background,
}

impl Runner {
    /// Keeps the new response, tells `kept` whether that worked, and runs it.
    pub(super) async fn begin(mut self, mut prepared: Prepared, kept: oneshot::Sender<Result<(), ApiError>>) {
        let mut teller = self.teller(&prepared);
        teller.queued();
        self.kept.object = self.job.object();
        if let Err(error) = self.edge.background.keep(&self.job, &self.kept).await {
            self.call.settle();
            self.job.log.end(Over::Interrupted);
            self.job.settle();
            self.edge.background.forget(&self.job.id);
            let _ = kept.send(Err(error.into()));
            // It may be there all the same: nobody knows of it, and nobody is to run it.
            if let Err(error) = self.edge.background.delete(&self.job.id).await {
                debug!(response_id = %self.job.id, %error, "what was refused may be kept");
            }
            return;
        }
        if let Err(error) = self.hold(&mut prepared).await {
            self.call.settle();
            self.job.log.end(Over::Interrupted);
            self.job.settle();
            self.edge.background.forget(&self.job.id);
            if let Err(error) = self.edge.background.delete(&self.job.id).await {
                error!(response_id = %self.job.id, %error, "a refused background response is still kept");
            }
            let _ = kept.send(Err(error));
            return;
        }
        self.job.set_kept();
        // Whoever has asked may have left: that changes nothing.
        let _ = kept.send(Ok(()));
        let line = CallLine::new(self.call.clone());
        self.go(prepared, teller, line).await;
    }

    /// Runs one that an earlier process, or another bridge, has kept.
    pub(super) async fn resume(self) {
        let line = CallLine::new(self.call.clone());
        let (job, closing) = (Arc::clone(&self.job), self.edge.background.closing().clone());
        let prepared = tokio::select! {
            biased;
            () = job.cancel.cancelled() => Err(End::Cancelled),
            () = job.lost.cancelled() => Err(End::Lost),
            () = closing.cancelled() => Err(End::Interrupted),
            prepared = self.prepared() => prepared.map_err(End::Failed),
        };
        match prepared {
            Ok(prepared) => {
                let mut teller = self.teller(&prepared);
                teller.queued();
                self.go(prepared, teller, line).await;
            }
            Err(end) => self.end(end, None, None, line).await,
        }
    }

    /// Takes its conversation, if it has one: from here on nobody else goes on with it, and what was said there is
    /// what the model is given.
    async fn hold(&self, prepared: &mut Prepared) -> Result<(), ApiError> {
        let Some(joined) = &mut prepared.joined else { return Ok(()) };
        prepared.request.input = joined.hold(&self.job.id).await?;
        Ok(())
    }

    /// Tries for as long as it would wait in the queue: the app-server may only be starting.
    async fn prepared(&self) -> Result<Prepared, ApiError> {
        let until = Instant::now() + self.edge.background.config().queue_timeout;
        loop {
            let prepared = super::prepared(&self.edge, &self.call, &self.job.id, &self.kept, false).await;
            match prepared {
                Ok(mut prepared) => {
                    self.hold(&mut prepared).await?;
                    return Ok(prepared);
                }
                Err(error) if error.status == StatusCode::SERVICE_UNAVAILABLE && Instant::now() < until => {
                    tokio::time::sleep(PAUSES.1.min(error.retry_after.unwrap_or(PAUSES.1))).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn go(mut self, prepared: Prepared, mut teller: Teller, line: CallLine) {
        let job = Arc::clone(&self.job);
        let end = tokio::select! {
            biased;
            () = job.cancel.cancelled() => End::Cancelled,
            () = job.lost.cancelled() => End::Lost,
            end = self.drive(&prepared, &mut teller) => end,
        };
        self.end(end, Some(teller), prepared.joined, line).await;
    }

    /// From the queue to the last event but the terminal one.
    async fn drive(&mut self, prepared: &Prepared, teller: &mut Teller) -> End {
        let (mut answer, model) = match self.started(prepared).await {
            Ok(started) => started,
            Err(end) => return end,
        };
        self.kept.attempts += 1;
        teller.in_progress(model);
        self.kept.object = self.job.object();
        if let Err(end) = self.save_or_end().await {
            return end;
        }
        loop {
            match answer.next().await {
                TurnStep::Event(TurnEvent::Started { .. }) => {}
                TurnStep::Event(event) => {
                    // Before anybody can see it: what was seen is never said differently.
                    if self.job.streamed && !self.kept.emitted {
                        self.kept.emitted = true;
                        if let Err(end) = self.save_or_end().await {
                            return end;
                        }
                    }
                    teller.event(event);
                }
                TurnStep::Finished(Ok(outcome)) => return self.finished(prepared, outcome).await,
                TurnStep::Finished(Err(error)) => return self.broken(error),
            }
        }
    }

    /// The answer is its conversation's before its end is told.
    async fn finished(&self, prepared: &Prepared, outcome: Outcome) -> End {
        let Some(joined) = &prepared.joined else { return End::Done(Box::new(outcome)) };
        let said = || with_ids(&outcome.output, prepared.head.form());
        let mut tries = ADDS;
        loop {
            let Err(error) = joined.keep_once(&self.job.id, said()).await else {
                return End::Done(Box::new(outcome));
            };
            tries -= 1;
            if tries == 0 || self.edge.background.closing().is_cancelled() {
                let id = &self.job.id;
                if let Err(error) = self.edge.bridge.delete_response(id, &self.job.key).await {
                    error!(response_id = %id, %error, "a failed answer is still kept");
                }
                return End::Failed(not_kept(&error).into());
            }
            tokio::time::sleep(PAUSES.0).await;
        }
    }

    /// Waits for a slot, past what others may wait for one.
    async fn started(&self, prepared: &Prepared) -> Result<(Answer, String), End> {
        let closing = self.edge.background.closing();
        let until = Instant::now() + self.edge.background.config().queue_timeout;
        loop {
            let (request, rule) = (prepared.request.clone(), prepared.rule.clone());
            let pause = match answer::start(&self.edge.bridge, request, rule).await {
                Ok(started) => return Ok(started),
                Err(BridgeError::Busy { retry_after } | BridgeError::BreakerOpen { retry_after })
                    if Instant::now() < until =>
                {
                    retry_after
                }
                Err(BridgeError::Unavailable { .. }) if Instant::now() < until => PAUSES.1,
                Err(error) => return Err(self.broken(error)),
            };
            tokio::select! {
                () = closing.cancelled() => return Err(End::Interrupted),
                () = tokio::time::sleep(pause.clamp(PAUSES.0, PAUSES.1)) => {}
            }
        }
    }

    /// What a failure comes to: one on the way down leaves what nobody has seen to the next process.
    fn broken(&self, error: BridgeError) -> End {
        let is_down = self.edge.background.closing().is_cancelled()
            && matches!(
                error,
                BridgeError::Draining
                    | BridgeError::Interrupted
                    | BridgeError::Unavailable { .. }
                    | BridgeError::ConnectionLost { .. }
            );
        if is_down && !self.kept.emitted { End::Interrupted } else { End::Failed(error.into()) }
    }

    /// Tells the end and keeps it. `teller` is `None` where nothing was told yet.
    async fn end(mut self, end: End, mut teller: Option<Teller>, joined: Option<Joined>, line: CallLine) {
        let job = Arc::clone(&self.job);
        let mut over = Over::Ended;
        let mut status = StatusCode::OK;
        let mut stored = false;
        match end {
            End::Done(outcome) => {
                if let Some(teller) = &mut teller {
                    teller.done(*outcome);
                }
                // An answer that could not be stored is kept here.
                stored = matches!(self.edge.bridge.stored_response(&job.id, &job.key).await, Ok(Some(_)));
                self.kept.object = job.object();
            }
            End::Failed(failure) => {
                status = failure.status;
                if let Some(teller) = &mut teller {
                    teller.failed(&failure);
                    self.kept.object = job.object();
                } else {
                    self.call.note_error(&failure);
                    self.tell_failure(&failure);
                }
            }
            End::Cancelled => {
                match &mut teller {
                    Some(teller) => self.kept.object = teller.events.object(Progress::Cancelled),
                    None => self.kept.cancelled(),
                }
                // The answer may have been finished just then.
                if let Err(error) = self.edge.bridge.delete_response(&job.id, &job.key).await {
                    error!(response_id = %job.id, %error, "a cancelled answer is still kept");
                }
            }
            End::Interrupted => {
                over = Over::Interrupted;
                self.kept.queued();
            }
            End::Lost => {
                job.log.end(Over::Interrupted);
                info!(response_id = %job.id, "another bridge has taken over, or it was deleted");
                job.settle();
                self.edge.background.forget(&job.id);
                return;
            }
        }
        // One that is run again still has its conversation.
        if over != Over::Interrupted
            && let Some(joined) = &joined
            && let Err(error) = joined.give_back(&job.id).await
        {
            // The next one finds that this one has ended.
            info!(response_id = %job.id, error = error.message, "a conversation was not given back");
        }
        job.show(self.kept.object.clone());
        job.log.end(over);
        self.keep_end(stored).await;
        job.settle();
        self.edge.background.settle(&job);
        line.end(status);
    }

    /// The failure of a response of which nothing was told here: its beginning and its end.
    fn tell_failure(&mut self, failure: &ApiError) {
        let mut frames = Frames::default();
        let mut tell = |number: u64, kind: &str, response: &Value| {
            let event = json!({ "type": kind, "sequence_number": number, "response": response });
            frames.event(Some(kind), &event);
        };
        self.kept.queued();
        tell(0, "response.created", &self.kept.object);
        self.kept.failed(failure);
        tell(1, "response.failed", &self.kept.object);
        self.edge.background.log(&self.job, frames.take());
    }

    /// Writes the end down, or lets go of the document where the response store has it. Until that is done the job
    /// is one of this bridge's, and nobody runs it again.
    async fn keep_end(&self, stored: bool) {
        let (background, id) = (&self.edge.background, &self.job.id);
        let mut tries = 0;
        loop {
            let written = if stored { background.delete(id).await } else { self.save().await };
            tries += 1;
            match written {
                // Deleted through another bridge, while it was finished here.
                Ok(false) if stored && tries == 1 && background.is_shared() => {
                    if let Err(error) = self.edge.bridge.delete_response(id, &self.job.key).await {
                        error!(response_id = %id, %error, "a deleted answer is still kept");
                    }
                    return;
                }
                Ok(_) => return,
                Err(error) if tries == 1 => {
                    error!(response_id = %id, %error, "the end of a background response could not be written yet");
                }
                Err(error) => debug!(response_id = %id, %error, "nor now"),
            }
            tokio::select! {
                () = background.closing().cancelled() => return,
                () = tokio::time::sleep(PAUSES.1) => {}
            }
        }
    }

    /// Gives whether it is still this bridge's.
    async fn save(&self) -> Result<bool, StoreError> {
        self.edge.background.save(&self.job, &self.kept).await
    }

    async fn save_or_end(&self) -> Result<(), End> {
        match self.save().await {
            Ok(true) => Ok(()),
            Ok(false) => Err(End::Lost),
            Err(error) => Err(End::Failed(error.into())),
        }
    }

    fn teller(&self, prepared: &Prepared) -> Teller {
        Teller {
            events: Events::new(prepared.head.clone(), self.call.clone()),
            frames: Frames::default(),
            job: Arc::clone(&self.job),
            background: self.edge.background.clone(),
        }
    }
}

impl Teller {
    fn queued(&mut self) {
        self.events.queued(&mut self.frames);
        self.job.show(self.events.object(Progress::Queued));
        self.log();
    }

    fn in_progress(&mut self, model: String) {
        self.events.in_progress(model, &mut self.frames);
        self.job.show(self.events.object(Progress::Running));
        self.log();
    }

    fn event(&mut self, event: TurnEvent) {
        self.events.event(0, event, &mut self.frames);
        self.log();
    }

    fn done(&mut self, outcome: Outcome) {
        self.events.finish(0, Ok(outcome), &mut self.frames);
        self.ended();
    }

    fn failed(&mut self, error: &ApiError) {
        self.events.fail(error, &mut self.frames);
        self.ended();
    }

    /// The object of the terminal event is the response's last.
    fn ended(&mut self) {
        let frames = self.frames.take();
        if let Some(object) = response_in(&frames) {
            self.job.show(object);
        }
        self.background.log(&self.job, frames);
    }

    fn log(&mut self) {
        self.background.log(&self.job, self.frames.take());
    }
}

/// The response object of the last event.
fn response_in(frames: &[u8]) -> Option<Value> {
    let text = std::str::from_utf8(frames).ok()?;
    let data = text.trim_end().rsplit("\ndata: ").next()?;
    let mut event: Value = serde_json::from_str(data).ok()?;
    event.get_mut("response").map(Value::take)
}
