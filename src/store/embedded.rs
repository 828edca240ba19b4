//! Records in one file on disk (redb), the store of a bridge that runs alone. It outlives the process, however
//! that ends.
//!
//! One task makes the changes, in memory, after they are in a journal ([`recent`], [`journal`]). Readers look there and
//! then into the database, and wait for nobody. Nobody waits for the device: what is written out or compacted is so
//! beside the writer. Nothing of it runs on the async threads.

mod aside;
mod change;
mod compaction;
mod disk;
mod journal;
mod recent;
mod tables;
mod write_back;
mod writer;

use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::SystemTime;

use futures_util::future::{BoxFuture, FutureExt};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::Instant;

pub(super) use self::aside::move_aside;
use self::change::{Change, Done};
pub(super) use self::disk::free_bytes;
use self::disk::{CACHE_BYTES, Disk, Pace, Plan};
use self::recent::Moment;
use self::writer::{Asked, Writer};
use super::codec::{Codec, before, blocking};
use super::ledger::{Entry, Limits};
use super::node::{Node, micros};
use super::{Chain, Lookup, OpenError, ResponseStore, StoreError, StoredResponse};
use crate::model::ResponseId;
use crate::tasks::Tasks;

/// Changes that wait for the writer; when full, the caller waits.
const QUEUE: usize = 256;

/// Records in one file.
#[derive(Debug)]
pub struct EmbeddedStore {
    shared: Arc<Shared>,
    commands: mpsc::Sender<Command>,
    sweeps: mpsc::Sender<Asked>,
    tasks: Tasks,
}

/// What readers see of the file.
#[derive(Debug)]
struct Shared {
    codec: Arc<Codec>,
    /// `None` while it cannot be used. Locked to take the handle, no longer.
    open: RwLock<Option<Moment>>,
    /// A read failed: the writer is to look at the file.
    failed: Notify,
}

#[derive(Debug)]
enum Command {
    Change(Asked),
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
        let (free, backend) = (free_bytes, |file| Box::new(file) as _);
        let plan = Plan { path, limits, codec, free, cache: CACHE_BYTES, pace: Pace::default(), backend };
        Self::start(plan, tasks).await
    }

    async fn start(plan: Plan, tasks: &Tasks) -> Result<Self, OpenError> {
        let codec = Arc::clone(&plan.codec);
        let plan = Arc::new(plan);
        let disk = open(&plan, tasks).await?;
        let shared = Arc::new(Shared { codec, open: RwLock::default(), failed: Notify::new() });
        shared.show(Some(&disk));
        let (commands, queue) = mpsc::channel(QUEUE);
        let (sweeps, sweep_queue) = mpsc::channel(1);
        let writer = Writer::new(disk, plan, Arc::clone(&shared), tasks.clone());
        tasks.spawn("store", writer.run(queue, sweep_queue));
        Ok(Self { shared, commands, sweeps, tasks: tasks.clone() })
    }

    async fn change(&self, change: Change) -> Result<Done, StoreError> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::Change((change, reply))).await.map_err(|_| closed())?;
        answer.await.map_err(|_| closed())?
    }

    async fn found(&self, change: Change) -> Result<Lookup<()>, StoreError> {
        match self.change(change).await? {
            Done::Found(found) => Ok(found),
            Done::TooLarge(limit) => Err(StoreError::TooLarge { limit }),
            Done::Swept(..) => Ok(Lookup::Unknown),
        }
    }

    async fn read<T: Send + 'static>(
        &self,
        id: &ResponseId,
        read: impl Fn(&Codec, &Moment, &ResponseId, Node) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<Lookup<T>, StoreError> {
        let shared = Arc::clone(&self.shared);
        let id = id.clone();
        let read = move || {
            let moment = shared.moment()?;
            let find = || {
                let Some(node) = moment.node(&id)? else { return Ok(Lookup::Unknown) };
                Ok(node.status(micros(SystemTime::now())).map(|()| node))
            };
            let look = || match find()?.try_map(|node| read(&shared.codec, &moment, &id, node)) {
                // It may have gone while it was read.
                Err(error) => find()?.try_map(|_| Err(error)),
                read => read,
            };
            look().inspect_err(|error| {
                if let StoreError::Unavailable { .. } = error {
                    shared.failed.notify_one();
                }
            })
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
                Ok(Change::Put { id: record.id, entry, content: content.into() })
            };
            let change = blocking(&self.tasks, encode).await?;
            self.found(change).await
        };
        put.boxed()
    }

    fn chain<'a>(&'a self, id: &'a ResponseId) -> BoxFuture<'a, Result<Lookup<Chain>, StoreError>> {
        let read = |codec: &Codec, moment: &Moment, id: &ResponseId, node: Node| {
            let record = codec.decode(id, &node, &moment.content(id)?)?;
            let find =
                |id: &ResponseId| moment.node(id)?.map(|node| Ok((node, moment.content(id)?))).transpose();
            Ok(Chain { record, before: before(codec, node, find)? })
        };
        self.read(id, read).boxed()
    }

    fn get<'a>(&'a self, id: &'a ResponseId) -> BoxFuture<'a, Result<Lookup<StoredResponse>, StoreError>> {
        self.read(id, |codec, moment, id, node| codec.decode(id, &node, &moment.content(id)?)).boxed()
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
                let (reply, answer) = oneshot::channel();
                let part = (Change::Sweep { now: micros(now) }, reply);
                self.sweeps.send(part).await.map_err(|_| closed())?;
                let Done::Swept(seen, goes_on) = answer.await.map_err(|_| closed())?? else {
                    return Ok(swept);
                };
                swept += seen;
                if !goes_on {
                    return Ok(swept);
                }
                // As long as it took: half of the time and of a core is the requests'.
                tokio::time::sleep(began.elapsed()).await;
            }
        };
        sweep.boxed()
    }

    fn size(&self) -> BoxFuture<'_, Result<Option<(u64, u64)>, StoreError>> {
        let size = async { self.shared.moment().map(|now| Some((now.totals.records, now.totals.bytes))) };
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
        let open = disk.map(Disk::moment);
        let old = std::mem::replace(&mut *self.open.write().unwrap_or_else(PoisonError::into_inner), open);
        // Its last holder closes the file, which may wait for the device: not under the lock.
        drop(old);
    }

    fn moment(&self) -> Result<Moment, StoreError> {
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner).clone();
        open.ok_or_else(closed)
    }
}

async fn open(plan: &Arc<Plan>, tasks: &Tasks) -> Result<Disk, OpenError> {
    let (plan, path) = (Arc::clone(plan), plan.path.clone());
    let opened = tasks.blocking(move || Disk::open(&plan)).await;
    opened.unwrap_or_else(|| {
        Err(OpenError::File { what: "cannot open", path, reason: "the database failed in opening it".into() })
    })
}

fn closed() -> StoreError {
    StoreError::Unavailable { reason: "its file is not open".into() }
}

#[cfg(test)]
mod tests;
