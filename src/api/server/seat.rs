//! A connection's place, for whoever takes the connection over.

use std::sync::Arc;

use super::Closing;
use super::activity::Running;
use super::room::Place;

/// Beside each request: the place of its connection, which is kept until the last of them is dropped, and what the
/// server wants of whoever has it. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Seat {
    place: Arc<Place>,
    closing: Closing,
}

/// Something runs on the connection. Ends by drop.
#[derive(Debug)]
pub(crate) struct Busy(#[expect(dead_code, reason = "held for its drop")] Running);

impl Seat {
    pub(super) fn new(place: &Arc<Place>, closing: &Closing) -> Self {
        Self { place: Arc::clone(place), closing: closing.clone() }
    }

    /// Whether the connection is beyond the limit, and is only told so.
    pub(super) fn is_standing(&self) -> bool {
        !self.place.seated
    }

    /// Until it is dropped, the connection is not the one that makes place for another.
    pub(crate) fn busy(&self) -> Busy {
        Busy(self.place.activity.begin())
    }

    /// Finish what runs, start nothing new.
    pub(crate) async fn draining(&self) {
        self.closing.draining.cancelled().await;
    }

    /// End at once.
    pub(crate) async fn cut(&self) {
        self.closing.cut.cancelled().await;
    }

    /// Another connection needs the place: end, unless something runs.
    pub(crate) async fn leave(&self) {
        self.place.leave.cancelled().await;
    }
}
