//! `codex-bridge tether`: how our own app-server is started. Not for people.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use crate::app;

#[derive(Debug, Args)]
pub(super) struct Tether {
    /// Process id of the bridge
    parent: u32,
    /// What to become
    program: PathBuf,
    /// Its arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

impl Tether {
    pub(super) fn run(&self) -> anyhow::Result<ExitCode> {
        Err(app::tether(self.parent, &self.program, &self.arguments).into())
    }
}
