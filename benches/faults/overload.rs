//! Many times more calls than there is room for.

use std::time::Duration;

use anyhow::ensure;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use reqwest::header::RETRY_AFTER;
use serde_json::json;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};

use crate::check::{Api, Expected, Verdict};
use crate::client::{Client, End, Leave};
use crate::leftovers::settle;
use crate::process::scheduled;
use crate::report::{Cell, Report};
use crate::scene::Scene;
use crate::stats::Series;
use crate::{Findings, Stage};

/// Turns at once: few, so that the load is many times more than that and still not many calls.
const SLOTS: usize = 4;
/// Calls that wait.
const QUEUE: usize = 4;
/// How long, at most.
const QUEUE_TIMEOUT: Duration = Duration::from_secs(2);
/// Words of an answer, and milliseconds before each: a call takes longer than this machine needs for it.
const WORDS: usize = 20;
const PACE: usize = 50;
/// Calls that are made alone, to know how long one takes.
const ALONE: usize = 10;
/// A refusal is here by then, and whatever asks for nothing (`/healthz`), where the machine has nothing else to do: a
/// process that waits for a processor nine times as long as it has one takes ten times as long for everything.
const AT_ONCE: Duration = Duration::from_millis(50);
/// A machine that is slower than so many times is none to tell anything on.
const MOST_SLOWED: f64 = 10.0;
/// Every single refusal is here by then, however slow the machine.
const REFUSED_BY: Duration = Duration::from_secs(2);
/// All is as before by then.
const RECOVERY: Duration = Duration::from_secs(2);
/// Of a hundred, what is held to that: one hiccup of the machine is many calls at this pace.
const SHARE: usize = 95;
/// Between two of those requests.
const BEAT: Duration = Duration::from_millis(50);

/// What to do.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How long.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Calls offered for each that there is room for.
    #[arg(long, default_value_t = 20)]
    times: u32,
}

/// What became of the calls.
#[derive(Debug, Default)]
struct Seen {
    admitted: Series,
    refused: Series,
    without_retry_after: u64,
    violations: Vec<String>,
}

/// Runs the scenario.
pub(crate) async fn run(args: &Args, stage: &Stage, seed: u64) -> anyhow::Result<Findings> {
    let (slots, queue) = (SLOTS.to_string(), QUEUE.to_string());
    let wait = format!("{}s", QUEUE_TIMEOUT.as_secs());
    let settings = [
        ("ADMISSION__SLOTS", slots.as_str()),
        ("ADMISSION__QUEUE", &queue),
        ("ADMISSION__QUEUE_TIMEOUT", &wait),
    ];
    let scene = Scene::start(stage, &settings).await?;
    let mut findings = Findings::default();
    let loaded = overload(args, &scene, &mut findings, seed).await;
    if let Err(error) = loaded {
        findings.violations.push(format!("{error:#}; {}", scene.last_log_lines()));
    }
    if let Err(error) = scene.close().await {
        findings.violations.push(format!("the end: {error:#}"));
    }
    Ok(findings)
}

async fn overload(args: &Args, scene: &Scene, findings: &mut Findings, seed: u64) -> anyhow::Result<()> {
    let (client, mut calm) = (scene.client()?, Seen::default());
    let model = client.first_model().await?;
    for number in 0..=ALONE {
        let made = call(&client, &model, format!("{seed:x}-alone-{number}")).await;
        // The first one warms up.
        if number > 0 {
            calm.count(made);
        }
    }
    ensure!(calm.violations.is_empty() && calm.admitted.len() == ALONE, "calls alone: {:?}", calm.violations);
    // Idle connections are descriptors of the bridge's.
    drop(client);
    let baseline = settle(scene, None).await?;
    let client = scene.client()?;
    let (alone_p50, alone_p99) = (percentile(&calm.admitted, 50), percentile(&calm.admitted, 99));
    let every = alone_p50 / u32::try_from(SLOTS)? / args.times.max(1);

    let processes = [scene.bridge_pid(), std::process::id()];
    let before = processes.map(scheduled);
    let end = Instant::now() + Duration::from_secs(args.seconds);
    let (met, idle, lag) =
        tokio::join!(offer(&client, &model, every, end, seed), idle_requests(&client, end), lag(end));
    let idle = idle?;
    let mut slowed = 1.0_f64;
    for (before, after) in before.into_iter().zip(processes.map(scheduled)) {
        let (before, after) = (before?, after?);
        let (ran, waited) = (after.0.saturating_sub(before.0), after.1.saturating_sub(before.1));
        slowed = slowed.max((ran + waited).as_secs_f64() / ran.as_secs_f64().max(1e-3));
    }
    sleep_until(end + RECOVERY).await;
    let health = scene.health().await?;
    let mut after = Seen::default();
    for number in 0..3 {
        after.count(call(&client, &model, format!("{seed:x}-after-{number}")).await);
    }
    findings.violations.extend(met.violations.iter().chain(&after.violations).cloned());

    let mut must = |holds: bool, what: String| {
        if !holds {
            findings.violations.push(what);
        }
    };
    let admitted = percentile(&met.admitted, 99);
    let bound = alone_p99 * 2 + QUEUE_TIMEOUT;
    must(met.admitted.len() > 0, "no call was admitted".into());
    must(met.refused.len() > met.admitted.len(), "most calls must be refused".into());
    must(admitted <= bound, format!("admitted calls take {admitted:?}, more than {bound:?}"));
    let at_once = AT_ONCE.mul_f64(slowed.min(MOST_SLOWED));
    for (name, series) in [("/healthz", &idle), ("refusals", &met.refused)] {
        for percent in [50, SHARE] {
            let took = percentile(series, percent);
            must(took <= at_once, format!("{percent} % of {name} take {took:?}, more than {at_once:?}"));
        }
    }
    let slowest = percentile(&met.refused, 100);
    must(slowest <= REFUSED_BY, format!("a refusal took {slowest:?}, more than {REFUSED_BY:?}"));
    must(met.without_retry_after == 0, format!("{} refusals without Retry-After", met.without_retry_after));
    let waiting = &health["slots"];
    must(
        waiting["in_use"] == 0 && waiting["queued"] == 0,
        format!("{RECOVERY:?} after the load there is still work: {waiting}"),
    );
    let recovered = percentile(&after.admitted, 99);
    must(
        after.admitted.len() == 3 && recovered <= alone_p99 * 2 + at_once,
        format!("{RECOVERY:?} after the load a call takes {recovered:?}, alone {alone_p99:?}"),
    );

    let mut report = Report::new("overload", vec!["times", "p50 ms", "p95 ms", "p99 ms"]);
    report.note(format!(
        "{SLOTS} slots, {QUEUE} places in the queue, a call each {every:?} for {} s; the machine makes all of it \
         {slowed:.1} times slower",
        args.seconds
    ));
    let rows = [
        ("alone", &calm.admitted),
        ("admitted", &met.admitted),
        ("refused", &met.refused),
        ("/healthz", &idle),
        ("a timer, late", &lag),
        ("afterwards", &after.admitted),
    ];
    for (name, series) in rows {
        let figure = |percent| series.percentile(percent).map_or(Cell::none(), |ms| Cell::new(ms, 1));
        report.row(name, vec![Cell::count(series.len() as u64), figure(50), figure(SHARE), figure(99)]);
    }
    report.result("admitted", Cell::count(met.admitted.len() as u64));
    report.result("refused", Cell::count(met.refused.len() as u64));
    report.result("slowed", Cell::new(slowed, 1));
    report.result("refused_p99_ms", met.refused.percentile(99).map_or(Cell::none(), |ms| Cell::new(ms, 1)));
    findings.reports.push(report);
    drop(client);
    settle(scene, Some(baseline)).await?;
    Ok(())
}

/// Makes a call each `every`, whatever becomes of the others, until `end`; then waits for all.
async fn offer(client: &Client, model: &str, every: Duration, end: Instant, seed: u64) -> Seen {
    let (mut met, mut open, mut number) = (Seen::default(), FuturesUnordered::new(), 0_u64);
    let mut ticks = interval(every);
    // What could not be offered in time is offered at once: the load is what it is said to be.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    while Instant::now() < end {
        tokio::select! {
            _ = ticks.tick() => {
                open.push(call(client, model, format!("{seed:x}-{number}")));
                number += 1;
            }
            Some(ended) = open.next() => met.count(ended),
        }
    }
    while let Some(ended) = open.next().await {
        met.count(ended);
    }
    met
}

/// How long requests take that ask for nothing.
async fn idle_requests(client: &Client, end: Instant) -> anyhow::Result<Series> {
    let mut took = Series::default();
    while Instant::now() < end {
        let began = Instant::now();
        client.get("/healthz").await?;
        took.push(began.elapsed());
        sleep(BEAT).await;
    }
    Ok(took)
}

/// How much longer than asked a timer takes.
async fn lag(end: Instant) -> Series {
    const NAP: Duration = Duration::from_millis(5);
    let mut lag = Series::default();
    while Instant::now() < end {
        let began = Instant::now();
        sleep(NAP).await;
        lag.push(began.elapsed().saturating_sub(NAP));
    }
    lag
}

/// A call, how it ended, and what is to be said about it.
async fn call(client: &Client, model: &str, tag: String) -> (crate::client::Call, Verdict) {
    let words: Vec<_> = (0..WORDS).map(|word| format!("{tag}.{word}")).collect();
    let text = words.join(" ");
    let body = json!({"model": model, "input": format!("PACE {PACE} SAY {text}"), "store": false});
    let call = client.call(Api::Responses.path(), &body, Leave::Never).await;
    let verdict = Api::Responses.verdict(&call.end, false, &Expected::Text(text));
    (call, verdict)
}

fn percentile(series: &Series, percent: usize) -> Duration {
    Duration::from_secs_f64(series.percentile(percent).unwrap_or(0.0) / 1e3)
}

impl Seen {
    fn count(&mut self, (call, verdict): (crate::client::Call, Verdict)) {
        let took = call.ended - call.began;
        match verdict {
            Verdict::Right(_) => self.admitted.push(took),
            Verdict::Failed(failure) if failure.code == "rate_limit_exceeded" => {
                self.refused.push(took);
                let End::Whole { headers, .. } = &call.end else { return };
                let wait = headers.get(RETRY_AFTER).and_then(|wait| wait.to_str().ok()?.parse::<u64>().ok());
                self.without_retry_after += u64::from(wait.is_none_or(|wait| wait == 0));
            }
            other => self.violations.push(format!("{other:?}")),
        }
    }
}
