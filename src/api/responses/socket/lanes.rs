//! Who is answered when: the requests of one lane one after the other, those of several lanes side by side. Pure.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use crate::api::error::ApiError;

/// Answers at once on one socket, as the official bound.
pub(super) const MAX_RUNNING: usize = 16;
/// Lanes with a name on one socket, as the official bound.
pub(super) const MAX_NAMED: usize = 32;
/// Requests that wait for their lane on one socket; one more is refused.
pub(super) const MAX_WAITING: usize = 64;

/// Named by a `stream_id`, or the one without a name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(super) struct Lane(Option<Arc<str>>);

impl Lane {
    pub(super) fn named(name: &str) -> Self {
        Self(Some(name.into()))
    }

    pub(super) fn name(&self) -> Option<&Arc<str>> {
        self.0.as_ref()
    }
}

/// The lanes of one socket.
#[derive(Debug)]
pub(super) struct Lanes<T> {
    named: HashSet<Arc<str>>,
    /// Those with an answer that runs.
    busy: HashSet<Lane>,
    /// In the order they came.
    waiting: VecDeque<(Lane, T)>,
}

impl<T> Lanes<T> {
    pub(super) fn new() -> Self {
        Self { named: HashSet::new(), busy: HashSet::new(), waiting: VecDeque::new() }
    }

    /// Takes a request in; gives it back with the reason why not.
    pub(super) fn admit(&mut self, lane: Lane, request: T) -> Result<(), (T, ApiError)> {
        if self.waiting.len() >= MAX_WAITING {
            let message = format!(
                "{MAX_WAITING} requests of this WebSocket wait already; send the next one when a response has ended."
            );
            return Err((request, ApiError::new("rate_limit_exceeded", message)));
        }
        if let Some(name) = lane.name()
            && !self.named.contains(name)
        {
            if self.named.len() >= MAX_NAMED {
                let message = format!(
                    "This WebSocket has {MAX_NAMED} values of 'stream_id' already, as many as it may: use one of them \
                     or open another WebSocket."
                );
                return Err((request, ApiError::new("websocket_stream_limit_reached", message)));
            }
            self.named.insert(Arc::clone(name));
        }
        self.waiting.push_back((lane, request));
        Ok(())
    }

    /// The next one that may run; its lane is busy until it has ended.
    pub(super) fn next(&mut self) -> Option<(Lane, T)> {
        if self.busy.len() >= MAX_RUNNING {
            return None;
        }
        let at = self.waiting.iter().position(|(lane, _)| !self.busy.contains(lane))?;
        let next = self.waiting.remove(at)?;
        self.busy.insert(next.0.clone());
        Some(next)
    }

    /// The answer that ran on `lane` has ended.
    pub(super) fn ended(&mut self, lane: &Lane) {
        self.busy.remove(lane);
    }

    /// All that wait, which then do no longer.
    pub(super) fn give_up(&mut self) -> VecDeque<(Lane, T)> {
        std::mem::take(&mut self.waiting)
    }

    /// Whether nothing runs or waits.
    pub(super) fn is_idle(&self) -> bool {
        self.busy.is_empty() && self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lane(name: &str) -> Lane {
        if name.is_empty() { Lane::default() } else { Lane::named(name) }
    }

    /// Requests `<lane>:<number>`; gives what may run now.
    fn admit(lanes: &mut Lanes<String>, requests: &[&str]) {
        for request in requests {
            let name = request.split(':').next().unwrap();
            lanes.admit(lane(name), (*request).to_owned()).unwrap();
        }
    }

    fn runnable(lanes: &mut Lanes<String>) -> Vec<String> {
        std::iter::from_fn(|| lanes.next()).map(|(_, request)| request).collect()
    }

    #[test]
    fn a_lane_is_answered_in_order_and_lanes_side_by_side() {
        let mut lanes = Lanes::new();
        admit(&mut lanes, &[":1", ":2", "a:1", "a:2", "b:1"]);
        assert_eq!(runnable(&mut lanes), [":1", "a:1", "b:1"]);
        assert_eq!(runnable(&mut lanes), [""; 0]);
        lanes.ended(&lane("a"));
        assert_eq!(runnable(&mut lanes), ["a:2"]);
        lanes.ended(&Lane::default());
        assert_eq!(runnable(&mut lanes), [":2"]);
        for name in ["", "a", "b"] {
            assert!(!lanes.is_idle());
            lanes.ended(&lane(name));
        }
        assert!(lanes.is_idle());
    }

    #[test]
    fn only_so_many_run_at_once_and_the_rest_waits() {
        let mut lanes = Lanes::new();
        let names: Vec<String> = (0..20).map(|n| format!("l{n}:1")).collect();
        admit(&mut lanes, &names.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(runnable(&mut lanes).len(), MAX_RUNNING);
        lanes.ended(&lane("l3"));
        assert_eq!(runnable(&mut lanes), ["l16:1"]);
        assert_eq!(lanes.give_up().len(), 3);
    }

    #[test]
    fn names_and_waiting_requests_are_bounded() {
        let mut lanes = Lanes::new();
        let code = |refused: Result<(), (u32, ApiError)>| refused.unwrap_err().1.code.unwrap();
        for n in 0..MAX_NAMED {
            lanes.admit(lane(&format!("l{n}")), 0).unwrap();
        }
        assert_eq!(code(lanes.admit(lane("one more"), 0)), "websocket_stream_limit_reached");
        lanes.admit(lane("l0"), 0).unwrap();
        for _ in MAX_NAMED + 1..MAX_WAITING {
            lanes.admit(Lane::default(), 0).unwrap();
        }
        assert_eq!(code(lanes.admit(Lane::default(), 0)), "rate_limit_exceeded");
    }
}
