//! How an app-server is had: started by us, or connected to.

mod connected;
mod streams;
mod supervised;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;

use super::catalogue::StockCatalogue;
use super::child::Child;
use super::login::AuthMark;
use super::{AppServerMode, Connection, SetupError};

pub(crate) use connected::{Connected, McpServers};
pub(crate) use streams::Streams;
pub(crate) use supervised::Supervised;

/// A start that was late is given up to so many times `app_server.start_timeout` later on.
pub(crate) const LONGEST_START: u32 = 4;

/// One way to have an app-server. Owned by the supervisor, which calls it as often as it takes.
pub(crate) trait Launcher: fmt::Debug + Send + Sync + 'static {
    /// Starts (or finds) it and connects, as connection number `generation`. Bounded by the caller; dropped
    /// half-way it leaves nothing behind.
    fn launch(&self, generation: u64) -> BoxFuture<'static, Result<Launch, SetupError>>;

    /// Looks whether what `live` was launched with still holds; `true` asks for a new launch.
    fn outdated(&self, live: Arc<Live>) -> BoxFuture<'static, bool>;

    /// How often to look.
    fn check_every(&self) -> Duration;

    /// What it takes, where that is ours to look after.
    fn measure(&self, live: Arc<Live>) -> BoxFuture<'static, Measured>;

    /// What our threads are known by: the name of the folder they work in.
    fn mark(&self) -> String;

    /// Who runs it.
    fn mode(&self) -> AppServerMode;

    /// The file that holds its login, where we know it.
    fn auth_file(&self) -> Option<PathBuf>;
}

/// A ready app-server and, if it is ours, its process.
#[derive(Debug)]
pub(crate) struct Launch {
    pub(crate) live: Live,
    pub(crate) child: Option<Child>,
}

/// What an app-server of ours takes, bytes.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Measured {
    pub(crate) memory: Option<u64>,
    pub(crate) databases: Option<u64>,
}

/// A ready app-server, as everybody sees it.
#[derive(Debug)]
pub(crate) struct Live {
    pub(crate) connection: Connection,
    pub(crate) generation: u64,
    pub(crate) pid: Option<u32>,
    pub(crate) version: Option<String>,
    /// What the lean catalogue hides; `None` where it could not be read.
    pub(crate) stock: Option<Arc<StockCatalogue>>,
    /// The login it was started with: a running app-server notices neither a switch nor a logout.
    pub(crate) auth: Option<AuthMark>,
    /// Where it keeps its databases, if it is ours.
    pub(crate) databases: Option<PathBuf>,
}
