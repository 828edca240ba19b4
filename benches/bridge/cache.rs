//! What clients without state cost upstream: a long conversation that comes whole each time, and many one-shot
//! calls with the same instructions, with and without affinity and templates, on both faces of the stand-in.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};
use bytes::Bytes;
use codex_bridge::standin::{Face, SeenRequest, StandIn, StandInOptions};
use codex_bridge::tasks::Tasks;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::daemon::{API_KEY, serve};
use crate::http::Connection;
use crate::report::{Cell, Report};
use crate::service::Service;

/// Of the instructions that all one-shot calls have, 16 bytes each.
const SENTENCE: &str = "Say what it is. ";
/// Most keys that all one-shot calls may have: of those before there is a template, and of those from it.
const ONE_SHOT_KEYS: u64 = 2;
/// What grows less from the first quarter of a conversation to its last does not grow with its history.
const GROWTH: f64 = 1.5;
/// The stand-in keeps the last 256 requests.
const PORTION: usize = 100;

/// What to measure.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Turns of the conversation.
    #[arg(long, default_value_t = 20)]
    turns: usize,
    /// One-shot calls in a row.
    #[arg(long, default_value_t = 200)]
    calls: usize,
    /// Tokens of their instructions, about.
    #[arg(long, default_value_t = 3000)]
    tokens: usize,
}

const COLUMNS: [&str; 6] =
    ["requests", "cache keys", "upstream KB", "last request KB", "cacheable prefix %", "ms a call"];

/// What the model was asked in one run.
#[derive(Debug, Default)]
struct Tally {
    /// What the model read so far, by cache key.
    read: HashMap<String, Vec<Vec<u8>>>,
    requests: u64,
    /// As sent, warm-ups included.
    sent: u64,
    /// Of each request.
    each: Vec<u64>,
    /// Of all that the model read.
    whole: usize,
    /// Of that, what it had read before under the same key.
    prefix: usize,
}

/// A bridge before a stand-in in this process.
struct World {
    tasks: Tasks,
    standin: StandIn,
    bridge: Service,
    client: Connection,
    _folder: tempfile::TempDir,
}

/// Runs the scenario.
pub(crate) async fn run(args: &Args, program: &Path) -> anyhow::Result<Report> {
    let mut report = Report::new("cache", COLUMNS.to_vec());
    report.note(format!(
        "Chat Completions: a conversation of {} turns, and {} calls with the same {} tokens of instructions; \
         cacheable is what an earlier request with the same key began with",
        args.turns, args.calls, args.tokens
    ));
    for (face, chatgpt) in [("plain", false), ("logged in", true)] {
        for on in [false, true] {
            let with = if on { "on" } else { "off" };
            let mut world = World::start(program, chatgpt, on).await?;
            let measured = world.measure(args).await;
            let [conversation, one_shots] = measured.with_context(|| world.bridge.last_log_lines())?;
            world.stop().await?;
            for (what, (tally, each)) in [("conversation", &conversation), ("one-shots", &one_shots)] {
                report.row(format!("{what}, {face}, {with}"), tally.cells(*each));
            }
            if on && chatgpt {
                let (conversation, one_shots) = (&conversation.0, &one_shots.0);
                let growth = conversation.growth();
                let (keys, one_shot_keys) = (conversation.keys(), one_shots.keys());
                let passed = keys == 1 && one_shot_keys <= ONE_SHOT_KEYS && growth < GROWTH;
                for (target, met, figure) in [
                    ("conversation: one cache key, and so one thread", keys == 1, format!("{keys}")),
                    (
                        "conversation: the last requests are as long as the first, so that their sum grows linearly",
                        growth < GROWTH,
                        format!("{growth:.2} times"),
                    ),
                    (
                        "one-shots: two cache keys at most",
                        one_shot_keys <= ONE_SHOT_KEYS,
                        format!("{one_shot_keys}"),
                    ),
                ] {
                    let verdict = if met { "met" } else { "MISSED" };
                    report.note(format!("logged in, on: {target}: {verdict} ({figure})"));
                }
                report.result("conversation_keys", Cell::count(keys));
                report.result("conversation_prefix", Cell::new(conversation.share(), 1));
                report.result("conversation_growth", Cell::new(growth, 2));
                report.result("one_shot_keys", Cell::count(one_shot_keys));
                report.result("one_shot_prefix", Cell::new(one_shots.share(), 1));
                report.result("passed", Cell::count(u64::from(passed)));
            }
        }
    }
    Ok(report)
}

impl World {
    async fn start(program: &Path, chatgpt: bool, on: bool) -> anyhow::Result<Self> {
        let tasks = Tasks::new();
        let folder = tempfile::Builder::new().prefix("codex-bridge-bench").tempdir()?;
        let home = folder.path().join("home");
        std::fs::create_dir(&home)?;
        let face = if chatgpt { Face::Chatgpt { folder: home.clone() } } else { Face::Plain };
        let standin = StandIn::start(StandInOptions { face, ..StandInOptions::default() }, &tasks).await?;
        let mut command = serve(program, folder.path(), &home, &standin.codex_config());
        command.envs(standin.child_environment());
        command.env("CODEX_BRIDGE_CONTINUATION__AFFINITY", on.to_string());
        if !on {
            command.env("CODEX_BRIDGE_CONTINUATION__TEMPLATES", "0");
        }
        let bridge = Service::start(command, "listening on", &folder.path().join("bridge.log")).await?;
        let client = Connection::open(bridge.address(), &tasks).await?;
        Ok(Self { tasks, standin, bridge, client, _folder: folder })
    }

    async fn measure(&mut self, args: &Args) -> anyhow::Result<[(Tally, Duration); 2]> {
        // The first call finds a cold app-server.
        self.ask(&[message("user", "SAY ready")], "ready").await?;
        self.standin.clear_requests();
        Ok([self.conversation(args.turns).await?, self.one_shots(args).await?])
    }

    async fn conversation(&mut self, turns: usize) -> anyhow::Result<(Tally, Duration)> {
        let (mut tally, started) = (Tally::default(), Instant::now());
        let mut messages = vec![message("system", "Repeat what follows SAY.")];
        for n in 0..turns {
            let answer = format!("answer {n}: {}", "word ".repeat(100).trim_end());
            messages.push(message("user", &format!("SAY {answer}")));
            self.ask(&messages, &answer).await?;
            messages.push(message("assistant", &answer));
            self.count(&mut tally)?;
        }
        Ok((tally, each(started, turns)))
    }

    async fn one_shots(&mut self, args: &Args) -> anyhow::Result<(Tally, Duration)> {
        let (mut tally, started) = (Tally::default(), Instant::now());
        let instructions = SENTENCE.repeat((args.tokens * 4).div_ceil(SENTENCE.len()));
        for n in 0..args.calls {
            let answer = format!("call {n}");
            let messages = [message("system", &instructions), message("user", &format!("SAY {answer}"))];
            self.ask(&messages, &answer).await?;
            if n % PORTION == PORTION - 1 {
                self.count(&mut tally)?;
            }
        }
        self.count(&mut tally)?;
        Ok((tally, each(started, args.calls)))
    }

    async fn ask(&mut self, messages: &[Value], answer: &str) -> anyhow::Result<()> {
        let request = Request::post("/v1/chat/completions")
            .header("authorization", format!("Bearer {API_KEY}"))
            .header("content-type", "application/json")
            .body(Full::<Bytes>::from(json!({"messages": messages}).to_string()))?;
        let body = self.client.send(request).await?.collect().await?.to_bytes();
        let body: Value = serde_json::from_slice(&body)?;
        let said = &body["choices"][0]["message"]["content"];
        ensure!(said == answer, "the answer is {said}, not {answer:?}");
        Ok(())
    }

    fn count(&self, tally: &mut Tally) -> anyhow::Result<()> {
        let seen = self.standin.requests();
        self.standin.clear_requests();
        seen.iter().try_for_each(|seen| tally.add(seen))
    }

    async fn stop(mut self) -> anyhow::Result<()> {
        self.bridge.stop().await?;
        drop(self.client);
        self.standin.stop();
        ensure!(self.tasks.shut_down(Duration::from_secs(10)).await, "a task is left");
        Ok(())
    }
}

impl Tally {
    fn add(&mut self, seen: &SeenRequest) -> anyhow::Result<()> {
        self.sent += seen.bytes as u64;
        if seen.body["generate"] == false {
            return Ok(());
        }
        let key = seen.body["prompt_cache_key"].as_str().context("a request without a cache key")?;
        let words = serde_json::to_vec(&words(&seen.input))?;
        let read = self.read.entry(key.to_owned()).or_default();
        let common = |earlier: &Vec<u8>| earlier.iter().zip(&words).take_while(|(a, b)| a == b).count();
        self.prefix += read.iter().map(common).max().unwrap_or_default();
        self.whole += words.len();
        self.requests += 1;
        self.each.push(seen.bytes as u64);
        read.push(words);
        Ok(())
    }

    fn keys(&self) -> u64 {
        self.read.len() as u64
    }

    /// Of what the model read, per cent.
    #[expect(clippy::cast_precision_loss, reason = "bytes here stay far below 2^52")]
    fn share(&self) -> f64 {
        self.prefix as f64 * 100.0 / self.whole.max(1) as f64
    }

    /// How many times the first requests' bytes the last ones have; the very first says what no later one has to.
    #[expect(clippy::cast_precision_loss, reason = "bytes here stay far below 2^52")]
    fn growth(&self) -> f64 {
        let some = (self.each.len() / 4).max(1);
        let first: u64 = self.each.iter().skip(1).take(some).sum();
        let last: u64 = self.each.iter().rev().take(some).sum();
        last as f64 / first.max(1) as f64
    }

    fn cells(&self, each: Duration) -> Vec<Cell> {
        #[expect(clippy::cast_precision_loss, reason = "bytes here stay far below 2^52")]
        let kilobytes = |bytes: u64| Cell::new(bytes as f64 / 1024.0, 1);
        vec![
            Cell::count(self.requests),
            Cell::count(self.keys()),
            kilobytes(self.sent),
            kilobytes(self.each.last().copied().unwrap_or_default()),
            Cell::new(self.share(), 1),
            Cell::new(each.as_secs_f64() * 1000.0, 1),
        ]
    }
}

/// The items without what no model reads.
fn words(input: &Value) -> Value {
    let mut input = input.clone();
    for item in input.as_array_mut().into_iter().flatten().filter_map(Value::as_object_mut) {
        item.retain(|name, value| {
            !matches!(name.as_str(), "id" | "status" | "internal_chat_message_metadata_passthrough")
                && !value.is_null()
        });
    }
    input
}

fn message(role: &str, text: &str) -> Value {
    json!({"role": role, "content": text})
}

fn each(started: Instant, calls: usize) -> Duration {
    started.elapsed() / u32::try_from(calls.max(1)).unwrap_or(u32::MAX)
}
