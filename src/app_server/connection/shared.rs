//! What the tasks of a connection, its handles and its threads have in common.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::exchange::Waiter;
use super::{ConnectOptions, Notice};
use crate::app_server::error::{AppServerError, DisconnectReason};
use crate::app_server::pending::Pending;
use crate::app_server::subscriptions::{Limits, Routes};
use crate::app_server::wire;

/// Bytes of requests on their way to the writer; past it a request waits, within its time limit.
const QUEUED_KIB: usize = 64 * 1024;
/// The least a request counts for: at most 256 are on their way.
const LEAST_KIB: usize = QUEUED_KIB / 256;
/// Messages that cannot wait (answers, unsubscribes) and may queue beside the requests. Past it answers end the
/// connection, and an unsubscribe is left out.
const UNWAITED: usize = 1024;
/// Notices kept for a slow receiver; past it that receiver loses the oldest.
const NOTICES: usize = 64;

/// One entry of the writer's queue: messages to be written together.
#[derive(Debug)]
pub(in crate::app_server) struct Outgoing {
    pub(super) messages: Vec<Bytes>,
    /// Room in the queue, given back when written.
    pub(super) _room: Option<OwnedSemaphorePermit>,
}

/// The common part. Handles own it through `Arc`; so do the two tasks, until the connection has ended.
#[derive(Debug)]
pub(in crate::app_server) struct Shared {
    pub(in crate::app_server) generation: u64,
    pub(in crate::app_server) request_timeout: Duration,
    pub(super) routes: Routes,
    pub(super) notices: broadcast::Sender<Notice>,
    /// Cancelled when the connection has ended; `reason` is set by then.
    pub(super) down: CancellationToken,
    /// Cancelled when the writer has let the socket go.
    pub(super) gone: CancellationToken,
    /// `thread/start` requests whose reply has not come.
    pub(super) starting: AtomicUsize,
    reason: OnceLock<DisconnectReason>,
    next_id: AtomicU64,
    /// Held for bookkeeping, never across an await.
    pending: Mutex<Pending<Waiter>>,
    outgoing: mpsc::Sender<Outgoing>,
    room: Arc<Semaphore>,
    epoch: Instant,
    /// Microseconds from `epoch` to the last sign of life.
    last_seen: AtomicU64,
    /// Bytes of messages written.
    pub(super) sent: AtomicU64,
    /// One more than the microseconds from `epoch` to the first request after that; 0 for none.
    asked: AtomicU64,
}

impl Shared {
    /// The common part, and the writer's end of its queue.
    pub(super) fn new(options: &ConnectOptions) -> (Arc<Self>, mpsc::Receiver<Outgoing>) {
        let (outgoing, queue) = mpsc::channel(QUEUED_KIB / LEAST_KIB + UNWAITED);
        let limits = Limits { merge_after: options.merge_after, bytes: options.event_bytes };
        let shared = Self {
            generation: options.generation,
            request_timeout: options.request_timeout,
            routes: Routes::new(limits),
            notices: broadcast::channel(NOTICES).0,
            down: CancellationToken::new(),
            gone: CancellationToken::new(),
            starting: AtomicUsize::new(0),
            reason: OnceLock::new(),
            next_id: AtomicU64::new(1),
            pending: Mutex::new(Pending::new()),
            outgoing,
            room: Arc::new(Semaphore::new(QUEUED_KIB)),
            epoch: Instant::now(),
            last_seen: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            asked: AtomicU64::new(0),
        };
        (Arc::new(shared), queue)
    }

    pub(super) fn next_id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn pending(&self) -> MutexGuard<'_, Pending<Waiter>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the connection: the first reason stays, and every waiter and every thread is told.
    pub(super) fn disconnect(&self, reason: DisconnectReason) {
        if self.reason.set(reason).is_err() {
            return;
        }
        let reason = self.reason();
        let waiters = self.pending().close(reason.clone());
        for waiter in waiters {
            waiter.disconnected(&reason);
        }
        self.routes.close_all(&reason);
        self.down.cancel();
    }

    /// Why it ended; asked only once it has.
    pub(super) fn reason(&self) -> DisconnectReason {
        self.reason.get().cloned().unwrap_or(DisconnectReason::ClosedByUs)
    }

    pub(super) fn is_down(&self) -> bool {
        self.reason.get().is_some()
    }

    /// Queues requests to be written together; waits for room.
    pub(super) async fn send(&self, messages: Vec<Bytes>) -> Result<(), AppServerError> {
        let down = |_| AppServerError::Disconnected(self.reason());
        let bytes: usize = messages.iter().map(Bytes::len).sum();
        let size = bytes.div_ceil(1024).clamp(LEAST_KIB, QUEUED_KIB);
        let size = u32::try_from(size).unwrap_or(u32::MAX);
        let wait = Arc::clone(&self.room).acquire_many_owned(size);
        let room = tokio::select! {
            biased;
            () = self.down.cancelled() => return Err(AppServerError::Disconnected(self.reason())),
            room = wait => room.map_err(down)?,
        };
        let entry = Outgoing { messages, _room: Some(room) };
        self.outgoing.send(entry).await.map_err(|_| AppServerError::Disconnected(self.reason()))
    }

    /// Queues messages that nobody waits for, in order with everything queued before; `false` if there is no
    /// room.
    pub(super) fn send_now(&self, messages: Vec<Bytes>) -> bool {
        match self.outgoing.try_send(Outgoing { messages, _room: None }) {
            // On a connection that has ended there is nothing left to say.
            Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => true,
            Err(mpsc::error::TrySendError::Full(_)) => false,
        }
    }

    /// Lets a thread go without waiting for the app-server's word; `interrupt` ends a turn that runs there.
    pub(in crate::app_server) fn let_go(&self, thread: &str, interrupt: bool) {
        if self.is_down() {
            return;
        }
        let whatever_runs = wire::Interrupt { thread_id: thread, turn_id: "" };
        let interrupt =
            interrupt.then(|| wire::encode_request(self.next_id(), "turn/interrupt", &whatever_runs));
        let thread_ref = wire::ThreadRef { thread_id: thread };
        let unsubscribe = wire::encode_request(self.next_id(), "thread/unsubscribe", &thread_ref);
        let messages = interrupt.into_iter().chain([unsubscribe]).flatten().collect();
        if !self.send_now(messages) {
            tracing::warn!(thread, "no room to unsubscribe a thread: the app-server keeps it for now");
        }
    }

    /// Something came from the peer.
    pub(super) fn seen(&self) {
        self.last_seen.store(self.micros(), Ordering::Relaxed);
        self.asked.store(0, Ordering::Relaxed);
    }

    /// When something last came from the peer.
    pub(super) fn last_seen(&self) -> Instant {
        self.epoch + Duration::from_micros(self.last_seen.load(Ordering::Relaxed))
    }

    /// Something is asked of the peer.
    pub(super) fn asks(&self) {
        let now = self.micros().saturating_add(1);
        // Unless something was asked before that nothing has come after.
        let _ = self.asked.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// How long the peer has been asked something and given no sign of life.
    pub(super) fn silence(&self) -> Duration {
        let since = match self.asked.load(Ordering::Relaxed) {
            0 if self.pending().len() == 0 => return Duration::ZERO,
            0 => self.last_seen(),
            asked => self.epoch + Duration::from_micros(asked - 1),
        };
        since.elapsed()
    }

    fn micros(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_micros()).unwrap_or(u64::MAX)
    }
}
