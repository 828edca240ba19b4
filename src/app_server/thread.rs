//! One native thread: its turns and its events.

mod event;
mod options;

use serde::de::IgnoredAny;
use tokio::time::timeout;

use super::connection::{Connection, Subscription};
use super::error::AppServerError;
use super::wire;
use crate::model::{Item, ThreadId, TurnId};

pub use event::{ItemKind, ThreadEvent, ThreadStatus, TurnStatus};
pub use options::{ThreadOptions, TurnOptions, Unsent};

/// Owner of one thread and its events. Dropping it interrupts a turn that still runs and unsubscribes, without
/// waiting.
#[derive(Debug)]
pub struct Thread {
    /// Before the connection: dropped first, it still says goodbye to the app-server.
    subscription: Subscription,
    connection: Connection,
    model: String,
    /// An earlier turn set an effort: the next one that wants the default must say so.
    effort_set: bool,
}

impl Thread {
    pub(super) fn new(connection: Connection, subscription: Subscription, options: &ThreadOptions) -> Self {
        Self { subscription, connection, model: options.model.clone(), effort_set: false }
    }

    /// The native id.
    pub fn id(&self) -> &ThreadId {
        &self.subscription.thread
    }

    /// The connection it lives on.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Whether a turn was started here whose end has not come yet.
    pub fn is_running(&self) -> bool {
        self.subscription.queue.is_running()
    }

    /// Injects `items` (when there are any) and starts a turn with empty input, in one write. Options left to
    /// the default are the default, whatever earlier turns set.
    ///
    /// After an error, or when the future is dropped, it is not known what the thread holds: let it go.
    pub async fn start_turn(
        &mut self,
        items: &[Item],
        options: &TurnOptions,
    ) -> Result<TurnId, AppServerError> {
        let shared = self.connection.shared();
        let inject = if items.is_empty() { None } else { Some(shared.prepare(INJECT, &self.items(items))?) };
        let reset = self.effort_set && options.effort.is_none();
        let mode = reset.then(|| wire::Collaboration::default_effort(&self.model));
        let start = shared.prepare(options::TURN, &options.params(self.id().as_str(), mode))?;
        self.effort_set = options.effort.is_some();
        self.subscription.queue.expect_turn();
        let started: wire::TurnResponse = shared.start_turn(inject, start, self.id()).await?;
        Ok(TurnId::new(started.turn.id))
    }

    /// Injects `items` and has them compacted, as a turn of its own. After an error as [`Thread::start_turn`].
    pub async fn start_compaction(&mut self, items: &[Item]) -> Result<TurnId, AppServerError> {
        let shared = self.connection.shared();
        let inject = shared.prepare(INJECT, &self.items(items))?;
        let start = shared.prepare(COMPACT, &wire::ThreadRef { thread_id: self.id().as_str() })?;
        self.subscription.queue.expect_turn();
        shared.start_turn::<IgnoredAny>(Some(inject), start, self.id()).await?;
        // The reply does not name the turn; its first event does.
        let limit = shared.request_timeout;
        let started = async {
            loop {
                match self.next_event().await {
                    ThreadEvent::TurnStarted { turn } => return Ok(turn),
                    ThreadEvent::Closed(reason) => return Err(AppServerError::Disconnected(reason)),
                    _ => {}
                }
            }
        };
        timeout(limit, started).await.unwrap_or(Err(AppServerError::Timeout { method: COMPACT, limit }))
    }

    /// Injects `items` without starting a turn.
    pub async fn inject(&self, items: &[Item]) -> Result<(), AppServerError> {
        if items.is_empty() {
            return Ok(());
        }
        self.connection.shared().call::<_, IgnoredAny>(INJECT, &self.items(items)).await.map(drop)
    }

    /// The next event. Cancel-safe. After `Closed` it gives `Closed` again.
    pub async fn next_event(&mut self) -> ThreadEvent {
        self.subscription.queue.next().await
    }

    /// Asks for the end of `turn`; `TurnCompleted` tells when it has ended.
    pub async fn interrupt(&self, turn: &TurnId) -> Result<(), AppServerError> {
        let params = wire::Interrupt { thread_id: self.id().as_str(), turn_id: turn.as_str() };
        self.connection.shared().call::<_, IgnoredAny>("turn/interrupt", &params).await.map(drop)
    }

    /// What the thread does now, as the app-server sees it.
    pub async fn status(&self) -> Result<ThreadStatus, AppServerError> {
        self.connection.thread_status(self.id()).await
    }

    /// Lets the thread go and waits for the app-server's word. If a turn still runs, this is the same as
    /// dropping it.
    pub async fn release(mut self) -> Result<(), AppServerError> {
        if self.is_running() {
            return Ok(());
        }
        let params = wire::ThreadRef { thread_id: self.id().as_str() };
        self.connection.shared().call::<_, IgnoredAny>("thread/unsubscribe", &params).await?;
        self.subscription.released = true;
        Ok(())
    }

    fn items<'a>(&'a self, items: &'a [Item]) -> wire::InjectItems<'a> {
        wire::InjectItems { thread_id: self.id().as_str(), items }
    }
}

const INJECT: &str = "thread/inject_items";
const COMPACT: &str = "thread/compact/start";
