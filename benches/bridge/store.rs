//! The response stores alone: puts, look-ups, a sweep while look-ups, puts and touches go on, memory and disk.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use anyhow::ensure;
use codex_bridge::config::{StoreBackend, StoreConfig};
use codex_bridge::model::{Item, KeyId, ResponseId, Route, SessionId, ThreadId, TurnId};
use codex_bridge::store::{Lookup, ResponseStore, StoredResponse, open};
use codex_bridge::tasks::Tasks;
use futures_util::{StreamExt, stream};

use crate::process::{megabytes, resident, scheduled};
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

const COLUMNS: [&str; 19] = [
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
    "control max s",
    "own max s",
    "own over 5 ms s",
    "memory MB",
    "disk MB",
    "disk end MB",
];

/// What one store showed.
struct Figures {
    cells: Vec<f64>,
    lookup_p99: f64,
    /// The longest wait while it was swept, and what of the longest is not the machine's; ms.
    longest: f64,
    own: f64,
}

/// Runs the scenario.
pub(crate) async fn run(args: &Args) -> anyhow::Result<Report> {
    ensure!(args.chain > 0 && args.records >= 2 * args.chain, "fewer records than two chains");
    let mut report = Report::new("store", COLUMNS.to_vec());
    report.note(format!(
        "{} records of {} bytes of text in chains of {}; calls one by one, in ms; columns ending in \"s\": while half of \
         the records are swept; control: a thread of this process that only sleeps and wakes each ms, and how late it \
         was; own: what of a call's wait is not the control's as well; memory: what this process grew by, of the server \
         all of it; disk: after the fill, and at the end",
        args.records, args.bytes, args.chain
    ));
    report.note(format!("load averages before: {}", load()));
    let server = RedisServer::start_if_installed();
    if server.is_none() {
        report.note("no redis-server or valkey-server is installed: that store is not measured");
    }
    let mut backends = vec![("embedded", StoreBackend::Embedded), ("memory", StoreBackend::Memory)];
    backends.extend(server.as_ref().map(|_| ("redis", StoreBackend::Redis)));
    let (mut lookup_p99, mut longest, mut own) = (0.0_f64, 0.0_f64, 0.0_f64);
    for (name, backend) in backends {
        let folder = tempfile::Builder::new().prefix("codex-bridge-bench").tempdir()?;
        let config = StoreConfig {
            backend,
            max_records: args.records * 2,
            max_bytes: 4 << 30,
            redis_url: server.as_ref().map(|server| server.url().into()),
            ..StoreConfig::default()
        };
        let waited_before = scheduled(std::process::id())?.1;
        let bench = Bench::start(args, &config, folder.path()).await?;
        let server = server.as_ref().filter(|_| backend == StoreBackend::Redis);
        let mut figures = bench.run(server, folder.path()).await?;
        let (disk, reopened) = bench.stop(&config, folder.path()).await?;
        figures.cells.push(disk);
        if backend == StoreBackend::Embedded {
            report.note(format!("embedded: opened again in {reopened:.2} s"));
        }
        let waited = scheduled(std::process::id())?.1.saturating_sub(waited_before);
        report.note(format!("{name}: this process's threads waited {waited:.1?} for a processor, together"));
        for (target, figure, limit) in [
            ("look-up p99 under 1 ms", figures.lookup_p99, LOOKUP_LIMIT),
            ("no wait over 5 ms in the sweep, as measured", figures.longest, SWEEP_LIMIT),
            ("no wait over 5 ms in the sweep, beside the machine's own", figures.own, SWEEP_LIMIT),
        ] {
            let verdict = if figure <= milliseconds(limit) { "met" } else { "MISSED" };
            report.note(format!("{name}: {target}: {verdict} ({figure:.3} ms)"));
        }
        lookup_p99 = lookup_p99.max(figures.lookup_p99);
        longest = longest.max(figures.longest);
        own = own.max(figures.own);
        let cell = |figure: &f64| Cell::new(*figure, if *figure < 100.0 { 3 } else { 0 });
        report.row(name, figures.cells.iter().map(cell).collect());
    }
    report.note(format!("load averages after: {}", load()));
    report.result("lookup_p99_ms", Cell::new(lookup_p99, 3));
    report.result("wait_max_during_sweep_ms", Cell::new(longest, 3));
    report.result("own_wait_max_during_sweep_ms", Cell::new(own, 3));
    let passed = |figure: f64, limit| Cell::new(f64::from(u8::from(figure <= milliseconds(limit))), 0);
    report.result("passed_lookup_p99_under_1_ms", passed(lookup_p99, LOOKUP_LIMIT));
    report.result("passed_no_wait_over_5_ms_during_sweep", passed(longest, SWEEP_LIMIT));
    report.result("passed_no_own_wait_over_5_ms_during_sweep", passed(own, SWEEP_LIMIT));
    Ok(report)
}

fn load() -> String {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    load.split_whitespace().take(3).collect::<Vec<_>>().join(" ")
}

/// A thread that sleeps and wakes each millisecond: how late it is tells a slow store from a busy machine.
struct Control {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<Call>>,
}

/// When something began, and how long it took.
#[derive(Debug, Clone, Copy)]
struct Call {
    began: Instant,
    took: Duration,
}

impl Call {
    /// How long both went on.
    fn overlap(self, other: Self) -> Duration {
        let end = (self.began + self.took).min(other.began + other.took);
        end.saturating_duration_since(self.began.max(other.began))
    }
}

impl Control {
    fn start() -> anyhow::Result<Self> {
        const TICK: Duration = Duration::from_millis(1);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let tick = move || {
            let mut late = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                let due = Instant::now() + TICK;
                std::thread::sleep(TICK);
                late.push(Call { began: due, took: due.elapsed() });
            }
            late
        };
        Ok(Self { stop, thread: std::thread::Builder::new().name("control".into()).spawn(tick)? })
    }

    /// When it was late.
    fn stop(self) -> Vec<Call> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or_default()
    }
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

    /// The figures, in the order of the columns, but for the last one.
    async fn run(&self, server: Option<&RedisServer>, folder: &Path) -> anyhow::Result<Figures> {
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

        let disk = on_disk(folder)?;

        let mut puts = Series::default();
        for n in 0..calls {
            puts.push(self.timed_put(records + n).await?.took);
        }
        let mut chains = Series::default();
        for n in 0..calls {
            chains.push(self.timed_chain(n).await?.took);
        }

        let (mut swept_chains, mut swept_puts) = (Series::default(), Series::default());
        let (mut swept_touches, mut all) = (Series::default(), Vec::new());
        let control = Control::start()?;
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
            all.extend([Some(chain), put, touch].into_iter().flatten());
            swept_chains.push(chain.took);
            swept_puts.extend(put.map(|put| put.took));
            swept_touches.extend(touch.map(|touch| touch.took));
            if let Some(swept) = swept {
                break swept;
            }
        };
        ensure!(
            server.is_some() || swept? >= records / 2 - self.args.chain,
            "not all that expired was swept"
        );
        let late = control.stop();
        // Each is late by itself, so that none of it counts twice.
        let own = |call: &Call| {
            let theirs: Duration = late.iter().map(|late| late.overlap(*call)).sum();
            call.took.saturating_sub(theirs)
        };
        let (over, within): (Vec<Call>, Vec<Call>) = all.iter().partition(|call| call.took > SWEEP_LIMIT);
        let own: Vec<Duration> = over.iter().map(own).collect();
        let own_over = own.iter().filter(|own| **own > SWEEP_LIMIT).count();
        let longest =
            |spans: &mut dyn Iterator<Item = Duration>| milliseconds(spans.max().unwrap_or_default());
        let longest_own = longest(&mut within.iter().map(|call| call.took).chain(own));
        let of = |series: &Series, percent| series.percentile(percent).unwrap_or(f64::NAN);
        let cells = vec![
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
            count(over.len()),
            longest(&mut late.iter().map(|late| late.took)),
            longest_own,
            count(own_over),
            megabytes(memory),
            megabytes(disk),
        ];
        Ok(Figures {
            lookup_p99: of(&chains, 99).max(of(&swept_chains, 99)),
            longest: longest(&mut all.iter().map(|call| call.took)),
            own: longest_own,
            cells,
        })
    }

    /// Closes the store. Gives what it left on disk, and how many seconds opening it again took.
    async fn stop(self, config: &StoreConfig, folder: &Path) -> anyhow::Result<(f64, f64)> {
        self.store.close().await;
        let disk = on_disk(folder)?;
        let began = Instant::now();
        let again = open(config, folder, &self.tasks).await?;
        let took = began.elapsed();
        again.close().await;
        ensure!(self.tasks.shut_down(Duration::from_secs(10)).await, "the store's tasks did not end");
        Ok((megabytes(disk), took.as_secs_f64()))
    }

    async fn timed_put(&self, n: usize) -> anyhow::Result<Call> {
        let record = self.record(n);
        let began = Instant::now();
        self.store.put(record).await?;
        Ok(Call { began, took: began.elapsed() })
    }

    /// The end of a chain that does not expire.
    fn end(&self, n: usize) -> ResponseId {
        // Scattered over all of them; each second chain stays.
        let chains = self.args.records / self.args.chain / 2;
        let chain = 2 * (n.wrapping_mul(7919) % chains) + 1;
        id((chain + 1) * self.args.chain - 1)
    }

    async fn timed_touch(&self, n: usize) -> anyhow::Result<Call> {
        let (id, until) = (self.end(n), SystemTime::now() + 20 * HOUR);
        let began = Instant::now();
        let found = self.store.touch(&id, until).await?;
        let call = Call { began, took: began.elapsed() };
        ensure!(found == Lookup::Found(()), "{id} is not there");
        Ok(call)
    }

    async fn timed_chain(&self, n: usize) -> anyhow::Result<Call> {
        let id = self.end(n);
        let began = Instant::now();
        let found = self.store.chain(&id).await?;
        let call = Call { began, took: began.elapsed() };
        let Lookup::Found(chain) = found else { anyhow::bail!("{id} is not there") };
        ensure!(chain.before.len() == self.args.chain - 1, "the chain of {id} is not whole");
        Ok(call)
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

/// Bytes that the files there take.
fn on_disk(folder: &Path) -> anyhow::Result<u64> {
    let files = std::fs::read_dir(folder)?.map(|entry| Ok(entry?.metadata()?.blocks() * 512));
    Ok(files.collect::<std::io::Result<Vec<_>>>()?.into_iter().sum())
}

fn milliseconds(span: Duration) -> f64 {
    span.as_secs_f64() * 1e3
}

#[expect(clippy::cast_precision_loss, reason = "counts here stay far below 2^52")]
fn count(number: usize) -> f64 {
    number as f64
}
