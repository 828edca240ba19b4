//! The response stores alone: puts, look-ups, a sweep while look-ups, puts and touches go on, memory and disk.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::ensure;
use codex_bridge::config::{StoreBackend, StoreConfig};
use codex_bridge::model::{Item, KeyId, ResponseId, Route, SessionId, ThreadId, TurnId};
use codex_bridge::store::{Lookup, ResponseStore, StoredResponse, open};
use codex_bridge::tasks::Tasks;
use futures_util::{StreamExt, stream};

use crate::process::{megabytes, resident};
use crate::redis::RedisServer;
use crate::report::{Cell, Report};
use crate::stats::Series;

const HOUR: Duration = Duration::from_secs(3600);
/// Puts at once while a store is filled.
const AT_ONCE: usize = 64;

/// What to measure.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Records in each store; half of them expire.
    #[arg(long, default_value_t = 100_000)]
    records: usize,
    /// Responses in a chain.
    #[arg(long, default_value_t = 4)]
    chain: usize,
    /// Bytes of text in a record, in and out together.
    #[arg(long, default_value_t = 1000)]
    bytes: usize,
    /// Puts and look-ups that are timed one by one.
    #[arg(long, default_value_t = 10_000)]
    calls: usize,
}

/// What a look-up may take, one in a hundred left aside.
const LOOKUP_LIMIT: Duration = Duration::from_millis(1);
/// What any call may take while a sweep runs.
const SWEEP_LIMIT: Duration = Duration::from_millis(5);

const COLUMNS: [&str; 14] = [
    "fill/s",
    "put p50",
    "put p99",
    "put max",
    "chain p50",
    "chain p99",
    "chain max",
    "sweep s",
    "chain p99 s",
    "chain max s",
    "put max s",
    "touch max s",
    "over 5 ms s",
    "memory MB",
];

/// Runs the scenario.
pub(crate) async fn run(args: &Args) -> anyhow::Result<Report> {
    ensure!(args.chain > 0 && args.records >= 2 * args.chain, "fewer records than two chains");
    let mut report = Report::new("store", COLUMNS.to_vec());
    report.note(format!(
        "{} records of {} bytes of text in chains of {}; calls one by one, in ms; columns ending in \"s\": while half of \
         the records are swept; memory: what this process grew by, of the server all of it",
        args.records, args.bytes, args.chain
    ));
    let server = RedisServer::start_if_installed();
    if server.is_none() {
        report.note("no redis-server or valkey-server is installed: that store is not measured");
    }
    let mut backends = vec![("embedded", StoreBackend::Embedded), ("memory", StoreBackend::Memory)];
    backends.extend(server.as_ref().map(|_| ("redis", StoreBackend::Redis)));
    let mut longest = 0.0_f64;
    let mut slowest = 0.0_f64;
    let mut over = 0.0_f64;
    for (name, backend) in backends {
        let folder = tempfile::Builder::new().prefix("codex-bridge-bench").tempdir()?;
        let config = StoreConfig {
            backend,
            max_records: args.records * 2,
            max_bytes: 4 << 30,
            redis_url: server.as_ref().map(|server| server.url().into()),
            ..StoreConfig::default()
        };
        let bench = Bench::start(args, &config, folder.path()).await?;
        let figures = bench.run(server.as_ref().filter(|_| backend == StoreBackend::Redis)).await?;
        let (disk, reopened) = bench.stop(&config, folder.path()).await?;
        if backend == StoreBackend::Embedded {
            report.note(format!("embedded: {disk:.0} MB on disk, opened again in {reopened:.2} s"));
        }
        if backend != StoreBackend::Redis {
            longest = figures[9..12].iter().copied().fold(longest, f64::max);
            over += figures[12];
            slowest = slowest.max(figures[5]);
        }
        report.row(
            name,
            figures.iter().map(|figure| Cell::new(*figure, if *figure < 100.0 { 3 } else { 0 })).collect(),
        );
    }
    report.result("lookup_p99_ms", Cell::new(slowest, 3));
    report.result("wait_max_during_sweep_ms", Cell::new(longest, 3));
    let passed = |verdict: bool| Cell::new(f64::from(u8::from(verdict)), 0);
    report.result("passed_lookup_p99_under_1_ms", passed(slowest < milliseconds(LOOKUP_LIMIT)));
    report.result("passed_no_wait_over_5_ms_during_sweep", passed(over < 1.0));
    Ok(report)
}

struct Bench<'a> {
    args: &'a Args,
    store: Arc<dyn ResponseStore>,
    tasks: Tasks,
    /// This process before there was a store.
    before: u64,
}

impl<'a> Bench<'a> {
    async fn start(args: &'a Args, config: &StoreConfig, folder: &Path) -> anyhow::Result<Self> {
        let before = resident(std::process::id())?;
        let tasks = Tasks::new();
        let store = open(config, folder, &tasks).await?;
        Ok(Self { args, store, tasks, before })
    }

    /// The figures, in the order of the columns.
    async fn run(&self, server: Option<&RedisServer>) -> anyhow::Result<[f64; 14]> {
        let Args { records, calls, .. } = *self.args;
        let began = Instant::now();
        // Chain by chain: what a record continues is there before it.
        let chains = stream::iter(0..records.div_ceil(self.args.chain)).map(|chain| async move {
            for n in chain * self.args.chain..((chain + 1) * self.args.chain).min(records) {
                self.store.put(self.record(n)).await?;
            }
            anyhow::Ok(())
        });
        let filled: Vec<_> = chains.buffer_unordered(AT_ONCE).collect().await;
        filled.into_iter().collect::<anyhow::Result<()>>()?;
        let rate = count(records) / began.elapsed().as_secs_f64();
        let memory = match server {
            Some(server) => resident(server.pid())?,
            None => resident(std::process::id())?.saturating_sub(self.before),
        };

        let mut puts = Series::default();
        for n in 0..calls {
            puts.push(self.timed_put(records + n).await?);
        }
        let mut chains = Series::default();
        for n in 0..calls {
            chains.push(self.timed_chain(n).await?);
        }

        let (mut swept_chains, mut swept_puts) = (Series::default(), Series::default());
        let (mut swept_touches, mut over) = (Series::default(), 0);
        let began = Instant::now();
        let sweep = async {
            let swept = self.store.sweep(SystemTime::now() + 2 * HOUR).await;
            (swept, began.elapsed())
        };
        tokio::pin!(sweep);
        let mut next = 0..;
        let (swept, took) = loop {
            let n = next.next().unwrap_or_default();
            let call = async {
                let chain = self.timed_chain(n).await?;
                // A put among many look-ups, as requests come; a look-up that found its chain touches it.
                let put = if n % 10 == 0 { Some(self.timed_put(records + calls + n).await?) } else { None };
                let touch = if n % 10 == 5 { Some(self.timed_touch(n).await?) } else { None };
                anyhow::Ok((chain, put, touch))
            };
            tokio::pin!(call);
            let (swept, result) = tokio::select! {
                swept = &mut sweep => (Some(swept), call.as_mut().await),
                result = &mut call => (None, result),
            };
            let (chain, put, touch) = result?;
            over +=
                [Some(chain), put, touch].into_iter().flatten().filter(|took| *took > SWEEP_LIMIT).count();
            swept_chains.push(chain);
            if let Some(put) = put {
                swept_puts.push(put);
            }
            if let Some(touch) = touch {
                swept_touches.push(touch);
            }
            if let Some(swept) = swept {
                break swept;
            }
        };
        ensure!(
            server.is_some() || swept? >= records / 2 - self.args.chain,
            "not all that expired was swept"
        );
        let of = |series: &Series, percent| series.percentile(percent).unwrap_or(f64::NAN);
        Ok([
            rate,
            of(&puts, 50),
            of(&puts, 99),
            of(&puts, 100),
            of(&chains, 50),
            of(&chains, 99),
            of(&chains, 100),
            took.as_secs_f64(),
            of(&swept_chains, 99),
            of(&swept_chains, 100),
            of(&swept_puts, 100),
            of(&swept_touches, 100),
            count(over),
            megabytes(memory),
        ])
    }

    /// Closes the store. Gives what it left on disk, and how many seconds opening it again took.
    async fn stop(self, config: &StoreConfig, folder: &Path) -> anyhow::Result<(f64, f64)> {
        self.store.close().await;
        let files = std::fs::read_dir(folder)?.map(|entry| Ok(entry?.metadata()?.len()));
        let disk: u64 = files.collect::<std::io::Result<Vec<_>>>()?.into_iter().sum();
        let began = Instant::now();
        let again = open(config, folder, &self.tasks).await?;
        let took = began.elapsed();
        again.close().await;
        ensure!(self.tasks.shut_down(Duration::from_secs(10)).await, "the store's tasks did not end");
        Ok((megabytes(disk), took.as_secs_f64()))
    }

    async fn timed_put(&self, n: usize) -> anyhow::Result<Duration> {
        let record = self.record(n);
        let began = Instant::now();
        self.store.put(record).await?;
        Ok(began.elapsed())
    }

    /// The end of a chain that does not expire.
    fn end(&self, n: usize) -> ResponseId {
        // Scattered over all of them; each second chain stays.
        let chains = self.args.records / self.args.chain / 2;
        let chain = 2 * (n.wrapping_mul(7919) % chains) + 1;
        id((chain + 1) * self.args.chain - 1)
    }

    async fn timed_touch(&self, n: usize) -> anyhow::Result<Duration> {
        let (id, until) = (self.end(n), SystemTime::now() + 20 * HOUR);
        let began = Instant::now();
        let found = self.store.touch(&id, until).await?;
        let took = began.elapsed();
        ensure!(found == Lookup::Found(()), "{id} is not there");
        Ok(took)
    }

    async fn timed_chain(&self, n: usize) -> anyhow::Result<Duration> {
        let id = self.end(n);
        let began = Instant::now();
        let found = self.store.chain(&id).await?;
        let took = began.elapsed();
        let Lookup::Found(chain) = found else { anyhow::bail!("{id} is not there") };
        ensure!(chain.before.len() == self.args.chain - 1, "the chain of {id} is not whole");
        Ok(took)
    }

    fn record(&self, n: usize) -> StoredResponse {
        let (chain, place) = (n / self.args.chain, n % self.args.chain);
        let now = SystemTime::now();
        let text = |role| {
            Item::input_text(role, &"lorem ipsum ".repeat(self.args.bytes / 24 + 1)[..self.args.bytes / 2])
        };
        StoredResponse {
            id: id(n),
            previous: (place > 0).then(|| id(n - 1)),
            key: KeyId::new("bench"),
            account: Some("account".into()),
            session: SessionId::new("session"),
            session_by_caller: true,
            model: "gpt-6-luna".into(),
            route: Route::Live,
            thread: ThreadId::new("0199a213-81c0-7800-8aa1-bbab2a035a53"),
            turn: TurnId::new("0199a213-81c0-7800-8aa1-bbab2a035a54"),
            generation: 1,
            upstream_response_id: None,
            own_input: 1,
            incomplete: None,
            head: None,
            input: vec![text("user")],
            output: vec![text("assistant")],
            open_calls: Vec::new(),
            usage: None,
            chain_length: 1,
            created_at: now,
            last_used_at: now,
            expires_at: now + if chain % 2 == 0 { HOUR } else { 10 * HOUR },
        }
    }
}

/// Ids as they are: without an order.
fn id(n: usize) -> ResponseId {
    let scattered = (n as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    ResponseId::new(format!("resp_{scattered:016x}{n:016x}"))
}

fn milliseconds(span: Duration) -> f64 {
    span.as_secs_f64() * 1e3
}

#[expect(clippy::cast_precision_loss, reason = "counts here stay far below 2^52")]
fn count(number: usize) -> f64 {
    number as f64
}
