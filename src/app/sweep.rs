//! Documents whose time is up go, a look at a time.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::store::Documents;

/// Time between two looks.
const PERIOD: Duration = Duration::from_secs(30);
/// How long one may take; what it did not come to is the next one's.
const LIMIT: Duration = Duration::from_secs(10);

/// Looks until `stop`.
pub(super) async fn sweep(documents: Arc<Documents>, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(PERIOD);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let swept = tokio::select! {
            () = stop.cancelled() => return,
            swept = tokio::time::timeout(LIMIT, documents.sweep(SystemTime::now())) => swept,
        };
        match swept {
            Ok(Ok(0)) => {}
            Ok(Ok(documents)) => debug!(documents, "documents expired"),
            Ok(Err(error)) => warn!(%error, "expired documents are still kept"),
            Err(_) => debug!("the sweep of documents goes on later"),
        }
    }
}
