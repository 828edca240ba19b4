//! The last requests, as they came: what the model really saw.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use http::HeaderMap;
use serde::Serialize;
use serde_json::Value;

/// Most requests kept; the oldest goes.
const MAX_REQUESTS: usize = 256;
/// Most bytes of bodies kept; the oldest go, never the newest.
const MAX_BYTES: usize = 64 * 1024 * 1024;
/// Headers whose value is not shown.
const MASKED: &[&str] = &["authorization", "cookie", "proxy-authorization"];

/// One request to the model.
#[derive(Clone, Serialize)]
pub struct SeenRequest {
    /// Counts from 1 since the start, forgotten requests included.
    pub number: u64,
    /// Unix milliseconds.
    pub received_at_ms: u64,
    /// How it came.
    pub transport: Transport,
    /// The path it came to.
    pub path: String,
    /// Its headers (on a WebSocket, those of the handshake), credentials masked.
    pub headers: Arc<BTreeMap<String, String>>,
    /// The body's bytes on the wire: compressed, if it came compressed.
    pub bytes: usize,
    /// The body as it came.
    pub body: Arc<Value>,
    /// The whole conversation: the body's `input`, after that of the responses it continues.
    pub input: Arc<Value>,
}

/// How a request came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// A POST.
    Http,
    /// A WebSocket message.
    Ws,
}

/// Where it went and how large it was: a body's text stays out of logs.
impl fmt::Debug for SeenRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SeenRequest")
            .field("number", &self.number)
            .field("transport", &self.transport)
            .field("path", &self.path)
            .field("bytes", &self.bytes)
            .finish_non_exhaustive()
    }
}

/// A request as its face hands it over.
#[derive(Clone)]
pub(crate) struct Arrival {
    pub(crate) transport: Transport,
    pub(crate) path: String,
    pub(crate) headers: Arc<BTreeMap<String, String>>,
    pub(crate) bytes: usize,
}

/// The last requests. Written by every connection, read by `GET /requests`.
#[derive(Default)]
pub(crate) struct RequestLog(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    seen: VecDeque<SeenRequest>,
    count: u64,
    bytes: usize,
}

impl RequestLog {
    /// Keeps one request; `whole_input` is its conversation if that is more than the body's own `input`.
    pub(crate) fn add(&self, arrival: Arrival, body: Arc<Value>, whole_input: Option<Arc<Value>>) {
        let input = whole_input.unwrap_or_else(|| Arc::new(body["input"].clone()));
        let Arrival { transport, path, headers, bytes } = arrival;
        // The lock is never held across an await.
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.count += 1;
        kept.bytes += bytes;
        let (number, received_at_ms) = (kept.count, super::unix_millis());
        kept.seen.push_back(SeenRequest {
            number,
            received_at_ms,
            transport,
            path,
            headers,
            bytes,
            body,
            input,
        });
        while kept.seen.len() > 1 && (kept.seen.len() > MAX_REQUESTS || kept.bytes > MAX_BYTES) {
            if let Some(oldest) = kept.seen.pop_front() {
                kept.bytes -= oldest.bytes;
            }
        }
    }

    /// Oldest first.
    pub(crate) fn all(&self) -> Vec<SeenRequest> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).seen.iter().cloned().collect()
    }

    /// Forgets all, not the count.
    pub(crate) fn clear(&self) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.seen.clear();
        kept.bytes = 0;
    }
}

/// Headers by name, several values joined, credentials masked.
pub(crate) fn shown(headers: &HeaderMap) -> Arc<BTreeMap<String, String>> {
    let mut shown: BTreeMap<String, String> = BTreeMap::new();
    for (name, value) in headers {
        let value = if MASKED.contains(&name.as_str()) {
            "***".into()
        } else {
            String::from_utf8_lossy(value.as_bytes())
        };
        shown
            .entry(name.as_str().to_owned())
            .and_modify(|joined| {
                joined.push_str(", ");
                joined.push_str(&value);
            })
            .or_insert_with(|| value.into_owned());
    }
    Arc::new(shown)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn arrival(bytes: usize) -> Arrival {
        Arrival { transport: Transport::Http, path: "/v1/responses".into(), headers: Arc::default(), bytes }
    }

    #[test]
    fn the_last_ones_are_kept_within_both_bounds() {
        let log = RequestLog::default();
        for number in 0..300 {
            log.add(arrival(10), Arc::new(json!({"input": number})), None);
        }
        let seen = log.all();
        assert_eq!((seen.len(), seen[0].number, seen[255].number), (256, 45, 300));
        assert_eq!(*seen[255].input, json!(299));
        log.add(arrival(MAX_BYTES + 1), Arc::new(json!({})), Some(Arc::new(json!(["whole"]))));
        let seen = log.all();
        assert_eq!((seen.len(), seen[0].number, &*seen[0].input), (1, 301, &json!(["whole"])));
        log.clear();
        assert!(log.all().is_empty());
    }

    #[test]
    fn credentials_are_masked() {
        let mut headers = HeaderMap::new();
        headers.insert("authorization", "Bearer secret".parse().unwrap());
        headers.append("x-a", "1".parse().unwrap());
        headers.append("x-a", "2".parse().unwrap());
        let shown = shown(&headers);
        assert_eq!((shown["authorization"].as_str(), shown["x-a"].as_str()), ("***", "1, 2"));
    }
}
