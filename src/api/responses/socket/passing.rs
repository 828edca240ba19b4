//! A fallback's stream of server-sent events, one message an event.

use axum::body::{Body, BodyDataStream};
use axum::response::Response;
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use http::header::CONTENT_TYPE;
use serde_json::{Map, Value};

use super::lanes::Lane;

/// Reads the events of a stream that is not ours.
pub(super) struct Passing {
    body: BodyDataStream,
    /// What has come of the next event.
    buffer: BytesMut,
    /// Most bytes of one.
    limit: usize,
    lane: Lane,
}

impl Passing {
    /// `None` where it is no stream of events.
    pub(super) fn of(response: Response, lane: Lane, limit: usize) -> Option<Self> {
        let kind = response.headers().get(CONTENT_TYPE)?.to_str().ok()?;
        let events = kind.trim_start().to_ascii_lowercase().starts_with("text/event-stream");
        let body: Body = response.into_body();
        events.then(|| Self { body: body.into_data_stream(), buffer: BytesMut::new(), limit, lane })
    }

    /// The next message; `None` at the end, or where the stream breaks.
    pub(super) async fn next(&mut self) -> Option<Bytes> {
        loop {
            while let Some((end, length)) = event_end(&self.buffer) {
                let event = self.buffer.split_to(end + length).freeze();
                if let Some(message) = self.message(&event[..end]) {
                    return Some(message);
                }
            }
            if self.buffer.len() > self.limit {
                tracing::warn!(limit = self.limit, "an event of the fallback's is too large");
                return None;
            }
            match self.body.next().await? {
                Ok(chunk) => self.buffer.extend_from_slice(&chunk),
                Err(error) => {
                    tracing::warn!(%error, "the fallback's stream broke");
                    return None;
                }
            }
        }
    }

    /// The event's data, if it is an object, under the name of our lane.
    fn message(&self, event: &[u8]) -> Option<Bytes> {
        let event = std::str::from_utf8(event).ok()?;
        let data = event.lines().filter_map(|line| line.strip_prefix("data:")).map(str::trim_start);
        let mut data: Map<String, Value> = serde_json::from_str(&data.collect::<Vec<_>>().join("\n")).ok()?;
        match self.lane.name() {
            Some(lane) => data.insert("stream_id".into(), lane.as_ref().into()),
            None => data.shift_remove("stream_id"),
        };
        serde_json::to_vec(&data).ok().map(Bytes::from)
    }
}

/// Where the first whole event ends, and how long the blank line after it is.
fn event_end(buffer: &[u8]) -> Option<(usize, usize)> {
    let ends = [b"\n\n".as_slice(), b"\r\n\r\n"].map(|blank| {
        let at = buffer.windows(blank.len()).position(|window| window == blank)?;
        Some((at, blank.len()))
    });
    ends.into_iter().flatten().min_by_key(|(at, _)| *at)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use axum::response::IntoResponse;
    use futures_util::stream;

    use super::*;

    fn passing(parts: &[&'static str], lane: Lane, limit: usize) -> Passing {
        let parts: Vec<_> = parts.iter().map(|part| Ok::<_, Infallible>(*part)).collect();
        let body = Body::from_stream(stream::iter(parts));
        let response = ([(CONTENT_TYPE, "text/event-stream; charset=utf-8")], body).into_response();
        Passing::of(response, lane, limit).unwrap()
    }

    async fn messages(mut passing: Passing) -> Vec<String> {
        let mut messages = Vec::new();
        while let Some(message) = passing.next().await {
            messages.push(String::from_utf8(message.to_vec()).unwrap());
        }
        messages
    }

    #[tokio::test]
    async fn each_event_is_one_message_however_it_comes() {
        let parts = [
            "event: a\ndata: {\"type\":",
            " \"a\"}\n",
            "\ndata: {\"type\":\r\ndata:\"b\"}\r\n\r\n: comment\n\n",
            "data: [DONE]\n\n",
            "data: {\"type\": \"cut",
        ];
        assert_eq!(
            messages(passing(&parts, Lane::default(), 1000)).await,
            [r#"{"type":"a"}"#, r#"{"type":"b"}"#]
        );
        let named = messages(passing(&parts, Lane::named("x"), 1000)).await;
        assert_eq!(named[0], r#"{"type":"a","stream_id":"x"}"#);
    }

    #[tokio::test]
    async fn an_event_without_end_is_given_up_and_anything_else_is_no_stream() {
        let parts = ["data: {\"type\": \"a\"}\n\n", "data: ", "xxxxxxxxxxxxxxxxxxxxxxxxxxx", "yyyyyyyyyyyyy"];
        assert_eq!(messages(passing(&parts, Lane::default(), 20)).await, [r#"{"type":"a"}"#]);
        assert!(Passing::of("{}".into_response(), Lane::default(), 20).is_none());
    }
}
