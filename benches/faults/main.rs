//! Breaks everything around the bridge while it works, and counts what becomes of every request: the built
//! binary, the real codex, the stand-in model. Run through `scripts/faults`; Linux only.
//!
//! Each answer can be told from every other: it must be exactly what was asked for. Each error must have a cause
//! that was made here. In reading order:
//!
//! - `scene`: the three processes. `client`: one call, whatever becomes of it.
//! - `dialogue`: what is asked, `check`: what came back, `tally`: whether that may be, `attempts`: whether the model was
//!   asked no more often than it had to be.
//! - `faults`: what is broken. `leftovers`: what must be gone afterwards.
//! - `storm`, `kill_bridge`, `soak`, `overload`: the scenarios.

#![expect(clippy::print_stdout, reason = "it prints its result")]

mod attempts;
mod check;
mod client;
mod dialogue;
mod faults;
mod kill_bridge;
mod leftovers;
mod overload;
mod scene;
mod soak;
mod storm;
mod tally;

// These stand elsewhere because others use them too.
#[path = "../bridge/daemon.rs"]
#[expect(dead_code, reason = "the measurements use the rest of it")]
mod daemon;
#[path = "../bridge/process.rs"]
#[expect(dead_code, reason = "the measurements use the rest of it")]
mod process;
#[path = "../../tests/support/processes.rs"]
mod processes;
#[path = "../bridge/report.rs"]
mod report;
#[path = "../bridge/rpc.rs"]
#[expect(dead_code, reason = "the measurements use the rest of it")]
mod rpc;
#[path = "../bridge/service.rs"]
mod service;
#[path = "../bridge/stats.rs"]
#[expect(dead_code, reason = "the measurements use the rest of it")]
mod stats;
// The table that makes the errors.
#[path = "../../src/api/error/table.rs"]
#[expect(dead_code, reason = "the words are for the README")]
mod table;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

use report::Report;

#[derive(Debug, Parser)]
#[command(name = "scripts/faults", about = "Breaks everything around the bridge, and counts every request")]
struct Args {
    #[command(subcommand)]
    scenario: Scenario,
    #[command(flatten)]
    stage: Stage,
    /// Write the result there as JSON too; relative to the repository.
    #[arg(long, global = true, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Cargo says so to every bench.
    #[arg(long, global = true, hide = true)]
    bench: bool,
}

/// What is broken.
#[derive(Debug, clap::Args)]
struct Stage {
    /// The bridge.
    #[arg(long, global = true, value_name = "FILE", default_value = env!("CARGO_BIN_EXE_codex-bridge"))]
    bin: PathBuf,
    /// With a login, before the backend that a logged-in Codex talks to.
    #[arg(long, global = true)]
    chatgpt: bool,
    /// App-servers that share the load.
    #[arg(long, global = true, value_name = "N", default_value_t = 1)]
    app_servers: usize,
    /// Take the same run again: what is asked and what is broken, in the same order.
    #[arg(long, global = true, value_name = "N")]
    seed: Option<u64>,
}

#[derive(Debug, Subcommand)]
enum Scenario {
    /// Calls of all kinds while app-server, sockets, model and clients fail.
    Storm(storm::Args),
    /// `kill -9` of the bridge under load, again and again on one state folder.
    KillBridge(kill_bridge::Args),
    /// Half load for a long time: memory, descriptors and threads must not grow.
    Soak(soak::Args),
    /// Many times more calls than there is room for.
    Overload(overload::Args),
}

/// What a scenario found.
#[derive(Debug, Default)]
struct Findings {
    reports: Vec<Report>,
    /// What must not be. Empty in a good run.
    violations: Vec<String>,
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    // The client's TLS; it talks plain HTTP, and still wants a provider.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let seed = args.stage.seed.unwrap_or_else(|| rand::random::<u32>().into());
    println!("seed {seed}");
    let mut terminated = signal(SignalKind::terminate())?;
    let run = async {
        match &args.scenario {
            Scenario::Storm(scenario) => storm::run(scenario, &args.stage, seed).await,
            Scenario::KillBridge(scenario) => kill_bridge::run(scenario, &args.stage, seed).await,
            Scenario::Soak(scenario) => soak::run(scenario, &args.stage, seed).await,
            Scenario::Overload(scenario) => overload::run(scenario, &args.stage, seed).await,
        }
    };
    // What was started is stopped as it is dropped, on every way out.
    let findings = tokio::select! {
        findings = run => findings.with_context(|| format!("seed {seed}"))?,
        _ = tokio::signal::ctrl_c() => anyhow::bail!("interrupted"),
        _ = terminated.recv() => anyhow::bail!("terminated"),
    };
    finish(&findings, &args, seed)
}

fn finish(findings: &Findings, args: &Args, seed: u64) -> anyhow::Result<ExitCode> {
    if let Some(file) = &args.json {
        let reports: Result<Vec<_>, _> = findings.reports.iter().map(Report::json).collect();
        let text = format!("[{}]\n", reports?.join(","));
        std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))?;
    }
    for report in &findings.reports {
        println!("{report}\n");
    }
    for violation in &findings.violations {
        println!("VIOLATION {violation}");
    }
    let passed = findings.violations.is_empty();
    println!("seed={seed} violations={}", findings.violations.len());
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
