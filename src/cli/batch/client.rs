//! One row's call: made again for as long as it is not the row's own fault that it fails.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context;
use http::StatusCode;
use http::header::{CONTENT_TYPE, HeaderMap, RETRY_AFTER};
use reqwest::redirect::Policy;
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use url::Url;

use super::output::Line;
use super::source::Row;
use crate::api::batch_line::{Answered, Outcome};

/// Pauses where the bridge names none, doubled each time.
const PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The bridge has bounds of its own, and tells them.
const TIMEOUT: Duration = Duration::from_secs(2 * 3600);

/// A bridge, and how patient we are with it.
#[derive(Debug)]
pub(super) struct Client {
    http: reqwest::Client,
    /// Without `/v1`.
    base: String,
    key: Option<SecretString>,
    wants_object: bool,
    retries: u32,
    max_wait: Duration,
    /// Rows that have ended: while some do, waiting is no failure.
    done: AtomicU64,
}

/// What became of a row.
pub(super) enum Ended {
    /// It has its result.
    Result(Box<Line>),
    /// It has none, and neither would others have.
    Stopped(String),
    /// Everything stops.
    Left,
}

/// What a try has come to.
enum Tried {
    Result(Answered),
    /// The bridge's fault or the account's: to be tried again, and at last given up with everything else.
    Wait(Option<Duration>, String),
    /// Perhaps the row's own.
    Again(Answered),
    Hopeless(String),
}

impl Client {
    pub(super) fn new(
        base: &Url,
        key: Option<SecretString>,
        wants_object: bool,
        retries: u32,
        max_wait: Duration,
    ) -> anyhow::Result<Self> {
        // The client takes the process's provider.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder()
            .redirect(Policy::none())
            .no_proxy()
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(TIMEOUT)
            .user_agent(concat!("codex-bridge/", env!("CARGO_PKG_VERSION")))
            .build()
            .context("no HTTP client")?;
        let base = base.as_str().trim_end_matches('/');
        let base = base.strip_suffix("/v1").unwrap_or(base).to_owned();
        Ok(Self { http, base, key, wants_object, retries, max_wait, done: AtomicU64::new(0) })
    }

    /// Calls until there is a result, or no hope of one.
    pub(super) async fn run(&self, row: Row, stop: &CancellationToken) -> Ended {
        let (mut pause, mut tried) = (PAUSES.0, 0);
        let mut done = self.done.load(Ordering::Relaxed);
        loop {
            let called = self.call(&row).await;
            let now = self.done.load(Ordering::Relaxed);
            if matches!(called, Tried::Wait(..)) && now > done {
                (done, tried) = (now, 0);
            }
            let is_last = tried >= self.retries;
            tried += 1;
            let wait = match called {
                Tried::Result(answered) => return self.result(row, answered),
                Tried::Again(answered) if is_last => return self.result(row, answered),
                Tried::Again(_) => pause,
                Tried::Hopeless(why) => return Ended::Stopped(why),
                Tried::Wait(_, why) if is_last => return Ended::Stopped(why),
                Tried::Wait(Some(wait), why) if wait > self.max_wait => {
                    let asked = format!("it asks to wait {} s, more than --max-wait", wait.as_secs());
                    return Ended::Stopped(format!("{why}: {asked}"));
                }
                Tried::Wait(wait, _) => wait.unwrap_or(pause),
            };
            pause = (pause * 2).min(PAUSES.1);
            tokio::select! {
                () = stop.cancelled() => return Ended::Left,
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    fn result(&self, row: Row, answered: Answered) -> Ended {
        self.done.fetch_add(1, Ordering::Relaxed);
        let object = || serde_json::from_str(&text_of(&answered.body)).ok().filter(Value::is_object);
        let parsed = (self.wants_object && answered.is_good()).then(|| object().unwrap_or_default());
        Ended::Result(Box::new(Line { outcome: Outcome::answered(row.custom_id, answered), parsed }))
    }

    async fn call(&self, row: &Row) -> Tried {
        let mut request = self
            .http
            .post(format!("{}{}", self.base, row.url))
            .header(CONTENT_TYPE, "application/json")
            .header("x-codex-bridge-priority", "batch")
            .body(row.body.clone());
        if let Some(key) = &self.key {
            request = request.bearer_auth(key.expose_secret());
        }
        let lost = |error: reqwest::Error| {
            let error = error.without_url();
            Tried::Wait(None, format!("{} does not answer: {:#}", self.base, anyhow::Error::new(error)))
        };
        let answer = match request.send().await {
            Ok(answer) => answer,
            Err(error) => return lost(error),
        };
        let (status, headers) = (answer.status(), answer.headers().clone());
        let body = match answer.bytes().await {
            Ok(body) => body,
            Err(error) => return lost(error),
        };
        let Ok(body) = serde_json::from_slice::<Value>(&body) else {
            return Tried::Hopeless(format!("{} answers {status} and no JSON: it is no bridge", self.base));
        };
        tried(status, &headers, body)
    }
}

fn tried(status: StatusCode, headers: &HeaderMap, body: Value) -> Tried {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let message = || body["error"]["message"].as_str().unwrap_or("no reason given").to_owned();
    let wait = text(RETRY_AFTER.as_str()).and_then(|seconds| seconds.parse().ok()).map(Duration::from_secs);
    let may_succeed = text("x-should-retry") == Some("true");
    let request_id = text("x-request-id").unwrap_or_default().to_owned();
    match status {
        StatusCode::UNAUTHORIZED => Tried::Hopeless(message()),
        StatusCode::TOO_MANY_REQUESTS => Tried::Wait(wait, message()),
        StatusCode::SERVICE_UNAVAILABLE if may_succeed => Tried::Wait(wait, message()),
        _ => {
            let answered = Answered { status_code: status.as_u16(), request_id, body };
            if !status.is_success() && may_succeed { Tried::Again(answered) } else { Tried::Result(answered) }
        }
    }
}

/// The answer's text, of a response or a completion.
fn text_of(body: &Value) -> String {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let parts = list(&body["output"]).into_iter().flat_map(|item| list(&item["content"]));
    parts.filter_map(|part| part["text"].as_str().map(str::to_owned)).collect()
}
