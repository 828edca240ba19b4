//! Kills at random moments, over and over, of a process that writes, deletes, flushes and compacts as fast as it can:
//! what was acknowledged is there again, in its last form, and nothing that went comes back.
//!
//! `KILLS` is how many there are, `KILL_SEED` the seed of a run to take again.

use std::collections::{BTreeMap, HashSet};
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::*;

/// Unless `KILLS` says otherwise.
const KILLS: u64 = 12;
/// Records that are kept at once in the runs where some are evicted.
const FEW: u64 = 60;

/// All of it is over and done with many times a second.
const PACE: Pace = Pace {
    write_out_after: Duration::from_millis(3),
    write_out_bytes: 64 << 10,
    compact_from: 128 << 10,
    compact_every: Duration::from_millis(5),
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Known {
    /// `None` once it was deleted.
    version: Option<u64>,
    previous: Option<u64>,
    short_lived: bool,
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Put { id: u64, known: Known, bytes: usize },
    Delete { id: u64 },
    Touch { id: u64 },
    Sweep,
}

/// What there is to be, and what is done next: both follow from the seed.
struct Model {
    dice: Dice,
    known: BTreeMap<u64, Known>,
    evicts: bool,
}

impl Model {
    fn new(seed: u64) -> Self {
        Self { dice: Dice(seed), known: BTreeMap::new(), evicts: seed.is_multiple_of(4) }
    }

    /// Steps at once, no two of them of one record; what they leave is known from now on.
    fn next(&mut self) -> Vec<Step> {
        let mut touched = HashSet::new();
        let mut steps = Vec::new();
        for _ in 0..=self.dice.below(8) {
            let live: Vec<u64> =
                self.known.iter().filter(|(_, known)| known.version.is_some()).map(|(id, _)| *id).collect();
            let some = |dice: &mut Dice| live.get(dice.below(live.len().max(1))).copied();
            let version = Some(self.dice.0);
            let bytes = if self.dice.below(6) == 0 { 20_000 + self.dice.below(60_000) } else { 300 };
            let step = match self.dice.below(100) {
                0..45 => {
                    let id = self.known.len() as u64 + 1;
                    let previous = some(&mut self.dice).filter(|_| !self.evicts && self.dice.below(2) == 0);
                    let previous = previous.filter(|previous| !touched.contains(previous));
                    touched.extend(previous);
                    let known = Known { version, previous, short_lived: self.dice.below(8) == 0 };
                    Step::Put { id, known, bytes }
                }
                // Others may continue it: it names none that could be gone by now.
                45..55 => match some(&mut self.dice) {
                    Some(id) => {
                        Step::Put { id, known: Known { version, previous: None, ..self.known[&id] }, bytes }
                    }
                    None => continue,
                },
                55..85 => match some(&mut self.dice) {
                    Some(id) => Step::Delete { id },
                    None => continue,
                },
                85..88 => Step::Delete { id: self.dice.below(self.known.len() + 2) as u64 },
                88..96 => match some(&mut self.dice) {
                    Some(id) => Step::Touch { id },
                    None => continue,
                },
                _ => Step::Sweep,
            };
            let id = match &step {
                Step::Put { id, .. } | Step::Delete { id } | Step::Touch { id } => *id,
                Step::Sweep => 0,
            };
            if !touched.insert(id) {
                continue;
            }
            match step {
                Step::Put { id, known, .. } => drop(self.known.insert(id, known)),
                Step::Delete { id } => {
                    if let Some(known) = self.known.get_mut(&id) {
                        known.version = None;
                    }
                }
                Step::Touch { .. } | Step::Sweep => {}
            }
            steps.push(step);
        }
        steps
    }
}

fn name(id: u64) -> ResponseId {
    ResponseId::new(format!("r{id}"))
}

/// What was said, one line each, kept whatever becomes of who says it.
struct Said(File);

impl Said {
    fn open(folder: &Path) -> (Self, String) {
        let mut file =
            OpenOptions::new().read(true).append(true).create(true).open(folder.join("said")).unwrap();
        let mut said = String::new();
        file.read_to_string(&mut said).unwrap();
        (Self(file), said)
    }

    fn say(&mut self, line: &str) {
        self.0.write_all(format!("{line}\n").as_bytes()).unwrap();
    }
}

struct Subject {
    store: EmbeddedStore,
    evicts: bool,
}

impl Subject {
    async fn take(&self, step: Step) {
        match step {
            Step::Put { id, known, bytes } => {
                let text = format!("{:?} {}", known.version, "x".repeat(bytes));
                let now = SystemTime::now();
                let lives = if known.short_lived { 20 } else { 3_600_000 };
                let record = StoredResponse {
                    previous: known.previous.map(name),
                    input: vec![Item::input_text("user", &text)],
                    last_used_at: now,
                    expires_at: now + Duration::from_millis(lives),
                    ..record(name(id).as_str())
                };
                // As its caller does: what it continues has gone by now.
                if self.store.put(record.clone()).await.unwrap() != Lookup::Found(()) {
                    self.store.put(StoredResponse { previous: None, ..record }).await.unwrap();
                }
            }
            Step::Delete { id } => drop(self.store.delete(&name(id)).await.unwrap()),
            Step::Touch { id } => {
                // Its time stays as it is.
                self.store.touch(&name(id), SystemTime::UNIX_EPOCH).await.unwrap();
            }
            Step::Sweep => drop(self.store.sweep(SystemTime::now()).await.unwrap()),
        }
    }

    /// The version that is there.
    async fn version(&self, id: u64) -> Lookup<String> {
        let found = self.store.get(&name(id)).await.unwrap();
        found.map(|record| {
            let text = record.input[0].get("content").unwrap()[0]["text"].as_str().unwrap().to_owned();
            text.rsplit_once(' ').unwrap().0.to_owned()
        })
    }

    /// It is in the one state or the other.
    async fn check(&self, id: u64, known: &[Known]) {
        let found = self.version(id).await;
        let fits = |known: &Known| match &found {
            Lookup::Found(version) => known.version.is_some() && *version == format!("{:?}", known.version),
            Lookup::Deleted => known.version.is_none(),
            Lookup::Expired => known.short_lived,
            Lookup::Unknown => known.short_lived || self.evicts,
        };
        assert!(known.iter().any(fits), "{id}: {found:?} instead of {known:?}");
    }

    /// It is in this state, and so is all that it continues.
    async fn check_all(&self, id: u64, known: Known) {
        self.check(id, &[known]).await;
        self.store.chain(&name(id)).await.unwrap();
    }
}

/// The process that is killed. It begins by looking at what its predecessors left.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "run by `nothing_is_lost_and_nothing_comes_back`"]
async fn works_until_it_is_killed() {
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).unwrap();
    let (seed, folder) = line.trim_end().split_once(' ').unwrap();
    let (folder, seed) = (Path::new(folder), seed.parse::<u64>().unwrap());
    let mut model = Model::new(seed);
    let plan = Plan {
        limits: Limits { records: if model.evicts { FEW } else { 1_000_000 }, bytes: 1 << 30 },
        pace: PACE,
        ..plan(folder)
    };
    let tasks = Tasks::new();
    let subject = Subject { store: EmbeddedStore::start(plan, &tasks).await.unwrap(), evicts: model.evicts };
    let (mut said, before) = Said::open(folder);
    let (begun, done) = (before.matches("begun").count(), before.matches("done").count());
    for _ in 0..done {
        model.next();
    }
    // Of what was not acknowledged any part may be there.
    let certain = model.known.clone();
    let open = if begun > done { model.next() } else { Vec::new() };
    for (id, now) in &model.known {
        match certain.get(id) {
            Some(before) if before == now => subject.check_all(*id, *now).await,
            Some(before) => subject.check(*id, &[*before, *now]).await,
            None if subject.version(*id).await == Lookup::Unknown => {}
            None => subject.check(*id, &[*now]).await,
        }
    }
    futures_util::future::join_all(open.into_iter().map(|step| subject.take(step))).await;
    if begun > done {
        said.say("done");
    }
    said.say("checked");
    let mut dice = Dice(seed);
    loop {
        said.say("begun");
        let steps = model.next();
        futures_util::future::join_all(steps.iter().map(|step| subject.take(*step))).await;
        said.say("done");
        // While it runs, too.
        if dice.below(4) == 0
            && let Some((id, known)) = model.known.iter().nth(dice.below(model.known.len().max(1)))
        {
            subject.check_all(*id, *known).await;
        }
    }
}

#[test]
fn nothing_is_lost_and_nothing_comes_back() {
    let number = |name: &str| variable(name).map(|text| text.parse::<u64>().unwrap());
    let kills = number("KILLS").unwrap_or(KILLS);
    let seed = number("KILL_SEED").unwrap_or_else(|| micros(SystemTime::now()));
    println!("KILL_SEED={seed}");
    let mut dice = Dice(seed);
    let mut folder = tempfile::tempdir().unwrap();
    let (mut work, mut compacting) = (seed, 0);
    for n in 0..kills {
        if n % 12 == 0 {
            (folder, work) = (tempfile::tempdir().unwrap(), seed.wrapping_add(n / 12));
        }
        let (mut child, path) = (child(folder.path(), work), folder.path().to_owned());
        let length = |path: &PathBuf| std::fs::metadata(path.join("said")).map_or(0, |file| file.len());
        let before = length(&path);
        // While it opens the file, too.
        let waits_for_it = dice.below(4) > 0;
        let began = std::time::Instant::now();
        while waits_for_it && length(&path) == before && began.elapsed() < Duration::from_secs(60) {
            if child.try_wait().unwrap().is_some() {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_micros(dice.below(150_000) as u64));
        let ended = child.try_wait().unwrap();
        child.kill().unwrap();
        let end = child.wait_with_output().unwrap();
        let told = String::from_utf8_lossy(&end.stdout);
        assert!(ended.is_none() && end.status.signal() == Some(9), "kill {n} of {seed}:\n{told}");
        compacting += usize::from(path.join("r.redb-compact").exists());
    }
    println!("KILL_SEED={seed}: {kills} kills, {compacting} of them in a compaction");
}

fn child(folder: &Path, seed: u64) -> std::process::Child {
    let this = module_path!().split_once("::").unwrap().1;
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &format!("{this}::works_until_it_is_killed"), "--ignored", "--nocapture"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap();
    writeln!(child.stdin.take().unwrap(), "{seed} {}", folder.display()).unwrap();
    child
}

/// Random numbers that a seed gives again.
struct Dice(u64);

impl Dice {
    /// A number below `limit`.
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % limit as u64).unwrap()
    }
}

#[expect(clippy::disallowed_methods, reason = "tests have no configuration layer to read the environment")]
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}
