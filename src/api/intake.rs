//! Room for request bodies: all that are held at once, by every client together, stay within one bound, and those of
//! one key within half of it, but for a single one that is larger.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::model::KeyId;
use crate::tasks::shares::Shares;

/// One permit of the semaphore, which cannot count to the largest bounds in bytes.
const UNIT: usize = 1024;

/// The room there is. Bodies that find none wait in the order they came.
#[derive(Debug, Clone)]
pub(crate) struct Intake {
    room: Arc<Semaphore>,
    units: usize,
    shares: Arc<Shares>,
}

/// Room taken for one body; given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Room {
    /// Of its key's share, where there are keys.
    of_share: Option<OwnedSemaphorePermit>,
    /// Of all there is.
    permit: OwnedSemaphorePermit,
    intake: Intake,
}

impl Intake {
    /// Room for `bytes` in all.
    pub(crate) fn new(bytes: usize) -> Self {
        let units = units(bytes).min(Semaphore::MAX_PERMITS);
        Self { room: Arc::new(Semaphore::new(units)), units, shares: Arc::new(Shares::of(units)) }
    }

    /// Waits for room for `bytes` of `key`; for all there is, where that is less. `None` never comes: it stands for a
    /// closed semaphore, and nobody closes it.
    pub(crate) async fn take(&self, key: &KeyId, bytes: usize) -> Option<Room> {
        let units = units(bytes);
        // Of the share first: whoever waits for that keeps nobody else out.
        let of_share = match self.shares.of_key(key) {
            Some(share) => Some(acquire(&share, units.min(self.shares.share())).await?),
            None => None,
        };
        let permit = acquire(&self.room, units.min(self.units)).await?;
        Some(Room { of_share, permit, intake: self.clone() })
    }
}

impl Room {
    /// Waits until it holds room for `bytes`: for a body that did not say how long it is.
    pub(crate) async fn grow(&mut self, bytes: usize) {
        let (units, intake) = (units(bytes), &self.intake);
        if let Some(of_share) = &mut self.of_share {
            grow(of_share, units.min(intake.shares.share())).await;
        }
        grow(&mut self.permit, units.min(intake.units)).await;
    }
}

async fn acquire(room: &Arc<Semaphore>, units: usize) -> Option<OwnedSemaphorePermit> {
    let units = u32::try_from(units).unwrap_or(u32::MAX);
    Arc::clone(room).acquire_many_owned(units).await.ok()
}

async fn grow(permit: &mut OwnedSemaphorePermit, units: usize) {
    let more = units.checked_sub(permit.num_permits()).filter(|more| *more > 0);
    if let Some(more) = more
        && let Some(more) = acquire(permit.semaphore(), more).await
    {
        permit.merge(more);
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

    fn anyone() -> KeyId {
        KeyId::anonymous()
    }

    #[tokio::test(start_paused = true)]
    async fn room_is_bounded_and_comes_back() {
        let intake = Intake::new(10 * UNIT);
        let six = intake.take(&anyone(), 6 * UNIT).await;
        assert!(waits(intake.take(&anyone(), 5 * UNIT)).await);
        let four = intake.take(&anyone(), 4 * UNIT).await;
        assert!(waits(intake.take(&anyone(), 1)).await);
        drop(six);
        assert!(intake.take(&anyone(), 6 * UNIT).await.is_some());
        drop(four);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_larger_than_all_there_is_has_it_alone() {
        let intake = Intake::new(10 * UNIT);
        let all = intake.take(&anyone(), 100 * UNIT).await;
        assert!(waits(intake.take(&anyone(), 1)).await);
        drop(all);
        assert!(intake.take(&anyone(), 1).await.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn room_grows_with_its_body() {
        let intake = Intake::new(10 * UNIT);
        let mut room = intake.take(&anyone(), 1).await.unwrap();
        room.grow(4 * UNIT).await;
        room.grow(4 * UNIT).await;
        let rest = intake.take(&anyone(), 6 * UNIT).await;
        assert!(waits(room.grow(5 * UNIT)).await);
        drop(rest);
        room.grow(1000 * UNIT).await;
        assert!(waits(intake.take(&anyone(), 1)).await);
        drop(room);
        assert_eq!(intake.room.available_permits(), 10);
    }

    /// Bodies that are announced and never come.
    #[tokio::test(start_paused = true)]
    async fn one_key_takes_no_more_than_half_where_there_are_keys() {
        let intake = Intake::new(10 * UNIT);
        let (greedy, other) = (KeyId::new("greedy"), KeyId::new("other"));
        let mut held = intake.take(&greedy, 3 * UNIT).await.unwrap();
        assert!(waits(intake.take(&greedy, 3 * UNIT)).await);
        held.grow(5 * UNIT).await;
        assert!(waits(intake.take(&greedy, 1)).await);
        // Those that wait for its share hold nothing of the rest.
        let (all_of_its_own, mine) = tokio::join!(
            tokio::time::timeout(Duration::from_secs(1), intake.take(&greedy, 100 * UNIT)),
            async { intake.take(&other, 5 * UNIT).await }
        );
        assert!(all_of_its_own.is_err() && mine.is_some());
        assert!(waits(intake.take(&anyone(), 1)).await);
        drop((held, mine));
        assert!(intake.take(&greedy, 100 * UNIT).await.is_some());
        assert_eq!(intake.room.available_permits(), 10);
    }
}
