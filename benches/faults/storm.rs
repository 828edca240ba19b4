//! Calls of all kinds while app-server, sockets, model and clients fail.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::{StreamExt, stream};
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::time::{Instant, sleep};

use crate::attempts::Attempts;
use crate::dialogue::Dialogue;
use crate::faults::{Fault, Kind};
use crate::leftovers::settle;
use crate::report::{Cell, Report};
use crate::scene::Scene;
use crate::tally::Tally;
use crate::{Findings, Stage};

/// App-servers lost in a row; five that did not last are a crash loop, in which calls are refused at once.
const BURST: usize = 3;
/// After them, once another one is ready: one that has lasted this long is no crash loop.
const REST: Duration = Duration::from_secs(31);

/// What to break.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Calls in all, about: a conversation is held to its end.
    #[arg(long, default_value_t = 2000)]
    calls: usize,
    /// Conversations at once.
    #[arg(long, default_value_t = 32)]
    at_once: usize,
    /// Calls for each fault of bridge or app-server, about.
    #[arg(long, default_value_t = 25)]
    calls_per_fault: usize,
    /// What is done to bridge and app-server.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "kill,stop,leave,cut,hup")]
    faults: Vec<Kind>,
}

/// Runs the scenario.
pub(crate) async fn run(args: &Args, stage: &Stage, seed: u64) -> anyhow::Result<Findings> {
    let mut scene = Scene::start(stage, &[]).await?;
    let tally = Tally::default();
    let attempts = Attempts::default();
    let stormed = tokio::select! {
        stormed = storm(args, &scene, &tally, seed) => stormed,
        never = attempts.watch(scene.standin()) => match never {},
    };
    attempts.look(&scene.standin().requests());
    tally.compare(&attempts);
    let mut findings = Findings { reports: tally.reports("storm"), violations: tally.violations() };
    match stormed {
        Ok(took) => {
            let mut took_report = Report::new("time", vec!["seconds"]);
            took_report.row("storm", vec![Cell::new(took.as_secs_f64(), 1)]);
            findings.reports.push(took_report);
            let mut asked = Report::new("model", vec!["number"]);
            let (calls, requests) = attempts.totals();
            asked.row("calls that reached it", vec![Cell::count(calls)]);
            asked.row("requests", vec![Cell::count(requests)]);
            findings.reports.push(asked);
        }
        Err(error) => findings.violations.push(format!("{error:#}")),
    }
    if !findings.violations.is_empty() {
        findings.violations.push(format!("folders kept: {}", scene.keep().display()));
    }
    if let Err(error) = scene.close().await {
        findings.violations.push(format!("the end: {error:#}"));
    }
    Ok(findings)
}

async fn storm(args: &Args, scene: &Scene, tally: &Tally, seed: u64) -> anyhow::Result<Duration> {
    let mut dice = StdRng::seed_from_u64(seed);
    let mut plan: Vec<Dialogue> = Vec::new();
    let mut planned = 0;
    while planned < args.calls {
        let dialogue = Dialogue::random(plan.len(), &mut dice);
        planned += dialogue.calls();
        plan.push(dialogue);
    }
    let count = args.calls.div_ceil(args.calls_per_fault.max(1));
    let (breaking, other): (Vec<Kind>, Vec<Kind>) = args.faults.iter().partition(|kind| kind.breaks());
    let breaking = Fault::plan(count * breaking.len() / args.faults.len().max(1), &breaking, &mut dice);
    let other = Fault::plan(count - breaking.len(), &other, &mut dice);

    let model = scene.client()?.first_model().await?;
    let baseline = {
        samples(scene, &model, "before").await?;
        settle(scene, None).await?
    };
    let began = Instant::now();
    let (held, all) = (AtomicUsize::new(0), plan.len());
    let calls = async {
        let client = scene.client()?;
        let each = stream::iter(&plan).map(|dialogue| async {
            dialogue.hold(&client, &model, tally).await;
            held.fetch_add(1, Ordering::Relaxed);
        });
        each.buffer_unordered(args.at_once).collect::<()>().await;
        anyhow::Ok(())
    };
    let strike = async |faults: &[Fault], burst: usize| {
        let is_over = || held.load(Ordering::Relaxed) == all;
        for (number, fault) in faults.iter().enumerate() {
            let mut rested = Instant::now();
            if number > 0 && number % burst == 0 {
                scene.ready().await?;
                rested = Instant::now() + REST;
            }
            // Spread over the run: each has its place among the conversations.
            let due = all * number / faults.len();
            while !is_over() && (held.load(Ordering::Relaxed) < due || Instant::now() < rested) {
                sleep(Duration::from_millis(5)).await;
            }
            if is_over() {
                break;
            }
            fault.strike(scene, tally).await?;
        }
        anyhow::Ok(())
    };
    let (called, broken, disturbed) =
        tokio::join!(calls, strike(&breaking, BURST), strike(&other, usize::MAX));
    called?;
    broken?;
    disturbed?;
    let took = began.elapsed();

    settle(scene, None).await.map_err(|error| error.context("after the storm"))?;
    // Another app-server has its descriptors only once it has been used.
    samples(scene, &model, "after").await?;
    settle(scene, Some(baseline)).await.map_err(|error| error.context("after the storm"))?;
    Ok(took)
}

/// One conversation of each kind, each of which must go well.
async fn samples(scene: &Scene, model: &str, name: &str) -> anyhow::Result<()> {
    let (client, tally) = (scene.client()?, Tally::default());
    for sample in Dialogue::samples(name) {
        sample.hold(&client, model, &tally).await;
    }
    let violations = tally.violations();
    anyhow::ensure!(violations.is_empty(), "{name} the storm: {violations:?}");
    Ok(())
}
