//! The app-server's JSON-RPC over a WebSocket, as little of it as a measurement needs.

use std::time::Duration;

use anyhow::{Context, bail, ensure};
use futures_util::{SinkExt, StreamExt};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{sleep, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};

/// One answer, or the next event of a running turn, must be here by then.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// A started app-server accepts by then.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// Notifications that a client of one text answer has no use for; each left out is a frame less to read.
const OPT_OUT: [&str; 14] = [
    "thread/started",
    "thread/status/changed",
    "thread/closed",
    "thread/settings/updated",
    "thread/environment/connected",
    "thread/environment/disconnected",
    "skills/changed",
    "turn/started",
    "item/started",
    "item/completed",
    "account/updated",
    "account/rateLimits/updated",
    "app/list/updated",
    "mcpServer/startupStatus/updated",
];

/// One initialised connection, used by one caller at a time.
#[derive(Debug)]
pub(crate) struct Rpc<S> {
    socket: WebSocketStream<S>,
    last_id: u64,
}

/// One frame; what it is shows in what is there.
#[derive(Debug, Deserialize)]
pub(crate) struct Frame<'a> {
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    pub(crate) method: Option<&'a str>,
    #[serde(borrow)]
    pub(crate) params: Option<&'a RawValue>,
    #[serde(borrow)]
    result: Option<&'a RawValue>,
    #[serde(borrow)]
    error: Option<&'a RawValue>,
}

/// Tries until the app-server accepts.
pub(crate) async fn connect<S, C, F>(connect: C) -> anyhow::Result<Rpc<S>>
where
    S: AsyncRead + AsyncWrite + Unpin,
    C: Fn() -> F,
    F: Future<Output = std::io::Result<S>>,
{
    let stream = timeout(CONNECT_TIMEOUT, async {
        loop {
            match connect().await {
                Ok(stream) => return stream,
                Err(_) => sleep(Duration::from_millis(20)).await,
            }
        }
    });
    let stream = stream.await.context("the app-server does not accept")?;
    let (socket, _) = tokio_tungstenite::client_async("ws://localhost/", stream).await?;
    let mut rpc = Rpc { socket, last_id: 0 };
    let client = json!({
        "clientInfo": {"name": "codex_bridge_bench", "version": env!("CARGO_PKG_VERSION")},
        "capabilities": {"experimentalApi": true, "requestAttestation": false, "optOutNotificationMethods": OPT_OUT},
    });
    rpc.call("initialize", &client).await?;
    rpc.socket.send(Message::text(json!({"method": "initialized"}).to_string())).await?;
    Ok(rpc)
}

impl<S: AsyncRead + AsyncWrite + Unpin> Rpc<S> {
    /// Sends a request and waits for its reply; notifications meanwhile are nobody's.
    pub(crate) async fn call(&mut self, method: &str, params: &Value) -> anyhow::Result<Value> {
        let id = self.feed(method, params).await?;
        self.flush().await?;
        loop {
            let text = self.next().await?;
            let frame = Frame::parse(&text)?;
            if frame.replies_to(id)? {
                let result = frame.result.context("a reply without a result")?;
                return Ok(serde_json::from_str(result.get())?);
            }
        }
    }

    /// Puts a request into the write buffer and gives its id.
    pub(crate) async fn feed(&mut self, method: &str, params: &Value) -> anyhow::Result<u64> {
        self.last_id += 1;
        let id = self.last_id;
        let request = json!({"id": id, "method": method, "params": params});
        self.socket.feed(Message::text(request.to_string())).await?;
        Ok(id)
    }

    /// Writes the buffer out, in one piece where it fits.
    pub(crate) async fn flush(&mut self) -> anyhow::Result<()> {
        Ok(self.socket.flush().await?)
    }

    /// The next text frame.
    pub(crate) async fn next(&mut self) -> anyhow::Result<Utf8Bytes> {
        let next = async {
            loop {
                match self.socket.next().await {
                    Some(Ok(Message::Text(text))) => return Ok(text),
                    Some(Ok(Message::Close(reason))) => bail!("the app-server closes: {reason:?}"),
                    Some(Ok(_)) => {}
                    Some(Err(error)) => return Err(error.into()),
                    None => bail!("the app-server is gone"),
                }
            }
        };
        timeout(ANSWER_TIMEOUT, next).await.context("the app-server is silent")?
    }
}

impl<'a> Frame<'a> {
    pub(crate) fn parse(text: &'a str) -> anyhow::Result<Self> {
        Ok(serde_json::from_str(text)?)
    }

    /// Whether this is the reply to request `id`, and a good one.
    pub(crate) fn replies_to(&self, id: u64) -> anyhow::Result<bool> {
        let ours = self.method.is_none() && self.id.is_some_and(|found| found.get() == id.to_string());
        if ours && let Some(error) = self.error {
            bail!("refused: {error}");
        }
        ensure!(self.method.is_none() || self.id.is_none(), "an unexpected server request: {self:?}");
        Ok(ours)
    }
}
