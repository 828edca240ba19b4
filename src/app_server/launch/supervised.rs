//! Our own child: found, furnished, started, connected to.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use super::{LONGEST_START, Launch, Launcher, Live, Measured};
use crate::app_server::catalogue::StockCatalogue;
use crate::app_server::child::{self, Child, ChildSpec, Names};
use crate::app_server::home::{self, Home};
use crate::app_server::locate::{self, Codex, LocateInputs};
use crate::app_server::login::{AuthMark, mark};
use crate::app_server::orphans;
use crate::app_server::state_folder::write_private;
use crate::app_server::{AppServerError, AppServerMode, ConnectOptions, Connection, SetupError};
use crate::config::{AppServerConfig, Endpoint, Machine, Scaffold};
use crate::tasks::Tasks;

/// How long to wait before looking for the socket again; a child is ready 50 to 150 ms after its start.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// A catalogue this young, read for the same login, serves the next start too: a child that has to come back
/// does not wait for the backend.
const FRESH_CATALOGUE: Duration = Duration::from_secs(60);

/// Children that look at the same time look once.
const LOOKED_JUST_NOW: Duration = Duration::from_secs(1);

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
    /// What each child's socket, catalogue and databases are called.
    names: Arc<Names>,
    /// Whether what an earlier bridge left has been cleared away. Held by the one start that sets the home right.
    cleared: tokio::sync::Mutex<bool>,
    /// Held by whoever looks at the catalogue; the others wait and take what it found.
    looking: tokio::sync::Mutex<()>,
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
                names: Arc::default(),
                cleared: tokio::sync::Mutex::new(false),
                looking: tokio::sync::Mutex::new(()),
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

    fn measure(&self, live: Arc<Live>) -> BoxFuture<'static, Measured> {
        let tasks = self.inner.tasks.clone();
        async move {
            // A busy one that does not answer now is asked again.
            let memory = live.connection.diagnostics().await.ok().and_then(|told| told.resident_bytes);
            let databases = match live.databases.clone() {
                Some(folder) => tasks.blocking(move || home::size_of(&folder)).await,
                None => None,
            };
            Measured { memory, databases }
        }
        .boxed()
    }

    fn mark(&self) -> String {
        orphans::mark(self.inner.home.cwd())
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
        {
            let mut cleared = self.cleared.lock().await;
            if !*cleared {
                self.clear().await?;
                *cleared = true;
            }
            self.furnish().await?;
        }
        let name = self.names.take(self.home.codex_home());
        let name = name.ok_or_else(|| SetupError::Child("too many earlier ones are still ending".into()))?;
        let codex = self.codex().await?;
        // Before the child reads it: a change in between shows as a difference and is followed up.
        let auth = mark(self.home.auth_file()).await.unwrap_or(AuthMark::Unreadable);
        let (stock, catalogue) = self.catalogue(&codex, &auth, name.number()).await?;
        let spec = ChildSpec {
            codex: codex.path,
            tether: self.program.clone(),
            socket: self.home.socket(name.number()),
            catalogue,
            databases: name.databases().to_owned(),
            codex_config: self.config.codex_config.clone(),
            environment: self.environment.clone(),
            cwd: self.home.cwd().to_owned(),
            record: self.home.children().to_owned(),
        };
        // A link left by a killed child would be taken for the new one's.
        let _ = tokio::fs::remove_file(&spec.socket).await;
        let _ = tokio::fs::remove_dir_all(&spec.databases).await;
        let mut child = Child::spawn(&spec, Some(name), &self.tasks)?;
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
        let databases = Some(spec.databases);
        let live = Live { connection, generation, pid, version, stock, auth: Some(auth), databases };
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
        let _looking = self.looking.lock().await;
        let now = match self.last_read(&codex, &auth, LOOKED_JUST_NOW) {
            Some(stock) => Ok(stock),
            None => self.read_stock(&codex, &auth).await,
        };
        match now {
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

    /// Ends the children that an earlier bridge left, and deletes what they kept.
    async fn clear(&self) -> Result<(), SetupError> {
        let home = self.home.clone();
        let cleared = self.tasks.blocking(move || {
            child::end_orphans(home.children(), home.codex_home());
            home.clear()
        });
        let failed = || Err(SetupError::Child("its home could not be set up".into()));
        cleared.await.unwrap_or_else(failed)
    }

    /// The stock catalogue and, unless that is to be used as it is, the file of the lean one.
    async fn catalogue(
        &self,
        codex: &Codex,
        auth: &AuthMark,
        child: u64,
    ) -> Result<(Option<Arc<StockCatalogue>>, Option<PathBuf>), SetupError> {
        let stock = match self.last_read(codex, auth, FRESH_CATALOGUE) {
            Some(stock) => Ok(stock),
            None => self.read_stock(codex, auth).await,
        };
        if self.config.scaffold == Scaffold::Codex {
            return Ok((stock.ok(), None));
        }
        let stock = stock?;
        let file = self.home.catalogue_file(child);
        let (to, from) = (file.clone(), Arc::clone(&stock));
        self.tasks
            .blocking(move || write_private(&to, &from.to_lean()))
            .await
            .unwrap_or_else(|| Err(SetupError::Catalogue("it could not be written".into())))?;
        Ok((Some(stock), Some(file)))
    }

    /// The catalogue as read for the same login within `age`.
    fn last_read(&self, codex: &Codex, auth: &AuthMark, age: Duration) -> Option<Arc<StockCatalogue>> {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner).clone()?;
        (last.codex == *codex && last.auth == *auth && last.at.elapsed() < age).then_some(last.stock)
    }

    async fn read_stock(&self, codex: &Codex, auth: &AuthMark) -> Result<Arc<StockCatalogue>, SetupError> {
        let settings = child::settings(&self.config.codex_config);
        let program = self.program.as_deref();
        let stock = Arc::new(StockCatalogue::read(&codex.path, program, &self.environment, &settings).await?);
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
                    // The supervisor has the lesser one.
                    open_timeout: self.config.start_timeout.saturating_mul(LONGEST_START),
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
