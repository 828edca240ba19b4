//! What the turns of one call have in common.

use std::sync::{Arc, OnceLock};

use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

/// Held by all turns of one call: its first one, the repair of its answer, its other choices. Once one of them has had
/// a slot the call has begun, and the others may have theirs, however late. Cheap to clone; all clones are one.
#[derive(Debug, Clone, Default)]
pub struct CallTicket(Arc<OnceLock<TaskTrackerToken>>);

impl CallTicket {
    /// One of its turns has a slot: `begun` counts the call until the last clone is dropped.
    pub fn begin(&self, begun: &TaskTracker) {
        self.0.get_or_init(|| begun.token());
    }

    /// Whether one of its turns has had a slot.
    pub fn has_begun(&self) -> bool {
        self.0.get().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_counted_once_and_until_its_last_turn_is_dropped() {
        let (begun, ticket) = (TaskTracker::new(), CallTicket::default());
        let other = ticket.clone();
        assert!(!other.has_begun());
        ticket.begin(&begun);
        other.begin(&begun);
        assert!(other.has_begun() && !CallTicket::default().has_begun());
        drop(ticket);
        assert_eq!(begun.len(), 1);
        drop(other);
        assert_eq!(begun.len(), 0);
    }
}
