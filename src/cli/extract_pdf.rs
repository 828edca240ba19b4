//! `codex-bridge extract-pdf`: what the daemon runs to read a PDF; see [`crate::api::pdf`].

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use crate::api::pdf::{self, Limits};

#[derive(Debug, Args)]
pub(super) struct ExtractPdf {
    /// Most pages
    #[arg(long)]
    pages: usize,
    /// Most bytes of text
    #[arg(long)]
    text: usize,
    /// Most bytes of memory
    #[arg(long)]
    memory: usize,
    /// Most processor time
    #[arg(long)]
    seconds: f64,
}

impl ExtractPdf {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let Self { pages, text, memory, seconds } = self;
        let time = Duration::try_from_secs_f64(seconds)?;
        let read = pdf::run(Limits { pages, text, memory, time })?;
        Ok(read.map_or_else(|fault| ExitCode::from(fault.code()), |()| ExitCode::SUCCESS))
    }
}
