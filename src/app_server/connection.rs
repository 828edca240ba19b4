//! One connection to the app-server.

mod exchange;
mod notice;
mod options;
mod reader;
mod shared;
mod tool_reply;
mod writer;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::StreamExt;
use serde::de::IgnoredAny;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::broadcast;
use tokio::time::timeout;

use super::convert;
use super::error::{AppServerError, DisconnectReason};
use super::thread::{Thread, ThreadOptions, ThreadStatus, Unsent};
use super::{transport, wire};
use crate::config::Endpoint;
use crate::model::{LoginState, ModelInfo, ThreadId};
use crate::tasks::Tasks;

pub use notice::{Credits, Diagnostics, Notice, RateLimitWindow, RateLimits};
pub use options::ConnectOptions;
pub use tool_reply::{PreparedReply, ToolCallReply};

pub(super) use exchange::Subscription;
use shared::Shared;

/// Pages of a list read at most; no list has so many.
const PAGES: usize = 100;
/// How long [`Connection::close`] waits for the last words.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);

/// One initialised connection. Cheap to clone; closed when the last clone (each thread holds one) is dropped.
#[derive(Clone)]
pub struct Connection(Arc<Inner>);

struct Inner {
    shared: CloseOnDrop,
    user_agent: String,
    codex_home: String,
}

/// Ends the connection when the last handle is gone; the two tasks do not count.
struct CloseOnDrop(Arc<Shared>);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.0.disconnect(DisconnectReason::ClosedByUs);
    }
}

/// A connection seen by somebody who does not hold it open.
#[derive(Debug, Clone)]
pub(crate) struct Leaving(Arc<Shared>);

impl Leaving {
    /// Waits for its end: with the last handle, at the latest.
    pub(crate) async fn ended(&self) {
        self.0.down.cancelled().await;
    }

    /// Whether it has ended.
    pub(crate) fn is_closed(&self) -> bool {
        self.0.is_down()
    }

    /// Whether somebody owns `thread` on it.
    pub(crate) fn holds(&self, thread: &ThreadId) -> bool {
        !self.0.is_down() && self.0.routes.has(thread.as_str())
    }

    /// Ends it now, whoever holds it.
    pub(crate) fn close(&self, reason: DisconnectReason) {
        self.0.disconnect(reason);
    }
}

impl Connection {
    /// Connects to `endpoint` and initialises. For `ws://` endpoints `options.url` is the endpoint's.
    pub async fn connect(
        endpoint: &Endpoint,
        mut options: ConnectOptions,
        tasks: &Tasks,
    ) -> Result<Self, AppServerError> {
        let limit = options.open_timeout;
        let late = |endpoint: String| AppServerError::Connect {
            endpoint,
            reason: format!("no connection within {limit:?}"),
        };
        match endpoint {
            Endpoint::Tcp(url) => {
                options.url.clone_from(url);
                let stream = timeout(limit, transport::tcp(url)).await.map_err(|_| late(url.clone()))??;
                Self::open(stream, options, tasks).await
            }
            Endpoint::Unix(path) => {
                let stream = timeout(limit, transport::unix(path))
                    .await
                    .map_err(|_| late(format!("unix://{}", path.display())))??;
                Self::open(stream, options, tasks).await
            }
        }
    }

    /// Performs the WebSocket handshake over a connected stream, then `initialize` and `initialized`.
    pub async fn open<S>(stream: S, options: ConnectOptions, tasks: &Tasks) -> Result<Self, AppServerError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let limit = options.open_timeout;
        let socket = timeout(limit, transport::handshake(stream, &options)).await.map_err(|_| {
            AppServerError::Handshake { status: None, reason: format!("not done within {limit:?}") }
        })??;
        let (sink, stream) = socket.split();
        let (shared, queue) = Shared::new(&options);
        let link = CloseOnDrop(Arc::clone(&shared));
        let stop = tasks.stop_token().clone();
        tasks.spawn("app_server_reader", reader::read(stream, Arc::clone(&shared)));
        tasks.spawn("app_server_writer", async move {
            writer::write(sink, queue, shared, &options, stop).await;
        });

        let server: wire::InitializeResponse =
            link.0.call_within("initialize", &wire::initialize(), limit).await?;
        let initialized = wire::encode_notification("initialized").map_err(|error| {
            AppServerError::Unreadable { method: "initialized", reason: exchange::at(&error) }
        })?;
        link.0.send(vec![initialized]).await?;
        let wire::InitializeResponse { user_agent, codex_home } = server;
        Ok(Self(Arc::new(Inner { shared: link, user_agent, codex_home })))
    }

    /// Which connection of its supervisor this is.
    pub fn generation(&self) -> u64 {
        self.shared().generation
    }

    /// Whether it has ended.
    pub fn is_closed(&self) -> bool {
        self.shared().is_down()
    }

    /// Waits for its end; every waiter gets the same reason.
    pub async fn closed(&self) -> DisconnectReason {
        self.shared().down.cancelled().await;
        self.shared().reason()
    }

    /// The app-server's own version, from its user agent.
    pub fn server_version(&self) -> Option<&str> {
        convert::server_version(&self.0.user_agent)
    }

    /// The app-server's user agent.
    pub fn user_agent(&self) -> &str {
        &self.0.user_agent
    }

    /// The app-server's Codex home.
    pub fn codex_home(&self) -> &str {
        &self.0.codex_home
    }

    /// Requests that wait for their reply.
    pub fn requests_in_flight(&self) -> usize {
        self.shared().pending().len()
    }

    /// Bytes of messages sent on it.
    pub fn bytes_sent(&self) -> u64 {
        self.shared().sent.load(Ordering::Relaxed)
    }

    /// Threads of ours on this connection.
    pub fn threads(&self) -> usize {
        self.shared().routes.len()
    }

    /// Starts a thread and subscribes to it. Given up halfway, the thread is let go when its reply comes.
    pub async fn start_thread(&self, options: &ThreadOptions) -> Result<Thread, AppServerError> {
        self.start(options, None).await
    }

    /// Starts a thread that begins with what `template` holds, and tells no raw items. Else as
    /// [`Connection::start_thread`].
    pub async fn fork_thread(
        &self,
        template: &ThreadId,
        options: &ThreadOptions,
    ) -> Result<Thread, AppServerError> {
        self.start(options, Some(template)).await
    }

    async fn start(
        &self,
        options: &ThreadOptions,
        template: Option<&ThreadId>,
    ) -> Result<Thread, AppServerError> {
        let Unsent { method, params } = options.start_request(template);
        let subscription = self.shared().start_thread(method, &params).await?;
        Ok(Thread::new(self.clone(), subscription, options))
    }

    /// Starts a thread that is kept on disk, to be forked once it holds something.
    pub async fn start_template(&self, options: &ThreadOptions) -> Result<Thread, AppServerError> {
        let params = wire::template_start(options);
        let subscription = self.shared().start_thread("thread/start", &params).await?;
        Ok(Thread::new(self.clone(), subscription, options))
    }

    /// Starts a thread that is kept on disk, and tells all that a thread of [`Connection::start_thread`] does.
    pub async fn start_kept(
        &self,
        options: &ThreadOptions,
        service_tier: Option<&str>,
    ) -> Result<Thread, AppServerError> {
        let params = wire::kept_start(options, service_tier);
        let subscription = self.shared().start_thread("thread/start", &params).await?;
        Ok(Thread::new(self.clone(), subscription, options))
    }

    /// The file that a thread is kept in, as base64; empty if it is in none.
    pub(super) async fn kept_file(&self, thread: &ThreadId) -> Result<String, AppServerError> {
        let params = wire::ThreadRef { thread_id: thread.as_str() };
        let told: wire::ThreadResponse = self.shared().call("thread/read", &params).await?;
        let Some(path) = told.thread.path else { return Ok(String::new()) };
        let file: wire::FileResponse =
            self.shared().call("fs/readFile", &wire::ReadFile { path: &path }).await?;
        Ok(file.data_base64)
    }

    /// Deletes a thread that is kept on disk. Its forks go on.
    pub async fn delete_thread(&self, thread: &ThreadId) -> Result<(), AppServerError> {
        let params = wire::ThreadRef { thread_id: thread.as_str() };
        self.shared().call::<_, IgnoredAny>("thread/delete", &params).await.map(drop)
    }

    /// The whole catalogue, hidden models included.
    pub async fn models(&self) -> Result<Vec<ModelInfo>, AppServerError> {
        let mut models = Vec::new();
        let mut cursor: Option<String> = None;
        for _ in 0..PAGES {
            let page =
                wire::Page { cursor: cursor.as_deref(), include_hidden: Some(true), ..wire::Page::default() };
            let list: wire::ModelList = self.shared().call("model/list", &page).await?;
            models.extend(list.data.into_iter().map(ModelInfo::from));
            cursor = list.next_cursor;
            if cursor.is_none() {
                break;
            }
        }
        Ok(models)
    }

    /// The login as it is now. `refresh_token` renews it first.
    pub async fn account(&self, refresh_token: bool) -> Result<LoginState, AppServerError> {
        let params = wire::AccountRead { refresh_token };
        let response: wire::AccountResponse = self.shared().call("account/read", &params).await?;
        Ok(response.into())
    }

    /// The account's usage windows as they are now. Refused without a login.
    pub async fn rate_limits(&self) -> Result<RateLimits, AppServerError> {
        let response: wire::RateLimitsResponse =
            self.shared().call("account/rateLimits/read", &json!({})).await?;
        let limits = RateLimits::from(response.rate_limits);
        Ok(RateLimits { allowed: response.ordinary_usage_allowed, ..limits })
    }

    /// Names of the MCP servers in the app-server's configuration.
    pub async fn config_mcp_servers(&self) -> Result<Vec<String>, AppServerError> {
        let response: wire::ConfigResponse = self.shared().call("config/read", &json!({})).await?;
        Ok(response.config.mcp_servers.unwrap_or_default().into_keys().collect())
    }

    /// Threads that the app-server holds, whoever started them.
    pub async fn loaded_threads(&self) -> Result<Vec<ThreadId>, AppServerError> {
        let mut threads = Vec::new();
        let mut cursor: Option<String> = None;
        for _ in 0..PAGES {
            let page = wire::Page { cursor: cursor.as_deref(), ..wire::Page::default() };
            let list: wire::LoadedThreads = self.shared().call("thread/loaded/list", &page).await?;
            threads.extend(list.data.into_iter().map(ThreadId::new));
            cursor = list.next_cursor;
            if cursor.is_none() {
                break;
            }
        }
        Ok(threads)
    }

    /// What a thread does now, whoever started it.
    pub async fn thread_status(&self, thread: &ThreadId) -> Result<ThreadStatus, AppServerError> {
        Ok(self.look_at_thread(thread).await?.0)
    }

    /// The same, and the folder it works in.
    pub(super) async fn look_at_thread(
        &self,
        thread: &ThreadId,
    ) -> Result<(ThreadStatus, Option<PathBuf>), AppServerError> {
        let params = wire::ThreadRef { thread_id: thread.as_str() };
        match self.shared().call::<_, wire::ThreadResponse>("thread/read", &params).await {
            Ok(wire::ThreadResponse { thread }) => {
                let status = thread.status.map_or_else(
                    || ThreadStatus::Unknown(String::new()),
                    |status| ThreadStatus::from_wire(&status.kind),
                );
                Ok((status, thread.cwd))
            }
            Err(AppServerError::Refused { message, .. })
                if message.starts_with("thread not loaded") || message.starts_with("thread not found") =>
            {
                Ok((ThreadStatus::NotLoaded, None))
            }
            Err(error) => Err(error),
        }
    }

    /// Lets go of a thread that nobody owns, and ends what runs there.
    pub(super) async fn end_thread(&self, thread: &ThreadId, runs: bool) {
        self.shared().let_go(thread.as_str(), runs);
        // An answer comes after those before it: what was asked has been heard by then.
        let _ = self.thread_status(thread).await;
    }

    /// Threads on which a turn runs.
    pub fn running_turns(&self) -> usize {
        self.shared().routes.running()
    }

    /// How long the app-server has been asked something and given no sign of life.
    pub(super) fn silence(&self) -> Duration {
        self.shared().silence()
    }

    /// Ends it for this reason, whoever holds it.
    pub(super) fn give_up(&self, reason: DisconnectReason) {
        self.shared().disconnect(reason);
    }

    /// The app-server's own gauges.
    pub async fn diagnostics(&self) -> Result<Diagnostics, AppServerError> {
        let response: wire::DiagnosticsResponse =
            self.shared().call("server/diagnostics", &json!({})).await?;
        Ok(response.into())
    }

    /// Whether the app-server answers a cheap request within `limit`.
    pub async fn ping(&self, limit: Duration) -> Result<(), AppServerError> {
        let page = wire::Page { limit: Some(1), ..wire::Page::default() };
        self.shared().call_within::<_, IgnoredAny>("thread/loaded/list", &page, limit).await.map(drop)
    }

    /// Notices from now on. A receiver that falls 64 behind loses the oldest.
    pub fn notices(&self) -> broadcast::Receiver<Notice> {
        self.shared().notices.subscribe()
    }

    /// Gives this handle up, and follows what becomes of the connection.
    pub(crate) fn leave(self) -> Leaving {
        Leaving(Arc::clone(self.shared()))
    }

    /// Closes the connection and waits, within a bound, until the socket is let go.
    pub async fn close(&self) {
        self.shared().disconnect(DisconnectReason::ClosedByUs);
        // Past the bound the tasks end it alone.
        let _ = timeout(CLOSE_LIMIT, self.shared().gone.cancelled()).await;
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.0.shared.0
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("generation", &self.generation())
            .field("user_agent", &self.0.user_agent)
            .field("closed", &self.is_closed())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
