//! A stream whose client's messages have room before they are held, as request bodies have.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use crate::api::intake::{Intake, Room};
use crate::model::KeyId;

/// Read without room: what a socket's buffers hold in any case, bytes.
const FREE: usize = 16 * 1024;
/// Least room that is asked for at once, bytes.
const STEP: usize = 64 * 1024;

/// Counts what is read of a message, and reads on only where there is room for it.
pub(super) struct Metered<S> {
    stream: S,
    intake: Intake,
    /// Whose messages they are.
    key: KeyId,
    message: Incoming,
    /// Runs while there is no room.
    waiting: Option<BoxFuture<'static, Option<Room>>>,
}

/// What is known of the message that is on its way.
#[derive(Default)]
struct Incoming {
    since: Option<Instant>,
    read: usize,
    /// Bytes there is room for.
    granted: usize,
    room: Option<Room>,
}

impl<S> Metered<S> {
    pub(super) fn new(stream: S, intake: Intake, key: KeyId) -> Self {
        Self { stream, intake, key, message: Incoming::default(), waiting: None }
    }

    /// Since when a message is on its way.
    pub(super) fn since(&self) -> Option<Instant> {
        self.message.since
    }

    /// The message is whole: gives its room, and counts anew.
    pub(super) fn take_room(&mut self) -> Option<Room> {
        std::mem::take(&mut self.message).room
    }

    /// Waits until there is room for the next read.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let message = &mut self.message;
        if self.waiting.is_none() && message.read >= message.granted + FREE {
            // Twice as much each time, so that a large message asks a few times only.
            message.granted = (message.read * 2).max(STEP);
            let (wanted, room) = (message.granted, message.room.take());
            let (intake, key) = (self.intake.clone(), self.key.clone());
            let waiting = async move {
                let Some(mut room) = room else { return intake.take(&key, wanted).await };
                room.grow(wanted).await;
                Some(room)
            };
            self.waiting = Some(waiting.boxed());
        }
        if let Some(waiting) = &mut self.waiting {
            message.room = ready!(waiting.poll_unpin(cx));
            self.waiting = None;
        }
        Poll::Ready(())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Metered<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        ready!(this.poll_room(cx));
        let before = buffer.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(cx, buffer))?;
        let read = buffer.filled().len() - before;
        if read > 0 {
            this.message.read += read;
            this.message.since.get_or_insert_with(Instant::now);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Metered<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::time::timeout;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_has_no_room_is_not_read_until_there_is_some() {
        let intake = Intake::new(STEP);
        let (mut client, server) = tokio::io::duplex(1 << 20);
        let mut stream = Metered::new(server, intake.clone(), KeyId::anonymous());
        client.write_all(&vec![b'x'; FREE + 100]).await.unwrap();
        let others = intake.take(&KeyId::anonymous(), STEP).await;
        let mut read = vec![0; FREE + 100];
        assert!(stream.since().is_none());
        stream.read_exact(&mut read[..FREE]).await.unwrap();
        assert!(stream.since().is_some());
        let rest = timeout(Duration::from_secs(60), stream.read_exact(&mut read[FREE..])).await;
        assert!(rest.is_err(), "there is no room");
        drop(others);
        stream.read_exact(&mut read[FREE..]).await.unwrap();
        let room = stream.take_room().unwrap();
        assert!(stream.since().is_none());
        assert!(
            timeout(Duration::from_secs(60), intake.take(&KeyId::anonymous(), STEP)).await.is_err(),
            "it is held"
        );
        drop(room);
        assert!(intake.take(&KeyId::anonymous(), STEP).await.is_some());
    }
}
