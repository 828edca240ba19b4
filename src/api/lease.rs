//! Whose work it is, where several bridges have one store: an entry of its document names the bridge and the time
//! until which it is alive by its own word. The bridges' clocks must agree within a part of `background.lease`.

use std::marker::PhantomData;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::model::RequestId;
use crate::store::{Document, DocumentKind, Documents, Entry, StoreError};

const LEASE: &str = "lease";
/// Somebody wants it cancelled.
const CANCEL: &str = "cancel";
/// How often the end of what another bridge cancels is looked for.
const LOOK: Duration = Duration::from_millis(200);
/// How long a caller waits for the end of what it has cancelled or deleted.
pub(crate) const CANCEL_TIMEOUT: Duration = Duration::from_secs(10);

/// Documents that stand for work.
pub(crate) trait Leased: Sized {
    /// What they are.
    const KIND: DocumentKind;

    /// What the document says.
    fn of(document: &Document) -> Result<Self, StoreError>;
}

/// This bridge's leases of documents of one kind.
#[derive(Debug)]
pub(crate) struct Leases<T> {
    documents: Arc<Documents>,
    /// No other process has it.
    instance: String,
    time: Duration,
    kind: PhantomData<fn() -> T>,
}

/// How a document is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Held {
    Ours,
    /// By us, and its caller has cancelled it.
    Cancelled,
    /// Another bridge has it, or it is not there.
    Lost,
}

#[derive(Debug, Serialize, Deserialize)]
struct Lease {
    instance: String,
    /// Unix milliseconds.
    until: u64,
}

impl<T: Leased> Leases<T> {
    pub(crate) fn new(documents: Arc<Documents>, time: Duration) -> Self {
        // Random, and a word: what is wanted here.
        let instance = RequestId::generate().as_str().to_owned();
        Self { documents, instance, time, kind: PhantomData }
    }

    /// How often they are to be renewed.
    pub(crate) fn renewal(&self) -> Duration {
        self.time / 3
    }

    /// The entry that makes a new document ours for a while.
    pub(crate) fn first(&self) -> Entry {
        Entry { id: LEASE.into(), body: self.written() }
    }

    /// Keeps what is ours.
    pub(crate) async fn renew(&self, id: &str) -> Result<Held, StoreError> {
        self.write_if(id, |lease| lease.is_some_and(|lease| lease.instance == self.instance)).await
    }

    /// Takes what no bridge has. Of several that try at once one has it.
    pub(crate) async fn take(&self, id: &str) -> Result<Held, StoreError> {
        self.write_if(id, |lease| lease.is_none_or(|lease| lease.until <= millis(SystemTime::now()))).await
    }

    /// Leaves it to whoever takes it.
    pub(crate) async fn leave(&self, id: &str) -> Result<(), StoreError> {
        self.documents.remove_entry(T::KIND, id, LEASE).await.map(drop)
    }

    /// Keeps a document while it is ours. Gives whether it is.
    pub(crate) async fn replace(&self, document: &Document) -> Result<bool, StoreError> {
        let is_ours = |body: &[u8]| lease_in(body).is_some_and(|lease| lease.instance == self.instance);
        self.documents.replace_if(T::KIND, document, LEASE, is_ours).await
    }

    /// Has another bridge cancel it, and waits a while until that has `come`. Gives what is kept of it then; `None` if
    /// it is not there any more.
    pub(crate) async fn cancel_elsewhere(
        &self,
        id: &str,
        come: impl Fn(&T) -> bool,
    ) -> Result<Option<T>, StoreError> {
        let cancel = vec![Entry { id: CANCEL.into(), body: Vec::new() }];
        if !self.documents.append(T::KIND, id, cancel).await? {
            return Ok(None);
        }
        let until = Instant::now() + CANCEL_TIMEOUT;
        loop {
            tokio::time::sleep(LOOK).await;
            let Some(document) = self.documents.get(T::KIND, id).await? else { return Ok(None) };
            let kept = T::of(&document)?;
            if come(&kept) || Instant::now() >= until {
                return Ok(Some(kept));
            }
        }
    }

    /// Makes it ours for a while, if the lease that is there is so.
    async fn write_if(
        &self,
        id: &str,
        is_so: impl Fn(Option<Lease>) -> bool + Send + Sync,
    ) -> Result<Held, StoreError> {
        let change = |there: Option<&[u8]>| is_so(there.and_then(lease_in)).then(|| self.written());
        if !self.documents.change_entry(T::KIND, id, LEASE, change).await? {
            return Ok(Held::Lost);
        }
        let cancelled = self.documents.entry(T::KIND, id, CANCEL).await?.is_some();
        Ok(if cancelled { Held::Cancelled } else { Held::Ours })
    }

    /// The lease from now on.
    fn written(&self) -> Vec<u8> {
        let lease = Lease { instance: self.instance.clone(), until: millis(SystemTime::now() + self.time) };
        serde_json::to_vec(&lease).unwrap_or_default()
    }
}

fn lease_in(body: &[u8]) -> Option<Lease> {
    serde_json::from_slice(body).ok()
}

fn millis(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::KeyId;

    const KIND: DocumentKind = DocumentKind::Background;

    struct Work;

    impl Leased for Work {
        const KIND: DocumentKind = KIND;

        fn of(_: &Document) -> Result<Self, StoreError> {
            Ok(Self)
        }
    }

    fn document() -> Document {
        Document { id: "resp_1".into(), owner: KeyId::anonymous(), expires_at: None, body: Vec::new() }
    }

    /// Two, and a response that neither has.
    async fn bridges() -> ([Leases<Work>; 2], &'static str) {
        let documents = Arc::new(Documents::in_memory());
        documents.put(KIND, &document()).await.unwrap();
        let bridges = [(); 2].map(|()| Leases::new(Arc::clone(&documents), Duration::from_secs(3600)));
        (bridges, "resp_1")
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_held_is_not_taken() {
        let ([a, b], id) = bridges().await;
        a.documents.put_with(KIND, &document(), &[a.first()]).await.unwrap();
        assert_eq!(b.take(id).await, Ok(Held::Lost));
        assert_eq!(a.renew(id).await, Ok(Held::Ours));
        assert_eq!((a.replace(&document()).await, b.replace(&document()).await), (Ok(true), Ok(false)));
        let cancel = Entry { id: CANCEL.into(), body: Vec::new() };
        b.documents.append(KIND, id, vec![cancel]).await.unwrap();
        assert_eq!(a.renew(id).await, Ok(Held::Cancelled));
        a.leave(id).await.unwrap();
        assert_eq!(b.take(id).await, Ok(Held::Cancelled));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_not_there_is_lost_and_stays_away() {
        let ([a, b], id) = bridges().await;
        assert_eq!(a.renew(id).await, Ok(Held::Lost), "it was never taken");
        assert_eq!(a.take(id).await, Ok(Held::Ours));
        b.documents.delete(KIND, id).await.unwrap();
        for held in [a.renew(id).await, a.take(id).await] {
            assert_eq!(held, Ok(Held::Lost));
        }
        assert_eq!(a.replace(&document()).await, Ok(false));
        assert!(b.cancel_elsewhere(id, |_| true).await.unwrap().is_none());
        assert_eq!(a.documents.bytes(), Some(0), "nothing is left of it");
    }

    #[tokio::test(start_paused = true)]
    async fn of_two_that_take_at_once_one_has_it() {
        let ([a, b], id) = bridges().await;
        let (a, b) = tokio::join!(a.take(id), b.take(id));
        let ours = [a, b].into_iter().filter(|held| *held == Ok(Held::Ours)).count();
        assert_eq!(ours, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_bridge_that_was_given_up_loses_it() {
        let documents = Arc::new(Documents::in_memory());
        let gone = Leases::<Work>::new(Arc::clone(&documents), Duration::ZERO);
        let other = Leases::<Work>::new(documents, Duration::from_secs(3600));
        let id = "resp_1";
        gone.documents.put_with(KIND, &document(), &[gone.first()]).await.unwrap();
        assert_eq!(other.take(id).await, Ok(Held::Ours));
        assert_eq!(gone.renew(id).await, Ok(Held::Lost));
    }
}
