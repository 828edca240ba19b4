//! `codex-bridge serve`.

use std::process::ExitCode;

use clap::Args;

use super::flags::Flags;
use crate::config::Profile;
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
        let config = self.flags.load(Profile::Serve)?.config;
        telemetry::init(&config.log)?;
        super::runtime()?.block_on(app::serve(config))?;
        Ok(ExitCode::SUCCESS)
    }
}
