//! The JSON-RPC client of `codex app-server`, its child and its private home.
//!
//! One WebSocket carries everything: one task owns its write side, one does nothing but read
//! ([`Connection`]). A [`Thread`] owns the events of one native thread. The wire format is private to
//! `wire`; `convert` turns it into the crate's own words.
//!
//! [`AppServer`] is what the layers above hold: a supervising task has the process (or somebody else's
//! address) and a connection to it, and has them again when they are lost.

mod compaction;
mod login;
mod model_list;
mod rate_limits;
mod runtime;
mod status;
mod templates;

mod orphans;
mod supervisor;

mod launch;

mod catalogue;
mod child;
mod home;
mod locate;
mod state_folder;

mod connection;
mod thread;

mod subscriptions;

mod pending;
mod server_requests;

mod convert;
mod transport;
mod wire;

mod error;
mod setup_error;

#[cfg(test)]
pub(crate) mod testing;

pub use connection::{
    ConnectOptions, Connection, Credits, Diagnostics, Notice, PreparedReply, RateLimitWindow, RateLimits,
    ToolCallReply,
};
pub use error::{AppServerError, DisconnectReason, FailureKind, TurnFailure};
pub use locate::{Codex, LocateInputs, MINIMUM_VERSION, install_command, locate};
pub use login::KnownLogin;
pub use rate_limits::{FullWindow, KnownRateLimits};
pub use runtime::{AppServer, Generations};
pub use setup_error::SetupError;
pub use state_folder::StateFolder;
pub(crate) use state_folder::{private_dir, write_private};
pub use status::{AppServerMode, AppServerState, AppServerStatus, ProcessStatus};
pub use thread::{
    ItemKind, Thread, ThreadEvent, ThreadOptions, ThreadStatus, TurnOptions, TurnStatus, Unsent,
};

#[cfg(test)]
mod fuzz;
