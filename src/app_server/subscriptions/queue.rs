//! One thread's events. The reading task pushes and never waits; the owner pops.
//!
//! When the owner is slow: deltas merge past [`Limits::merge_after`] events; past [`Limits::bytes`] deltas of
//! the turn are dropped, and one `Overflow` says so; every other event is kept, up to [`HARD_FACTOR`] times
//! the bound, where the queue ends as overrun.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::app_server::error::DisconnectReason;
use crate::app_server::thread::ThreadEvent;

/// What even events that are never dropped may take, in multiples of the byte bound.
const HARD_FACTOR: usize = 16;
/// What an event takes beside its text, about.
const EVENT_BYTES: usize = 128;

/// Bounds of one queue.
#[derive(Debug, Clone, Copy)]
pub(in crate::app_server) struct Limits {
    /// Events held before deltas merge.
    pub(in crate::app_server) merge_after: usize,
    /// Bytes held before deltas are dropped.
    pub(in crate::app_server) bytes: usize,
}

/// A bounded queue with one owner who takes.
#[derive(Debug)]
pub(in crate::app_server) struct EventQueue {
    /// Held for a push or a pop, never across an await.
    state: Mutex<State>,
    /// One permit is kept, so that a push between a failed pop and the wait is not missed.
    ready: Notify,
}

impl EventQueue {
    pub(in crate::app_server) fn new(limits: Limits) -> Self {
        Self { state: Mutex::new(State::new(limits)), ready: Notify::new() }
    }

    pub(in crate::app_server) fn push(&self, event: ThreadEvent) {
        self.state().push(event);
        self.ready.notify_one();
    }

    /// The next event, if one is there.
    pub(in crate::app_server) fn pop(&self) -> Option<ThreadEvent> {
        self.state().pop()
    }

    /// The next event. Cancel-safe: an event is taken only when it is returned.
    pub(in crate::app_server) async fn next(&self) -> ThreadEvent {
        loop {
            if let Some(event) = self.pop() {
                return event;
            }
            self.ready.notified().await;
        }
    }

    /// A turn is being started: until its end has come, the thread counts as running.
    pub(in crate::app_server) fn expect_turn(&self) {
        self.state().running = true;
    }

    /// Whether a turn was started whose end has not come.
    pub(in crate::app_server) fn is_running(&self) -> bool {
        self.state().running
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The bytes an event is held to take.
pub(in crate::app_server) fn weight(event: &ThreadEvent) -> usize {
    EVENT_BYTES
        + match event {
            ThreadEvent::TextDelta { delta, .. }
            | ThreadEvent::SummaryDelta { delta, .. }
            | ThreadEvent::ReasoningDelta { delta, .. } => delta.len(),
            ThreadEvent::RawItem { item, .. }
            | ThreadEvent::OwnCallDone { item, .. }
            | ThreadEvent::ItemCompleted { item: Some(item), .. } => item.weight(),
            ThreadEvent::Retrying { failure, .. } => failure.message.len(),
            ThreadEvent::ToolCall { .. }
            | ThreadEvent::TurnStarted { .. }
            | ThreadEvent::ItemStarted { .. }
            | ThreadEvent::SummaryPartAdded { .. }
            | ThreadEvent::ItemCompleted { item: None, .. }
            | ThreadEvent::ResponseCompleted { .. }
            | ThreadEvent::UsageUpdated { .. }
            | ThreadEvent::TurnCompleted { .. }
            | ThreadEvent::Overflow
            | ThreadEvent::Closed(_) => 0,
        }
}

#[derive(Debug)]
struct State {
    events: VecDeque<ThreadEvent>,
    bytes: usize,
    limits: Limits,
    /// Deltas of this turn are being dropped.
    overflowed: bool,
    running: bool,
    /// Set by the first `Closed`; what comes later is dropped, and every pop past the rest gives it again.
    closed: Option<DisconnectReason>,
}

impl State {
    fn new(limits: Limits) -> Self {
        let events = VecDeque::new();
        Self { events, bytes: 0, limits, overflowed: false, running: false, closed: None }
    }

    fn push(&mut self, event: ThreadEvent) {
        if self.closed.is_some() {
            return;
        }
        match &event {
            ThreadEvent::TurnStarted { .. } => {
                self.overflowed = false;
                self.running = true;
            }
            ThreadEvent::TurnCompleted { .. } => self.running = false,
            ThreadEvent::Closed(reason) => {
                self.running = false;
                self.closed = Some(reason.clone());
                return;
            }
            _ => {}
        }
        let weight = weight(&event);
        if is_delta(&event) {
            if self.overflowed {
                return;
            }
            if self.bytes + weight > self.limits.bytes {
                self.overflowed = true;
                self.keep(ThreadEvent::Overflow, EVENT_BYTES);
                return;
            }
            if self.events.len() >= self.limits.merge_after
                && let Some(last) = self.events.back_mut()
                && merge(last, &event)
            {
                self.bytes += weight - EVENT_BYTES;
                return;
            }
        }
        self.keep(event, weight);
    }

    fn keep(&mut self, event: ThreadEvent, weight: usize) {
        if self.bytes + weight > self.limits.bytes.saturating_mul(HARD_FACTOR) {
            self.running = false;
            self.closed = Some(DisconnectReason::EventsOverrun);
            return;
        }
        self.bytes += weight;
        self.events.push_back(event);
    }

    fn pop(&mut self) -> Option<ThreadEvent> {
        match self.events.pop_front() {
            Some(event) => {
                self.bytes -= weight(&event);
                Some(event)
            }
            None => self.closed.clone().map(ThreadEvent::Closed),
        }
    }
}

fn is_delta(event: &ThreadEvent) -> bool {
    matches!(
        event,
        ThreadEvent::TextDelta { .. } | ThreadEvent::SummaryDelta { .. } | ThreadEvent::ReasoningDelta { .. }
    )
}

/// Appends `next` to `last` if both are text of the same part of the same item.
fn merge(last: &mut ThreadEvent, next: &ThreadEvent) -> bool {
    use ThreadEvent::{ReasoningDelta, SummaryDelta, TextDelta};
    match (last, next) {
        (
            TextDelta { turn, item_id, delta },
            TextDelta { turn: next_turn, item_id: next_item, delta: more },
        ) if turn == next_turn && item_id == next_item => delta.push_str(more),
        (
            SummaryDelta { turn, item_id, index, delta },
            SummaryDelta { turn: next_turn, item_id: next_item, index: next_index, delta: more },
        )
        | (
            ReasoningDelta { turn, item_id, index, delta },
            ReasoningDelta { turn: next_turn, item_id: next_item, index: next_index, delta: more },
        ) if turn == next_turn && item_id == next_item && index == next_index => delta.push_str(more),
        _ => return false,
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app_server::thread::{ItemKind, TurnStatus};
    use crate::model::{Item, TurnId};

    fn turn() -> TurnId {
        TurnId::new("u")
    }

    fn text(item: &str, delta: &str) -> ThreadEvent {
        ThreadEvent::TextDelta { turn: turn(), item_id: item.into(), delta: delta.into() }
    }

    fn queue(merge_after: usize, bytes: usize) -> EventQueue {
        EventQueue::new(Limits { merge_after, bytes })
    }

    fn drain(queue: &EventQueue) -> Vec<ThreadEvent> {
        let mut events = Vec::new();
        while let Some(event) = queue.pop() {
            let last = matches!(event, ThreadEvent::Closed(_));
            events.push(event);
            if last {
                break;
            }
        }
        events
    }

    #[test]
    fn deltas_merge_only_past_the_bound_and_only_with_their_own_part() {
        let queue = queue(2, 1 << 20);
        let summary = |index, delta: &str| ThreadEvent::SummaryDelta {
            turn: turn(),
            item_id: "r".into(),
            index,
            delta: delta.into(),
        };
        for event in [
            text("m", "a"),
            text("m", "b"),
            text("m", "c"),
            text("n", "d"),
            summary(0, "e"),
            summary(0, "f"),
            summary(1, "g"),
        ] {
            queue.push(event);
        }
        assert_eq!(
            drain(&queue),
            [text("m", "a"), text("m", "bc"), text("n", "d"), summary(0, "ef"), summary(1, "g")]
        );
        assert_eq!(queue.state().bytes, 0);
    }

    #[test]
    fn past_the_byte_bound_deltas_go_and_everything_else_stays() {
        let queue = queue(4, 1024);
        let started = ThreadEvent::TurnStarted { turn: turn() };
        let item = Item::message("assistant", vec!["z".repeat(2000).into()]);
        let raw = ThreadEvent::RawItem { turn: turn(), item };
        let (kind, item_id) = (ItemKind::Message, "m".into());
        let completed = ThreadEvent::ItemCompleted { turn: turn(), kind, item_id, item: None };
        let response =
            ThreadEvent::ResponseCompleted { turn: turn(), response_id: "resp".into(), usage: None };
        let ended = ThreadEvent::TurnCompleted { turn: turn(), status: TurnStatus::Completed };
        queue.push(started.clone());
        queue.push(text("m", "kept"));
        queue.push(text("m", &"x".repeat(1000)));
        queue.push(text("m", "after the gap"));
        for event in [&completed, &raw, &response, &ended] {
            queue.push(event.clone());
        }
        queue.push(started.clone());
        assert_eq!(queue.pop(), Some(started.clone()));
        queue.push(ThreadEvent::Closed(DisconnectReason::ClosedByUs));
        assert_eq!(
            drain(&queue),
            [
                text("m", "kept"),
                ThreadEvent::Overflow,
                completed,
                raw,
                response,
                ended,
                started,
                ThreadEvent::Closed(DisconnectReason::ClosedByUs),
            ]
        );
    }

    #[test]
    fn deltas_come_again_with_the_next_turn() {
        let queue = queue(4, 512);
        queue.push(text("m", &"x".repeat(600)));
        assert_eq!(queue.pop(), Some(ThreadEvent::Overflow));
        queue.push(text("m", "dropped"));
        assert_eq!(queue.pop(), None);
        queue.push(ThreadEvent::TurnStarted { turn: turn() });
        queue.push(text("n", "again"));
        assert_eq!(drain(&queue).last(), Some(&text("n", "again")));
    }

    #[test]
    fn a_flood_of_events_that_may_not_be_dropped_ends_the_queue() {
        let queue = queue(4, 1024);
        let started = ThreadEvent::SummaryPartAdded { turn: turn(), item_id: "r".into(), index: 0 };
        for _ in 0..1000 {
            queue.push(started.clone());
        }
        let events = drain(&queue);
        assert_eq!(events.len(), 1024 * HARD_FACTOR / EVENT_BYTES + 1);
        assert_eq!(events.last(), Some(&ThreadEvent::Closed(DisconnectReason::EventsOverrun)));
    }

    #[test]
    fn knows_whether_a_turn_runs() {
        let queue = queue(4, 1024);
        assert!(!queue.is_running());
        queue.expect_turn();
        assert!(queue.is_running());
        queue.push(ThreadEvent::TurnCompleted { turn: turn(), status: TurnStatus::Interrupted });
        assert!(!queue.is_running());
        queue.push(ThreadEvent::TurnStarted { turn: turn() });
        queue.push(ThreadEvent::Closed(DisconnectReason::Stopping));
        assert!(!queue.is_running());
    }

    #[tokio::test]
    async fn a_dropped_wait_loses_nothing() {
        let queue = queue(4, 1024);
        {
            let mut waiting = std::pin::pin!(queue.next());
            assert!(futures_util::poll!(waiting.as_mut()).is_pending());
            queue.push(text("m", "a"));
        }
        assert_eq!(queue.next().await, text("m", "a"));
    }
}
