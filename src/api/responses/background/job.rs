//! One background response from its place in the queue to its end.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use serde_json::Value;
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use super::Background;
use super::document::Kept;
use super::log::{Log, Over};
use crate::api::answer::{self, Answer};
use crate::api::edge::Edge;
use crate::api::error::ApiError;
use crate::api::observe::{BackgroundLine, Call};
use crate::api::responses::Prepared;
use crate::api::responses::events::Events;
use crate::api::responses::wire::Progress;
use crate::api::sse::{Encode, Frames, Steps};
use crate::bridge::{BridgeError, TurnStep};
use crate::model::{KeyId, Outcome, ResponseId, TurnEvent};
use crate::store::StoreError;

/// Shortest and longest pause between two tries for a slot.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// How often an end is tried to be written.
const WRITES: usize = 5;

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
    /// Another bridge has it.
    pub(super) lost: CancellationToken,
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
    /// Another bridge has taken it over.
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
    pub(super) async fn begin(mut self, prepared: Prepared, kept: oneshot::Sender<Result<(), ApiError>>) {
        let mut teller = self.teller(&prepared);
        teller.queued();
        self.kept.object = self.job.object();
        if let Err(error) = self.edge.background.keep(&self.job, &self.kept).await {
            self.call.settle();
            self.job.log.end(Over::Interrupted);
            self.edge.background.forget(&self.job.id);
            let _ = kept.send(Err(error.into()));
            return;
        }
        // Whoever has asked may have left: that changes nothing.
        let _ = kept.send(Ok(()));
        let line = BackgroundLine::new(self.call.clone());
        self.go(prepared, teller, line).await;
    }

    /// Runs one that an earlier process, or another bridge, has kept.
    pub(super) async fn resume(self) {
        let line = BackgroundLine::new(self.call.clone());
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
            Err(end) => self.end(end, None, line).await,
        }
    }

    /// Tries for as long as it would wait in the queue: the app-server may only be starting.
    async fn prepared(&self) -> Result<Prepared, ApiError> {
        let until = Instant::now() + self.edge.background.config().queue_timeout;
        loop {
            let prepared = super::prepared(&self.edge, &self.call, &self.job.id, &self.kept, false).await;
            match prepared {
                Ok(prepared) => return Ok(prepared),
                Err(error) if error.status == StatusCode::SERVICE_UNAVAILABLE && Instant::now() < until => {
                    tokio::time::sleep(PAUSES.1.min(error.retry_after.unwrap_or(PAUSES.1))).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn go(mut self, prepared: Prepared, mut teller: Teller, line: BackgroundLine) {
        let job = Arc::clone(&self.job);
        let end = tokio::select! {
            biased;
            () = job.cancel.cancelled() => End::Cancelled,
            () = job.lost.cancelled() => End::Lost,
            end = self.drive(&prepared, &mut teller) => end,
        };
        self.end(end, Some(teller), line).await;
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
        if let Err(error) = self.save().await {
            return End::Failed(error.into());
        }
        loop {
            match answer.next().await {
                TurnStep::Event(TurnEvent::Started { .. }) => {}
                TurnStep::Event(event) => {
                    // Before anybody can see it: what was seen is never said differently.
                    if self.job.streamed && !self.kept.emitted {
                        self.kept.emitted = true;
                        if let Err(error) = self.save().await {
                            return End::Failed(error.into());
                        }
                    }
                    teller.event(event);
                }
                TurnStep::Finished(Ok(outcome)) => return End::Done(Box::new(outcome)),
                TurnStep::Finished(Err(error)) => return self.broken(error),
            }
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
    async fn end(mut self, end: End, mut teller: Option<Teller>, line: BackgroundLine) {
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
                    self.kept.failed(&failure);
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
                info!(response_id = %job.id, "another bridge has taken over");
                self.edge.background.settle(&job);
                return;
            }
        }
        job.show(self.kept.object.clone());
        job.log.end(over);
        self.keep_end(stored).await;
        job.settle();
        self.edge.background.settle(&job);
        line.end(status);
    }

    /// Writes the end down, or lets go of the document where the response store has it.
    async fn keep_end(&self, stored: bool) {
        for _ in 0..WRITES {
            let written = if stored {
                self.edge.background.delete(&self.job.id).await.map(drop)
            } else {
                self.save().await
            };
            let Err(error) = written else { return };
            error!(response_id = %self.job.id, %error, "the end of a background response could not be written");
            tokio::select! {
                () = self.edge.background.closing().cancelled() => return,
                () = tokio::time::sleep(PAUSES.1) => {}
            }
        }
    }

    async fn save(&self) -> Result<(), StoreError> {
        self.edge.background.save(&self.job, &self.kept).await
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
