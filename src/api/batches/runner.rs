//! One batch from its check to its end.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::Router;
use futures_util::future::{BoxFuture, FutureExt};
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::document::{Batch, LineError, Status};
use super::input::{Lines, check};
use super::jobs::{Batches, Job};
use super::line::{Outcome, Row, Wrong};
use super::results::{Finished, Results};
use super::row::{self, Pause, Verdict};
use crate::api::edge::Edge;
use crate::api::router;
use crate::store::StoreError;

/// Results that are written at once, at most.
const GROUP: usize = 32;
/// How often the counts of a batch that runs are kept.
const SAVE: Duration = Duration::from_secs(1);
/// Between two tries of a store that takes nothing.
const AGAIN: Duration = Duration::from_secs(2);

/// Runs a batch.
pub(super) struct Runner {
    edge: Edge,
    job: Arc<Job>,
    results: Results,
    /// The calls of a model, as a client finds them.
    calls: Router,
    pause: Pause,
    /// Its key is no longer there.
    keyless: CancellationToken,
}

/// How a run has ended.
#[derive(Debug)]
enum End {
    /// Every row has its result.
    Done,
    Cancelled,
    Expired,
    Failed(Vec<LineError>),
    /// The bridge stops: the next process goes on.
    Interrupted,
    /// Another bridge has taken it over.
    Lost,
}

/// What happens next to a batch that runs.
enum Step {
    /// A row has ended, with its result unless the bridge stops.
    Ended(Option<Box<Finished>>),
    /// One more may run.
    May(OwnedSemaphorePermit),
    Closing,
}

/// What is next of the input.
enum Next {
    Row(u64, Row),
    All,
    Closing,
    Failed(LineError),
}

/// Writes results, for as long as somebody sends them. Outlives the run: what was begun to be written is written
/// before the rest is told.
struct Writer {
    job: Arc<Job>,
    batches: Batches,
    results: Results,
    finished: mpsc::Receiver<Finished>,
    /// Nothing more will come, and what cannot be written now is of no use.
    give_up: CancellationToken,
}

impl Runner {
    pub(super) fn new(edge: Edge, job: Arc<Job>) -> Self {
        let results = job.read(|batch| Results::of(&edge.files, &job.key, &job.id, batch));
        let calls = router::calls_of_rows(edge.clone());
        Self { edge, job, results, calls, pause: Pause::default(), keyless: CancellationToken::new() }
    }

    pub(super) async fn run(self) {
        let job = Arc::clone(&self.job);
        let (sender, finished) = mpsc::channel(GROUP);
        let give_up = CancellationToken::new();
        let writer = Writer {
            job: Arc::clone(&job),
            batches: self.batches().clone(),
            results: self.results.clone(),
            finished,
            give_up: give_up.clone(),
        };
        let (told, written) = oneshot::channel();
        self.batches().spawn("batch results", async move {
            writer.run().await;
            let _ = told.send(());
        });
        let left = job.read(Batch::left);
        let end = tokio::select! {
            biased;
            () = job.cancel.cancelled() => End::Cancelled,
            () = job.lost.cancelled() => End::Lost,
            () = tokio::time::sleep(left) => End::Expired,
            end = self.drive(sender) => end,
        };
        // The rows that ran are gone, and with them all senders.
        if !matches!(end, End::Done | End::Interrupted) {
            give_up.cancel();
        }
        let _ = written.await;
        self.end(if job.lost.is_cancelled() { End::Lost } else { end }).await;
        self.batches().forget(&job.id);
    }

    /// Up to the last result. Dropped, it ends the turns of its rows.
    async fn drive(&self, sender: mpsc::Sender<Finished>) -> End {
        let closing = self.batches().closing();
        let done = tokio::select! {
            biased;
            () = closing.cancelled() => return End::Interrupted,
            begun = self.begin() => match begun {
                Ok(done) => done,
                Err(end) => return end,
            },
        };
        self.rows(done, sender).await
    }

    /// Checks a new batch; of one that goes on, finds the rows that have their results.
    async fn begin(&self) -> Result<HashSet<u64>, End> {
        if self.job.read(|batch| batch.status) == Status::Validating {
            let endpoint = self.job.read(|batch| batch.endpoint.clone());
            let checked = check(self.lines(), &endpoint, self.batches().config().max_rows).await;
            let checked = checked.map_err(|error| input_gone(&error))?;
            if !checked.errors.is_empty() {
                return Err(End::Failed(checked.errors));
            }
            let until = SystemTime::now() + self.job.read(Batch::left) + self.edge.files.ttl;
            self.persist(|| self.results.begin(until).boxed()).await;
            self.job.change(|batch| {
                batch.counts.total = checked.rows;
                batch.model = checked.model;
                batch.reach(Status::InProgress);
            });
            self.persist(|| self.batches().save(&self.job).boxed()).await;
            return Ok(HashSet::new());
        }
        let written = loop {
            match self.results.written().await {
                Ok(written) => break written,
                Err(StoreError::Unreadable { reason }) => {
                    let message = format!("The results cannot be read: {reason}.");
                    return Err(End::Failed(vec![LineError::new(
                        Wrong::new("internal_error", message),
                        None,
                    )]));
                }
                Err(error) => {
                    warn!(batch = self.job.id, %error, "the results of a batch cannot be read now");
                    tokio::time::sleep(AGAIN).await;
                }
            }
        };
        self.job.change(|batch| {
            batch.counts = written.counts(batch.counts.total);
            batch.used = written.used;
        });
        info!(batch = self.job.id, results = written.lines.len(), "a batch goes on");
        Ok(written.lines)
    }

    /// Tries until it has worked: only the batch's end can end that.
    async fn persist<'a>(&self, write: impl Fn() -> BoxFuture<'a, Result<(), StoreError>>) {
        while let Err(error) = write().await {
            warn!(batch = self.job.id, %error, "a batch waits for the store");
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// Runs the rows that have no result, several at once. On the way down those that run may still end.
    async fn rows(&self, done: HashSet<u64>, sender: mpsc::Sender<Finished>) -> End {
        let closing = self.batches().closing();
        let mut lines = self.lines();
        let mut running = FuturesUnordered::new();
        let mut all = false;
        let mut failed = None;
        loop {
            let wants_more = !all
                && failed.is_none()
                && running.len() < self.batches().most_running()
                && !closing.is_cancelled()
                && !self.keyless.is_cancelled();
            if !wants_more && running.is_empty() {
                break;
            }
            // A row is read once it may run: a batch that waits holds none.
            let step = tokio::select! {
                Some(finished) = running.next() => Step::Ended(finished),
                permit = self.turn(), if wants_more => Step::May(permit),
                () = closing.cancelled(), if wants_more => Step::Closing,
            };
            match step {
                Step::Ended(None) | Step::Closing => {}
                Step::Ended(Some(finished)) => {
                    if sender.send(*finished).await.is_err() {
                        // The writer gave up on the way down.
                        return End::Interrupted;
                    }
                }
                Step::May(permit) => match self.next_row(&mut lines, &done).await {
                    Next::Row(number, row) => running.push(self.row(number, row, permit)),
                    Next::All => all = true,
                    Next::Closing => {}
                    Next::Failed(error) => failed = Some(vec![error]),
                },
            }
        }
        if self.keyless.is_cancelled() {
            let wrong = Wrong::new("invalid_api_key", "The key of this batch is no longer there.");
            return End::Failed(vec![LineError::new(wrong, None)]);
        }
        match failed {
            Some(errors) => End::Failed(errors),
            None if all && !closing.is_cancelled() => End::Done,
            // Also where the last row was stopped: the next process finds out.
            None => End::Interrupted,
        }
    }

    /// The next row that has no result.
    async fn next_row(&self, lines: &mut Lines, done: &HashSet<u64>) -> Next {
        loop {
            let line = tokio::select! {
                biased;
                () = self.batches().closing().cancelled() => return Next::Closing,
                line = lines.next() => line,
            };
            match line {
                Ok(Some(line)) if done.contains(&line.number) => {}
                Ok(Some(line)) => {
                    return match line.read(self.edge.max_body_bytes) {
                        Ok(row) => Next::Row(line.number, row),
                        Err(wrong) => Next::Failed(LineError::new(wrong, Some(line.number))),
                    };
                }
                Ok(None) => return Next::All,
                Err(error) => return Next::Failed(gone(&error)),
            }
        }
    }

    /// Runs one row to its result; `None` where the bridge stops before there is one.
    async fn row(&self, line: u64, row: Row, permit: OwnedSemaphorePermit) -> Option<Box<Finished>> {
        let task_class = self.job.read(|batch| batch.task_class.clone());
        let closing = self.batches().closing();
        let mut held = Some(permit);
        let mut tried = 0;
        loop {
            let permit = if let Some(permit) = held.take() {
                permit
            } else {
                tokio::select! {
                    biased;
                    () = closing.cancelled() => return None,
                    permit = self.turn() => permit,
                }
            };
            let Some(owner) = self.edge.keys.of_id(&self.job.key) else {
                self.keyless.cancel();
                return None;
            };
            tried += 1;
            let calls = self.calls.clone();
            let answer = Box::pin(row::call(calls, owner, &row, task_class.as_deref(), tried)).await;
            drop(permit);
            let pause = match answer.verdict {
                Verdict::Result => {
                    let outcome = Outcome::answered(row.custom_id, answer.answered);
                    return Some(Box::new(Finished { line, outcome }));
                }
                Verdict::Wait(wait) => {
                    tried -= 1;
                    self.pause.extend(wait);
                    Duration::ZERO
                }
                Verdict::Again(pause) => pause,
            };
            self.batches().count_retry();
            tokio::select! {
                () = closing.cancelled() => return None,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Waits until one more row may run.
    async fn turn(&self) -> OwnedSemaphorePermit {
        loop {
            self.pause.over().await;
            let permit = self.batches().permit().await;
            // Somebody may have been told to wait meanwhile.
            if self.pause.is_over() {
                return permit;
            }
        }
    }

    async fn end(&self, end: End) {
        if matches!(end, End::Lost) {
            info!(batch = self.job.id, "another bridge has taken over");
            return;
        }
        loop {
            let kept = match &end {
                End::Interrupted => self.leave().await,
                end => self.finish(end).await,
            };
            let Err(error) = kept else { return };
            warn!(batch = self.job.id, %error, "the end of a batch could not be written");
            tokio::select! {
                () = self.batches().closing().cancelled() => return,
                () = self.job.lost.cancelled() => return,
                () = tokio::time::sleep(AGAIN) => {}
            }
        }
    }

    /// The next process goes on with it.
    async fn leave(&self) -> Result<(), StoreError> {
        self.batches().save(&self.job).await?;
        self.batches().leave(&self.job.id).await
    }

    /// Gives every row its line, shows what was written, and says how the batch has ended. Can be done again at any
    /// point.
    async fn finish(&self, end: &End) -> Result<(), StoreError> {
        let job = &self.job;
        if !self.batches().is_ours(&job.id).await? {
            return Ok(());
        }
        let mut is_whole = false;
        if job.read(Batch::has_begun) {
            if matches!(end, End::Done) {
                job.change(|batch| batch.reach(Status::Finalizing));
                self.batches().save(job).await?;
            }
            let mut written = self.results.written().await?;
            let total = job.read(|batch| batch.counts.total);
            is_whole = written.lines.len() as u64 == total;
            let rest = match end {
                _ if is_whole => None,
                End::Cancelled => {
                    Some(("batch_cancelled", "This request was not run: the batch was cancelled."))
                }
                End::Expired => Some((
                    "batch_expired",
                    "This request could not be executed before the completion window expired.",
                )),
                _ => None,
            };
            if let Some((code, message)) = rest {
                self.not_run(&written.lines, code, message).await?;
                written = self.results.written().await?;
            }
            let live = job.read(|batch| batch.results_live).map_or(self.edge.files.ttl, Duration::from_secs);
            let (mut output, mut failures) = job.read(|batch| (batch.output.clone(), batch.failures.clone()));
            let expires_at = SystemTime::now().checked_add(live);
            self.results.show(&written, expires_at, [&mut output, &mut failures]).await?;
            job.change(|batch| {
                batch.counts = written.counts(batch.counts.total);
                batch.used = written.used;
                (batch.output, batch.failures) = (output, failures);
            });
        }
        let status = match end {
            End::Done => Status::Completed,
            // Its end came while it was counted.
            End::Expired if is_whole => Status::Completed,
            End::Cancelled => Status::Cancelled,
            End::Expired => Status::Expired,
            End::Failed(_) | End::Interrupted | End::Lost => Status::Failed,
        };
        job.change(|batch| {
            if let End::Failed(errors) = end {
                batch.errors.clone_from(errors);
            }
            batch.reach(status);
        });
        self.batches().save(job).await?;
        info!(batch = job.id, ?status, "a batch has ended");
        Ok(())
    }

    /// Gives the rows that have none this result.
    async fn not_run(&self, done: &HashSet<u64>, code: &str, message: &str) -> Result<(), StoreError> {
        let mut lines = self.lines();
        let mut group = Vec::new();
        loop {
            let line = match lines.next().await {
                Err(StoreError::Unreadable { reason }) => {
                    warn!(batch = self.job.id, reason, "the input of a batch has gone: its rest is not told");
                    None
                }
                line => line?,
            };
            let is_last = line.is_none();
            let row = line.filter(|line| !done.contains(&line.number));
            if let Some((number, Ok(row))) =
                row.map(|line| (line.number, line.read(self.edge.max_body_bytes)))
            {
                group
                    .push(Finished { line: number, outcome: Outcome::not_run(row.custom_id, code, message) });
            }
            if is_last || group.len() >= GROUP {
                self.results.add(&group).await?;
                group.clear();
            }
            if is_last {
                return Ok(());
            }
        }
    }

    fn lines(&self) -> Lines {
        let input = self.job.read(|batch| batch.input_file.clone());
        Lines::new(self.edge.files.parts(&input), self.edge.max_body_bytes)
    }

    fn batches(&self) -> &Batches {
        &self.edge.batches
    }
}

impl Writer {
    async fn run(mut self) {
        let mut group = Vec::new();
        let mut saved = tokio::time::Instant::now();
        while self.finished.recv_many(&mut group, GROUP).await > 0 {
            if !self.write(&group).await {
                return;
            }
            self.job.count(&group);
            self.batches.count(&group);
            group.clear();
            if saved.elapsed() >= SAVE {
                saved = tokio::time::Instant::now();
                if let Err(error) = self.batches.save(&self.job).await {
                    warn!(batch = self.job.id, %error, "the counts of a batch could not be kept");
                }
            }
        }
    }

    /// Writes them, however long that takes; `false` where nobody wants them any more.
    async fn write(&self, group: &[Finished]) -> bool {
        loop {
            let written = match self.batches.is_ours(&self.job.id).await {
                Ok(true) => self.results.add(group).await,
                Ok(false) => {
                    self.job.lost.cancel();
                    return false;
                }
                Err(error) => Err(error),
            };
            let Err(error) = written else { return true };
            warn!(batch = self.job.id, %error, "results wait for the store");
            tokio::select! {
                () = self.give_up.cancelled() => return false,
                () = self.batches.closing().cancelled() => return false,
                () = tokio::time::sleep(AGAIN) => {}
            }
        }
    }
}

fn gone(error: &StoreError) -> LineError {
    warn!(%error, "the input of a batch cannot be read");
    LineError::new(Wrong::new("file_not_found", "The input file cannot be read any more."), None)
}

fn input_gone(error: &StoreError) -> End {
    End::Failed(vec![gone(error)])
}
