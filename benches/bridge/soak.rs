//! Many calls in a row, and what they leave in memory.

use std::time::Duration;

use anyhow::Context;
use codex_bridge::tasks::Tasks;
use serde_json::json;
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep};

use crate::api::Api;
use crate::daemon::Daemon;
use crate::http::Http;
use crate::process::{CommandLine, child_with, resident};
use crate::prompt::Prompt;
use crate::report::{Cell, Report};
use crate::rpc::{self, Rpc};

/// A thread let go is unloaded this long after, at most.
const UNLOAD: Duration = Duration::from_secs(3);

/// What to measure.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Calls in all, whole and streamed in turn.
    #[arg(long, default_value_t = 1000)]
    calls: usize,
    /// Growth is counted from this call on.
    #[arg(long, default_value_t = 100)]
    from: usize,
    /// Words of an answer.
    #[arg(long, default_value_t = 12)]
    words: usize,
    /// Which API the bridge is called by.
    #[arg(long, value_enum, default_value = "responses")]
    api: Api,
    /// The model; the catalogue's first where none is named.
    #[arg(long)]
    model: Option<String>,
}

const COLUMNS: [&str; 5] = ["seconds", "app-server MB", "bridge MB", "threads live", "turns active"];

#[derive(Debug, Clone, Copy)]
struct Memory {
    app_server: u64,
    bridge: u64,
}

/// Where memory is read from.
#[derive(Debug)]
struct Watch {
    app_server: u32,
    bridge: u32,
    /// A second connection to the bridge's own app-server.
    rpc: Rpc<UnixStream>,
    started: Instant,
    report: Report,
}

/// Runs the scenario.
pub(crate) async fn run(args: &Args, daemon: &Daemon) -> anyhow::Result<Report> {
    let tasks = Tasks::new();
    let mut bridge =
        Http::connect(daemon.bridge().address(), args.api, args.model.as_deref(), &tasks).await?;
    let mut watch = Watch::start(daemon).await?;
    watch.report.note(format!(
        "{:?} API, {} calls in a row, whole and streamed in turn; growth from call {}, the larger of what was read at once \
         and {} s later, when threads let go have been unloaded",
        args.api,
        args.calls,
        args.from,
        UNLOAD.as_secs()
    ));
    watch.read("start").await?;
    let mut begin = None;
    for n in 1..=args.calls {
        let prompt = Prompt::new(n, args.words);
        let call = if n % 2 == 0 { bridge.streamed(&prompt).await } else { bridge.whole(&prompt).await };
        call.with_context(|| format!("call {n}"))?;
        if n == args.from {
            begin = Some(watch.read_twice(n).await?);
        } else if n % 100 == 0 && n < args.calls {
            watch.read(&format!("call {n}")).await?;
        }
    }
    let (begin, end) =
        (begin.context("fewer calls than the growth is counted from")?, watch.read_twice(args.calls).await?);
    let threads = watch.gauge("core.threads.live").await?.context("no gauge core.threads.live")?;
    let growth = |part: fn(&Memory) -> u64| {
        let grown = begin.iter().zip(&end).map(|(begin, end)| megabytes(part(end)) - megabytes(part(begin)));
        grown.fold(f64::NEG_INFINITY, f64::max)
    };
    let mut report = watch.report;
    report.result("app_server_growth_mb", Cell::new(growth(|memory| memory.app_server), 1));
    report.result("bridge_growth_mb", Cell::new(growth(|memory| memory.bridge), 1));
    report.result("threads_live", Cell::count(threads));
    Ok(report)
}

impl Watch {
    async fn start(daemon: &Daemon) -> anyhow::Result<Self> {
        let app_server = child_with(daemon.bridge().pid(), "app-server")?;
        let command = CommandLine::of(app_server)?;
        let listen = command.listen().and_then(|listen| listen.to_str()).unwrap_or_default();
        let socket =
            listen.strip_prefix("unix://").context("the bridge's app-server is not on a unix socket")?;
        let rpc = rpc::connect(|| UnixStream::connect(socket)).await?;
        let report = Report::new("soak", COLUMNS.to_vec());
        Ok(Self { app_server, bridge: daemon.bridge().pid(), rpc, started: Instant::now(), report })
    }

    /// At once, and when what was let go is gone.
    async fn read_twice(&mut self, call: usize) -> anyhow::Result<[Memory; 2]> {
        let at_once = self.read(&format!("call {call}")).await?;
        sleep(UNLOAD).await;
        Ok([at_once, self.read(&format!("call {call}, settled")).await?])
    }

    async fn read(&mut self, row: &str) -> anyhow::Result<Memory> {
        let memory = Memory { app_server: resident(self.app_server)?, bridge: resident(self.bridge)? };
        let threads = self.gauge("core.threads.live").await?;
        let turns = self.gauge("core.turns.active").await?;
        self.report.row(
            row,
            vec![
                Cell::new(self.started.elapsed().as_secs_f64(), 1),
                Cell::new(megabytes(memory.app_server), 1),
                Cell::new(megabytes(memory.bridge), 1),
                threads.map_or(Cell::none(), Cell::count),
                turns.map_or(Cell::none(), Cell::count),
            ],
        );
        Ok(memory)
    }

    /// The app-server knows a gauge from its first use on.
    async fn gauge(&mut self, name: &str) -> anyhow::Result<Option<u64>> {
        let diagnostics = self.rpc.call("server/diagnostics", &json!({})).await?;
        let gauges = diagnostics["gauges"].as_array().context("no gauges")?;
        let gauge = gauges.iter().find(|gauge| gauge["name"] == name);
        Ok(gauge.and_then(|gauge| gauge["value"].as_u64()))
    }
}

#[expect(clippy::cast_precision_loss, reason = "memory here stays far below 2^52 bytes")]
pub(crate) fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
