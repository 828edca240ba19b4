//! One call to the bridge, whatever becomes of it.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::Context;
use reqwest::header::{CONTENT_TYPE, HeaderMap};
use serde_json::Value;
use tokio::time::timeout;

use crate::daemon::API_KEY;

/// Has the bridge tell what it did.
const TRACE: &str = "x-codex-bridge-trace";

/// An answer has ended by then: more than the bridge's own limits together.
pub(crate) const DEADLINE: Duration = Duration::from_secs(100);

/// Connections to one bridge.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    base: String,
    http: reqwest::Client,
}

/// When the client leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Leave {
    /// When it has its answer.
    Never,
    /// So long after the request, answer or not.
    After(Duration),
    /// After so many events of the stream.
    AfterEvents(usize),
}

/// One call.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) end: End,
    pub(crate) began: Instant,
    pub(crate) ended: Instant,
}

/// How it ended.
#[derive(Debug)]
pub(crate) enum End {
    /// A whole body.
    Whole { status: u16, headers: HeaderMap, body: String },
    /// A stream that ended by itself: the data of its events.
    Stream(Vec<String>),
    /// The client has left.
    Left,
    /// The connection broke.
    Broken(String),
    /// Not ended by the deadline.
    Late,
}

impl Client {
    pub(crate) fn new(address: SocketAddr) -> anyhow::Result<Self> {
        let http = reqwest::Client::builder().no_proxy().tcp_nodelay(true).build()?;
        Ok(Self { base: format!("http://{address}"), http })
    }

    /// The JSON of a good answer.
    pub(crate) async fn get(&self, path: &str) -> anyhow::Result<Value> {
        let request = self.http.get(format!("{}{path}", self.base)).bearer_auth(API_KEY);
        let answer = timeout(DEADLINE, request.send()).await??.error_for_status()?;
        Ok(serde_json::from_str(&answer.text().await?)?)
    }

    /// The model every call names.
    pub(crate) async fn first_model(&self) -> anyhow::Result<String> {
        let models = self.get("/v1/models").await?;
        Ok(models.pointer("/data/0/id").and_then(Value::as_str).context("no model")?.to_owned())
    }

    /// One call.
    pub(crate) async fn call(&self, path: &str, body: &Value, leave: Leave) -> Call {
        let began = Instant::now();
        let answer = async {
            self.answer(path, body, leave).await.unwrap_or_else(|error| End::Broken(format!("{error:?}")))
        };
        let (limit, otherwise) = match leave {
            Leave::After(patience) => (patience, End::Left),
            Leave::Never | Leave::AfterEvents(_) => (DEADLINE, End::Late),
        };
        let end = timeout(limit, answer).await.unwrap_or(otherwise);
        Call { end, began, ended: Instant::now() }
    }

    async fn answer(&self, path: &str, body: &Value, leave: Leave) -> reqwest::Result<End> {
        let request = self.http.post(format!("{}{path}", self.base)).bearer_auth(API_KEY);
        let request =
            request.header(CONTENT_TYPE, "application/json").header(TRACE, "1").body(body.to_string());
        let mut answer = request.send().await?;
        let kind = answer.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        if !kind.starts_with("text/event-stream") {
            let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
            return Ok(End::Whole { status, headers, body: answer.text().await? });
        }
        let (mut bytes, mut events) = (Vec::new(), Vec::new());
        while let Some(chunk) = answer.chunk().await? {
            bytes.extend_from_slice(&chunk);
            while let Some(end) = bytes.windows(2).position(|pair| pair == b"\n\n") {
                let block: Vec<u8> = bytes.drain(..end + 2).collect();
                events.extend(data(&block));
                if leave == Leave::AfterEvents(events.len()) {
                    return Ok(End::Left);
                }
            }
        }
        Ok(if bytes.is_empty() { End::Stream(events) } else { End::Broken("half an event".into()) })
    }
}

/// The data of an event; none of a comment.
fn data(block: &[u8]) -> Option<String> {
    let block = String::from_utf8_lossy(block);
    block.lines().find_map(|line| line.strip_prefix("data: ")).map(str::to_owned)
}
