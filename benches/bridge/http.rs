//! The bridge's client, over one keep-alive connection.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use bytes::Bytes;
use codex_bridge::tasks::Tasks;
use http::HeaderValue;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::api::{Api, DONE};
use crate::daemon::API_KEY;
use crate::prompt::Prompt;

/// A whole answer must be here by then.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// One measured call.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    /// Until the first delta; `None` where the answer comes whole.
    pub(crate) first: Option<Duration>,
    /// Until the end.
    pub(crate) total: Duration,
}

/// A client of the bridge, on one connection.
#[derive(Debug)]
pub(crate) struct Http {
    connection: Connection,
    api: Api,
    model: String,
}

/// One keep-alive connection.
#[derive(Debug)]
pub(crate) struct Connection {
    sender: SendRequest<Full<Bytes>>,
    host: HeaderValue,
}

impl Http {
    /// Connects, and asks which model there is where none is named.
    pub(crate) async fn connect(
        address: SocketAddr,
        api: Api,
        model: Option<&str>,
        tasks: &Tasks,
    ) -> anyhow::Result<Self> {
        let connection = Connection::open(address, tasks).await?;
        let mut http = Self { connection, api, model: String::new() };
        http.model = match model {
            Some(model) => model.to_owned(),
            None => http.first_model().await?,
        };
        Ok(http)
    }

    /// The model every call names.
    pub(crate) fn model(&self) -> &str {
        &self.model
    }

    /// One measured call, answered whole.
    pub(crate) async fn whole(&mut self, prompt: &Prompt) -> anyhow::Result<Sample> {
        let started = Instant::now();
        let body = self.post(prompt, false).await?;
        let body = timeout(ANSWER_TIMEOUT, body.collect()).await??.to_bytes();
        let total = started.elapsed();
        self.api.check_whole(&body, prompt)?;
        Ok(Sample { first: None, total })
    }

    /// One measured call, streamed.
    pub(crate) async fn streamed(&mut self, prompt: &Prompt) -> anyhow::Result<Sample> {
        let started = Instant::now();
        let mut body = self.post(prompt, true).await?;
        let (mut stream, mut looked_at) = (String::new(), 0);
        let (mut first, mut total) = (None, None);
        while let Some(frame) = timeout(ANSWER_TIMEOUT, body.frame()).await? {
            let Ok(data) = frame?.into_data() else { continue };
            // One event is one write, so that no character is ever cut in two.
            stream.push_str(std::str::from_utf8(&data)?);
            if stream.ends_with(DONE) {
                total = Some(started.elapsed());
            }
            while first.is_none()
                && let Some(end) = stream[looked_at..].find("\n\n")
            {
                if self.api.has_text(&stream[looked_at..looked_at + end]) {
                    first = Some(started.elapsed());
                }
                looked_at += end + 2;
            }
        }
        self.api.check_stream(&stream, prompt)?;
        Ok(Sample { first, total: total.context("a stream without its end")? })
    }

    async fn post(&mut self, prompt: &Prompt, stream: bool) -> anyhow::Result<Incoming> {
        let request = Request::post(self.api.path())
            .header("authorization", format!("Bearer {API_KEY}"))
            .header("content-type", "application/json")
            .body(Full::from(self.api.body(&self.model, prompt, stream)))?;
        self.connection.send(request).await
    }

    async fn first_model(&mut self) -> anyhow::Result<String> {
        let request = Request::get("/v1/models")
            .header("authorization", format!("Bearer {API_KEY}"))
            .body(Full::default())?;
        let models = self.connection.send(request).await?.collect().await?.to_bytes();
        let models: Value = serde_json::from_slice(&models)?;
        Ok(models.pointer("/data/0/id").and_then(Value::as_str).context("no model")?.to_owned())
    }
}

impl Connection {
    pub(crate) async fn open(address: SocketAddr, tasks: &Tasks) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tasks.spawn("http connection", async move {
            // Its end shows in the next request.
            let _ = connection.await;
        });
        Ok(Self { sender, host: HeaderValue::try_from(address.to_string())? })
    }

    /// The body of a good answer, unread.
    pub(crate) async fn send(&mut self, mut request: Request<Full<Bytes>>) -> anyhow::Result<Incoming> {
        request.headers_mut().insert("host", self.host.clone());
        self.sender.ready().await.context("the connection has been closed")?;
        let answer: Response<Incoming> = timeout(ANSWER_TIMEOUT, self.sender.send_request(request)).await??;
        let status = answer.status();
        if !status.is_success() {
            let body = answer.into_body().collect().await?.to_bytes();
            bail!("the answer is {status}: {}", String::from_utf8_lossy(&body));
        }
        Ok(answer.into_body())
    }
}
