//! The task that owns the file.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use super::change::{Change, Done};
use super::compaction::{Compaction, Round};
use super::disk::{Compacted, Disk, Flush, Plan};
use super::tables::{View, failed};
use super::{Command, QUEUE, Shared, closed, open};
use crate::store::StoreError;
use crate::tasks::Tasks;

/// How long after a failure the file is opened, or written, again; twice as long after each further one, up to the
/// longest.
const RETRY_AFTER: Duration = Duration::from_millis(500);
const RETRY_AFTER_LONGEST: Duration = Duration::from_secs(60);

/// Blocking work that goes on beside the writer; `None` if it panicked.
type Work<T> = BoxFuture<'static, Option<T>>;
type Reply = oneshot::Sender<Result<Done, StoreError>>;

/// The owner of the file.
pub(super) struct Writer {
    /// Or when to open it again.
    disk: Result<Disk, Instant>,
    flushing: Flushing,
    /// A round of compaction.
    copying: Option<Work<Result<Compaction, String>>>,
    /// One that is done, and waits for a flush that runs.
    copied: Option<Compaction>,
    /// Breaks off what copies.
    abort: CancellationToken,
    /// How long after the next failure.
    retry_after: Duration,
    plan: Arc<Plan>,
    shared: Arc<Shared>,
    tasks: Tasks,
}

/// What is on its way to the device.
enum Flushing {
    No,
    Runs(Work<(Flush, io::Result<()>)>),
    /// The device does not take it. Until it does all is read, and nothing changed.
    Failed {
        flush: Flush,
        reason: String,
        again: Instant,
    },
}

impl Writer {
    pub(super) fn new(disk: Disk, plan: Arc<Plan>, shared: Arc<Shared>, tasks: Tasks) -> Self {
        Self {
            abort: tasks.stop_token().child_token(),
            disk: Ok(disk),
            flushing: Flushing::No,
            copying: None,
            copied: None,
            retry_after: RETRY_AFTER,
            plan,
            shared,
            tasks,
        }
    }

    /// Until the store is closed, dropped, or the daemon stops; what waits then is still done.
    pub(super) async fn run(mut self, mut queue: mpsc::Receiver<Command>) {
        let stop = self.tasks.stop_token().clone();
        let shared = Arc::clone(&self.shared);
        let mut commands = Vec::new();
        let mut closers = Vec::new();
        loop {
            let due = self.due();
            let wait = tokio::time::sleep_until(due.unwrap_or_else(Instant::now));
            let has_room = !self.is_full();
            // Each branch only begins what the next round does: none loses anything when another is taken.
            tokio::select! {
                biased;
                () = stop.cancelled(), if !queue.is_closed() => queue.close(),
                flushed = self.flushing.ended() => self.flushed(flushed).await,
                // Before the changes: while it waits, its view holds what they replace.
                copied = ended(&mut self.copying) => {
                    self.copying = None;
                    self.copied(copied.unwrap_or_else(|| Err("it broke off".into()))).await;
                }
                taken = queue.recv_many(&mut commands, QUEUE), if has_room => {
                    if taken == 0 {
                        break;
                    }
                    let mut changes = Vec::with_capacity(taken);
                    for command in commands.drain(..) {
                        match command {
                            Command::Change(change, reply) => changes.push((change, reply)),
                            Command::Close(reply) => {
                                queue.close();
                                closers.push(reply);
                            }
                        }
                    }
                    self.make(changes).await;
                }
                () = shared.failed.notified() => self.make(Vec::new()).await,
                () = wait, if due.is_some() => self.make(Vec::new()).await,
            }
        }
        self.shared.show(None);
        self.end().await;
        for closer in closers {
            let _ = closer.send(());
        }
    }

    /// Whether changes wait for the device.
    fn is_full(&self) -> bool {
        matches!((&self.disk, &self.flushing), (Ok(disk), Flushing::Runs(_)) if disk.is_full())
    }

    /// When there is something to do without being asked.
    fn due(&self) -> Option<Instant> {
        match (&self.disk, &self.flushing) {
            (Err(again), _) | (Ok(_), Flushing::Failed { again, .. }) => Some(*again),
            (Ok(disk), Flushing::No | Flushing::Runs(_)) => disk.due().map(Instant::from_std),
        }
    }

    /// Makes the changes, answers, and writes out if it is time.
    async fn make(&mut self, changes: Vec<(Change, Reply)>) {
        let (changes, replies): (Vec<_>, Vec<_>) = changes.into_iter().unzip();
        if let Flushing::Failed { reason, again, .. } = &self.flushing {
            refuse(replies, &StoreError::Refused { reason: reason.clone() });
            if Instant::now() >= *again {
                self.flush_again();
            }
            return;
        }
        let mut disk = match self.disk().await {
            Ok(disk) => disk,
            Err(error) => return refuse(replies, &error),
        };
        let shared = Arc::clone(&self.shared);
        let made = self.tasks.blocking(move || {
            if let Err(error) = disk.note(&changes) {
                // Nothing has changed; readers go on.
                refuse(replies, &StoreError::Refused { reason: error.to_string() });
            } else if !changes.is_empty() {
                match disk.commit(&changes) {
                    Ok(done) => {
                        shared.show(Some(&disk));
                        for (done, reply) in done.into_iter().zip(replies) {
                            let _ = reply.send(Ok(done));
                        }
                    }
                    Err(error) => {
                        refuse(replies, &failed(&error));
                        return Err(error);
                    }
                }
            }
            if disk.is_broken() {
                return Err(redb::Error::PreviousIo);
            }
            let due = disk.due().is_some_and(|due| due <= std::time::Instant::now());
            let flush = if due { disk.write_out()? } else { None };
            Ok((disk, flush))
        });
        match made.await {
            Some(Ok((disk, flush))) => {
                self.disk = Ok(disk);
                if let Some(flush) = flush {
                    self.flush(flush);
                }
            }
            failure => self.lose(failure.and_then(Result::err)),
        }
    }

    /// The file, taken out; opened again if it is time.
    async fn disk(&mut self) -> Result<Disk, StoreError> {
        if let Some(disk) = self.take_disk() {
            return Ok(disk);
        }
        if self.disk.as_ref().is_err_and(|again| Instant::now() < *again) {
            return Err(closed());
        }
        // What still writes to it goes first.
        if let Flushing::Runs(flush) = std::mem::replace(&mut self.flushing, Flushing::No) {
            drop(flush.await);
        }
        self.abort_copy().await;
        self.abort = self.tasks.stop_token().child_token();
        match open(&self.plan, &self.tasks).await {
            Ok(disk) => {
                info!(path = %self.plan.path.display(), "the response store is there again");
                self.shared.show(Some(&disk));
                Ok(disk)
            }
            Err(error) => {
                debug!(%error, "the response store cannot be opened again; it is tried later");
                self.disk = Err(self.next_try());
                Err(StoreError::Unavailable { reason: error.to_string() })
            }
        }
    }

    /// The file, if it is open; whoever takes it puts it back.
    fn take_disk(&mut self) -> Option<Disk> {
        let again = self.disk.as_ref().err().copied().unwrap_or_else(Instant::now);
        std::mem::replace(&mut self.disk, Err(again)).ok()
    }

    /// The file serves nothing any more.
    fn lose(&mut self, error: Option<redb::Error>) {
        if self.retry_after == RETRY_AFTER {
            error!(
                error = error.map(|error| error.to_string()),
                path = %self.plan.path.display(),
                "the response store cannot be used; it is opened again"
            );
        }
        self.shared.show(None);
        self.disk = Err(self.next_try());
    }

    fn flush(&mut self, mut flush: Flush) {
        let tasks = self.tasks.clone();
        let run = async move {
            let run = move || {
                let result = flush.run();
                (flush, result)
            };
            tasks.blocking(run).await
        };
        self.flushing = Flushing::Runs(run.boxed());
    }

    fn flush_again(&mut self) {
        match std::mem::replace(&mut self.flushing, Flushing::No) {
            Flushing::Failed { flush, .. } => self.flush(flush),
            other => self.flushing = other,
        }
    }

    async fn flushed(&mut self, flushed: Option<(Flush, io::Result<()>)>) {
        self.flushing = Flushing::No;
        match flushed {
            Some((flush, Ok(()))) => {
                if self.retry_after > RETRY_AFTER {
                    info!("the response store can be written again");
                }
                self.retry_after = RETRY_AFTER;
                if let Ok(disk) = &mut self.disk {
                    disk.flushed(flush);
                }
                if let Some(compaction) = self.copied.take() {
                    self.copied(Ok(compaction)).await;
                } else {
                    self.compact().await;
                }
            }
            Some((flush, Err(error))) => {
                if self.retry_after == RETRY_AFTER {
                    error!(%error, path = %self.plan.path.display(), "the response store cannot be written");
                }
                let reason = format!("its file cannot be written: {error}");
                self.flushing = Flushing::Failed { flush, reason, again: self.next_try() };
            }
            None => self.lose(None),
        }
    }

    /// Begins a compaction, if it is time for one.
    async fn compact(&mut self) {
        let Some(mut disk) = self.take_disk() else { return };
        let begin = move || {
            let view = disk.begin_compaction();
            (disk, view)
        };
        let Some((disk, view)) = self.tasks.blocking(begin).await else { return self.lose(None) };
        self.disk = Ok(disk);
        if let Some(view) = view {
            self.copy(None, Round::All(None), view);
        }
    }

    /// Ends a compaction, and with it its hold of the file.
    async fn abort_copy(&mut self) {
        self.abort.cancel();
        self.copied = None;
        if let Some(copying) = self.copying.take() {
            drop(copying.await);
        }
    }

    fn copy(&mut self, compaction: Option<Compaction>, round: Round, view: View) {
        let (tasks, plan) = (self.tasks.clone(), Arc::clone(&self.plan));
        let stop = self.abort.clone();
        let copy = async move {
            let copy = move || {
                let begun = compaction.map_or_else(|| Compaction::begin(&plan), Ok);
                let mut compaction = begun.map_err(|trouble| format!("{trouble:?}"))?;
                match compaction.copy(&view, round, &stop) {
                    Ok(true) => Ok(compaction),
                    // A part of it is no store.
                    Ok(false) => Err("it was broken off".into()),
                    Err(error) => Err(error.to_string()),
                }
            };
            tasks.blocking(copy).await
        };
        self.copying = Some(copy.boxed());
    }

    /// The end of a round.
    async fn copied(&mut self, copied: Result<Compaction, String>) {
        if let (Ok(_), Flushing::Runs(_) | Flushing::Failed { .. }) = (&copied, &self.flushing) {
            self.copied = copied.ok();
            return;
        }
        let Some(mut disk) = self.take_disk() else { return };
        let shared = Arc::clone(&self.shared);
        let switch = move || {
            let compacted = copied.and_then(|compaction| {
                let compacted = disk.go_on(compaction).map_err(|error| error.to_string());
                shared.show(Some(&disk));
                compacted
            });
            if let Err(_) | Ok(Compacted::GaveUp) = &compacted {
                disk.end_compaction(false);
            }
            (disk, compacted)
        };
        let Some((disk, compacted)) = self.tasks.blocking(switch).await else { return self.lose(None) };
        self.disk = Ok(disk);
        match compacted {
            Ok(Compacted::Done(flush)) => self.flush(flush),
            Ok(Compacted::NotYet(rest)) => {
                let (compaction, round, view) = *rest;
                self.copy(Some(compaction), round, view);
            }
            Ok(Compacted::GaveUp) => {
                info!("too much changes to compact the response store now; it is tried later");
            }
            Err(reason) => warn!(reason, "the response store could not be compacted; it is tried later"),
        }
    }

    /// Writes out what is left, and waits for it.
    async fn end(mut self) {
        self.abort_copy().await;
        let flush = match self.flushing {
            Flushing::Runs(run) => run.await.map(|(flush, _)| flush),
            Flushing::Failed { flush, .. } => Some(flush),
            Flushing::No => None,
        };
        let Ok(mut disk) = self.disk else { return };
        let close = move || {
            if let Some(mut flush) = flush {
                flush.run()?;
                disk.flushed(flush);
            }
            disk.close()
        };
        let closed = self.tasks.blocking(close).await;
        if !matches!(closed, Some(Ok(()))) {
            let error = closed.and_then(Result::err).map(|error| error.to_string());
            error!(error, "the response store could not be written out; its journal has it");
        }
    }

    fn next_try(&mut self) -> Instant {
        let after = self.retry_after;
        self.retry_after = (after * 2).min(RETRY_AFTER_LONGEST);
        Instant::now() + after
    }
}

impl Flushing {
    /// The end of the one that runs. Cancel-safe.
    async fn ended(&mut self) -> Option<(Flush, io::Result<()>)> {
        match self {
            Self::Runs(work) => work.await,
            Self::No | Self::Failed { .. } => std::future::pending().await,
        }
    }
}

/// The end of the work, if there is some. Cancel-safe.
async fn ended<T>(work: &mut Option<Work<T>>) -> Option<T> {
    match work {
        Some(work) => work.await,
        None => std::future::pending().await,
    }
}

fn refuse(replies: Vec<Reply>, error: &StoreError) {
    for reply in replies {
        let _ = reply.send(Err(error.clone()));
    }
}
