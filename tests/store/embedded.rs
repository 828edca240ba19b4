//! The file on disk: kills, damage, other versions, other processes.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use codex_bridge::config::{StoreBackend, StoreConfig};
use codex_bridge::store::{EmbeddedStore, Lookup, OpenError, ResponseStore};
use codex_bridge::tasks::Tasks;
use redb::{Database, ReadableDatabase, TableDefinition};

use crate::records::{World, id, record, said, sized};

async fn world() -> World {
    World::of(StoreBackend::Embedded).await
}

fn file(world: &World) -> PathBuf {
    world.folder.path().join("responses.redb")
}

fn aside(folder: &Path, why: &str) -> Vec<PathBuf> {
    let files = std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("a file").path());
    files.filter(|path| path.to_string_lossy().contains(&format!(".redb.{why}-"))).collect()
}

#[tokio::test]
async fn a_closed_file_is_opened_again_with_all_there_was() {
    let mut world = world().await;
    world.put(record("a", None)).await;
    world.put(record("b", Some("a"))).await;
    world.put(record("c", None)).await;
    world.store.delete(&id("c")).await.expect("a delete");
    let size = world.size().await;
    world.reopen().await;
    assert_eq!(world.texts("b").await, Ok(said(&["a", "b"])));
    assert_eq!(world.status("c").await, Lookup::Deleted);
    assert_eq!(world.size().await, size);
}

#[tokio::test]
async fn the_file_is_for_us_alone() {
    let mut world = world().await;
    world.config.path = Some(world.folder.path().join("deep/er/r.redb"));
    world.reopen().await;
    world.put(record("a", None)).await;
    let mode = |path: &str| {
        let found = std::fs::metadata(world.folder.path().join(path)).expect("it is there");
        found.permissions().mode() & 0o777
    };
    assert_eq!((mode("deep"), mode("deep/er")), (0o700, 0o700));
    for path in ["deep/er/r.redb", "deep/er/r.redb-journal", "responses.redb"] {
        assert_eq!(mode(path), 0o600, "{path}");
    }
}

#[tokio::test]
async fn a_store_is_written_out_when_the_daemon_stops() {
    let mut world = world().await;
    world.put(record("a", None)).await;
    assert!(world.tasks.shut_down(Duration::from_secs(10)).await);
    for journal in ["responses.redb-journal", "responses.redb-journal2"] {
        let path = world.folder.path().join(journal);
        assert_eq!(std::fs::metadata(path).expect("a journal").len(), 0, "{journal}");
    }
    world.tasks = Tasks::new();
    world.reopen().await;
    assert_eq!(world.texts("a").await, Ok(said(&["a"])));
}

#[tokio::test]
async fn a_second_opener_is_told_so() {
    let world = world().await;
    let error = world.open_again().await.expect_err("it is in use");
    assert!(matches!(&error, OpenError::InUse { .. }), "{error}");
    assert!(aside(world.folder.path(), "corrupt").is_empty());
    world.put(record("a", None)).await;
    assert_eq!(world.texts("a").await, Ok(said(&["a"])));
}

/// The other side of the next test: puts record after record until it is killed, and says each that was
/// acknowledged.
#[tokio::test]
#[ignore = "run by `what_was_acknowledged_survives_a_kill`"]
async fn puts_until_it_is_killed() {
    let mut folder = String::new();
    std::io::stdin().read_line(&mut folder).expect("a folder");
    let path = Path::new(folder.trim()).join("responses.redb");
    let store = EmbeddedStore::open(path, 1_000_000, 1 << 30, None, &Tasks::new()).await.expect("a store");
    let start = u64::from(std::process::id()) << 20;
    for n in start.. {
        let previous = (n > start).then(|| (n - 1).to_string());
        store.put(record(&n.to_string(), previous.as_deref())).await.expect("a put");
        if let Some(previous) = previous.filter(|_| (n - 1) % 10 == 3) {
            store.delete(&id(&previous)).await.expect("a delete");
        }
        let mut out = std::io::stdout();
        writeln!(out, "acknowledged {n}").and_then(|()| out.flush()).expect("somebody reads");
    }
}

#[tokio::test]
async fn what_was_acknowledged_survives_a_kill() {
    let mut world = world().await;
    world.store.close().await;
    let mut acknowledged: Vec<Vec<u64>> = Vec::new();
    // Past the first write-out, and before it.
    for wanted in [20, 400, 3, 4000] {
        let mut child = Command::new(std::env::current_exe().expect("this binary"))
            .args(["--exact", "embedded::puts_until_it_is_killed", "--ignored", "--nocapture"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a process");
        writeln!(child.stdin.take().expect("its input"), "{}", world.folder.path().display())
            .expect("it reads");
        let mut lines =
            BufReader::new(child.stdout.take().expect("its output")).lines().map_while(Result::ok);
        let number = |line: String| line.split_once("acknowledged ")?.1.parse().ok();
        let mut said: Vec<u64> = lines.by_ref().filter_map(number).take(wanted).collect();
        child.kill().expect("a kill");
        // What it said while it was being killed counts as well, but for a line that broke off.
        let rest: Vec<String> = lines.collect();
        said.extend(rest.into_iter().rev().skip(1).filter_map(number));
        child.wait().expect("its end");
        assert!(said.len() >= wanted, "{}", said.len());
        acknowledged.push(said);

        world.reopen().await;
        for said in &acknowledged {
            let last = *said.last().expect("a record");
            for n in said.iter().filter(|n| **n < last || *n % 10 != 3) {
                let expected = if n % 10 == 3 { Lookup::Deleted } else { Lookup::Found(()) };
                assert_eq!(world.status(&n.to_string()).await, expected, "{n}");
            }
            let whole = said.iter().rev().find(|n| *n % 10 != 3).expect("a record that was not deleted");
            let found = world.texts(&whole.to_string()).await;
            let Ok(Lookup::Found(texts)) = found else { panic!("the chain of {whole}: {found:?}") };
            assert_eq!(texts.len() as u64, 2 * (whole - said[0] + 1));
        }
        world.store.close().await;
    }
    assert!(aside(world.folder.path(), "corrupt").is_empty());
}

/// The other side of the next test: makes room all the time, so that the file is compacted as often as may be, and
/// says what it put.
#[tokio::test]
#[ignore = "run by `a_kill_while_the_file_is_compacted_loses_nothing`"]
async fn compacts_until_it_is_killed() {
    let mut folder = String::new();
    std::io::stdin().read_line(&mut folder).expect("a folder");
    let path = Path::new(folder.trim()).join("responses.redb");
    let store = EmbeddedStore::open(path, 1_000_000, 1 << 30, None, &Tasks::new()).await.expect("a store");
    let start = u64::from(std::process::id()) << 20;
    // Much to copy, and more that is not.
    let many = (0..400).map(|n| store.put(sized(&format!("small{start}-{n}"), 2000, n)));
    futures_util::future::try_join_all(many).await.expect("puts");
    let huge = |n: u64| format!("huge{start}-{n}");
    let many = (0..20).map(|n| store.put(sized(&huge(n), 1 << 20, n)));
    futures_util::future::try_join_all(many).await.expect("puts");
    for n in 0..20 {
        store.delete(&id(&huge(n))).await.expect("a delete");
    }
    for n in start.. {
        store.put(record(&n.to_string(), None)).await.expect("a put");
        let mut out = std::io::stdout();
        writeln!(out, "acknowledged {n}").and_then(|()| out.flush()).expect("somebody reads");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn a_kill_while_the_file_is_compacted_loses_nothing() {
    let mut world = World::with(StoreConfig { max_bytes: 1 << 30, ..StoreConfig::default() }).await;
    world.store.close().await;
    let copy = world.folder.path().join("responses.redb-compact");
    let (mut acknowledged, mut interrupted): (Vec<String>, usize) = (Vec::new(), 0);
    // Killed as soon as there is a copy, in its middle, about when it takes its place, and after that.
    for after in [0, 30, 100, 300, 600] {
        let mut child = Command::new(std::env::current_exe().expect("this binary"))
            .args(["--exact", "embedded::compacts_until_it_is_killed", "--ignored", "--nocapture"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a process");
        writeln!(child.stdin.take().expect("its input"), "{}", world.folder.path().display())
            .expect("it reads");
        let output = BufReader::new(child.stdout.take().expect("its output"));
        let reader = std::thread::Builder::new()
            .spawn(move || output.lines().map_while(Result::ok).collect::<Vec<_>>())
            .expect("a thread");
        let inode = || std::fs::metadata(file(&world)).expect("the file").ino();
        let (before, waits) = (inode(), std::time::Instant::now());
        // Or it was faster than we look.
        while !copy.exists() && inode() == before && waits.elapsed() < Duration::from_secs(60) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let after = after + u64::from(child.id() % 50);
        tokio::time::sleep(Duration::from_millis(after)).await;
        child.kill().expect("a kill");
        child.wait().expect("its end");
        interrupted += usize::from(copy.exists());
        let lines = reader.join().expect("what it said");
        // But for a line that broke off.
        let said = lines.iter().rev().skip(1).filter_map(|line| line.split_once("acknowledged "));
        let said: Vec<String> = said.map(|(_, number)| number.to_owned()).collect();
        assert!(!said.is_empty(), "it came to nothing within its time");
        acknowledged.extend(said);
        let start = u64::from(child.id()) << 20;
        acknowledged.extend((0..400).map(|n| format!("small{start}-{n}")));

        world.reopen().await;
        for name in &acknowledged {
            assert_eq!(world.status(name).await, Lookup::Found(()), "{name} after {after} ms");
        }
        assert_eq!(world.status(&format!("huge{start}-7")).await, Lookup::Deleted, "after {after} ms");
        assert!(!copy.exists());
        world.store.close().await;
    }
    assert!(interrupted > 0, "none was killed while it copied");
    assert!(aside(world.folder.path(), "corrupt").is_empty());
}

/// A folder with a store of some records, written out and closed.
async fn filled() -> World {
    let world = world().await;
    for n in 0..60 {
        world.put(sized(&format!("r{n}"), 600, n)).await;
    }
    world.store.close().await;
    world
}

#[tokio::test]
async fn a_damaged_file_is_moved_aside_and_a_fresh_one_begun_whatever_the_damage() {
    let mut world = filled().await;
    let path = file(&world);
    let whole = std::fs::read(&path).expect("the file");
    let mut fresh = 0;
    let step = whole.len() / 48;
    for (n, at) in (0..whole.len()).step_by(step).enumerate() {
        let mut damaged = whole.clone();
        match n % 3 {
            0 => damaged.truncate(at),
            1 => damaged[at..].iter_mut().take(64).for_each(|byte| *byte ^= 0xa5),
            _ => damaged[at..].iter_mut().take(5000).for_each(|byte| *byte = 0),
        }
        std::fs::write(&path, &damaged).expect("a write");
        world.reopen().await;
        // Either all of it is there, or none: never a part that nobody can tell from the whole.
        let (records, _) = world.size().await;
        assert!(records == 60 || records == 0, "{records} records with damage at {at}");
        fresh += usize::from(records == 0);
        for n in 0..60 {
            let found = world.status(&format!("r{n}")).await;
            assert_eq!(found == Lookup::Found(()), records == 60);
        }
        world.put(record("new", None)).await;
        assert_eq!(world.texts("new").await, Ok(said(&["new"])));
        world.store.close().await;
    }
    assert!(fresh > 10, "{fresh} of the damages were found");
    assert_eq!(aside(world.folder.path(), "corrupt").len(), 3, "a few are kept");
}

#[tokio::test]
async fn nonsense_in_place_of_the_file_is_moved_aside_too() {
    let mut world = filled().await;
    for nonsense in [vec![0; 100], b"SQLite format 3\0".repeat(500), vec![0xff; 100_000], b"redb".to_vec()] {
        std::fs::write(file(&world), &nonsense).expect("a write");
        world.reopen().await;
        assert_eq!(world.size().await, (0, 0));
        world.put(record("a", None)).await;
        world.store.close().await;
        let newest = aside(world.folder.path(), "corrupt").into_iter().max().expect("a file moved aside");
        assert_eq!(std::fs::read(newest).expect("it"), nonsense);
    }
}

#[tokio::test]
async fn a_newer_form_is_refused_and_an_older_one_moved_aside() {
    const FILE: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("file");
    let mut world = filled().await;
    let path = file(&world);
    let set = |version: u32| {
        let database = Database::create(&path).expect("the file");
        let change = database.begin_write().expect("a change");
        change
            .open_table(FILE)
            .expect("a table")
            .insert("schema", version.to_le_bytes().as_slice())
            .map(drop)
            .expect("a version");
        change.commit().expect("a commit");
    };
    set(2);
    let error = world.open_again().await.expect_err("it is newer");
    assert!(matches!(&error, OpenError::Newer { found: 2, ours: 1, .. }), "{error}");
    assert!(error.to_string().contains("newer version"), "{error}");
    set(1);
    world.reopen().await;
    assert_eq!(world.size().await.0, 60);
    world.store.close().await;
    set(0);
    world.reopen().await;
    assert_eq!(world.size().await, (0, 0));
    assert_eq!(aside(world.folder.path(), "old").len(), 1);
    world.store.close().await;
    let database = Database::create(&path).expect("the file");
    let read = database.begin_read().expect("a look");
    let schema = read.open_table(FILE).expect("a table").get("schema").expect("a look");
    assert_eq!(schema.expect("a version").value(), 1_u32.to_le_bytes());
}

#[tokio::test]
async fn a_file_that_is_mostly_free_is_compacted_at_the_start() {
    let config = StoreConfig { max_bytes: 1 << 30, ..StoreConfig::default() };
    let mut world = World::with(config).await;
    let puts = (0..12).map(|n| world.store.put(sized(&format!("r{n}"), 1 << 20, n)));
    for put in futures_util::future::join_all(puts).await {
        put.expect("a put");
    }
    // What is put and deleted at once never comes into the file.
    world.store.close().await;
    let length = |world: &World| std::fs::metadata(file(world)).expect("the file").len();
    let before = length(&world);
    assert!(before > 12 << 20, "{before}");
    world.reopen().await;
    for n in 0..11 {
        world.store.delete(&id(&format!("r{n}"))).await.expect("a delete");
    }
    // Some of it may be compacted by then: the store does so in use, too.
    world.store.close().await;
    world.reopen().await;
    assert!(length(&world) < before / 3, "{} of {before}", length(&world));
    assert_eq!(world.status("r11").await, Lookup::Found(()));
    assert_eq!(world.status("r1").await, Lookup::Deleted);
}
