//! An app-server behind any stream: an in-memory one in tests.

use std::fmt;
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{Launch, Launcher, Live};
use crate::app_server::login::{AuthMark, mark};
use crate::app_server::{AppServerMode, ConnectOptions, Connection, SetupError};
use crate::config::AppServerConfig;
use crate::tasks::Tasks;

/// Opens a stream for each connection.
pub(crate) struct Streams<F> {
    open: Arc<F>,
    options: ConnectOptions,
    check_every: Duration,
    auth_file: Option<PathBuf>,
    tasks: Tasks,
}

impl<F> Streams<F> {
    /// `open` gives the stream of each connection; `auth_file` stands for the login.
    pub(crate) fn new(config: &AppServerConfig, auth_file: Option<PathBuf>, open: F, tasks: &Tasks) -> Self {
        Self {
            open: Arc::new(open),
            options: ConnectOptions {
                open_timeout: config.start_timeout,
                request_timeout: config.request_timeout,
                ..ConnectOptions::default()
            },
            check_every: config.catalogue_check,
            auth_file,
            tasks: tasks.clone(),
        }
    }
}

impl<F> fmt::Debug for Streams<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Streams").finish_non_exhaustive()
    }
}

impl<F, Fut, S> Launcher for Streams<F>
where
    F: Fn() -> Fut + Send + Sync + 'static,
    Fut: Future<Output = std::io::Result<S>> + Send + 'static,
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    fn launch(&self, generation: u64) -> BoxFuture<'static, Result<Launch, SetupError>> {
        let open = Arc::clone(&self.open);
        let options = ConnectOptions { generation, ..self.options.clone() };
        let auth_file = self.auth_file.clone();
        let tasks = self.tasks.clone();
        async move {
            let auth = match auth_file {
                Some(file) => Some(mark(&file).await.unwrap_or(AuthMark::Unreadable)),
                None => None,
            };
            let stream = open().await.map_err(|error| SetupError::Connect(error.to_string()))?;
            let connection = Connection::open(stream, options, &tasks)
                .await
                .map_err(|error| SetupError::Connect(error.to_string()))?;
            let version = connection.server_version().map(str::to_owned);
            let live = Live { connection, generation, pid: None, version, stock: None, auth };
            Ok(Launch { live, child: None })
        }
        .boxed()
    }

    fn outdated(&self, _live: Arc<Live>) -> BoxFuture<'static, bool> {
        std::future::ready(false).boxed()
    }

    fn check_every(&self) -> Duration {
        self.check_every
    }

    fn memory(&self, _live: Arc<Live>) -> BoxFuture<'static, Option<u64>> {
        std::future::ready(None).boxed()
    }

    fn mode(&self) -> AppServerMode {
        AppServerMode::Supervised
    }

    fn auth_file(&self) -> Option<PathBuf> {
        self.auth_file.clone()
    }
}
