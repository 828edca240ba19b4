//! Room for request bodies: all that are held at once, by every client together, stay within one bound.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// One permit of the semaphore, which cannot count to the largest bounds in bytes.
const UNIT: usize = 1024;

/// The room there is. Bodies that find none wait in the order they came.
#[derive(Debug, Clone)]
pub(crate) struct Intake {
    room: Arc<Semaphore>,
    units: usize,
}

/// Room taken for one body; given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Room {
    permit: OwnedSemaphorePermit,
    intake: Intake,
}

impl Intake {
    /// Room for `bytes` in all.
    pub(crate) fn new(bytes: usize) -> Self {
        let units = units(bytes).min(Semaphore::MAX_PERMITS);
        Self { room: Arc::new(Semaphore::new(units)), units }
    }

    /// Waits for room for `bytes`; for all there is, where that is less. `None` never comes: it stands for a
    /// closed semaphore, and nobody closes it.
    pub(crate) async fn take(&self, bytes: usize) -> Option<Room> {
        let permit = self.acquire(units(bytes)).await?;
        Some(Room { permit, intake: self.clone() })
    }

    async fn acquire(&self, units: usize) -> Option<OwnedSemaphorePermit> {
        let units = u32::try_from(units.min(self.units)).unwrap_or(u32::MAX);
        Arc::clone(&self.room).acquire_many_owned(units).await.ok()
    }
}

impl Room {
    /// Waits until it holds room for `bytes`: for a body that did not say how long it is.
    pub(crate) async fn grow(&mut self, bytes: usize) {
        let wanted = units(bytes).min(self.intake.units);
        if let Some(more) = wanted.checked_sub(self.permit.num_permits()).filter(|more| *more > 0)
            && let Some(permit) = self.intake.acquire(more).await
        {
            self.permit.merge(permit);
        }
    }
}

fn units(bytes: usize) -> usize {
    bytes.div_ceil(UNIT).max(1)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    async fn waits<T>(future: impl Future<Output = T>) -> bool {
        tokio::time::timeout(Duration::from_secs(3600), future).await.is_err()
    }

    #[tokio::test(start_paused = true)]
    async fn room_is_bounded_and_comes_back() {
        let intake = Intake::new(10 * UNIT);
        let six = intake.take(6 * UNIT).await;
        assert!(waits(intake.take(5 * UNIT)).await);
        let four = intake.take(4 * UNIT).await;
        assert!(waits(intake.take(1)).await);
        drop(six);
        assert!(intake.take(6 * UNIT).await.is_some());
        drop(four);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_larger_than_all_there_is_has_it_alone() {
        let intake = Intake::new(10 * UNIT);
        let all = intake.take(100 * UNIT).await;
        assert!(waits(intake.take(1)).await);
        drop(all);
        assert!(intake.take(1).await.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn room_grows_with_its_body() {
        let intake = Intake::new(10 * UNIT);
        let mut room = intake.take(1).await.unwrap();
        room.grow(4 * UNIT).await;
        room.grow(4 * UNIT).await;
        let rest = intake.take(6 * UNIT).await;
        assert!(waits(room.grow(5 * UNIT)).await);
        drop(rest);
        room.grow(1000 * UNIT).await;
        assert!(waits(intake.take(1)).await);
        drop(room);
        assert_eq!(intake.room.available_permits(), 10);
    }
}
