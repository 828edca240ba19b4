//! The stand-in model provider: answers by rule, keeps what it was asked.
//!
//! Behind `demo`, the tests and the benches. Two faces: a plain Responses API provider over HTTP, and the backend
//! that a logged-in Codex talks to. In reading order:
//!
//! - `conversation`, `directives`, `toolpick`, `rules`: a request body becomes an `answer`; pure.
//! - `instance`, `borrow`, `pattern`: a JSON schema becomes an instance.
//! - `script`, `output`, `usage`: an answer becomes the official events.
//! - `engine`, `requests`, `account`: what both faces share.
//! - `http`, `listener`: the plain face, and the sockets of both.
//! - `backend`, `ws`, `history`, `tls`, `login`: the face that a logged-in Codex sees.

mod account;
mod answer;
mod backend;
mod borrow;
mod conversation;
mod directives;
mod engine;
mod history;
mod http;
mod instance;
mod listener;
mod login;
mod output;
mod pattern;
mod requests;
mod rules;
mod script;
mod tls;
mod toolpick;
mod usage;
mod ws;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::net::TcpListener;
use tokio_util::sync::DropGuard;

pub use self::account::{AccountChange, Filled};
use self::engine::Engine;
use self::listener::Served;
pub use self::requests::{SeenRequest, Transport};
use self::tls::Tls;
use crate::tasks::Tasks;

/// A running stand-in; it stops when dropped.
pub struct StandIn {
    addr: SocketAddr,
    reach: Reach,
    engine: Arc<Engine>,
    _stop: DropGuard,
}

/// How to start one.
#[derive(Debug, Clone)]
pub struct StandInOptions {
    /// Address to bind; it answers anyone who reaches it.
    pub host: String,
    /// Port to bind; 0 picks one.
    pub port: u16,
    /// What it stands in for.
    pub face: Face,
    /// Waited once per round trip, as if the network were that far.
    pub delay: Duration,
}

impl Default for StandInOptions {
    fn default() -> Self {
        Self { host: "127.0.0.1".into(), port: 0, face: Face::Plain, delay: Duration::ZERO }
    }
}

/// What a stand-in stands in for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Face {
    /// A Responses API provider over HTTP, no login.
    Plain,
    /// The backend of a logged-in Codex: TLS, account, usage windows, WebSocket.
    Chatgpt {
        /// Where the made-up `auth.json` and the CA's `ca.pem` are written: serves as a Codex home.
        folder: PathBuf,
    },
}

/// Why a stand-in did not start.
#[derive(Debug, thiserror::Error)]
pub enum StandInError {
    /// The address is taken, or not ours.
    #[error("cannot listen on {host}:{port}: {source}")]
    Bind {
        /// As given.
        host: String,
        /// As given.
        port: u16,
        /// What the system said.
        source: io::Error,
    },
    /// No certificates could be made.
    #[error("cannot make certificates: {0}")]
    Tls(String),
    /// The login could not be written.
    #[error("cannot write the made-up login into {}: {source}", folder.display())]
    Folder {
        /// As given.
        folder: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// There is a login already, and it is not a made-up one.
    #[error("{} is somebody's login; the stand-in wants a folder of its own", path.display())]
    ForeignLogin {
        /// The login.
        path: PathBuf,
    },
}

impl StandIn {
    /// Binds, and answers until `tasks` stops or the stand-in is dropped.
    pub async fn start(options: StandInOptions, tasks: &Tasks) -> Result<Self, StandInError> {
        let StandInOptions { host, port, face, delay } = options;
        let bind = async {
            let listener = TcpListener::bind((host.as_str(), port)).await?;
            let addr = listener.local_addr()?;
            Ok((listener, addr))
        };
        let (listener, addr) = bind.await.map_err(|source| StandInError::Bind { host, port, source })?;
        let engine = Arc::new(Engine::new(delay, tasks));
        let (served, reach) = match face {
            Face::Plain => plain(&engine, addr),
            Face::Chatgpt { folder } => chatgpt(&engine, addr, &folder).await?,
        };
        tasks.spawn("stand-in", listener::accept(listener, served, Arc::clone(&engine)));
        let stop = engine.stop.clone().drop_guard();
        Ok(Self { addr, reach, engine, _stop: stop })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// What a client puts `/responses` (with a login, `/codex/responses`) after.
    pub fn base_url(&self) -> &str {
        &self.reach.base_url
    }

    /// The `-c KEY=VALUE` settings that point a codex here, and keep it from calling anyone else.
    pub fn codex_config(&self) -> Vec<String> {
        self.reach.codex_config.clone()
    }

    /// Variables that a codex needs to reach it.
    pub fn child_environment(&self) -> BTreeMap<String, String> {
        self.reach.child_environment.clone()
    }

    /// The last 256 requests to the model, oldest first; fewer where their bodies pass 64 MiB.
    pub fn requests(&self) -> Vec<SeenRequest> {
        self.engine.requests.all()
    }

    /// Answers that have begun and not ended; one ends with its connection too.
    pub fn open(&self) -> usize {
        self.engine.open()
    }

    /// Forgets the requests so far.
    pub fn clear_requests(&self) {
        self.engine.requests.clear();
    }

    /// Says how the made-up account stands from now on.
    pub fn change_account(&self, change: AccountChange) {
        self.engine.account.change(change);
    }

    /// Stops listening and drops every connection.
    pub fn stop(&self) {
        self.engine.stop.cancel();
    }
}

impl fmt::Debug for StandIn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StandIn").field("base_url", &self.reach.base_url).finish_non_exhaustive()
    }
}

/// How a codex reaches a stand-in.
struct Reach {
    base_url: String,
    codex_config: Vec<String>,
    child_environment: BTreeMap<String, String>,
}

/// Keeps a codex from asking after updates, apps and plugins on the side.
const QUIET: &[&str] = &[
    "analytics.enabled=false",
    "check_for_update_on_startup=false",
    "features.apps=false",
    "features.plugins=false",
];

fn plain(engine: &Arc<Engine>, addr: SocketAddr) -> (Served, Reach) {
    let served = Served { plain: http::routes(Arc::clone(engine)), encrypted: None };
    let base_url = format!("http://{}/v1", reachable(addr));
    let settings = vec![
        r#"model_provider="standin""#.to_owned(),
        r#"model_providers.standin.name="Stand-in""#.to_owned(),
        format!(r#"model_providers.standin.base_url="{base_url}""#),
        r#"model_providers.standin.wire_api="responses""#.to_owned(),
        "model_providers.standin.requires_openai_auth=false".to_owned(),
    ];
    let reach = Reach { base_url, codex_config: quiet(settings), child_environment: past_proxies(addr) };
    (served, reach)
}

async fn chatgpt(
    engine: &Arc<Engine>,
    addr: SocketAddr,
    folder: &Path,
) -> Result<(Served, Reach), StandInError> {
    let tls = Tls::new(addr.ip())?;
    let ca = login::write(folder, &tls.ca_pem).await?;
    let encrypted = Some((tls.acceptor, backend::routes(Arc::clone(engine))));
    let served = Served { plain: backend::plain_routes(Arc::clone(engine)), encrypted };
    let reached = reachable(addr);
    let port = addr.port();
    let origin = if reached.ip().is_loopback() {
        format!("https://localhost:{port}")
    } else {
        format!("https://{reached}")
    };
    let base_url = format!("{origin}/backend-api");
    let settings = vec![
        format!(r#"chatgpt_base_url="{base_url}""#),
        // Without it the list of models is asked of the real backend.
        format!(r#"openai_base_url="{base_url}/codex""#),
    ];
    let mut child_environment = past_proxies(addr);
    child_environment.extend([
        ("SSL_CERT_FILE".to_owned(), ca.display().to_string()),
        ("CODEX_REFRESH_TOKEN_URL_OVERRIDE".to_owned(), format!("{origin}/oauth/token")),
        ("CODEX_REVOKE_TOKEN_URL_OVERRIDE".to_owned(), format!("{origin}/oauth/revoke")),
    ]);
    Ok((served, Reach { base_url, codex_config: quiet(settings), child_environment }))
}

/// Where to connect to what is bound to `addr`: "every address" is reached on this machine's own.
fn reachable(addr: SocketAddr) -> SocketAddr {
    let ip = match addr.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, addr.port())
}

fn quiet(mut settings: Vec<String>) -> Vec<String> {
    settings.extend(QUIET.iter().map(|setting| (*setting).to_owned()));
    settings
}

/// A proxy cannot reach this machine's loopback.
fn past_proxies(addr: SocketAddr) -> BTreeMap<String, String> {
    let hosts = format!("localhost,127.0.0.1,::1,{}", reachable(addr).ip());
    [("NO_PROXY", hosts.clone()), ("no_proxy", hosts)].map(|(name, value)| (name.to_owned(), value)).into()
}

fn unix_millis() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn unix_seconds() -> u64 {
    unix_millis() / 1000
}

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod tests;
