//! The task that owns the file.

use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::future::{BoxFuture, FutureExt};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use super::change::{Change, Done};
use super::compaction::{self, Compacted};
use super::disk::{Disk, Flush, Plan};
use super::tables::failed;
use super::{Command, QUEUE, Shared, closed, open};
use crate::store::StoreError;
use crate::store::node::micros;
use crate::tasks::Tasks;

/// How long after a failure the file is opened, or written, again; twice as long after each further one, up to the
/// longest.
const RETRY_AFTER: Duration = Duration::from_millis(500);
const RETRY_AFTER_LONGEST: Duration = Duration::from_secs(60);

/// Blocking work that goes on beside the writer; `None` if it panicked.
type Work<T> = BoxFuture<'static, Option<T>>;
/// A change, and who waits for it.
pub(super) type Asked = (Change, oneshot::Sender<Result<Done, StoreError>>);
/// What came of a flush: of the device, and before that of the database.
type Flushed = (Flush, Result<io::Result<()>, redb::Error>);

/// The owner of the file.
pub(super) struct Writer {
    /// Or when to open it again.
    disk: Result<Disk, Instant>,
    flushing: Flushing,
    /// A compaction; no flush runs meanwhile.
    compacting: Option<Work<Result<Option<Compacted>, String>>>,
    /// Breaks it off.
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
    Runs(Work<Flushed>),
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
            compacting: None,
            retry_after: RETRY_AFTER,
            plan,
            shared,
            tasks,
        }
    }

    /// Until the store is closed, dropped, or the daemon stops; what waits then is still done.
    /// Parts of sweeps come by themselves, and wait while requests' changes have none of the room to spare.
    pub(super) async fn run(mut self, mut queue: mpsc::Receiver<Command>, mut sweeps: mpsc::Receiver<Asked>) {
        let stop = self.tasks.stop_token().clone();
        let shared = Arc::clone(&self.shared);
        let mut commands = Vec::new();
        let mut closers = Vec::new();
        loop {
            let due = self.due();
            let wait = tokio::time::sleep_until(due.unwrap_or_else(Instant::now));
            let (has_room, may_sweep) = (!self.is_full(), !self.is_filling());
            // Each branch only begins what the next round does: none loses anything when another is taken.
            tokio::select! {
                biased;
                () = stop.cancelled(), if !queue.is_closed() => queue.close(),
                flushed = self.flushing.ended() => self.flushed(flushed).await,
                compacted = ended(&mut self.compacting) => {
                    self.compacting = None;
                    self.compacted(compacted).await;
                }
                taken = queue.recv_many(&mut commands, QUEUE), if has_room => {
                    if taken == 0 {
                        break;
                    }
                    let mut changes = Vec::with_capacity(taken);
                    for command in commands.drain(..) {
                        match command {
                            Command::Change(asked) => changes.push(asked),
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
                Some(sweep) = sweeps.recv(), if may_sweep => self.make(vec![sweep]).await,
            }
        }
        self.end().await;
        for closer in closers {
            let _ = closer.send(());
        }
    }

    /// Whether changes wait for what is on its way.
    fn is_full(&self) -> bool {
        let goes_on = self.compacting.is_some() || matches!(self.flushing, Flushing::Runs(_));
        goes_on && self.disk.as_ref().is_ok_and(Disk::is_full)
    }

    fn is_filling(&self) -> bool {
        self.disk.as_ref().is_ok_and(Disk::is_filling)
    }

    /// When there is something to do without being asked.
    fn due(&self) -> Option<Instant> {
        match (&self.disk, &self.flushing) {
            (Err(again), _) | (Ok(_), Flushing::Failed { again, .. }) => Some(*again),
            (Ok(disk), Flushing::No) if self.compacting.is_none() => disk.due().map(Instant::from_std),
            (Ok(_), Flushing::No | Flushing::Runs(_)) => None,
        }
    }

    /// Makes the changes, answers, and writes out if it is time.
    async fn make(&mut self, changes: Vec<Asked>) {
        if let Flushing::Failed { reason, again, .. } = &self.flushing {
            refuse(changes, &StoreError::Refused { reason: reason.clone() });
            if Instant::now() >= *again {
                self.flush_again();
            }
            return;
        }
        let mut disk = match self.disk().await {
            Ok(disk) => disk,
            Err(error) => return refuse(changes, &error),
        };
        let shared = Arc::clone(&self.shared);
        let may_flush = self.compacting.is_none();
        let made = self.tasks.blocking(move || {
            let now = micros(SystemTime::now());
            let changes = note(&mut disk, changes, now);
            if !changes.is_empty() {
                match disk.make(changes.iter().map(|(change, _)| change), now) {
                    Ok(done) => {
                        shared.show(Some(&disk));
                        for (done, (_, reply)) in done.into_iter().zip(changes) {
                            let _ = reply.send(Ok(done));
                        }
                    }
                    Err(error) => {
                        refuse(changes, &failed(&error));
                        return Err(error);
                    }
                }
            }
            if disk.is_broken() {
                return Err(redb::Error::PreviousIo);
            }
            let due = may_flush && disk.due().is_some_and(|due| due <= std::time::Instant::now());
            let flush = if due { disk.write_out() } else { None };
            if flush.is_some() {
                shared.show(Some(&disk));
            }
            Ok((disk, flush))
        });
        match made.await {
            Some(Ok((disk, flush))) => {
                self.disk = Ok(disk);
                if let Some(flush) = flush {
                    self.flush(flush);
                }
                if self.compacting.is_some() && self.is_filling() {
                    self.abort.cancel();
                }
            }
            failure => self.lose(failure.and_then(Result::err)).await,
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
        self.abort_compaction().await;
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
    async fn lose(&mut self, error: Option<redb::Error>) {
        if self.retry_after == RETRY_AFTER {
            error!(
                error = error.map(|error| error.to_string()),
                path = %self.plan.path.display(),
                "the response store cannot be used; it is opened again"
            );
        }
        self.disk = Err(self.next_try());
        let shared = Arc::clone(&self.shared);
        // The file may be closed by it, which waits for the device.
        self.tasks.blocking(move || shared.show(None)).await;
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

    async fn flushed(&mut self, flushed: Option<Flushed>) {
        self.flushing = Flushing::No;
        match flushed {
            Some((flush, Ok(Ok(())))) => {
                if self.retry_after > RETRY_AFTER {
                    info!("the response store can be written again");
                }
                self.retry_after = RETRY_AFTER;
                let Some(mut disk) = self.take_disk() else { return };
                let shared = Arc::clone(&self.shared);
                let look = move || {
                    disk.flushed(flush)?;
                    shared.show(Some(&disk));
                    Ok(disk)
                };
                match self.tasks.blocking(look).await {
                    Some(Ok(disk)) => {
                        self.disk = Ok(disk);
                        self.compact();
                    }
                    failure => self.lose(failure.and_then(Result::err)).await,
                }
            }
            Some((flush, Ok(Err(error)))) => {
                if self.retry_after == RETRY_AFTER {
                    error!(%error, path = %self.plan.path.display(), "the response store cannot be written");
                }
                let reason = format!("its file cannot be written: {error}");
                self.flushing = Flushing::Failed { flush, reason, again: self.next_try() };
            }
            Some((_, Err(error))) => self.lose(Some(error)).await,
            None => self.lose(None).await,
        }
    }

    /// Begins a compaction, if it is time for one.
    fn compact(&mut self) {
        let Ok(disk) = &mut self.disk else { return };
        let Some(view) = disk.begin_compaction() else { return };
        let (tasks, plan) = (self.tasks.clone(), Arc::clone(&self.plan));
        self.abort = self.tasks.stop_token().child_token();
        let stop = self.abort.clone();
        let compact = async move { tasks.blocking(move || compaction::compact(&plan, &view, &stop)).await };
        self.compacting = Some(compact.boxed());
    }

    async fn compacted(&mut self, compacted: Option<Result<Option<Compacted>, String>>) {
        let Some(mut disk) = self.take_disk() else { return };
        match compacted {
            Some(Ok(Some(compacted))) => {
                let shared = Arc::clone(&self.shared);
                // The old file is closed by it.
                let go_on = move || {
                    disk.compacted(compacted);
                    shared.show(Some(&disk));
                    disk
                };
                match self.tasks.blocking(go_on).await {
                    Some(disk) => self.disk = Ok(disk),
                    None => self.lose(None).await,
                }
                return;
            }
            Some(Ok(None)) => {
                info!("too much changes to compact the response store now; it is tried later");
            }
            Some(Err(reason)) => {
                warn!(reason, "the response store could not be compacted; it is tried later");
            }
            None => warn!("the response store could not be compacted: that broke off; it is tried later"),
        }
        disk.compact_later();
        self.disk = Ok(disk);
    }

    /// Ends a compaction, and with it its hold of the file. One that came to its end all the same is opened with
    /// the file.
    async fn abort_compaction(&mut self) {
        self.abort.cancel();
        if let Some(compacting) = self.compacting.take() {
            drop(compacting.await);
        }
    }

    /// Writes out what is left, and waits for it.
    async fn end(mut self) {
        self.abort.cancel();
        if let Some(compacting) = self.compacting.take() {
            let compacted = compacting.await;
            self.compacted(compacted).await;
        }
        self.shared.show(None);
        let flush = match self.flushing {
            Flushing::Runs(run) => run.await.map(|(flush, _)| flush),
            Flushing::Failed { flush, .. } => Some(flush),
            Flushing::No => None,
        };
        let Ok(mut disk) = self.disk else { return };
        let close = move || {
            if let Some(mut flush) = flush {
                flush.run()??;
                disk.flushed(flush)?;
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
    async fn ended(&mut self) -> Option<Flushed> {
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

/// Notes what is asked for. Gives what may be made; the rest is answered, and nothing of it has changed.
fn note(disk: &mut Disk, asked: Vec<Asked>, now: u64) -> Vec<Asked> {
    let mut note = |asked: &[Asked]| {
        let noted = disk.note(asked.iter().map(|(change, _)| change), now);
        noted.map_err(|error| StoreError::Refused { reason: error.to_string() })
    };
    let Err(error) = note(&asked) else { return asked };
    let (puts, asked): (_, Vec<_>) =
        asked.into_iter().partition(|(change, _)| matches!(change, Change::Put { .. }));
    refuse(puts, &error);
    // There is room for them for longer.
    let Err(error) = note(&asked) else { return asked };
    let (deletions, rest) =
        asked.into_iter().partition(|(change, _)| matches!(change, Change::Delete { .. }));
    refuse(deletions, &error);
    // That a record was used may be forgotten with the process.
    rest
}

fn refuse(asked: Vec<Asked>, error: &StoreError) {
    for (_, reply) in asked {
        let _ = reply.send(Err(error.clone()));
    }
}
