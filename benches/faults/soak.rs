//! Half load for a long time: memory, descriptors and threads must not grow.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::ensure;
use futures_util::{StreamExt, stream};
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::dialogue::Dialogue;
use crate::leftovers::{descriptors, loaded, settle};
use crate::process::{megabytes, resident, threads};
use crate::report::{Cell, Report};
use crate::scene::Scene;
use crate::tally::Tally;
use crate::{Findings, Stage};

/// Turns at once that there is room for.
const SLOTS: usize = 8;
/// Looks in all; each tells one figure of a line.
const LOOKS: u32 = 240;
/// Looks that are shown.
const SHOWN: u32 = 12;

/// What to do.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How long.
    #[arg(long, default_value_t = 30.0)]
    minutes: f64,
    /// The share of it that is not counted: what is kept for a while has to fill up.
    #[arg(long, default_value_t = 0.25)]
    warm_up: f64,
    /// Growth of the bridge over the rest that passes for none, MB.
    #[arg(long, default_value_t = 8.0)]
    bridge_mb: f64,
    /// The same of the app-servers.
    #[arg(long, default_value_t = 16.0)]
    app_server_mb: f64,
}

/// What is looked at, and how much of it may come to be.
const FIGURES: [&str; 7] =
    ["bridge MB", "server MB", "bridge fds", "server fds", "bridge thr", "server thr", "live threads"];

type Look = [f64; FIGURES.len()];

/// Runs the scenario.
pub(crate) async fn run(args: &Args, stage: &Stage, seed: u64) -> anyhow::Result<Findings> {
    // What is kept for hours is full before anything is counted.
    let settings = [("CONTINUATION__MAX_RECORDS", "200"), ("STORE__MAX_RECORDS", "1000")];
    let mut scene = Scene::start(stage, &settings).await?;
    let tally = Tally::default();
    let mut findings = Findings::default();
    if let Err(error) = soak(args, &scene, &tally, &mut findings, seed).await {
        findings.violations.push(format!("{error:#}; {}", scene.last_log_lines()));
    }
    findings.reports.extend(tally.reports("calls"));
    findings.violations.extend(tally.violations());
    if !findings.violations.is_empty() {
        findings.violations.push(format!("folders kept: {}", scene.keep().display()));
    }
    if let Err(error) = scene.close().await {
        findings.violations.push(format!("the end: {error:#}"));
    }
    Ok(findings)
}

async fn soak(
    args: &Args,
    scene: &Scene,
    tally: &Tally,
    findings: &mut Findings,
    seed: u64,
) -> anyhow::Result<()> {
    let (client, mut dice) = (scene.client()?, StdRng::seed_from_u64(seed));
    let model = client.first_model().await?;
    let began = Instant::now();
    let end = began + Duration::from_secs_f64(args.minutes * 60.0);
    let number = AtomicUsize::new(0);
    let dialogues = std::iter::from_fn(|| {
        let number = number.fetch_add(1, Ordering::Relaxed);
        (Instant::now() < end).then(|| Dialogue::calm(number, &mut dice))
    });
    let calls = stream::iter(dialogues)
        .map(|dialogue| {
            let (client, model) = (&client, &model);
            async move { dialogue.hold(client, model, tally).await }
        })
        .buffer_unordered(SLOTS / 2)
        .collect::<()>();
    let (looks, ()) = tokio::join!(watch(scene, began, end), calls);
    ensure!(looks.len() > LOOKS as usize / 2, "only {} of {LOOKS} looks saw an app-server", looks.len());

    let mut report = Report::new("soak", std::iter::once("seconds").chain(FIGURES).collect());
    report.note(format!(
        "{} of {SLOTS} slots at work; the first {:.0} % warm up",
        SLOTS / 2,
        args.warm_up * 100.0
    ));
    for (number, (at, look)) in looks.iter().enumerate() {
        if number % (LOOKS / SHOWN) as usize == 0 {
            let figures = std::iter::once(at).chain(look).map(|figure| Cell::new(*figure, 1));
            report.row(format!("look {number}"), figures.collect());
        }
    }
    let from = args.warm_up * args.minutes * 60.0;
    let counted: Vec<_> = looks.into_iter().filter(|(at, _)| *at >= from).collect();
    let hours = args.minutes * (1.0 - args.warm_up) / 60.0;
    // A descriptor or thread more or less is the work of the moment; a leak has more than one in each call.
    let bounds = [args.bridge_mb, args.app_server_mb, 8.0, 16.0, 4.0, 8.0, 16.0];
    let mut slopes = Report::new("slopes", vec!["an hour", "growth", "bound"]);
    for (figure, bound) in bounds.into_iter().enumerate() {
        let points = counted.iter().map(|(at, look)| (at / 3600.0, look[figure]));
        let slope = slope(&points.collect::<Vec<_>>());
        let growth = slope * hours;
        let name = FIGURES[figure];
        slopes.row(name, vec![Cell::new(slope, 2), Cell::new(growth, 2), Cell::new(bound, 1)]);
        if growth > bound {
            findings.violations.push(format!("{name}: {slope:.2} an hour, {growth:.2} in all"));
        }
        match name {
            "bridge MB" => slopes.result("bridge_mb_per_hour", Cell::new(slope, 2)),
            "server MB" => slopes.result("app_server_mb_per_hour", Cell::new(slope, 2)),
            _ => {}
        }
    }
    findings.reports.extend([report, slopes]);
    drop(client);
    settle(scene, None).await?;
    Ok(())
}

/// Looks until `end`; seconds since `began`, and what was seen. Not counted is a look at an app-server that ends
/// under it: the calls tell what becomes of that.
async fn watch(scene: &Scene, began: Instant, end: Instant) -> Vec<(f64, Look)> {
    let mut looks = Vec::new();
    let mut ticks = interval((end - began) / LOOKS);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while Instant::now() < end {
        ticks.tick().await;
        if let Ok(look) = look(scene).await {
            looks.push((began.elapsed().as_secs_f64(), look));
        }
    }
    looks
}

async fn look(scene: &Scene) -> anyhow::Result<Look> {
    let bridge = scene.bridge_pid();
    let mut look = [0.0; FIGURES.len()];
    look[0] = megabytes(resident(bridge)?);
    look[2] = count(descriptors(bridge)?);
    look[4] = count(threads(bridge)?);
    let app_servers = scene.app_servers();
    ensure!(!app_servers.is_empty(), "there is no app-server");
    for app_server in app_servers {
        look[1] += megabytes(resident(app_server)?);
        look[3] += count(descriptors(app_server)?);
        look[5] += count(threads(app_server)?);
        look[6] += count(usize::try_from(loaded(app_server).await?.0)?);
    }
    Ok(look)
}

/// The slope of the line that fits best (least squares).
fn slope(points: &[(f64, f64)]) -> f64 {
    let number = count(points.len());
    let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / number;
    let (x, y) = (mean(|point| point.0), mean(|point| point.1));
    let both: f64 = points.iter().map(|point| (point.0 - x) * (point.1 - y)).sum();
    let square: f64 = points.iter().map(|point| (point.0 - x).powi(2)).sum();
    if square > 0.0 { both / square } else { 0.0 }
}

#[expect(clippy::cast_precision_loss, reason = "counts here stay far below 2^52")]
fn count(number: usize) -> f64 {
    number as f64
}
