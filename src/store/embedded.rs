//! Records in one file on disk (redb), the store of a bridge that runs alone. It outlives the process, however
//! that ends.
//!
//! One task writes: it takes all changes that wait into one transaction. Readers have transactions of their own,
//! and wait for nobody. Nothing of it runs on the async threads.

mod aside;
mod change;
mod disk;
mod journal;
mod tables;

use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use futures_util::future::{BoxFuture, FutureExt};
use redb::Database;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tracing::{debug, error, info};

use self::change::{Change, Done};
use self::disk::{Disk, Plan, free_bytes};
use self::tables::{View, failed};
use super::codec::{Codec, before, blocking};
use super::ledger::{Entry, Limits, Totals};
use super::node::{Node, micros};
use super::{Chain, Lookup, OpenError, ResponseStore, StoreError, StoredResponse};
use crate::model::ResponseId;
use crate::tasks::Tasks;

/// Changes that wait for the writer; when full, the caller waits.
const QUEUE: usize = 256;
/// Records that a sweep takes at once, some 2 ms of work: what a put may have to wait for.
const SWEEP_BATCH: usize = 16;
/// How long after a failure the file is opened again; twice as long after each further one, up to the longest.
const REOPEN_AFTER: Duration = Duration::from_secs(2);
const REOPEN_AFTER_LONGEST: Duration = Duration::from_secs(60);

/// Records in one file.
#[derive(Debug)]
pub struct EmbeddedStore {
    shared: Arc<Shared>,
    commands: mpsc::Sender<Command>,
    tasks: Tasks,
}

/// What readers see of the file.
#[derive(Debug)]
struct Shared {
    codec: Arc<Codec>,
    /// `None` while it cannot be used. Locked to take the handle, no longer.
    open: RwLock<Option<(Arc<Database>, Totals)>>,
}

#[derive(Debug)]
enum Command {
    Change(Change, oneshot::Sender<Result<Done, StoreError>>),
    Close(oneshot::Sender<()>),
}

impl EmbeddedStore {
    /// Opens the file at `path`, or begins one.
    pub async fn open(
        path: PathBuf,
        max_records: usize,
        max_bytes: usize,
        key: Option<&crate::config::EncryptionKey>,
        tasks: &Tasks,
    ) -> Result<Self, OpenError> {
        let codec = Arc::new(Codec::new(key));
        let limits = Limits { records: max_records as u64, bytes: max_bytes as u64 };
        Self::start(Plan { path, limits, codec, free: free_bytes }, tasks).await
    }

    async fn start(plan: Plan, tasks: &Tasks) -> Result<Self, OpenError> {
        let codec = Arc::clone(&plan.codec);
        let plan = Arc::new(plan);
        let disk = open(&plan, tasks).await?;
        let shared = Arc::new(Shared { codec, open: RwLock::default() });
        shared.show(Some(&disk));
        let (commands, queue) = mpsc::channel(QUEUE);
        let writer = Writer {
            disk: Ok(disk),
            reopen_after: REOPEN_AFTER,
            plan,
            shared: Arc::clone(&shared),
            tasks: tasks.clone(),
        };
        tasks.spawn("store", writer.run(queue));
        Ok(Self { shared, commands, tasks: tasks.clone() })
    }

    async fn change(&self, change: Change) -> Result<Done, StoreError> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::Change(change, reply)).await.map_err(|_| closed())?;
        answer.await.map_err(|_| closed())?
    }

    async fn found(&self, change: Change) -> Result<Lookup<()>, StoreError> {
        match self.change(change).await? {
            Done::Found(found) => Ok(found),
            Done::Swept(_) => Ok(Lookup::Unknown),
        }
    }

    async fn read<T: Send + 'static>(
        &self,
        id: &ResponseId,
        read: impl FnOnce(&Codec, &View, &ResponseId, Node) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<Lookup<T>, StoreError> {
        let shared = Arc::clone(&self.shared);
        let id = id.clone();
        let read = move || {
            let (database, _) = shared.handle()?;
            let view = View::of(&database)?;
            let Some(node) = view.node(&id)? else { return Ok(Lookup::Unknown) };
            node.status(micros(SystemTime::now())).try_map(|()| read(&shared.codec, &view, &id, node))
        };
        blocking(&self.tasks, read).await
    }
}

impl ResponseStore for EmbeddedStore {
    fn durability(&self) -> &'static str {
        "disk"
    }

    fn put(&self, record: StoredResponse) -> BoxFuture<'_, Result<Lookup<()>, StoreError>> {
        let put = async move {
            let codec = Arc::clone(&self.shared.codec);
            let encode = move || {
                let content = codec.encode(&record)?;
                let entry = Entry::of(&record, content.len());
                Ok(Change::Put { id: record.id, entry, content })
            };
            let change = blocking(&self.tasks, encode).await?;
            self.found(change).await
        };
        put.boxed()
    }

    fn chain<'a>(&'a self, id: &'a ResponseId) -> BoxFuture<'a, Result<Lookup<Chain>, StoreError>> {
        let read = |codec: &Codec, view: &View, id: &ResponseId, node: Node| {
            let record = codec.decode(id, &node, &view.content(id)?)?;
            let find = |id: &ResponseId| view.node(id)?.map(|node| Ok((node, view.content(id)?))).transpose();
            Ok(Chain { record, before: before(codec, node, find)? })
        };
        self.read(id, read).boxed()
    }

    fn get<'a>(&'a self, id: &'a ResponseId) -> BoxFuture<'a, Result<Lookup<StoredResponse>, StoreError>> {
        self.read(id, |codec, view, id, node| codec.decode(id, &node, &view.content(id)?)).boxed()
    }

    fn touch<'a>(
        &'a self,
        id: &'a ResponseId,
        expires_at: SystemTime,
    ) -> BoxFuture<'a, Result<Lookup<()>, StoreError>> {
        self.found(Change::Touch { id: id.clone(), expires_at: micros(expires_at) }).boxed()
    }

    fn delete<'a>(&'a self, id: &'a ResponseId) -> BoxFuture<'a, Result<Lookup<()>, StoreError>> {
        self.found(Change::Delete { id: id.clone() }).boxed()
    }

    fn sweep(&self, now: SystemTime) -> BoxFuture<'_, Result<usize, StoreError>> {
        let sweep = async move {
            let mut swept = 0;
            loop {
                let began = Instant::now();
                let batch = Change::Sweep { now: micros(now), most: SWEEP_BATCH };
                let Done::Swept(seen) = self.change(batch).await? else { return Ok(swept) };
                swept += seen;
                if seen < SWEEP_BATCH {
                    return Ok(swept);
                }
                // As long as it took: half of the time and of a core is the requests'.
                tokio::time::sleep(began.elapsed()).await;
            }
        };
        sweep.boxed()
    }

    fn size(&self) -> BoxFuture<'_, Result<Option<(u64, u64)>, StoreError>> {
        let size = async { self.shared.handle().map(|(_, totals)| Some((totals.records, totals.bytes))) };
        size.boxed()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        let close = async {
            let (reply, closed) = oneshot::channel();
            if self.commands.send(Command::Close(reply)).await.is_ok() {
                let _ = closed.await;
            }
        };
        close.boxed()
    }
}

impl Shared {
    fn show(&self, disk: Option<&Disk>) {
        let open = disk.map(|disk| (disk.database(), disk.totals()));
        *self.open.write().unwrap_or_else(PoisonError::into_inner) = open;
    }

    fn handle(&self) -> Result<(Arc<Database>, Totals), StoreError> {
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner).clone();
        open.ok_or_else(closed)
    }
}

/// The task that owns the file.
struct Writer {
    /// Or when to open it again.
    disk: Result<Disk, Instant>,
    /// How long after the next failure.
    reopen_after: Duration,
    plan: Arc<Plan>,
    shared: Arc<Shared>,
    tasks: Tasks,
}

impl Writer {
    /// Until the store is closed, dropped, or the daemon stops; what waits then is still done.
    async fn run(mut self, mut queue: mpsc::Receiver<Command>) {
        let stop = self.tasks.stop_token().clone();
        let mut commands = Vec::new();
        let mut closers = Vec::new();
        loop {
            let due = match &self.disk {
                Ok(disk) => disk.due().map(Instant::from_std),
                Err(again) => Some(*again),
            };
            let wait = tokio::time::sleep_until(due.unwrap_or_else(Instant::now));
            // Each branch only begins what the next round does: none loses anything when another is taken.
            tokio::select! {
                biased;
                () = stop.cancelled(), if !queue.is_closed() => queue.close(),
                taken = queue.recv_many(&mut commands, QUEUE) => {
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
                () = wait, if due.is_some() => self.make(Vec::new()).await,
            }
        }
        self.shared.show(None);
        if let Ok(mut disk) = self.disk {
            match self.tasks.blocking(move || disk.write_out()).await {
                Some(Ok(())) => {}
                Some(Err(error)) => {
                    error!(%error, "the response store could not be written out; its journal has it");
                }
                None => error!("the response store could not be written out; its journal has it"),
            }
        }
        for closer in closers {
            let _ = closer.send(());
        }
    }

    /// Makes the changes, answers, and writes out if it is time.
    async fn make(&mut self, changes: Vec<(Change, oneshot::Sender<Result<Done, StoreError>>)>) {
        let (changes, replies): (Vec<_>, Vec<_>) = changes.into_iter().unzip();
        let mut disk = match std::mem::replace(&mut self.disk, Err(Instant::now())) {
            Ok(disk) => disk,
            Err(when) if Instant::now() < when => {
                self.disk = Err(when);
                return refuse(replies, &closed());
            }
            Err(_) => match open(&self.plan, &self.tasks).await {
                Ok(disk) => {
                    info!(path = %self.plan.path.display(), "the response store is there again");
                    disk
                }
                Err(error) => {
                    debug!(%error, "the response store cannot be opened again; it is tried later");
                    self.disk = Err(self.next_try());
                    return refuse(replies, &StoreError::Unavailable { reason: error.to_string() });
                }
            },
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
            let due = disk.due().is_some_and(|due| due <= std::time::Instant::now());
            if due {
                disk.write_out()?;
            }
            Ok((disk, due))
        });
        self.disk = match made.await {
            Some(Ok((disk, written_out))) => {
                if written_out {
                    self.reopen_after = REOPEN_AFTER;
                }
                Ok(disk)
            }
            failure => {
                let error = failure.and_then(Result::err);
                if self.reopen_after == REOPEN_AFTER {
                    error!(
                        error = error.map(|error| error.to_string()),
                        path = %self.plan.path.display(),
                        "the response store cannot be written; it is opened again"
                    );
                }
                self.shared.show(None);
                Err(self.next_try())
            }
        };
    }

    fn next_try(&mut self) -> Instant {
        let after = self.reopen_after;
        self.reopen_after = (after * 2).min(REOPEN_AFTER_LONGEST);
        Instant::now() + after
    }
}

async fn open(plan: &Arc<Plan>, tasks: &Tasks) -> Result<Disk, OpenError> {
    let (plan, path) = (Arc::clone(plan), plan.path.clone());
    let opened = tasks.blocking(move || Disk::open(&plan)).await;
    opened.unwrap_or_else(|| {
        Err(OpenError::File { what: "cannot open", path, reason: "the database failed in opening it".into() })
    })
}

fn refuse(replies: Vec<oneshot::Sender<Result<Done, StoreError>>>, error: &StoreError) {
    for reply in replies {
        let _ = reply.send(Err(error.clone()));
    }
}

fn closed() -> StoreError {
    StoreError::Unavailable { reason: "its file is not open".into() }
}

#[cfg(test)]
mod tests;
