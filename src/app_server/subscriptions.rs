//! Events on their way from the reading task to the thread's owner: one bounded queue a thread.

mod queue;

use std::collections::VecDeque;
use std::sync::Arc;

use dashmap::DashMap;

use super::error::DisconnectReason;
use super::thread::ThreadEvent;

pub(super) use queue::{EventQueue, Limits};

/// Early events kept; past it the oldest goes.
const EARLY_EVENTS: usize = 256;
/// Bytes of early events kept; past it the oldest goes.
const EARLY_BYTES: usize = 1024 * 1024;

/// Queues of the threads of one connection, by thread id.
#[derive(Debug)]
pub(super) struct Routes {
    queues: DashMap<Box<str>, Arc<EventQueue>>,
    limits: Limits,
}

impl Routes {
    pub(super) fn new(limits: Limits) -> Self {
        Self { queues: DashMap::new(), limits }
    }

    /// A queue for `thread`, holding `early` already.
    pub(super) fn register(&self, thread: &str, early: Vec<ThreadEvent>) -> Arc<EventQueue> {
        let queue = Arc::new(EventQueue::new(self.limits));
        for event in early {
            queue.push(event);
        }
        self.queues.insert(thread.into(), Arc::clone(&queue));
        queue
    }

    /// Nobody takes the events of `thread` any more.
    pub(super) fn remove(&self, thread: &str) {
        self.queues.remove(thread);
    }

    /// Hands an event to its thread; gives it back if nobody owns that.
    pub(super) fn deliver(&self, thread: &str, event: ThreadEvent) -> Option<ThreadEvent> {
        let Some(queue) = self.queues.get(thread) else { return Some(event) };
        queue.push(event);
        None
    }

    /// Ends every queue.
    pub(super) fn close_all(&self, reason: &DisconnectReason) {
        for queue in &self.queues {
            queue.push(ThreadEvent::Closed(reason.clone()));
        }
    }

    /// Whether `thread` has an owner.
    pub(super) fn has(&self, thread: &str) -> bool {
        self.queues.contains_key(thread)
    }

    /// Threads on which a turn runs.
    pub(super) fn running(&self) -> usize {
        self.queues.iter().filter(|queue| queue.is_running()).count()
    }

    /// Threads with an owner.
    pub(super) fn len(&self) -> usize {
        self.queues.len()
    }
}

/// Events of threads whose `thread/start` reply has not come yet. Owned by the reading task.
#[derive(Debug, Default)]
pub(super) struct Early {
    events: VecDeque<(Box<str>, ThreadEvent)>,
    bytes: usize,
}

impl Early {
    /// Keeps an event whose thread is not known yet.
    pub(super) fn keep(&mut self, thread: &str, event: ThreadEvent) {
        self.bytes += queue::weight(&event);
        self.events.push_back((thread.into(), event));
        while self.events.len() > EARLY_EVENTS || self.bytes > EARLY_BYTES {
            let Some((_, oldest)) = self.events.pop_front() else { break };
            self.bytes -= queue::weight(&oldest);
        }
    }

    /// The events of `thread`, in order.
    pub(super) fn take(&mut self, thread: &str) -> Vec<ThreadEvent> {
        let events = std::mem::take(&mut self.events);
        let (own, others): (VecDeque<_>, VecDeque<_>) =
            events.into_iter().partition(|(id, _)| &**id == thread);
        self.events = others;
        self.bytes = self.events.iter().map(|(_, event)| queue::weight(event)).sum();
        own.into_iter().map(|(_, event)| event).collect()
    }

    /// No thread is being started: these belong to nobody.
    pub(super) fn clear(&mut self) {
        if !self.events.is_empty() {
            *self = Self::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::TurnId;

    fn started(turn: &str) -> ThreadEvent {
        ThreadEvent::TurnStarted { turn: TurnId::new(turn) }
    }

    #[test]
    fn early_events_reach_their_own_thread_in_order() {
        let mut early = Early::default();
        early.keep("t1", started("a"));
        early.keep("t2", started("b"));
        early.keep("t1", started("c"));
        let routes = Routes::new(Limits { merge_after: 4, bytes: 1024 });
        let queue = routes.register("t1", early.take("t1"));
        assert_eq!(queue.pop(), Some(started("a")));
        assert_eq!(queue.pop(), Some(started("c")));
        assert_eq!(queue.pop(), None);
        assert_eq!(early.take("t2"), [started("b")]);
    }

    #[test]
    fn early_events_are_bounded() {
        let mut early = Early::default();
        for turn in 0..=EARLY_EVENTS {
            early.keep("t", started(&turn.to_string()));
        }
        assert_eq!(early.take("t").first(), Some(&started("1")));
        let delta = "x".repeat(EARLY_BYTES);
        early.keep("t", ThreadEvent::TextDelta { turn: TurnId::new("u"), item_id: "i".into(), delta });
        assert!(early.take("t").is_empty());
        assert_eq!(early.bytes, 0);
    }

    #[test]
    fn events_without_an_owner_come_back() {
        let routes = Routes::new(Limits { merge_after: 4, bytes: 1024 });
        let queue = routes.register("t1", Vec::new());
        assert_eq!(routes.deliver("t1", started("a")), None);
        assert_eq!(routes.deliver("t2", started("b")), Some(started("b")));
        routes.close_all(&DisconnectReason::Stopping);
        routes.remove("t1");
        assert_eq!(routes.deliver("t1", started("c")), Some(started("c")));
        assert_eq!(queue.pop(), Some(started("a")));
        assert_eq!(queue.pop(), Some(ThreadEvent::Closed(DisconnectReason::Stopping)));
        assert_eq!(routes.len(), 0);
    }
}
