//! `codex-bridge serve`.

use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;

use super::flags::Flags;
use crate::config::{self, Profile};
use crate::{app, telemetry};

#[derive(Debug, Args)]
pub(super) struct Serve {
    #[command(flatten)]
    flags: Flags,
}

impl Serve {
    #[cfg(test)]
    pub(super) fn flags(&self) -> &Flags {
        &self.flags
    }

    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let passed = config::passed_sockets().context("a socket passed by the service manager")?;
        let config = self.flags.load(Profile::Serve)?.config;
        let _logs = telemetry::init(&config.log)?;
        let read_keys = self.flags.read_keys(Profile::Serve);
        app::harden();
        super::runtime()?.block_on(app::serve(config, passed, read_keys))?;
        Ok(ExitCode::SUCCESS)
    }
}
