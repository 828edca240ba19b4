//! Configuration: defaults < TOML file < environment < flags; every mistake reported at once.
//!
//! The structs are plain and made by hand in tests; only the loader knows keys, files and variables.
//! [`load()`] is pure: the environment, the flags and the way to read a file are passed in.

mod api_keys;
mod check;
mod classes;
mod environment;
mod error;
mod file;
#[cfg(test)]
mod fuzz;
mod keys;
mod kinds;
mod load;
mod reference;
mod sections;
mod show;
#[cfg(test)]
mod tests;
mod units;
mod value;

pub use api_keys::{check_key_name, digest, keys_file, limits_json, parse_keys, with_key, without_key};
pub use classes::{ClassConfig, ClassesConfig};
pub use environment::{environment, own_program, passed_sockets, project_install, read_file, working_dir};
pub use error::{Mistake, Mistakes, Source};
pub use load::{Flag, FlagValue, Loaded, Profile, Request, load};
pub use reference::markdown_table;
pub use sections::{
    AdmissionConfig, AppServerConfig, AudioConfig, AuthConfig, BackgroundConfig, BatchesConfig,
    BreakerConfig, BreakerMode, Config, ContinuationConfig, EncryptionKey, Endpoint, FallbackConfig,
    FallbackReason, FilesConfig, ImagesConfig, KeyLimits, LogConfig, LogFormat, Machine, ModelsConfig,
    NamedKey, NamedToken, OnAccountChange, RequestsConfig, Scaffold, ServerConfig, ShutdownConfig,
    SocketConfig, StoreBackend, StoreConfig, StreamConfig, TurnConfig, UnknownTools, UpstreamConfig,
};
pub use show::{Setting, as_json, as_text};
pub use units::duration;
