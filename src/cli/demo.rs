//! `codex-bridge demo`.

use std::process::ExitCode;

use clap::Args;

use super::flags::Flags;
use crate::config::Profile;
use crate::{app, telemetry};

#[derive(Debug, Args)]
pub(super) struct Demo {
    #[command(flatten)]
    flags: Flags,
    /// Take the logged-in path: made-up login, TLS, upstream WebSocket, usage windows
    #[arg(long)]
    chatgpt: bool,
}

impl Demo {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let config = self.flags.load(Profile::Demo)?.config;
        let _logs = telemetry::init(&config.log)?;
        app::harden();
        let options = app::DemoOptions { chatgpt: self.chatgpt };
        let read_keys = self.flags.read_keys(Profile::Demo);
        super::runtime()?.block_on(app::demo(config, options, read_keys))?;
        Ok(ExitCode::SUCCESS)
    }
}
