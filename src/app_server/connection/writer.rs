//! The task that owns the socket's write side, and looks after the peer's signs of life.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::{Sink, SinkExt};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_tungstenite::tungstenite::{Error as WsError, Message};
use tokio_util::sync::CancellationToken;

use super::ConnectOptions;
use super::shared::{Outgoing, Shared};
use crate::app_server::error::DisconnectReason;
use crate::app_server::transport::frames;

/// Entries written before they are flushed.
const BATCH: usize = 64;
/// How long the last words may take.
const FAREWELL: Duration = Duration::from_secs(1);

/// Writes until the connection ends, then says goodbye.
pub(super) async fn write<S>(
    sink: S,
    queue: mpsc::Receiver<Outgoing>,
    shared: Arc<Shared>,
    options: &ConnectOptions,
    stop: CancellationToken,
) where
    S: Sink<Message, Error = WsError> + Unpin,
{
    let counted = Arc::clone(&shared);
    let (limit, sent) = (options.write_timeout, &counted.sent);
    let mut writer = Writer { sink, queue, limit, sent, inside_message: false };
    let reason = writer.run(&shared, options, &stop).await;
    if let Some(reason) = reason {
        shared.disconnect(reason);
    }
    // Best effort: the peer may be gone.
    let _ = timeout(FAREWELL, writer.farewell()).await;
    drop(writer);
    shared.gone.cancel();
}

struct Writer<'a, S> {
    sink: S,
    queue: mpsc::Receiver<Outgoing>,
    /// For every single step of writing.
    limit: Duration,
    /// Bytes of messages written.
    sent: &'a AtomicU64,
    /// Some fragments of a message are written, others not: only a control frame may follow.
    inside_message: bool,
}

impl<S: Sink<Message, Error = WsError> + Unpin> Writer<'_, S> {
    /// Why it ends; `None` if somebody else has said so.
    async fn run(
        &mut self,
        shared: &Shared,
        options: &ConnectOptions,
        stop: &CancellationToken,
    ) -> Option<DisconnectReason> {
        let mut down = std::pin::pin!(shared.down.cancelled());
        let mut stopped = std::pin::pin!(stop.cancelled());
        let mut probe = std::pin::pin!(sleep_until(Instant::now() + options.ping_interval));
        let mut pinged_at: Option<Instant> = None;
        loop {
            // All cancel-safe: an entry is taken only when it is returned.
            let entry = tokio::select! {
                biased;
                () = &mut down => return None,
                () = &mut stopped => return Some(DisconnectReason::Stopping),
                entry = self.queue.recv() => entry,
                () = &mut probe => None,
            };
            if let Some(entry) = entry {
                // Cut off only by the end of the connection; `farewell` knows what may follow.
                let written = tokio::select! {
                    biased;
                    () = &mut down => return None,
                    () = &mut stopped => return Some(DisconnectReason::Stopping),
                    written = self.batch(entry) => written,
                };
                if let Err(reason) = written {
                    return Some(reason);
                }
                continue;
            }
            let now = Instant::now();
            let next = match pinged_at.take() {
                Some(at) if shared.last_seen() < at => {
                    return Some(DisconnectReason::PingTimeout(options.ping_timeout));
                }
                // A peer that has just spoken needs no ping.
                _ if shared.last_seen() + options.ping_interval > now => {
                    shared.last_seen() + options.ping_interval
                }
                _ => {
                    if let Err(reason) = self.ping().await {
                        return Some(reason);
                    }
                    pinged_at = Some(now);
                    now + options.ping_timeout
                }
            };
            probe.as_mut().reset(next);
        }
    }

    /// Writes an entry and what else is there, then flushes once.
    async fn batch(&mut self, first: Outgoing) -> Result<(), DisconnectReason> {
        let mut written = Vec::with_capacity(1);
        let mut next = Some(first);
        while let Some(mut entry) = next {
            for message in std::mem::take(&mut entry.messages) {
                self.inside_message = true;
                self.sent.fetch_add(message.len() as u64, Ordering::Relaxed);
                for frame in frames(message) {
                    limited(self.limit, self.sink.feed(frame)).await?;
                }
                self.inside_message = false;
            }
            // Its room is kept until it is flushed.
            written.push(entry);
            next = if written.len() < BATCH { self.queue.try_recv().ok() } else { None };
        }
        limited(self.limit, self.sink.flush()).await
    }

    async fn ping(&mut self) -> Result<(), DisconnectReason> {
        limited(self.limit, self.sink.send(Message::Ping(bytes::Bytes::new()))).await
    }

    /// What was queued before the end (threads let go), and the close frame.
    async fn farewell(&mut self) -> Result<(), DisconnectReason> {
        self.queue.close();
        while !self.inside_message
            && let Ok(entry) = self.queue.try_recv()
        {
            self.batch(entry).await?;
        }
        limited(self.limit, self.sink.close()).await
    }
}

async fn limited(
    limit: Duration,
    step: impl Future<Output = Result<(), WsError>>,
) -> Result<(), DisconnectReason> {
    match timeout(limit, step).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(DisconnectReason::Socket(error.to_string())),
        Err(_) => Err(DisconnectReason::WriteTimeout(limit)),
    }
}
