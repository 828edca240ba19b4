//! The subcommands, one file each.
//!
//! Exit codes: 0 done, 1 it failed, 2 the command line is wrong, 78 the configuration is wrong; `batch` has two more.

mod batch;
mod config;
mod demo;
mod extract_pdf;
mod flags;
mod keys;
mod models;
mod serve;
mod standin;
mod tether;
mod version;

use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

use crate::config::Mistakes;

const FAILURE: u8 = 1;
const USAGE: u8 = 2;
/// `EX_CONFIG` of sysexits: a service manager need not try again.
const CONFIG: u8 = 78;

/// A local, OpenAI-compatible endpoint over a logged-in codex app-server.
#[derive(Debug, Parser)]
#[command(name = "codex-bridge", disable_version_flag = true, max_term_width = 100)]
struct Cli {
    /// Print the version, and the codex found
    #[arg(short = 'V', long)]
    version: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon
    Serve(serve::Serve),
    /// Run the daemon over a stand-in model: no login needed, API key `demo`
    Demo(demo::Demo),
    /// Run the stand-in model alone
    Standin(standin::Standin),
    /// Run the rows of a file against a bridge that runs: one line of result for each
    Batch(batch::Batch),
    /// List the models that requests can name
    Models(models::Models),
    /// Look after the API keys: the daemon reads them again at SIGHUP
    #[command(subcommand)]
    Keys(keys::Keys),
    /// Become the app-server, tied to the life of the bridge
    #[command(hide = true)]
    Tether(tether::Tether),
    /// Check or show the configuration
    #[command(subcommand)]
    Config(config::Config),
    /// Read one PDF from standard input
    #[command(hide = true)]
    ExtractPdf(extract_pdf::ExtractPdf),
}

/// Runs the process's command line.
pub fn main() -> ExitCode {
    // What we write, and what the codex we start writes into its private home, is nobody else's to read.
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help goes to standard output and is no failure; both streams may be closed already.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(USAGE) } else { ExitCode::SUCCESS };
        }
    };
    match dispatch(cli) {
        Ok(code) => code,
        Err(error) => {
            let config = error.is::<Mistakes>();
            complain(&if config { format!("{error}") } else { format!("{error:#}") });
            ExitCode::from(if config { CONFIG } else { FAILURE })
        }
    }
}

fn dispatch(cli: Cli) -> anyhow::Result<ExitCode> {
    if cli.version {
        return version::run();
    }
    match cli.command {
        Some(Command::Serve(serve)) => serve.run(),
        Some(Command::Demo(demo)) => demo.run(),
        Some(Command::Standin(standin)) => standin.run(),
        Some(Command::Batch(batch)) => batch.run(),
        Some(Command::Models(models)) => models.run(),
        Some(Command::Keys(keys)) => keys.run(),
        Some(Command::Tether(tether)) => tether.run(),
        Some(Command::Config(config)) => config.run(),
        Some(Command::ExtractPdf(extract_pdf)) => extract_pdf.run(),
        None => {
            complain(&Cli::command().render_help().to_string());
            Ok(ExitCode::from(USAGE))
        }
    }
}

/// Everything long-lived runs on this one.
fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().enable_all().build()?)
}

/// To standard output; a reader that has gone is no failure of ours.
fn say(text: &str) -> anyhow::Result<()> {
    match writeln!(io::stdout().lock(), "{}", text.trim_end()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

fn complain(text: &str) {
    let _ = writeln!(io::stderr().lock(), "codex-bridge: {}", text.trim_end());
}

#[cfg(test)]
mod tests;
