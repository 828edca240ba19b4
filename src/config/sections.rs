//! One struct per concern. `Default` is what a fresh install runs with; each default says why.

mod background;
mod batches;
mod upstream;
mod websocket;

pub use self::background::BackgroundConfig;
pub use self::batches::BatchesConfig;
pub use self::upstream::{BreakerConfig, BreakerMode, FallbackConfig, FallbackReason, UpstreamConfig};
pub use self::websocket::SocketConfig;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use secrecy::SecretString;

use super::classes::ClassesConfig;
use crate::model::Priority;

/// Everything the daemon is told.
#[derive(Debug, Clone, Default)]
pub struct Config {
    /// `server.*`
    pub server: ServerConfig,
    /// `auth.*`
    pub auth: AuthConfig,
    /// `app_server.*`
    pub app_server: AppServerConfig,
    /// `models.*`
    pub models: ModelsConfig,
    /// `admission.*`
    pub admission: AdmissionConfig,
    /// `upstream.*`
    pub upstream: UpstreamConfig,
    /// `breaker.*`
    pub breaker: BreakerConfig,
    /// `fallback.*`
    pub fallback: FallbackConfig,
    /// `turn.*`
    pub turn: TurnConfig,
    /// `stream.*`
    pub stream: StreamConfig,
    /// `continuation.*`
    pub continuation: ContinuationConfig,
    /// `store.*`
    pub store: StoreConfig,
    /// `background.*`
    pub background: BackgroundConfig,
    /// `batches.*`
    pub batches: BatchesConfig,
    /// `websocket.*`
    pub websocket: SocketConfig,
    /// `classes.*`
    pub classes: ClassesConfig,
    /// `requests.*`
    pub requests: RequestsConfig,
    /// `images.*`
    pub images: ImagesConfig,
    /// `files.*`
    pub files: FilesConfig,
    /// `audio.*`
    pub audio: AudioConfig,
    /// `shutdown.*`
    pub shutdown: ShutdownConfig,
    /// `log.*`
    pub log: LogConfig,
    /// `state.dir`: `$XDG_STATE_HOME/codex-bridge`. One bridge per folder.
    pub state_dir: PathBuf,
    /// What the loader saw of the machine; no key sets it.
    pub machine: Machine,
}

/// What the layers below may know of the process: they do not look themselves.
#[derive(Clone, Default)]
pub struct Machine {
    /// `PATH`, to find codex on.
    pub path: Option<OsString>,
    /// The folder of the project's own codex install: the one that holds `node_modules`.
    pub project_install: Option<PathBuf>,
    /// Our own program, to be run again: to read what may be hostile, and to become codex. `None` in a program
    /// that only hosts the library.
    pub program: Option<PathBuf>,
    /// `XDG_RUNTIME_DIR`, where it is absolute.
    pub runtime_dir: Option<PathBuf>,
    /// The whole environment, of which the app-server inherits what it needs.
    pub environment: Vec<(OsString, OsString)>,
    /// How often the service manager wants a sign of life.
    pub watchdog: Option<Duration>,
}

impl fmt::Debug for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Any variable may be a secret.
        f.debug_struct("Machine")
            .field("path", &self.path)
            .field("project_install", &self.project_install)
            .field("program", &self.program)
            .field("runtime_dir", &self.runtime_dir)
            .finish_non_exhaustive()
    }
}

/// The HTTP listener.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// Address to bind. Anything but loopback wants a token.
    pub host: String,
    /// Port to bind; 0 picks one.
    pub port: u16,
    /// Origins a browser may call from (`https://app.example`); none by default.
    pub allowed_origins: Vec<String>,
    /// `Host` names taken beside loopback ones.
    pub allowed_hosts: Vec<String>,
    /// Largest request body, bytes; more is a 413.
    pub max_body_bytes: usize,
    /// All request bodies held at once, bytes; past it a body waits unread.
    pub body_memory: usize,
    /// A client must have sent its whole body by then.
    pub body_timeout: Duration,
    /// A client must have sent its request head by then; as long may a kept-alive connection be idle.
    pub header_timeout: Duration,
    /// A client must take something of its answer within this, while there is something to take.
    pub write_timeout: Duration,
    /// Connections held at once.
    pub max_connections: usize,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            host: "127.0.0.1".into(),
            port: 8787,
            allowed_origins: Vec::new(),
            allowed_hosts: Vec::new(),
            max_body_bytes: 48 * 1024 * 1024,
            // Five of the largest at once; parsed they take a few times as much.
            body_memory: 256 * 1024 * 1024,
            body_timeout: Duration::from_secs(60),
            header_timeout: Duration::from_secs(60),
            write_timeout: Duration::from_secs(60),
            // Some 30 KB each; under the usual limit of 1024 descriptors, with room for the store and the children.
            max_connections: 512,
        }
    }
}

/// Who may call.
#[derive(Debug, Clone, Default)]
pub struct AuthConfig {
    /// With none, and no file of keys: anyone who reaches the (then loopback) address.
    pub tokens: Vec<NamedToken>,
    /// What these tokens may do, by name.
    pub limits: BTreeMap<String, KeyLimits>,
    /// The file of further keys; `keys.toml` in the state folder where none is named.
    pub keys_file: Option<PathBuf>,
    /// What stands in it; `None` where there is no file.
    pub keys: Option<Vec<NamedKey>>,
}

impl AuthConfig {
    /// Whether anyone may call. A file of keys closes `/v1` also while it is empty: the last key that goes is not
    /// to open the door.
    pub fn is_open(&self) -> bool {
        self.tokens.is_empty() && self.keys.is_none()
    }
}

/// One key of the file, by its hash.
#[derive(Clone, PartialEq, Eq)]
pub struct NamedKey {
    /// For logs and ownership of responses.
    pub name: String,
    /// SHA-256 of the secret.
    pub digest: [u8; 32],
    /// What it may do.
    pub limits: KeyLimits,
}

/// What one key may do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeyLimits {
    /// Requests a minute; more is a 429.
    pub requests_per_minute: Option<u32>,
    /// Tokens a minute, of input and output; more is a 429.
    pub tokens_per_minute: Option<u32>,
    /// Turns at once; more wait.
    pub concurrency: Option<usize>,
    /// Models and aliases it may use; `None` for all.
    pub models: Option<Vec<String>>,
    /// For its requests that name none.
    pub default_model: Option<String>,
    /// The best class its requests can have.
    pub priority: Priority,
}

impl KeyLimits {
    /// Whether both allow as much a minute.
    pub fn has_rates_of(&self, other: &Self) -> bool {
        self.requests_per_minute == other.requests_per_minute
            && self.tokens_per_minute == other.tokens_per_minute
    }
}

/// One bearer token and the name its requests are accounted to.
#[derive(Debug, Clone)]
pub struct NamedToken {
    /// For logs and ownership of responses.
    pub name: String,
    /// The token itself; never shown.
    pub token: SecretString,
}

/// The app-server: a child of ours, or one that somebody else runs.
#[derive(Clone)]
pub struct AppServerConfig {
    /// The codex binary; else `CODEX_BIN`, PATH, the project's own install.
    pub codex_bin: Option<PathBuf>,
    /// An app-server somebody else runs; `None` starts our own.
    pub connect: Option<Endpoint>,
    /// Capability token for a `ws://` app-server.
    pub connect_token: Option<SecretString>,
    /// The file that `connect_token` was read from, where it was one.
    pub connect_token_file: Option<PathBuf>,
    /// Further `-c KEY=VALUE` settings for our own child.
    pub codex_config: Vec<String>,
    /// How much of Codex's own instructions a call carries.
    pub scaffold: Scaffold,
    /// The user's own Codex home, whose login is shared; `$CODEX_HOME` or `~/.codex`.
    pub user_codex_home: PathBuf,
    /// Variables set for the child on top of ours (the stand-in's CA, say); no key of the file sets them.
    pub child_environment: BTreeMap<String, String>,
    /// How often `codex debug models` is looked at again.
    pub catalogue_check: Duration,
    /// Memory of our own child, bytes; past it a new one takes over and the old one finishes what it has.
    pub max_memory: usize,
    /// How often its memory is looked at. It is not replaced before the tenth look.
    pub memory_check: Duration,
    /// Databases of one child of ours (its log above all), bytes; past it a new one takes over.
    pub max_databases: usize,
    /// Children of ours that share the load.
    pub processes: usize,
    /// How often it is asked whether it still answers; zero never asks.
    pub probe_interval: Duration,
    /// An answer must come by then; after two in a row that did not, it is given up.
    pub probe_timeout: Duration,
    /// How often threads of ours that nobody waits for are looked for; zero never looks.
    pub orphan_sweep: Duration,
    /// The child must be initialised by then.
    pub start_timeout: Duration,
    /// A replaced one may finish its turns this long.
    pub drain_limit: Duration,
    /// One JSON-RPC request must be answered by then.
    pub request_timeout: Duration,
}

impl Default for AppServerConfig {
    fn default() -> Self {
        Self {
            codex_bin: None,
            connect: None,
            connect_token: None,
            connect_token_file: None,
            codex_config: Vec::new(),
            scaffold: Scaffold::None,
            user_codex_home: PathBuf::new(),
            child_environment: BTreeMap::new(),
            catalogue_check: Duration::from_secs(4 * 3600),
            // 88 MB at its start, 190 after a thousand calls.
            max_memory: 1024 * 1024 * 1024,
            memory_check: Duration::from_secs(30),
            max_databases: 256 * 1024 * 1024,
            processes: 1,
            probe_interval: Duration::from_secs(5),
            probe_timeout: Duration::from_secs(8),
            orphan_sweep: Duration::from_secs(5 * 60),
            start_timeout: Duration::from_secs(30),
            drain_limit: Duration::from_secs(15 * 60),
            request_timeout: Duration::from_secs(30),
        }
    }
}

impl fmt::Debug for AppServerConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A provider's key may be among the settings, and anything among the variables: their names only.
        let settings = self.codex_config.iter().map(|setting| setting.split('=').next().unwrap_or_default());
        f.debug_struct("AppServerConfig")
            .field("codex_bin", &self.codex_bin)
            .field("connect", &self.connect)
            .field("codex_config", &settings.collect::<Vec<_>>())
            .field("scaffold", &self.scaffold)
            .field("user_codex_home", &self.user_codex_home)
            .field("child_environment", &self.child_environment.keys().collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}

/// Where an app-server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// `ws://host:port`.
    Tcp(String),
    /// `unix:///path`.
    Unix(PathBuf),
}

/// How much of Codex's own instructions a call carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scaffold {
    /// Nothing but the client's words.
    None,
    /// The stock catalogue and instructions, for a backend that insists on them.
    Codex,
}

/// What becomes of what a request asks for and cannot have.
#[derive(Debug, Clone, Copy, Default)]
pub struct RequestsConfig {
    /// Fields without effect are a 400 instead of a name in a header: for clients that want to know.
    pub strict_params: bool,
    /// Tools of types that are not served.
    pub unknown_tools: UnknownTools,
}

/// What becomes of a tool that is not served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum UnknownTools {
    /// 400: the answer could not be what was asked for.
    #[default]
    Refuse,
    /// Left out, and named in the response's head.
    Ignore,
}

/// Which models answer to which names.
#[derive(Debug, Clone, Default)]
pub struct ModelsConfig {
    /// For requests that name none; else the account's own default.
    pub default_model: Option<String>,
    /// What a client may call a model: alias to catalogue id.
    pub aliases: BTreeMap<String, String>,
}

/// How many calls run, and how many wait.
#[derive(Debug, Clone)]
pub struct AdmissionConfig {
    /// Turns that run at once.
    pub slots: usize,
    /// Requests that wait for a slot; more is a 429.
    pub queue: usize,
    /// Longest wait for a slot; more is a 429.
    pub queue_timeout: Duration,
}

impl Default for AdmissionConfig {
    fn default() -> Self {
        Self { slots: 8, queue: 256, queue_timeout: Duration::from_secs(60) }
    }
}

/// Bounds of one turn.
#[derive(Debug, Clone)]
pub struct TurnConfig {
    /// From dispatch to the terminal event; more is a 504.
    pub deadline: Duration,
    /// Longest silence of the app-server; more is a 504. A model that reasons without a summary is silent for
    /// minutes.
    pub idle_timeout: Duration,
    /// All text of one answer, bytes; more is a 502.
    pub max_output_bytes: usize,
    /// Whether the app-server's first retry ends the call.
    pub fail_fast: bool,
    /// Longest time that the app-server may try again while no attempt answers. Its own patience ends within about
    /// half a minute, unless the backend asks for longer pauses.
    pub max_retry_wait: Duration,
    /// How long usage that is late is waited for once the answer is complete.
    pub usage_timeout: Duration,
    /// After this long without an event, the thread's status is read: an idle one has ended.
    pub status_check: Duration,
}

impl Default for TurnConfig {
    fn default() -> Self {
        Self {
            deadline: Duration::from_secs(600),
            idle_timeout: Duration::from_secs(300),
            max_output_bytes: 16 * 1024 * 1024,
            fail_fast: false,
            max_retry_wait: Duration::from_secs(60),
            usage_timeout: Duration::from_secs(2),
            status_check: Duration::from_secs(10),
        }
    }
}

/// Event streams to clients.
#[derive(Debug, Clone)]
pub struct StreamConfig {
    /// A comment line after this long without an event.
    pub keep_alive: Duration,
    /// How long the response head waits for the first event, so that an early failure is a status code.
    pub head_timeout: Duration,
    /// Events held for a client slower than the model, bytes of text; deltas merge past the first ones.
    pub buffer_bytes: usize,
    /// A client that has taken nothing for this long while events wait is dropped.
    pub stall_timeout: Duration,
}

impl Default for StreamConfig {
    fn default() -> Self {
        Self {
            keep_alive: Duration::from_secs(15),
            head_timeout: Duration::from_secs(10),
            buffer_bytes: 4 * 1024 * 1024,
            stall_timeout: Duration::from_secs(60),
        }
    }
}

/// What is kept for `previous_response_id`.
#[derive(Debug, Clone)]
pub struct ContinuationConfig {
    /// A record lives this long after its last use.
    pub ttl: Duration,
    /// Most records in memory; past it the least recently used goes.
    pub max_records: usize,
    /// Most bytes of items kept in memory; past it the least recently used goes. A chain that takes more than half
    /// of it on its own is not kept in memory.
    pub max_bytes: usize,
    /// Most items of a chain, the new ones included; more is a 400.
    pub max_chain_items: usize,
    /// Whether `store: false` responses can be continued.
    pub keep_unstored: bool,
    /// What becomes of a chain that was begun under another login.
    pub on_account_change: OnAccountChange,
    /// The store must have answered by then; a slower one counts as down.
    pub store_timeout: Duration,
    /// Idle threads kept loaded for their continuation. Each costs the app-server 1 to 1.7 MB, and with a
    /// login one upstream socket: few.
    pub warm_threads: usize,
    /// How long an idle thread is kept loaded.
    pub warm_ttl: Duration,
    /// Threads started ahead of the call that will use them.
    pub spare_threads: usize,
    /// How long an unused spare thread is kept.
    pub spare_ttl: Duration,
    /// Whether a conversation that comes whole goes on in the idle thread that holds its beginning.
    pub affinity: bool,
    /// Beginnings of calls that are kept on disk, to be forked; 0 for none. Past it the least recently used
    /// goes, unless it is in use.
    pub templates: usize,
    /// How long such a beginning must be, tokens, about.
    pub template_tokens: usize,
    /// It is deleted when it was not used for this long.
    pub template_ttl: Duration,
    /// Turns that wait for their tools' outputs; past it the oldest is given up and rebuilt when it is asked
    /// for.
    pub held_turns: usize,
    /// How long such a turn waits.
    pub held_ttl: Duration,
}

impl Default for ContinuationConfig {
    fn default() -> Self {
        Self {
            ttl: Duration::from_secs(6 * 3600),
            max_records: 10_000,
            max_bytes: 256 * 1024 * 1024,
            max_chain_items: 10_000,
            keep_unstored: true,
            on_account_change: OnAccountChange::Fail,
            store_timeout: Duration::from_secs(2),
            warm_threads: 8,
            warm_ttl: Duration::from_secs(300),
            spare_threads: 4,
            spare_ttl: Duration::from_secs(120),
            affinity: true,
            templates: 8,
            template_tokens: 1024,
            template_ttl: Duration::from_secs(600),
            held_turns: 32,
            held_ttl: Duration::from_secs(600),
        }
    }
}

/// What becomes of a chain that was begun under another login.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnAccountChange {
    /// 400: what is whose stays apart.
    Fail,
    /// It goes on without the reasoning that only the other login can read.
    Rebuild,
}

/// Where responses are kept.
#[derive(Debug, Clone)]
pub struct StoreConfig {
    /// Which store.
    pub backend: StoreBackend,
    /// The embedded store's file; `responses.redb` in the state folder where none is named.
    pub path: Option<PathBuf>,
    /// Most responses kept, where the store is ours to bound; past it the least recently used goes.
    pub max_records: usize,
    /// Most bytes they take; past it the least recently used goes.
    pub max_bytes: usize,
    /// Most bytes of documents (conversations, stored chat completions, background calls, files, batches), where the
    /// store is ours to bound; past it none is put.
    pub max_document_bytes: usize,
    /// A document lives this long after its last change.
    pub document_ttl: Duration,
    /// `redis://[user:password@]host[:port][/db]` or `unix:///path`; a secret.
    pub redis_url: Option<SecretString>,
    /// What every key begins with: bridges with the same one share their responses.
    pub redis_prefix: String,
    /// Responses on disk or on the server are encrypted with it; earlier ones stay as they are.
    pub encryption_key: Option<EncryptionKey>,
    /// The file that `encryption_key` was read from, where it was one.
    pub encryption_key_file: Option<PathBuf>,
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self {
            backend: StoreBackend::Embedded,
            path: None,
            max_records: 100_000,
            max_bytes: 512 * 1024 * 1024,
            max_document_bytes: 1024 * 1024 * 1024,
            document_ttl: Duration::from_secs(30 * 24 * 3600),
            redis_url: None,
            redis_prefix: "codex-bridge:".into(),
            encryption_key: None,
            encryption_key_file: None,
        }
    }
}

/// A key of 32 bytes; never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct EncryptionKey([u8; 32]);

impl EncryptionKey {
    /// Wraps a key.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Reads 64 hex digits, or base64.
    pub fn parse(text: &str) -> Option<Self> {
        let bytes: Vec<u8> = if text.len() == 64 {
            let digits = (0..64).step_by(2).map(|at| text.get(at..at + 2));
            digits.map(|two| u8::from_str_radix(two?, 16).ok()).collect::<Option<_>>()?
        } else {
            STANDARD.decode(text).ok()?
        };
        bytes.try_into().ok().map(Self)
    }

    /// The key itself.
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for EncryptionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EncryptionKey")
    }
}

/// Which store responses are kept in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreBackend {
    /// Gone with the process.
    Memory,
    /// One file in the state folder.
    Embedded,
    /// A Redis or Valkey server, which several bridges may share.
    Redis,
}

/// Images given by address.
#[derive(Debug, Clone)]
pub struct ImagesConfig {
    /// Whether `https:` images are fetched at all.
    pub fetch: bool,
    /// Largest image, bytes, fetched or inline.
    pub max_bytes: usize,
    /// One image must be here by then.
    pub timeout: Duration,
    /// Redirects followed; each target is checked again.
    pub max_redirects: usize,
    /// Whether private and loopback addresses may be fetched from.
    pub allow_private: bool,
}

impl Default for ImagesConfig {
    fn default() -> Self {
        Self {
            fetch: true,
            max_bytes: 20 * 1024 * 1024,
            timeout: Duration::from_secs(20),
            max_redirects: 3,
            allow_private: false,
        }
    }
}

/// Files: their text is what the model gets.
#[derive(Debug, Clone)]
pub struct FilesConfig {
    /// Whether files given by `https:` address are fetched at all.
    pub fetch: bool,
    /// Largest file, bytes, fetched or inline.
    pub max_bytes: usize,
    /// All text of one request's files, bytes.
    pub max_text_bytes: usize,
    /// Pages of one PDF.
    pub max_pages: usize,
    /// One file must be fetched by then.
    pub timeout: Duration,
    /// Redirects followed; each target is checked again.
    pub max_redirects: usize,
    /// Whether private and loopback addresses may be fetched from.
    pub allow_private: bool,
    /// One PDF must be read by then.
    pub pdf_timeout: Duration,
    /// Address space of the process that reads a PDF, bytes: what a hostile one can take of this machine.
    pub pdf_memory: usize,
}

impl Default for FilesConfig {
    fn default() -> Self {
        Self {
            fetch: true,
            max_bytes: 32 * 1024 * 1024,
            // About two million tokens: more than any model takes.
            max_text_bytes: 8 * 1024 * 1024,
            max_pages: 2000,
            timeout: Duration::from_secs(20),
            max_redirects: 3,
            allow_private: false,
            pdf_timeout: Duration::from_secs(20),
            pdf_memory: 512 * 1024 * 1024,
        }
    }
}

/// Audio in requests.
#[derive(Debug, Clone)]
pub struct AudioConfig {
    /// All audio of one request, bytes.
    pub max_bytes: usize,
}

impl Default for AudioConfig {
    fn default() -> Self {
        Self { max_bytes: 20 * 1024 * 1024 }
    }
}

/// The way down.
#[derive(Debug, Clone)]
pub struct ShutdownConfig {
    /// What runs may finish within this; the rest is interrupted.
    pub drain: Duration,
}

impl Default for ShutdownConfig {
    fn default() -> Self {
        Self { drain: Duration::from_secs(30) }
    }
}

/// Logs, on standard error.
#[derive(Debug, Clone)]
pub struct LogConfig {
    /// Lines for people or for machines.
    pub format: LogFormat,
    /// A `tracing` filter: `info`, `codex_bridge=debug`, …
    pub filter: String,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { format: LogFormat::Text, filter: "info".into() }
    }
}

/// Lines for people or for machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}
