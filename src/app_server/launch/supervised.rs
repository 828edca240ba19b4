//! Our own child: found, furnished, started, connected to.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use super::{Launch, Launcher, Live};
use crate::app_server::catalogue::StockCatalogue;
use crate::app_server::child::{self, Child, ChildSpec};
use crate::app_server::home::{self, Home};
use crate::app_server::locate::{self, Codex, LocateInputs};
use crate::app_server::login::{AuthMark, mark};
use crate::app_server::state_folder::write_private;
use crate::app_server::{AppServerError, AppServerMode, ConnectOptions, Connection, SetupError};
use crate::config::{AppServerConfig, Endpoint, Machine, Scaffold};
use crate::tasks::Tasks;

/// How long to wait before looking for the socket again; a child is ready 50 to 150 ms after its start.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// A catalogue this young, read for the same login, serves the next start too: a child that has to come back
/// does not wait for the backend.
const FRESH_CATALOGUE: Duration = Duration::from_secs(60);

/// Starts children in one home.
#[derive(Debug, Clone)]
pub(crate) struct Supervised {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: AppServerConfig,
    locate: LocateInputs,
    environment: Vec<(std::ffi::OsString, std::ffi::OsString)>,
    program: Option<PathBuf>,
    home: Home,
    tasks: Tasks,
    /// Starts tried so far: names sockets and catalogue files.
    starts: AtomicU64,
    /// The last binary that was found good, and its time of change.
    // A std mutex: held for a copy, never across an await.
    checked: Mutex<Option<(Codex, SystemTime)>>,
    /// The last catalogue that was read.
    // A std mutex: held for a copy, never across an await.
    last: Mutex<Option<Read>>,
    /// Whether what only people can mend has been said.
    explained: AtomicBool,
}

#[derive(Debug, Clone)]
struct Read {
    stock: Arc<StockCatalogue>,
    codex: Codex,
    auth: AuthMark,
    at: Instant,
}

impl Supervised {
    /// A launcher for children in `home`.
    pub(crate) fn new(
        config: &AppServerConfig,
        locate: LocateInputs,
        machine: &Machine,
        home: Home,
        tasks: &Tasks,
    ) -> Self {
        let environment =
            child::environment(&machine.environment, home.codex_home(), &config.child_environment);
        Self {
            inner: Arc::new(Inner {
                config: config.clone(),
                locate,
                environment,
                program: machine.program.clone(),
                home,
                tasks: tasks.clone(),
                starts: AtomicU64::new(0),
                checked: Mutex::new(None),
                last: Mutex::new(None),
                explained: AtomicBool::new(false),
            }),
        }
    }
}

impl Launcher for Supervised {
    fn launch(&self, generation: u64) -> BoxFuture<'static, Result<Launch, SetupError>> {
        let inner = Arc::clone(&self.inner);
        async move { inner.launch(generation).await }.boxed()
    }

    fn outdated(&self, live: Arc<Live>) -> BoxFuture<'static, bool> {
        let inner = Arc::clone(&self.inner);
        async move { inner.outdated(&live).await }.boxed()
    }

    fn check_every(&self) -> Duration {
        self.inner.config.catalogue_check
    }

    fn memory(&self, live: Arc<Live>) -> BoxFuture<'static, Option<u64>> {
        // A busy one that does not answer now is asked again.
        async move { live.connection.diagnostics().await.ok()?.resident_bytes }.boxed()
    }

    fn mode(&self) -> AppServerMode {
        AppServerMode::Supervised
    }

    fn auth_file(&self) -> Option<PathBuf> {
        Some(self.inner.home.auth_file().to_owned())
    }
}

impl Inner {
    async fn launch(&self, generation: u64) -> Result<Launch, SetupError> {
        let start = self.starts.fetch_add(1, Ordering::Relaxed);
        if start == 0 {
            self.end_orphans().await;
            self.clear_sessions().await?;
        }
        let codex = self.codex().await?;
        self.furnish().await?;
        // Before the child reads it: a change in between shows as a difference and is followed up.
        let auth = mark(self.home.auth_file()).await.unwrap_or(AuthMark::Unreadable);
        let (stock, catalogue) = self.catalogue(&codex, &auth, start).await?;
        let spec = ChildSpec {
            codex: codex.path,
            tether: self.program.clone(),
            socket: self.home.socket(start),
            catalogue,
            codex_config: self.config.codex_config.clone(),
            environment: self.environment.clone(),
            cwd: self.home.cwd().to_owned(),
            record: self.home.children().to_owned(),
        };
        // A link left by a killed child would be taken for the new one's.
        let _ = tokio::fs::remove_file(&spec.socket).await;
        let mut child = Child::spawn(&spec, &self.tasks)?;
        let connection = self.connect(&mut child, &spec, generation).await?;
        let version = Some(codex.version.to_string());
        tracing::info!(
            pid = child.pid(),
            generation,
            version,
            models = stock.as_ref().map(|stock| stock.len()),
            "codex app-server is ready"
        );
        self.explain(&auth);
        let pid = Some(child.pid());
        let live = Live { connection, generation, pid, version, stock, auth: Some(auth) };
        Ok(Launch { live, child: Some(child) })
    }

    /// Whether the catalogue is another than the child's.
    async fn outdated(&self, live: &Live) -> bool {
        if self.config.scaffold == Scaffold::Codex {
            // The child keeps its own, and looks after it.
            return false;
        }
        let Ok(codex) = self.codex().await else { return false };
        let auth = live.auth.clone().unwrap_or(AuthMark::Absent);
        match self.read_stock(&codex, &auth).await {
            Ok(now) => live.stock.as_ref() != Some(&now),
            Err(error) => {
                tracing::warn!(%error, "the catalogue could not be looked at again");
                false
            }
        }
    }

    /// The binary, asked for its version only when it is new or has changed.
    async fn codex(&self) -> Result<Codex, SetupError> {
        let path = locate::find(&self.locate)?;
        let changed = tokio::fs::metadata(&path).await.and_then(|found| found.modified()).ok();
        let known = self.checked.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((codex, then)) = known
            && codex.path == path
            && changed == Some(then)
        {
            return Ok(codex);
        }
        let codex = locate::locate(&self.locate).await?;
        *self.checked.lock().unwrap_or_else(PoisonError::into_inner) =
            changed.map(|changed| (codex.clone(), changed));
        Ok(codex)
    }

    async fn furnish(&self) -> Result<(), SetupError> {
        let home = self.home.clone();
        self.tasks
            .blocking(move || home.refresh())
            .await
            .unwrap_or_else(|| Err(SetupError::Child("its home could not be set up".into())))
    }

    async fn clear_sessions(&self) -> Result<(), SetupError> {
        let home = self.home.clone();
        let cleared = self.tasks.blocking(move || home.clear_sessions()).await;
        cleared.unwrap_or_else(|| Err(SetupError::Child("its home could not be set up".into())))
    }

    async fn end_orphans(&self) {
        let home = self.home.clone();
        self.tasks.blocking(move || child::end_orphans(home.children(), home.codex_home())).await;
    }

    /// The stock catalogue and, unless that is to be used as it is, the file of the lean one.
    async fn catalogue(
        &self,
        codex: &Codex,
        auth: &AuthMark,
        start: u64,
    ) -> Result<(Option<Arc<StockCatalogue>>, Option<PathBuf>), SetupError> {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let fresh = last
            .filter(|last| last.codex == *codex && last.auth == *auth && last.at.elapsed() < FRESH_CATALOGUE);
        let stock = match fresh {
            Some(last) => Ok(last.stock),
            None => self.read_stock(codex, auth).await,
        };
        if self.config.scaffold == Scaffold::Codex {
            return Ok((stock.ok(), None));
        }
        let stock = stock?;
        let file = self.home.catalogue_file(start);
        let (to, from) = (file.clone(), Arc::clone(&stock));
        self.tasks
            .blocking(move || write_private(&to, &from.to_lean()))
            .await
            .unwrap_or_else(|| Err(SetupError::Catalogue("it could not be written".into())))?;
        Ok((Some(stock), Some(file)))
    }

    async fn read_stock(&self, codex: &Codex, auth: &AuthMark) -> Result<Arc<StockCatalogue>, SetupError> {
        let settings = child::settings(&self.config.codex_config);
        let stock = Arc::new(StockCatalogue::read(&codex.path, &self.environment, &settings).await?);
        let read =
            Read { stock: Arc::clone(&stock), codex: codex.clone(), auth: auth.clone(), at: Instant::now() };
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(read);
        Ok(stock)
    }

    /// Connects as soon as the child listens; its end ends the wait.
    async fn connect(
        &self,
        child: &mut Child,
        spec: &ChildSpec,
        generation: u64,
    ) -> Result<Connection, SetupError> {
        loop {
            if let Some(path) = home::connectable(&spec.socket) {
                let options = ConnectOptions {
                    open_timeout: self.config.start_timeout,
                    request_timeout: self.config.request_timeout,
                    generation,
                    ..ConnectOptions::default()
                };
                match Connection::connect(&Endpoint::Unix(path), options, &self.tasks).await {
                    Ok(connection) => return Ok(connection),
                    // Bound, but not listening yet.
                    Err(AppServerError::Connect { .. }) => {}
                    Err(error) => return Err(SetupError::Connect(error.to_string())),
                }
            }
            // Cancel-safe: waiting for a process takes nothing.
            tokio::select! {
                how = child.ended() => {
                    let said = child.log().lines().join(" | ");
                    return Err(SetupError::Child(if said.is_empty() { how } else { format!("{how}: {said}") }));
                }
                () = tokio::time::sleep(LOOK_AGAIN) => {}
            }
        }
    }

    fn explain(&self, auth: &AuthMark) {
        if *auth != AuthMark::Absent || self.explained.swap(true, Ordering::Relaxed) {
            return;
        }
        if let Some(hint) = home::keyring_login(self.home.user_home()) {
            tracing::warn!("{hint}");
        }
    }
}
