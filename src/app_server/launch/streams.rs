//! An app-server behind any stream: an in-memory one in tests.

use std::fmt;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{Launch, Launcher, Live, Measured};
use crate::app_server::login::{AuthMark, mark};
use crate::app_server::orphans;
use crate::app_server::{AppServerMode, ConnectOptions, Connection, SetupError};
use crate::config::AppServerConfig;
use crate::tasks::Tasks;

/// Opens a stream for each connection.
pub(crate) struct Streams<F> {
    open: Arc<F>,
    options: ConnectOptions,
    check_every: Duration,
    auth_file: Option<PathBuf>,
    mark: String,
    tasks: Tasks,
}

impl<F> Streams<F> {
    /// `open` gives the stream of each connection; `auth_file` stands for the login.
    pub(crate) fn new(
        config: &AppServerConfig,
        cwd: &Path,
        auth_file: Option<PathBuf>,
        open: F,
        tasks: &Tasks,
    ) -> Self {
        Self {
            open: Arc::new(open),
            options: ConnectOptions {
                open_timeout: config.start_timeout,
                request_timeout: config.request_timeout,
                ..ConnectOptions::default()
            },
            check_every: config.catalogue_check,
            auth_file,
            mark: orphans::mark(cwd),
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
            let live =
                Live { connection, generation, pid: None, version, stock: None, auth, databases: None };
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

    fn measure(&self, _live: Arc<Live>) -> BoxFuture<'static, Measured> {
        std::future::ready(Measured::default()).boxed()
    }

    fn mark(&self) -> String {
        self.mark.clone()
    }

    fn mode(&self) -> AppServerMode {
        AppServerMode::Supervised
    }

    fn auth_file(&self) -> Option<PathBuf> {
        self.auth_file.clone()
    }
}
