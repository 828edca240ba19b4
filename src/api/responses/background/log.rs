//! The events of one background response: written once, read by as many as want to, each at its own pace.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use futures_util::stream;
use serde_json::json;
use tokio::sync::watch;

use crate::api::sse::Frames;

/// What one write to a reader takes, bytes, about.
const WRITE_BYTES: usize = 16 * 1024;

/// An event log. Its writer waits for nobody.
#[derive(Debug, Default)]
pub(super) struct Log(watch::Sender<Written>);

#[derive(Debug, Default)]
struct Written {
    /// The place of an event is its sequence number.
    frames: Vec<Bytes>,
    bytes: usize,
    over: Option<Over>,
}

/// Why nothing more is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Over {
    /// The response has ended.
    Ended,
    /// The bridge stops; the next one takes the response up.
    Interrupted,
    /// There is no room for the log.
    Dropped,
}

impl Log {
    /// Adds whole events. Gives how many bytes they take.
    pub(super) fn push(&self, frames: Bytes) -> usize {
        let mut added = 0;
        self.0.send_if_modified(|written| {
            if written.over.is_some() {
                return false;
            }
            added = frames.len();
            written.bytes += added;
            written.frames.extend(events(frames));
            true
        });
        added
    }

    /// Nothing more is written. The first reason counts.
    pub(super) fn end(&self, over: Over) {
        self.0.send_modify(|written| {
            written.over.get_or_insert(over);
        });
    }

    /// Lets go of everything. Gives how many bytes that were.
    pub(super) fn clear(&self) -> usize {
        let mut bytes = 0;
        self.0.send_modify(|written| {
            bytes = std::mem::take(&mut written.bytes);
            written.frames = Vec::new();
            // Where the rest is to be had elsewhere, that stays so.
            if written.over != Some(Over::Interrupted) {
                written.over = Some(Over::Dropped);
            }
        });
        bytes
    }

    pub(super) fn is_dropped(&self) -> bool {
        self.0.borrow().over == Some(Over::Dropped)
    }

    /// The events from `from` on, those that are still to come included.
    pub(super) fn read(&self, from: usize, keep_alive: Duration) -> Body {
        let reader = Reader { log: self.0.subscribe(), at: from, keep_alive, ended: false };
        Body::from_stream(stream::unfold(reader, |mut reader| async move {
            reader.next().await.map(|bytes| (Ok::<_, Infallible>(bytes), reader))
        }))
    }
}

struct Reader {
    log: watch::Receiver<Written>,
    /// The next event's number.
    at: usize,
    keep_alive: Duration,
    ended: bool,
}

impl Reader {
    /// The next write.
    async fn next(&mut self) -> Option<Bytes> {
        if self.ended {
            return None;
        }
        let at = self.at;
        let more = self.log.wait_for(|written| written.frames.len() > at || written.over.is_some());
        let mut out = Frames::default();
        match tokio::time::timeout(self.keep_alive, more).await {
            Err(_elapsed) => out.comment(),
            // Its writer is gone.
            Ok(Err(_closed)) => return None,
            Ok(Ok(written)) => {
                let mut ready = BytesMut::new();
                for frame in written.frames.get(at..).unwrap_or_default() {
                    if ready.len() >= WRITE_BYTES {
                        break;
                    }
                    ready.extend_from_slice(frame);
                    self.at += 1;
                }
                if !ready.is_empty() {
                    return Some(ready.freeze());
                }
                self.ended = true;
                match written.over? {
                    Over::Ended => out.done(),
                    Over::Interrupted => return None,
                    Over::Dropped => {
                        let message =
                            "The rest of the stream is not kept (`background.log_bytes`); read the response.";
                        out.event(
                            Some("error"),
                            &json!({ "type": "error", "sequence_number": at,
                            "code": "stream_expired", "message": message, "param": "stream" }),
                        );
                        out.done();
                    }
                }
            }
        }
        Some(out.take())
    }
}

/// The single events: JSON has no empty line, so each ends with the first one.
fn events(mut frames: Bytes) -> impl Iterator<Item = Bytes> {
    std::iter::from_fn(move || {
        let end = frames.windows(2).position(|pair| pair == b"\n\n")?;
        Some(frames.split_to(end + 2))
    })
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    const KEEP_ALIVE: Duration = Duration::from_secs(15);

    fn frame(text: &str) -> Bytes {
        let mut frames = Frames::default();
        frames.event(Some("e"), &text);
        frames.take()
    }

    async fn text(body: Body) -> String {
        String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap()
    }

    #[tokio::test]
    async fn each_reader_has_all_from_its_place_on() {
        let log = Log::default();
        let early = log.read(0, KEEP_ALIVE);
        log.push([frame("a"), frame("b\n\n")].concat().into());
        let middle = log.read(1, KEEP_ALIVE);
        log.push(frame("c"));
        log.end(Over::Ended);
        let late = text(log.read(3, KEEP_ALIVE)).await;
        assert_eq!(log.push(frame("d")), 0, "after the end");
        let whole = "event: e\ndata: \"a\"\n\nevent: e\ndata: \"b\\n\\n\"\n\nevent: e\ndata: \"c\"\n\ndata: [DONE]\n\n";
        assert_eq!(text(early).await, whole);
        assert_eq!(text(middle).await, whole.split_once("\n\n").unwrap().1);
        assert_eq!(late, "data: [DONE]\n\n");
        assert_eq!(text(log.read(99, KEEP_ALIVE)).await, "data: [DONE]\n\n");
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_kept_alive_and_a_writer_that_is_gone_ends_it() {
        let log = Log::default();
        let mut body = log.read(0, KEEP_ALIVE);
        let comment = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(comment, ": keep-alive\n\n");
        drop(log);
        assert!(body.frame().await.is_none());
    }

    #[tokio::test]
    async fn a_reader_is_told_of_a_log_that_was_let_go() {
        let log = Log::default();
        let bytes = log.push(frame("a"));
        let mut body = log.read(0, KEEP_ALIVE);
        body.frame().await.unwrap().unwrap();
        assert_eq!(log.clear(), bytes);
        assert!(log.is_dropped());
        let rest = text(body).await;
        assert!(rest.contains("stream_expired") && rest.ends_with("data: [DONE]\n\n"), "{rest}");
        log.end(Over::Ended);
        assert!(log.is_dropped());
    }

    #[tokio::test]
    async fn a_response_that_the_next_bridge_takes_up_has_no_end_here() {
        let log = Log::default();
        log.push(frame("a"));
        log.end(Over::Interrupted);
        assert_eq!(text(log.read(0, KEEP_ALIVE)).await, "event: e\ndata: \"a\"\n\n");
        let late = log.read(0, KEEP_ALIVE);
        log.clear();
        assert_eq!(text(late).await, "");
    }
}
