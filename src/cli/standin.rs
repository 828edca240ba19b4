//! `codex-bridge standin`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use crate::config::LogConfig;
use crate::{app, telemetry};

#[derive(Debug, Args)]
pub(super) struct Standin {
    /// Port to bind; 0 picks one
    #[arg(long, value_name = "N")]
    port: u16,
    /// Address to bind
    #[arg(long, value_name = "H", default_value = "127.0.0.1")]
    host: String,
    /// Be the backend that a logged-in Codex talks to
    #[arg(long)]
    chatgpt: bool,
    /// Where the logged-in face puts its made-up login and its CA
    #[arg(long, value_name = "DIR", default_value = "codex-bridge-standin")]
    folder: PathBuf,
    /// Wait this long before each answer
    #[arg(long, value_name = "MS", default_value_t = 0)]
    delay_ms: u64,
}

impl Standin {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let _logs = telemetry::init(&LogConfig::default())?;
        let options = app::StandinOptions {
            host: self.host,
            port: self.port,
            chatgpt: self.chatgpt,
            delay: Duration::from_millis(self.delay_ms),
            folder: self.folder,
        };
        super::runtime()?.block_on(app::standin(options))?;
        Ok(ExitCode::SUCCESS)
    }
}
