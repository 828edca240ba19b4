//! Room for connections. When all of it is taken, the one that has waited longest for a request makes place;
//! where every one has a request, a newcomer is told so, for which a little more room is kept.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use super::activity::Activity;

/// Connections beyond the limit, that are only told so or asked after our health; past these, newcomers wait
/// in the system's own bounded backlog.
pub(super) const STANDING: u32 = 64;
/// How long an idle connection may take to make place.
const PLACE_TIMEOUT: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Room {
    seats: Arc<Semaphore>,
    standing: Arc<Semaphore>,
    limit: u32,
    open: Mutex<HashMap<u64, Entry>>,
    next: AtomicU64,
}

#[derive(Debug)]
struct Entry {
    activity: Arc<Activity>,
    leave: CancellationToken,
    seated: bool,
}

/// The right to accept one connection; goes back by drop.
#[derive(Debug)]
pub(super) struct Ticket(OwnedSemaphorePermit);

/// One connection's place; goes back by drop.
#[derive(Debug)]
pub(super) struct Place {
    room: Arc<Room>,
    id: u64,
    _permit: OwnedSemaphorePermit,
    pub(super) activity: Arc<Activity>,
    /// Another one needs the place.
    pub(super) leave: CancellationToken,
    /// Whether there is a seat: else it is told that there is none.
    pub(super) seated: bool,
}

impl Room {
    pub(super) fn new(limit: usize) -> Arc<Self> {
        let limit = u32::try_from(limit).unwrap_or(u32::MAX).min(1 << 20);
        Arc::new(Self {
            seats: Arc::new(Semaphore::new(limit as usize)),
            standing: Arc::new(Semaphore::new(STANDING as usize)),
            limit,
            open: Mutex::default(),
            next: AtomicU64::new(0),
        })
    }

    /// Waits until one more may be accepted. Cancel-safe.
    pub(super) async fn ticket(&self) -> Ticket {
        match Arc::clone(&self.standing).acquire_owned().await {
            Ok(permit) => Ticket(permit),
            // Never closed.
            Err(_) => std::future::pending().await,
        }
    }

    /// The place of the connection that `ticket` let in: a seat where one is free or can be freed.
    pub(super) async fn place(self: &Arc<Self>, ticket: Ticket) -> Place {
        if let Ok(seat) = Arc::clone(&self.seats).try_acquire_owned() {
            return self.enter(seat, true);
        }
        if self.free_one()
            && let Ok(Ok(seat)) =
                tokio::time::timeout(PLACE_TIMEOUT, Arc::clone(&self.seats).acquire_owned()).await
        {
            return self.enter(seat, true);
        }
        self.enter(ticket.0, false)
    }

    /// Waits until nobody is left.
    pub(super) async fn emptied(&self) {
        let _ = tokio::join!(self.seats.acquire_many(self.limit), self.standing.acquire_many(STANDING));
    }

    /// Connections that are open.
    pub(super) fn count(&self) -> usize {
        self.lock().len()
    }

    /// Asks the one that has been idle longest to leave; `false` if none is idle.
    fn free_one(&self) -> bool {
        let open = self.lock();
        let idle = open.values().filter(|entry| entry.seated && !entry.leave.is_cancelled());
        let oldest = idle.filter_map(|entry| Some((entry.activity.idle_since()?, &entry.leave)));
        let Some((_, leave)) = oldest.min_by_key(|(since, _)| *since) else { return false };
        leave.cancel();
        true
    }

    fn enter(self: &Arc<Self>, permit: OwnedSemaphorePermit, seated: bool) -> Place {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (activity, leave) = (Activity::new(), CancellationToken::new());
        let entry = Entry { activity: Arc::clone(&activity), leave: leave.clone(), seated };
        self.lock().insert(id, entry);
        Place { room: Arc::clone(self), id, _permit: permit, activity, leave, seated }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Entry>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.room.lock().remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_one_that_waited_longest_for_a_request_makes_place() {
        let room = Room::new(2);
        let busy = room.place(room.ticket().await).await;
        let _running = busy.activity.begin();
        tokio::time::advance(Duration::from_secs(1)).await;
        let idle = room.place(room.ticket().await).await;
        let leave = idle.leave.clone();
        let (newcomer, ()) = tokio::join!(async { room.place(room.ticket().await).await }, async {
            leave.cancelled().await;
            drop(idle);
        });
        assert!(newcomer.seated && !busy.leave.is_cancelled());
        assert_eq!(room.count(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn where_all_are_busy_a_newcomer_stands_and_the_standing_are_bounded() {
        let room = Room::new(1);
        let busy = room.place(room.ticket().await).await;
        let running = busy.activity.begin();
        let mut standing = Vec::new();
        for _ in 0..STANDING {
            let place = room.place(room.ticket().await).await;
            assert!(!place.seated);
            standing.push(place);
        }
        assert!(tokio::time::timeout(Duration::from_secs(60), room.ticket()).await.is_err());
        drop((running, busy));
        drop(standing.pop());
        assert!(room.place(room.ticket().await).await.seated);
        drop(standing);
        room.emptied().await;
        assert_eq!(room.count(), 0);
    }
}
