//! `kill -9` of the bridge under load, again and again on one state folder.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::ensure;
use futures_util::future::join_all;
use futures_util::{StreamExt, stream};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::check::{Api, Expected, Verdict};
use crate::client::{Client, Leave};
use crate::dialogue::{Conversation, TOOL};
use crate::leftovers::settle;
use crate::report::{Cell, Report};
use crate::scene::Scene;
use crate::tally::Tally;
use crate::{Findings, Stage};

/// Nothing of a killed bridge runs after this.
const ORPHAN_LIMIT: Duration = Duration::from_secs(30);
/// Questions of a conversation before it is left alone.
const LONGEST: usize = 8;
/// Conversations that are asked for after each kill, beside those that were just held.
const LOOKED_AT: usize = 24;
/// Of them at once.
const AT_ONCE: usize = 8;

/// What to do.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Kills.
    #[arg(long, default_value_t = 20)]
    times: usize,
    /// Conversations at once.
    #[arg(long, default_value_t = 12)]
    at_once: usize,
}

/// Who holds one conversation after another.
#[derive(Debug)]
struct Caller {
    name: String,
    dice: StdRng,
    conversation: Conversation,
    steps: usize,
    /// Those that were held to their end.
    kept: Vec<Conversation>,
}

/// Runs the scenario.
pub(crate) async fn run(args: &Args, stage: &Stage, seed: u64) -> anyhow::Result<Findings> {
    let mut scene = Scene::start(stage, &[]).await?;
    let tally = Tally::default();
    let mut kills = Report::new("kills", vec!["calls", "chains", "gone ms", "model ms", "start ms"]);
    let killed = kill_often(args, &mut scene, &tally, &mut kills, seed).await;
    let mut findings = Findings { reports: vec![kills], violations: tally.violations() };
    findings.reports.extend(tally.reports("calls"));
    if let Err(error) = killed {
        findings.violations.push(format!("{error:#}; {}", scene.last_log_lines()));
    }
    if !findings.violations.is_empty() {
        findings.violations.push(format!("folders kept: {}", scene.keep().display()));
    }
    if let Err(error) = scene.close().await {
        findings.violations.push(format!("the end: {error:#}"));
    }
    Ok(findings)
}

async fn kill_often(
    args: &Args,
    scene: &mut Scene,
    tally: &Tally,
    kills: &mut Report,
    seed: u64,
) -> anyhow::Result<()> {
    let mut dice = StdRng::seed_from_u64(seed);
    let model = scene.client()?.first_model().await?;
    let mut callers: Vec<Caller> = (0..args.at_once).map(|n| Caller::new(n, seed, &model)).collect();
    let mut chains = 0;
    for time in 1..=args.times {
        let before = tally.calls();
        let down = AtomicBool::new(false);
        let client = scene.client()?;
        let calls = join_all(callers.iter_mut().map(|caller| caller.talk(&client, &model, tally, &down)));
        let patience = Duration::from_millis(dice.random_range(800..3000));
        let killing = async {
            sleep(patience).await;
            down.store(true, Ordering::SeqCst);
            let at = Instant::now();
            scene.kill_bridge().await.map(|()| at)
        };
        let (_, at) = tokio::join!(calls, killing);
        let at = at?;
        let gone = nothing_left(at, "processes", || scene.processes()).await?;
        let model_at = nothing_left(at, "answers of the model", || {
            Some(scene.standin().open()).filter(|open| *open > 0).into_iter().collect()
        });
        let model_left = model_at.await?;
        let started = Instant::now();
        scene.start_again().await?;
        let start = started.elapsed();
        chains = look(scene, &mut callers, tally, &mut dice).await?;
        let milliseconds = |time: Duration| Cell::new(time.as_secs_f64() * 1e3, 0);
        kills.row(
            format!("kill {time}"),
            vec![
                Cell::count(tally.calls() - before),
                Cell::count(chains as u64),
                milliseconds(gone),
                milliseconds(model_left),
                milliseconds(start),
            ],
        );
    }
    kills.result("kills", Cell::count(args.times as u64));
    ensure!(chains > 0 || args.times == 0, "no conversation was held");
    settle(scene, None).await?;
    Ok(())
}

/// Waits until `look` finds nothing; how long that took since `since`.
async fn nothing_left<T: std::fmt::Debug>(
    since: Instant,
    what: &str,
    look: impl Fn() -> Vec<T>,
) -> anyhow::Result<Duration> {
    loop {
        let left = look();
        if left.is_empty() {
            return Ok(since.elapsed());
        }
        ensure!(since.elapsed() < ORPHAN_LIMIT, "{what} are left after {ORPHAN_LIMIT:?}: {left:?}");
        sleep(Duration::from_millis(5)).await;
    }
}

/// Asks for what was said in the conversations that were just held, and in some of the older ones. Gives how many
/// there are.
async fn look(
    scene: &Scene,
    callers: &mut [Caller],
    tally: &Tally,
    dice: &mut StdRng,
) -> anyhow::Result<usize> {
    let client = scene.client()?;
    let (mut held, mut older): (Vec<&mut Conversation>, Vec<&mut Conversation>) = (Vec::new(), Vec::new());
    for caller in callers {
        held.extend(Some(&mut caller.conversation).filter(|conversation| conversation.length() > 0));
        older.extend(&mut caller.kept);
    }
    let all = held.len() + older.len();
    older.shuffle(dice);
    held.extend(older.into_iter().take(LOOKED_AT));
    let asking = stream::iter(held).map(|conversation| ask_back(conversation, &client, tally));
    asking.buffer_unordered(AT_ONCE).collect::<()>().await;
    Ok(all)
}

async fn ask_back(conversation: &mut Conversation, client: &Client, tally: &Tally) {
    if conversation.is_open() {
        let expected = Expected::Text("tool said: late".into());
        conversation.go_on("continued", "late", &expected, false, client, tally).await;
        if conversation.is_open() {
            // It has been counted.
            return;
        }
    }
    // A branch: the conversation itself does not grow.
    let expected = conversation.recalled();
    conversation.clone().go_on("continued", "RECALL", &expected, false, client, tally).await;
}

impl Conversation {
    /// One step; any answer but the right one is a violation.
    async fn go_on(
        &mut self,
        kind: &str,
        text: &str,
        expected: &Expected,
        stream: bool,
        client: &Client,
        tally: &Tally,
    ) -> bool {
        let body = self.ask_with_tool(text, stream);
        let call = client.call(Api::Responses.path(), &body, Leave::Never).await;
        let verdict = Api::Responses.verdict(&call.end, stream, expected);
        let said = tally.note(kind, None, &call, verdict);
        said.map(|said| self.keep(text, said)).is_some()
    }
}

impl Caller {
    fn new(number: usize, seed: u64, model: &str) -> Self {
        Self {
            name: format!("{seed:x}-{number}"),
            dice: StdRng::seed_from_u64(seed.wrapping_add(number as u64 + 1)),
            conversation: Conversation::new(Api::Responses, model),
            steps: 0,
            kept: Vec::new(),
        }
    }

    /// Talks until the bridge is down.
    async fn talk(&mut self, client: &Client, model: &str, tally: &Tally, down: &AtomicBool) {
        while !down.load(Ordering::SeqCst) {
            if self.conversation.length() >= LONGEST && !self.conversation.is_open() {
                let done =
                    std::mem::replace(&mut self.conversation, Conversation::new(Api::Responses, model));
                self.kept.push(done);
            }
            self.steps += 1;
            let (tag, stream) = (format!("{}-{}", self.name, self.steps), self.dice.random_bool(0.5));
            let (text, expected) = if self.conversation.is_open() {
                (tag.clone(), Expected::Text(format!("tool said: {tag}")))
            } else if self.dice.random_bool(0.2) {
                let arguments = json!({"key": tag}).to_string();
                (format!("CALLTOOL {TOOL} {arguments}"), Expected::Call(TOOL, arguments))
            } else {
                let text = format!("PACE {} {tag} and some more words", self.dice.random_range(1..100));
                (text.clone(), Expected::Text(format!("echo: {text}")))
            };
            let body = self.conversation.ask_with_tool(&text, stream);
            let call = client.call(Api::Responses.path(), &body, Leave::Never).await;
            let verdict = Api::Responses.verdict(&call.end, stream, &expected);
            // The kill's own.
            let verdict = match verdict {
                Verdict::Broken(_) if down.load(Ordering::SeqCst) => Verdict::Left,
                other => other,
            };
            if let Some(said) = tally.note("held", None, &call, verdict) {
                self.conversation.keep(&text, said);
            }
        }
    }
}
