//! Whose a response is, where several bridges have one store: an entry of its document names the bridge and the time
//! until which it is alive by its own word. The bridges' clocks must agree within a part of `background.lease`.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::document::Kept;
use super::{CANCEL_TIMEOUT, KIND};
use crate::model::{RequestId, ResponseId};
use crate::store::{Documents, Entry, StoreError};

const LEASE: &str = "lease";
/// Somebody wants it cancelled.
const CANCEL: &str = "cancel";
/// Two bridges that take the same response have both written by then, and the later one has it.
const SETTLE: Duration = Duration::from_secs(1);
/// How often the end of what another bridge cancels is looked for.
const LOOK: Duration = Duration::from_millis(200);

/// This bridge's leases.
#[derive(Debug)]
pub(super) struct Leases {
    documents: Arc<Documents>,
    /// No other process has it.
    instance: String,
    time: Duration,
}

/// How a response is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Held {
    Ours,
    /// By us, and its caller has cancelled it.
    Cancelled,
    /// Another bridge has it.
    Lost,
}

#[derive(Debug, Serialize, Deserialize)]
struct Lease {
    instance: String,
    /// Unix milliseconds.
    until: u64,
}

impl Leases {
    pub(super) fn new(documents: Arc<Documents>, time: Duration) -> Self {
        // Random, and a word: what is wanted here.
        let instance = RequestId::generate().as_str().to_owned();
        Self { documents, instance, time }
    }

    /// How often they are to be renewed.
    pub(super) fn renewal(&self) -> Duration {
        self.time / 3
    }

    /// Makes a new response, or one that is ours, ours for a while.
    pub(super) async fn hold(&self, id: &ResponseId) -> Result<(), StoreError> {
        let lease = Lease { instance: self.instance.clone(), until: millis(SystemTime::now() + self.time) };
        self.write(id, LEASE, serde_json::to_vec(&lease).unwrap_or_default()).await
    }

    /// Keeps what is ours.
    pub(super) async fn renew(&self, id: &ResponseId) -> Result<Held, StoreError> {
        let is_ours = self.read(id).await?.is_none_or(|lease| lease.instance == self.instance);
        if !is_ours {
            return Ok(Held::Lost);
        }
        self.hold(id).await?;
        self.held(id).await
    }

    /// Takes what no bridge has. Of several that try at once one has it, at the most.
    pub(super) async fn take(&self, id: &ResponseId) -> Result<Held, StoreError> {
        let looked = Instant::now();
        let is_held = self.read(id).await?.is_some_and(|lease| millis(SystemTime::now()) < lease.until);
        if is_held {
            return Ok(Held::Lost);
        }
        self.hold(id).await?;
        // Who writes too late may write after another one has looked again; both leave it to the next time.
        let is_late = looked.elapsed() > SETTLE / 2;
        tokio::time::sleep(SETTLE).await;
        match self.read(id).await? {
            Some(lease) if lease.instance == self.instance && !is_late => self.held(id).await,
            _ => Ok(Held::Lost),
        }
    }

    /// Has another bridge cancel a response, and waits for that a while. Gives what is kept of it then.
    pub(super) async fn cancel_elsewhere(&self, id: &ResponseId, mut kept: Kept) -> Result<Kept, StoreError> {
        self.write(id, CANCEL, Vec::new()).await?;
        let until = Instant::now() + CANCEL_TIMEOUT;
        while !kept.is_over() && Instant::now() < until {
            tokio::time::sleep(LOOK).await;
            match self.documents.get(KIND, id.as_str()).await? {
                Some(document) => kept = Kept::of(&document)?,
                None => break,
            }
        }
        Ok(kept)
    }

    async fn held(&self, id: &ResponseId) -> Result<Held, StoreError> {
        let cancelled = self.documents.entry(KIND, id.as_str(), CANCEL).await?.is_some();
        Ok(if cancelled { Held::Cancelled } else { Held::Ours })
    }

    async fn read(&self, id: &ResponseId) -> Result<Option<Lease>, StoreError> {
        let entry = self.documents.entry(KIND, id.as_str(), LEASE).await?;
        Ok(entry.and_then(|entry| serde_json::from_slice(&entry.body).ok()))
    }

    async fn write(&self, id: &ResponseId, entry: &str, body: Vec<u8>) -> Result<(), StoreError> {
        self.documents.append(KIND, id.as_str(), vec![Entry { id: entry.into(), body }]).await
    }
}

fn millis(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bridges() -> [Leases; 2] {
        let documents = Arc::new(Documents::in_memory());
        [(); 2].map(|()| Leases::new(Arc::clone(&documents), Duration::from_secs(3600)))
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_held_is_not_taken() {
        let ([a, b], id) = (bridges(), ResponseId::new("resp_1"));
        a.hold(&id).await.unwrap();
        assert_eq!(b.take(&id).await, Ok(Held::Lost));
        assert_eq!(a.renew(&id).await, Ok(Held::Ours));
        b.write(&id, CANCEL, Vec::new()).await.unwrap();
        assert_eq!(a.renew(&id).await, Ok(Held::Cancelled));
    }

    #[tokio::test(start_paused = true)]
    async fn of_two_that_take_at_once_one_has_it() {
        let ([a, b], id) = (bridges(), ResponseId::new("resp_1"));
        let (a, b) = tokio::join!(a.take(&id), b.take(&id));
        let ours = [a, b].into_iter().filter(|held| *held == Ok(Held::Ours)).count();
        assert_eq!(ours, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_bridge_that_was_given_up_loses_it() {
        let documents = Arc::new(Documents::in_memory());
        let gone = Leases::new(Arc::clone(&documents), Duration::ZERO);
        let other = Leases::new(documents, Duration::from_secs(3600));
        let id = ResponseId::new("resp_1");
        gone.hold(&id).await.unwrap();
        assert_eq!(other.take(&id).await, Ok(Held::Ours));
        assert_eq!(gone.renew(&id).await, Ok(Held::Lost));
    }
}
