//! Measures the bridge as a stranger sees it: the built binary, a real app-server behind it, the stand-in
//! model behind that. Run through `scripts/bench`; Linux only, since memory and the child's command line are
//! read from `/proc`.
//!
//! A scenario is a module with `Args` and `run`; it ends with one `key=value` line.

#![expect(clippy::print_stdout, reason = "a bench prints its result")]

mod api;
mod app_server;
mod cache;
mod daemon;
mod direct;
mod http;
mod latency;
mod ordinary;
#[expect(dead_code, reason = "the fault suite uses the rest of it")]
mod process;
mod prompt;
mod report;
mod rpc;
#[expect(dead_code, reason = "the fault suite uses the rest of it")]
mod service;
mod standin;
mod stats;
mod store;

// Stands there because the tests share it.
#[path = "../../tests/support/redis.rs"]
#[expect(dead_code, clippy::expect_used, reason = "the tests use all of it, and fail by it")]
mod redis;

use std::path::PathBuf;

use anyhow::Context;
use clap::{Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

use daemon::Daemon;
use report::Report;

#[derive(Debug, Parser)]
#[command(name = "scripts/bench", about = "Measures the bridge against the stand-in model")]
struct Args {
    #[command(subcommand)]
    scenario: Scenario,
    /// Write the result there as JSON too; relative to the repository.
    #[arg(long, global = true, value_name = "FILE")]
    json: Option<PathBuf>,
    /// The bridge to measure.
    #[arg(long, global = true, value_name = "FILE", default_value = env!("CARGO_BIN_EXE_codex-bridge"))]
    bin: PathBuf,
    /// Give the app-servers one certificate authority instead of the system's, alike for all: each turn reads
    /// and parses the whole store, 10 to 20 ms of CPU that hide what is measured.
    #[arg(long, global = true)]
    few_roots: bool,
    /// Cargo says so to every bench.
    #[arg(long, global = true, hide = true)]
    bench: bool,
}

#[derive(Debug, Subcommand)]
enum Scenario {
    /// What the bridge adds to a direct client, and what it saves beside an ordinary one.
    Latency(latency::Args),
    /// Prompt cache keys and upstream bytes of clients without state, with and without affinity and templates.
    Cache(cache::Args),
    /// The response stores alone.
    Store(store::Args),
}

/// One thread for all the clients: two cores are shared with the app-servers, the stand-in and the bridge.
#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let mut terminated = signal(SignalKind::terminate())?;
    // What was started is stopped as it is dropped, on every way out.
    tokio::select! {
        result = run(&args) => result,
        _ = tokio::signal::ctrl_c() => anyhow::bail!("interrupted"),
        _ = terminated.recv() => anyhow::bail!("terminated"),
    }
}

async fn run(args: &Args) -> anyhow::Result<()> {
    match &args.scenario {
        // It has daemons of its own, one for each setting.
        Scenario::Cache(scenario) => return finish(&cache::run(scenario, &args.bin).await?, args),
        Scenario::Store(scenario) => return finish(&store::run(scenario).await?, args),
        Scenario::Latency(_) => {}
    }
    let mut daemon = Daemon::start(&args.bin, args.few_roots).await?;
    let measured = match &args.scenario {
        Scenario::Latency(scenario) => latency::run(scenario, &daemon).await,
        Scenario::Cache(_) | Scenario::Store(_) => unreachable!("it has no daemon"),
    };
    let report = match measured {
        Ok(mut report) => {
            report
                .note(format!("root store: {}", if args.few_roots { "one made up" } else { "the system's" }));
            report
        }
        Err(error) => return Err(error.context(daemon.bridge().last_log_lines())),
    };
    daemon.stop().await?;
    finish(&report, args)
}

fn finish(report: &Report, args: &Args) -> anyhow::Result<()> {
    if let Some(file) = &args.json {
        std::fs::write(file, report.json()?).with_context(|| format!("cannot write {}", file.display()))?;
    }
    println!("{report}");
    Ok(())
}
