//! `codex-bridge config check | show | reference`.

use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::flags::Flags;
use crate::config::{self, Profile};

#[derive(Debug, Subcommand)]
pub(super) enum Config {
    /// Report every mistake; exit 1 if there is one
    Check(Check),
    /// Print each value and where it came from, secrets masked
    Show(Show),
    /// Print the table of all keys, their defaults and meanings
    Reference,
}

#[derive(Debug, Args)]
pub(super) struct Check {
    #[command(flatten)]
    flags: Flags,
}

#[derive(Debug, Args)]
pub(super) struct Show {
    #[command(flatten)]
    flags: Flags,
    /// One JSON document
    #[arg(long)]
    json: bool,
}

impl Config {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        match self {
            Self::Check(check) => match check.flags.load(Profile::Serve) {
                Ok(loaded) => {
                    let file =
                        loaded.file.map_or_else(|| "no file".into(), |file| file.display().to_string());
                    super::say(&format!("The configuration is right ({file})."))?;
                    Ok(ExitCode::SUCCESS)
                }
                Err(mistakes) => {
                    super::complain(&mistakes.to_string());
                    Ok(ExitCode::from(super::FAILURE))
                }
            },
            Self::Show(show) => {
                let loaded = show.flags.load(Profile::Serve)?;
                super::say(&if show.json {
                    format!("{:#}", config::as_json(loaded.file.as_deref(), &loaded.settings))
                } else {
                    config::as_text(&loaded.settings)
                })?;
                Ok(ExitCode::SUCCESS)
            }
            Self::Reference => {
                super::say(&config::markdown_table())?;
                Ok(ExitCode::SUCCESS)
            }
        }
    }
}
