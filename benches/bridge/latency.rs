//! One call at a time, by four clients in turn, each on an app-server alike and all on one stand-in model.

use std::time::Duration;

use codex_bridge::tasks::Tasks;
use rand::seq::SliceRandom;
use rand::{SeedableRng, rngs::StdRng};

use crate::api::Api;
use crate::daemon::Daemon;
use crate::direct::Direct;
use crate::http::{Http, Sample};
use crate::ordinary::Ordinary;
use crate::process::{CommandLine, child_with};
use crate::prompt::Prompt;
use crate::report::{Cell, Report};
use crate::standin;
use crate::stats::Series;

/// What to measure.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Measured rounds; each is one call by every client.
    #[arg(long, default_value_t = 300)]
    rounds: usize,
    /// Rounds before them, not counted.
    #[arg(long, default_value_t = 50)]
    warm_up: usize,
    /// Pause after each call, milliseconds: what a call leaves to be done (the thread let go, the next one
    /// started ahead) is over before the next client's call, so that nobody pays for another's.
    #[arg(long, default_value_t = 30)]
    think_ms: u64,
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

const COLUMNS: [&str; 9] = [
    "calls",
    "body bytes",
    "first p50",
    "first p90",
    "first p99",
    "total p50",
    "total p90",
    "total p99",
    "total max",
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Client {
    Direct,
    Ordinary,
    Whole,
    Streamed,
}

const CLIENTS: [Client; 4] = [Client::Direct, Client::Ordinary, Client::Whole, Client::Streamed];

impl Client {
    fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct, optimal",
            Self::Ordinary => "ordinary, TCP",
            Self::Whole => "bridge, whole",
            Self::Streamed => "bridge, streamed",
        }
    }
}

#[derive(Debug, Default)]
struct Timing {
    first: Series,
    total: Series,
    /// Of the last call, as the model saw it.
    body_bytes: u64,
}

/// Runs the scenario.
pub(crate) async fn run(args: &Args, daemon: &Daemon) -> anyhow::Result<Report> {
    let tasks = Tasks::new();
    let mut bridge =
        Http::connect(daemon.bridge().address(), args.api, args.model.as_deref(), &tasks).await?;
    let model = bridge.model().to_owned();
    let like = CommandLine::of(child_with(daemon.bridge().pid(), "app-server")?)?;
    let mut direct = Direct::start(&like, daemon.folder(), &model).await?;
    let mut ordinary = Ordinary::start(&like, daemon.folder(), &model).await?;

    let mut timings: [Timing; 4] = Default::default();
    let mut order = CLIENTS;
    // The same order in each run.
    let mut random = StdRng::seed_from_u64(1);
    for round in 0..args.warm_up + args.rounds {
        // So that nobody always follows the same one.
        order.shuffle(&mut random);
        for client in order {
            let prompt = prompt(args, round, client);
            let Sample { first, total } = match client {
                Client::Direct => direct.call(&prompt).await?,
                Client::Ordinary => ordinary.call(&prompt).await?,
                Client::Whole => bridge.whole(&prompt).await?,
                Client::Streamed => bridge.streamed(&prompt).await?,
            };
            if round >= args.warm_up {
                let timing = &mut timings[client as usize];
                timing.total.push(total);
                if let Some(first) = first {
                    timing.first.push(first);
                }
            }
            match client {
                Client::Direct => direct.settle().await?,
                Client::Ordinary => ordinary.settle().await?,
                Client::Whole | Client::Streamed => {}
            }
            tokio::time::sleep(Duration::from_millis(args.think_ms)).await;
        }
    }
    let seen = standin::seen(daemon.standin().address(), &tasks).await?;
    for client in CLIENTS {
        let last = prompt(args, args.warm_up + args.rounds - 1, client);
        timings[client as usize].body_bytes = standin::find(&seen, &last)?.bytes;
    }
    Ok(report(args, &model, &timings))
}

fn prompt(args: &Args, round: usize, client: Client) -> Prompt {
    Prompt::new(round * CLIENTS.len() + client as usize, args.words)
}

fn report(args: &Args, model: &str, timings: &[Timing; 4]) -> Report {
    let mut report = Report::new("latency", COLUMNS.to_vec());
    report.note(format!(
        "{:?} API; {} rounds after {} to warm up; one call at a time, {} ms between calls; {model}, {} words; milliseconds",
        args.api, args.rounds, args.warm_up, args.think_ms, args.words
    ));
    for client in CLIENTS {
        let Timing { first, total, body_bytes } = &timings[client as usize];
        let figure =
            |series: &Series, percent| series.percentile(percent).map_or(Cell::none(), |ms| Cell::new(ms, 2));
        let mut cells = vec![Cell::count(total.len() as u64), Cell::count(*body_bytes)];
        cells.extend([50, 90, 99].map(|percent| figure(first, percent)));
        cells.extend([50, 90, 99, 100].map(|percent| figure(total, percent)));
        report.row(client.name(), cells);
    }
    let total =
        |client: Client, percent| timings[client as usize].total.percentile(percent).unwrap_or(f64::NAN);
    let first = |client: Client| timings[client as usize].first.percentile(50).unwrap_or(f64::NAN);
    let added = |client, percent| total(client, percent) - total(Client::Direct, percent);
    report.note(format!(
        "added to the direct client when streamed: p50 {:.2} ms, p99 {:.2} ms; to its first token: p50 {:.2} ms",
        added(Client::Streamed, 50),
        added(Client::Streamed, 99),
        first(Client::Streamed) - first(Client::Direct),
    ));
    report.result("added_p50_ms", Cell::new(added(Client::Whole, 50), 2));
    report.result("added_p99_ms", Cell::new(added(Client::Whole, 99), 2));
    report.result("first_token_ratio", Cell::new(first(Client::Ordinary) / first(Client::Streamed), 2));
    report
}
