//! The flags that `serve`, `demo`, `models` and `config` share: the last layer of the configuration.

use std::path::PathBuf;

use clap::Args;

use crate::app::ReadKeys;
use crate::config::{self, Flag, FlagValue, Loaded, Mistakes, Profile, Request};

/// Values are texts: the loader reads them, so that a wrong one is reported with all other mistakes.
#[expect(clippy::doc_markdown, reason = "the help is plain text")]
#[derive(Debug, Default, Args)]
pub(super) struct Flags {
    /// Configuration file [default: $XDG_CONFIG_HOME/codex-bridge/config.toml]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Port to bind; 0 picks one [default: 8787]
    #[arg(long, value_name = "N")]
    port: Option<String>,
    /// Address to bind; anything but loopback wants a token [default: 127.0.0.1]
    #[arg(long, value_name = "H")]
    host: Option<String>,
    /// Use an app-server that somebody else runs: ws://host:port or unix:///path
    #[arg(long, value_name = "ADDRESS")]
    connect: Option<String>,
    /// File with the capability token of a ws:// app-server
    #[arg(long, value_name = "FILE")]
    connect_token_file: Option<String>,
    /// A further `-c` setting for our own app-server; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    codex_config: Vec<String>,
    /// The codex binary
    #[arg(long, value_name = "PATH")]
    codex_bin: Option<String>,
    /// State folder [default: $XDG_STATE_HOME/codex-bridge]
    #[arg(long, value_name = "DIR")]
    state: Option<String>,
    /// How much of Codex's own instructions a call carries: none or codex
    #[arg(long, value_name = "HOW")]
    scaffold: Option<String>,
    /// Model for requests that name none
    #[arg(long, value_name = "MODEL")]
    default_model: Option<String>,
    /// Turns that run at once
    #[arg(long, value_name = "N")]
    slots: Option<String>,
    /// text or json
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,
    /// What is logged: info, codex_bridge=debug, …
    #[arg(long, value_name = "FILTER")]
    log_filter: Option<String>,
}

impl Flags {
    /// Of a command that only wants to know where things are.
    pub(super) fn of_place(config: Option<PathBuf>, state: Option<String>) -> Self {
        Self { config, state, ..Self::default() }
    }

    /// The whole configuration, with these flags on top.
    pub(super) fn load(&self, profile: Profile) -> Result<Loaded, Mistakes> {
        let request = Request {
            file: self.config.clone(),
            environment: config::environment(),
            flags: self.given(),
            working_dir: config::working_dir(),
            project_install: config::project_install(),
            program: config::own_program(),
            profile,
        };
        config::load(&request, &config::read_file)
    }

    /// Reads the keys again, from the same places.
    pub(super) fn read_keys(self, profile: Profile) -> ReadKeys {
        Box::new(move || self.load(profile).map(|loaded| loaded.config.auth))
    }

    pub(super) fn given(&self) -> Vec<Flag> {
        let one = |name, key, value: &Option<String>| {
            value.clone().map(|value| Flag { name, key, value: FlagValue::One(value) })
        };
        let codex_config = (!self.codex_config.is_empty()).then(|| Flag {
            name: "--codex-config",
            key: "app_server.codex_config",
            value: FlagValue::Many(self.codex_config.clone()),
        });
        [
            one("--port", "server.port", &self.port),
            one("--host", "server.host", &self.host),
            one("--connect", "app_server.connect", &self.connect),
            one("--connect-token-file", "app_server.connect_token_file", &self.connect_token_file),
            codex_config,
            one("--codex-bin", "app_server.codex_bin", &self.codex_bin),
            one("--state", "state.dir", &self.state),
            one("--scaffold", "app_server.scaffold", &self.scaffold),
            one("--default-model", "models.default_model", &self.default_model),
            one("--slots", "admission.slots", &self.slots),
            one("--log-format", "log.format", &self.log_format),
            one("--log-filter", "log.filter", &self.log_filter),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}
