//! Configuration: defaults < TOML file < environment < flags; every mistake reported at once.
//!
//! The structs are plain and made by hand in tests; only the loader knows keys, files and variables.
//! [`load()`] is pure: the environment, the flags and the way to read a file are passed in.

mod check;
mod environment;
mod error;
mod file;
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

pub use environment::{environment, own_program, project_install, read_file, working_dir};
pub use error::{Mistake, Mistakes, Source};
pub use load::{Flag, FlagValue, Loaded, Profile, Request, load};
pub use reference::markdown_table;
pub use sections::{
    AdmissionConfig, AppServerConfig, AudioConfig, AuthConfig, Config, ContinuationConfig, EncryptionKey,
    Endpoint, FilesConfig, ImagesConfig, LogConfig, LogFormat, Machine, ModelsConfig, NamedToken,
    OnAccountChange, RequestsConfig, Scaffold, ServerConfig, ShutdownConfig, StoreBackend, StoreConfig,
    StreamConfig, TurnConfig, UnknownTools,
};
pub use show::{Setting, as_json, as_text};
pub use units::duration;
