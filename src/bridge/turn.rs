//! A running turn: the edge's handle and the engine's end of it, with a bounded queue between them.
//!
//! The engine never waits for a client while it can help it: deltas of a slow client merge. Only past
//! `buffer_bytes` does it wait, and after `stall_timeout` the client is given up.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::BridgeError;
use crate::config::StreamConfig;
use crate::model::{Outcome, ResponseId, TurnEvent};

/// A running turn. Dropping it before its end interrupts it.
#[derive(Debug)]
pub struct Turn {
    response_id: ResponseId,
    model: String,
    deadline: Instant,
    queue: Arc<Queue>,
}

/// One step of a turn: events, then exactly one end.
#[derive(Debug)]
pub enum TurnStep {
    /// Something happened.
    Event(TurnEvent),
    /// The end; nothing follows.
    Finished(Result<Outcome, BridgeError>),
}

impl Turn {
    /// The response it makes.
    pub fn response_id(&self) -> &ResponseId {
        &self.response_id
    }

    /// The catalogue id of the model that answers.
    pub fn model(&self) -> &str {
        &self.model
    }

    /// When it is to have ended.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// The next step. Cancel-safe. After `Finished` it pends forever.
    pub async fn next(&mut self) -> TurnStep {
        loop {
            let filled = self.queue.filled.notified();
            if let Some(step) = self.queue.pop() {
                return step;
            }
            filled.await;
        }
    }

    /// Waits for the end, for clients that want the whole answer at once.
    pub async fn outcome(mut self) -> Result<Outcome, BridgeError> {
        self.queue.lock().whole = true;
        loop {
            if let TurnStep::Finished(result) = self.next().await {
                return result;
            }
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.queue.abandoned.cancel();
        // An engine that waits for room must see it.
        self.queue.drained.notify_one();
    }
}

/// The engine's end. Dropping it without `finish` ends the turn as interrupted, so that no client waits for
/// a task that is gone.
#[derive(Debug)]
pub(super) struct TurnSender {
    queue: Arc<Queue>,
    buffer_bytes: usize,
    stall_timeout: Duration,
}

/// Why there is nobody to send to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Gone {
    /// The client left.
    Left,
    /// The client took nothing for `stall_timeout` while the buffer was full.
    Stalled,
}

/// A turn and the end that feeds it.
pub(super) fn channel(
    response_id: ResponseId,
    model: String,
    deadline: Instant,
    config: &StreamConfig,
) -> (TurnSender, Turn) {
    let queue = Arc::new(Queue::default());
    let sender = TurnSender {
        queue: Arc::clone(&queue),
        buffer_bytes: config.buffer_bytes,
        stall_timeout: config.stall_timeout,
    };
    (sender, Turn { response_id, model, deadline, queue })
}

impl TurnSender {
    /// Hands over one event; waits only while the buffer is full.
    pub(super) async fn send(&self, event: TurnEvent) -> Result<(), Gone> {
        let mut waited_for = None;
        loop {
            if self.is_abandoned() {
                return Err(Gone::Left);
            }
            let drained = self.queue.drained.notified();
            let bytes = {
                let mut state = self.queue.lock();
                if state.whole && !matches!(event, TurnEvent::ItemDone(_)) {
                    return Ok(());
                }
                if state.bytes <= self.buffer_bytes {
                    state.push(event);
                    drop(state);
                    self.queue.filled.notify_one();
                    return Ok(());
                }
                state.bytes
            };
            // Still as full as before the wait: nothing was taken.
            if waited_for == Some(bytes) {
                return Err(Gone::Stalled);
            }
            waited_for = tokio::time::timeout(self.stall_timeout, drained).await.is_err().then_some(bytes);
        }
    }

    /// Ends once the client has left.
    pub(super) async fn abandoned(&self) {
        self.queue.abandoned.cancelled().await;
    }

    /// Whether the client has left.
    pub(super) fn is_abandoned(&self) -> bool {
        self.queue.abandoned.is_cancelled()
    }

    /// Whether nothing has been told to a client that could not be taken back.
    pub(super) fn is_whole(&self) -> bool {
        self.queue.lock().whole
    }

    /// The one end. Never waits, never dropped for lack of room.
    pub(super) fn finish(self, result: Result<Outcome, BridgeError>) {
        self.end(result);
    }

    fn end(&self, result: Result<Outcome, BridgeError>) {
        let mut state = self.queue.lock();
        if !state.ended {
            state.ended = true;
            state.steps.push_back(TurnStep::Finished(result));
        }
        drop(state);
        self.queue.filled.notify_one();
    }
}

impl Drop for TurnSender {
    fn drop(&mut self) {
        self.end(Err(BridgeError::Interrupted));
    }
}

#[derive(Debug, Default)]
struct Queue {
    /// Never held across an await.
    state: Mutex<State>,
    /// The engine put something in.
    filled: Notify,
    /// The client took something out.
    drained: Notify,
    /// The client's end is gone.
    abandoned: CancellationToken,
}

#[derive(Debug, Default)]
struct State {
    steps: VecDeque<TurnStep>,
    /// Text in `steps`, bytes.
    bytes: usize,
    ended: bool,
    /// The client wants the end alone.
    whole: bool,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pop(&self) -> Option<TurnStep> {
        let mut state = self.lock();
        let step = state.steps.pop_front()?;
        if let TurnStep::Event(event) = &step {
            state.bytes = state.bytes.saturating_sub(weight(event));
        }
        drop(state);
        self.drained.notify_one();
        Some(step)
    }
}

impl State {
    /// Deltas merge only once the client is behind: a client that keeps up sees each as it came.
    fn push(&mut self, event: TurnEvent) {
        const BEHIND: usize = 16;
        self.bytes += weight(&event);
        if self.steps.len() >= BEHIND
            && let Some(TurnStep::Event(last)) = self.steps.back_mut()
            && merge(last, &event)
        {
            return;
        }
        self.steps.push_back(TurnStep::Event(event));
    }
}

/// Appends `event` to `last` if both are deltas of the same text.
fn merge(last: &mut TurnEvent, event: &TurnEvent) -> bool {
    match (last, event) {
        (TurnEvent::TextDelta { item_id, delta }, TurnEvent::TextDelta { item_id: other, delta: more })
            if item_id == other =>
        {
            delta.push_str(more);
        }
        (
            TurnEvent::SummaryDelta { item_id, index, delta },
            TurnEvent::SummaryDelta { item_id: other, index: other_index, delta: more },
        )
        | (
            TurnEvent::ReasoningDelta { item_id, index, delta },
            TurnEvent::ReasoningDelta { item_id: other, index: other_index, delta: more },
        ) if item_id == other && index == other_index => delta.push_str(more),
        _ => return false,
    }
    true
}

fn weight(event: &TurnEvent) -> usize {
    match event {
        TurnEvent::TextDelta { delta, .. }
        | TurnEvent::SummaryDelta { delta, .. }
        | TurnEvent::ReasoningDelta { delta, .. } => delta.len(),
        TurnEvent::ItemDone(item) => item.weight(),
        TurnEvent::Started { .. }
        | TurnEvent::MessageStarted { .. }
        | TurnEvent::ReasoningStarted { .. }
        | TurnEvent::SummaryPartAdded { .. } => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(buffer_bytes: usize) -> (TurnSender, Turn) {
        let config =
            StreamConfig { buffer_bytes, stall_timeout: Duration::from_secs(10), ..StreamConfig::default() };
        channel(ResponseId::new("resp_1"), "m".into(), Instant::now(), &config)
    }

    fn delta(text: &str) -> TurnEvent {
        TurnEvent::TextDelta { item_id: "msg".into(), delta: text.into() }
    }

    /// All deltas up to the end, and whether it ended well.
    async fn drain(turn: &mut Turn) -> (Vec<String>, bool) {
        let mut deltas = Vec::new();
        loop {
            match turn.next().await {
                TurnStep::Event(TurnEvent::TextDelta { delta, .. }) => deltas.push(delta),
                TurnStep::Event(_) => {}
                TurnStep::Finished(result) => return (deltas, result.is_ok()),
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_keeps_up_sees_each_delta_and_a_slow_one_all_the_text() {
        let (sender, mut turn) = pair(1 << 20);
        for n in 0..10 {
            sender.send(delta(&format!("{n} "))).await.unwrap();
        }
        for n in 10..1000 {
            sender.send(delta(&format!("{n} "))).await.unwrap();
        }
        sender.finish(Ok(Outcome::default()));
        let (deltas, ended) = drain(&mut turn).await;
        assert!(ended);
        assert_eq!(deltas.len(), 16);
        let expected: Vec<String> = (0..1000).map(|n| format!("{n} ")).collect();
        assert_eq!(deltas.concat(), expected.concat());
    }

    #[tokio::test(start_paused = true)]
    async fn a_stalled_client_is_given_up_after_the_limit_and_a_slow_one_is_not() {
        let (sender, mut turn) = pair(8);
        sender.send(delta("0123456789")).await.unwrap();
        let stalled = tokio::time::timeout(Duration::from_secs(60), sender.send(delta("x"))).await.unwrap();
        assert_eq!(stalled, Err(Gone::Stalled));
        let (sent, _) = tokio::join!(sender.send(delta("y")), async {
            tokio::time::sleep(Duration::from_secs(9)).await;
            turn.next().await
        });
        assert_eq!(sent, Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_leaves_is_noticed_even_by_a_waiting_engine() {
        let (sender, turn) = pair(8);
        sender.send(delta("0123456789")).await.unwrap();
        let (sent, ()) = tokio::join!(sender.send(delta("x")), async {
            tokio::task::yield_now().await;
            drop(turn);
        });
        assert_eq!(sent, Err(Gone::Left));
        tokio::time::timeout(Duration::from_secs(1), sender.abandoned()).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_lost_engine_ends_the_turn() {
        let (sender, mut turn) = pair(8);
        drop(sender);
        let TurnStep::Finished(Err(BridgeError::Interrupted)) = turn.next().await else {
            panic!("not ended")
        };
        assert!(tokio::time::timeout(Duration::from_secs(1), turn.next()).await.is_err());
    }
}
