//! An app-server that somebody else runs.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::OnceCell;

use super::{LONGEST_START, Launch, Launcher, Live, Measured};
use crate::app_server::catalogue::StockCatalogue;
use crate::app_server::child;
use crate::app_server::home::Home;
use crate::app_server::locate::{self, LocateInputs, MINIMUM_VERSION};
use crate::app_server::orphans;
use crate::app_server::{AppServerError, AppServerMode, ConnectOptions, Connection, SetupError};
use crate::config::{AppServerConfig, Endpoint};
use crate::tasks::Tasks;

/// How often its configuration is read again: an MCP server added meanwhile must not start for our threads.
const CHECK_EVERY: Duration = Duration::from_secs(60);

/// Connects to one address.
#[derive(Debug, Clone)]
pub(crate) struct Connected {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: AppServerConfig,
    endpoint: Endpoint,
    locate: LocateInputs,
    environment: Vec<(std::ffi::OsString, std::ffi::OsString)>,
    tasks: Tasks,
    mcp_servers: McpServers,
    mark: String,
    /// The catalogue of the codex installed here, for the sizes of models; read once.
    stock: OnceCell<Option<Arc<StockCatalogue>>>,
}

/// Names of the MCP servers in the app-server's configuration, as last read. Clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct McpServers {
    // A std mutex: held for a copy, never across an await.
    names: Arc<Mutex<Vec<String>>>,
}

impl McpServers {
    pub(crate) fn names(&self) -> Vec<String> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, names: Vec<String>) {
        *self.names.lock().unwrap_or_else(PoisonError::into_inner) = names;
    }
}

impl Connected {
    /// A launcher for `endpoint`, which tells its MCP servers through `mcp_servers`.
    pub(crate) fn new(
        config: &AppServerConfig,
        endpoint: Endpoint,
        locate: LocateInputs,
        environment: &[(std::ffi::OsString, std::ffi::OsString)],
        home: &Home,
        mcp_servers: McpServers,
        tasks: &Tasks,
    ) -> Self {
        let environment = child::environment(environment, home.codex_home(), &config.child_environment);
        Self {
            inner: Arc::new(Inner {
                config: config.clone(),
                endpoint,
                locate,
                environment,
                tasks: tasks.clone(),
                mcp_servers,
                mark: orphans::mark(home.cwd()),
                stock: OnceCell::new(),
            }),
        }
    }
}

impl Launcher for Connected {
    fn launch(&self, generation: u64) -> BoxFuture<'static, Result<Launch, SetupError>> {
        let inner = Arc::clone(&self.inner);
        async move { inner.launch(generation).await }.boxed()
    }

    fn outdated(&self, live: Arc<Live>) -> BoxFuture<'static, bool> {
        let inner = Arc::clone(&self.inner);
        async move {
            match live.connection.config_mcp_servers().await {
                Ok(names) => inner.mcp_servers.set(names),
                Err(error) => {
                    tracing::warn!(%error, "the app-server's configuration could not be read again");
                }
            }
            false
        }
        .boxed()
    }

    fn check_every(&self) -> Duration {
        CHECK_EVERY
    }

    fn measure(&self, _live: Arc<Live>) -> BoxFuture<'static, Measured> {
        std::future::ready(Measured::default()).boxed()
    }

    fn mark(&self) -> String {
        self.inner.mark.clone()
    }

    fn mode(&self) -> AppServerMode {
        AppServerMode::Connected
    }

    fn auth_file(&self) -> Option<PathBuf> {
        None
    }
}

impl Inner {
    async fn launch(&self, generation: u64) -> Result<Launch, SetupError> {
        let options = ConnectOptions {
            token: self.config.connect_token.clone(),
            // The supervisor has the lesser one.
            open_timeout: self.config.start_timeout.saturating_mul(LONGEST_START),
            request_timeout: self.config.request_timeout,
            generation,
            ..ConnectOptions::default()
        };
        let failed = |error: &AppServerError| match error {
            AppServerError::Handshake { status: Some(401), .. } => SetupError::Connect(
                "the app-server refused the capability token: set app_server.connect_token or \
                 app_server.connect_token_file to the one it was started with"
                    .into(),
            ),
            error => SetupError::Connect(error.to_string()),
        };
        let connection = Connection::connect(&self.endpoint, options, &self.tasks)
            .await
            .map_err(|error| failed(&error))?;
        let version = connection.server_version().map(str::to_owned);
        let old = version
            .as_deref()
            .and_then(|version| semver::Version::parse(version).ok())
            .filter(|version| *version < MINIMUM_VERSION);
        if let Some(old) = old {
            connection.close().await;
            return Err(SetupError::Connect(format!(
                "the app-server is codex {old}; at least {MINIMUM_VERSION} is needed. Update it with: {}",
                locate::install_command()
            )));
        }
        // Without the names their servers would start for each of our threads: not ready before.
        let names = connection.config_mcp_servers().await.map_err(|error| failed(&error))?;
        self.mcp_servers.set(names);
        let stock = self.stock.get_or_init(|| self.read_stock()).await.clone();
        tracing::info!(generation, version, "connected to the app-server");
        let live = Live { connection, generation, pid: None, version, stock, auth: None, databases: None };
        Ok(Launch { live, child: None })
    }

    /// Best effort: there may be no codex here.
    async fn read_stock(&self) -> Option<Arc<StockCatalogue>> {
        let codex = locate::locate(&self.locate).await.ok()?;
        let program = self.locate.program.as_deref();
        StockCatalogue::read(&codex.path, program, &self.environment, &[]).await.ok().map(Arc::new)
    }
}
