//! What only a broken or slow disk shows.

mod kills;

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::disk::CACHE_BYTES;
use super::*;
use crate::model::{Item, KeyId, Route, SessionId, ThreadId, TurnId};
use crate::store::testing::faulty::{Faults, Faulty, Freed};

struct World {
    folder: tempfile::TempDir,
    tasks: Tasks,
    store: EmbeddedStore,
}

impl World {
    async fn start(change: impl FnOnce(&mut Plan)) -> Self {
        let (folder, tasks) = (tempfile::tempdir().unwrap(), Tasks::new());
        let mut plan = plan(folder.path());
        change(&mut plan);
        let store = EmbeddedStore::start(plan, &tasks).await.unwrap();
        Self { folder, tasks, store }
    }

    async fn put(&self, name: &str) -> Result<Lookup<()>, StoreError> {
        self.store.put(record(name)).await
    }

    async fn status(&self, name: &str) -> Result<Lookup<()>, StoreError> {
        Ok(self.store.get(&ResponseId::new(name)).await?.map(drop))
    }

    fn length(&self) -> u64 {
        std::fs::metadata(self.folder.path().join("r.redb")).unwrap().len()
    }

    async fn end(self) {
        self.store.close().await;
        assert!(self.tasks.shut_down(Duration::from_secs(10)).await);
    }
}

fn plan(folder: &Path) -> Plan {
    Plan {
        path: folder.join("r.redb"),
        limits: Limits { records: 10_000, bytes: 1 << 30 },
        codec: Arc::default(),
        free: |_| Ok(u64::MAX),
        cache: CACHE_BYTES,
        pace: Pace { compact_every: Duration::from_millis(50), ..Pace::default() },
        backend: |file| Box::new(file),
    }
}

/// Waits for it, some seconds at most.
async fn until(mut is_so: impl AsyncFnMut() -> bool) {
    let soon = async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), soon).await.unwrap();
}

fn record(name: &str) -> StoredResponse {
    let now = SystemTime::now();
    StoredResponse {
        id: ResponseId::new(name),
        previous: None,
        key: KeyId::new("ci"),
        account: None,
        session: SessionId::new("session"),
        session_by_caller: true,
        model: "gpt-6-luna".into(),
        route: Route::Live,
        thread: ThreadId::new("thread"),
        turn: TurnId::new("turn"),
        generation: 1,
        upstream_response_id: None,
        own_input: 1,
        incomplete: None,
        head: None,
        input: vec![Item::input_text("user", &name.repeat(500))],
        output: Vec::new(),
        open_calls: Vec::new(),
        usage: None,
        chain_length: 1,
        created_at: now,
        last_used_at: now,
        expires_at: now + Duration::from_secs(3600),
    }
}

/// Of the test below.
static FREE: AtomicU64 = AtomicU64::new(u64::MAX);

#[tokio::test]
async fn on_a_full_disk_nothing_is_put_and_all_is_read() {
    let world = World::start(|plan| plan.free = |_| Ok(FREE.load(Ordering::Relaxed))).await;
    let id = ResponseId::new("a");
    world.put("a").await.unwrap();
    world.put("c").await.unwrap();
    // For deletions there is room for longer.
    FREE.store(3 << 20, Ordering::Relaxed);
    let refused = world.put("b").await;
    assert!(matches!(refused, Err(StoreError::Refused { .. })), "{refused:?}");
    assert_eq!(world.store.delete(&ResponseId::new("c")).await, Ok(Lookup::Found(())));
    assert_eq!(world.status("c").await, Ok(Lookup::Deleted));
    FREE.store(1 << 19, Ordering::Relaxed);
    for _ in 0..3 {
        let refused = world.put("b").await;
        assert!(matches!(refused, Err(StoreError::Refused { .. })), "{refused:?}");
        let refused = world.store.delete(&id).await;
        assert!(matches!(refused, Err(StoreError::Refused { .. })), "{refused:?}");
        assert_eq!(world.status("a").await, Ok(Lookup::Found(())));
        assert_eq!(world.status("b").await, Ok(Lookup::Unknown));
    }
    FREE.store(u64::MAX, Ordering::Relaxed);
    world.put("b").await.unwrap();
    assert_eq!(world.status("b").await, Ok(Lookup::Found(())));
    world.end().await;
}

const FILES: [&str; 3] = ["r.redb", "r.redb-journal", "r.redb-journal2"];

#[tokio::test]
async fn what_is_taken_up_from_the_journal_is_as_of_when_it_was_made() {
    let world = World::start(|plan| plan.pace.write_out_after = Duration::from_secs(3600)).await;
    let soon =
        StoredResponse { expires_at: SystemTime::now() + Duration::from_millis(500), ..record("first") };
    let after_it = |name| StoredResponse { previous: Some(ResponseId::new("first")), ..record(name) };
    assert_eq!(world.store.put(soon).await, Ok(Lookup::Found(())));
    assert_eq!(world.store.put(after_it("left")).await, Ok(Lookup::Found(())));
    assert_eq!(world.store.delete(&ResponseId::new("left")).await, Ok(Lookup::Found(())));
    assert_eq!(world.store.put(after_it("right")).await, Ok(Lookup::Found(())));
    let (id, later) = (ResponseId::new("right"), SystemTime::now() + Duration::from_secs(7200));
    assert_eq!(world.store.touch(&id, later).await, Ok(Lookup::Found(())));
    // As a kill leaves it.
    let killed = tempfile::tempdir().unwrap();
    for file in FILES {
        std::fs::copy(world.folder.path().join(file), killed.path().join(file)).unwrap();
    }
    tokio::time::sleep(Duration::from_millis(600)).await;
    let again = EmbeddedStore::start(plan(killed.path()), &world.tasks).await.unwrap();
    assert_eq!(again.get(&ResponseId::new("first")).await.unwrap().map(drop), Lookup::Expired);
    assert_eq!(again.get(&ResponseId::new("left")).await.unwrap().map(drop), Lookup::Deleted);
    let Ok(Lookup::Found(chain)) = again.chain(&id).await else { panic!("no chain") };
    assert_eq!((chain.before.len(), micros(chain.record.expires_at)), (1, micros(later)));
    again.close().await;
    world.end().await;
}

#[tokio::test]
async fn a_journal_that_the_file_has_all_of_is_not_made_again() {
    let world = World::start(|plan| plan.pace.write_out_after = Duration::from_millis(100)).await;
    let journals = || {
        FILES[1..].iter().find_map(|file| {
            let bytes = std::fs::read(world.folder.path().join(file)).unwrap();
            (!bytes.is_empty()).then_some((*file, bytes))
        })
    };
    world.put("a").await.unwrap();
    let (name, put) = journals().unwrap();
    until(async || journals().is_none()).await;
    assert_eq!(world.store.delete(&ResponseId::new("a")).await, Ok(Lookup::Found(())));
    until(async || journals().is_none()).await;
    world.store.close().await;
    // As a device leaves it that forgot that it was emptied.
    std::fs::write(world.folder.path().join(name), put).unwrap();
    let again = EmbeddedStore::start(plan(world.folder.path()), &world.tasks).await.unwrap();
    assert_eq!(again.get(&ResponseId::new("a")).await.unwrap().map(drop), Lookup::Deleted);
    // Later ones are.
    again.put(record("b")).await.unwrap();
    let killed = tempfile::tempdir().unwrap();
    for file in FILES {
        std::fs::copy(world.folder.path().join(file), killed.path().join(file)).unwrap();
    }
    let third = EmbeddedStore::start(plan(killed.path()), &world.tasks).await.unwrap();
    assert_eq!(third.get(&ResponseId::new("b")).await.unwrap().map(drop), Lookup::Found(()));
    assert_eq!(third.get(&ResponseId::new("a")).await.unwrap().map(drop), Lookup::Deleted);
    again.close().await;
    third.close().await;
    world.end().await;
}

#[tokio::test]
async fn a_disk_that_takes_no_write_is_read_on_and_written_again_once_it_does() {
    static FAULTS: Faults = Faults::none();
    let backend = |file| Box::new(Faulty { file, faults: &FAULTS }) as _;
    let world = World::start(|plan| (plan.backend, plan.cache) = (backend, 0)).await;
    for n in 0..100 {
        world.put(&format!("before{n}")).await.unwrap();
    }
    FAULTS.writes.store(true, Ordering::Relaxed);
    let mut kept = 0;
    until(async || match world.put(&format!("meanwhile{kept}")).await {
        Ok(_) => {
            kept += 1;
            false
        }
        Err(StoreError::Refused { reason }) => {
            assert!(reason.contains("cannot be written"), "{reason}");
            true
        }
        Err(error) => panic!("{error}"),
    })
    .await;
    let all_is_read = async |world: &World| {
        for n in 0..100 {
            assert_eq!(world.status(&format!("before{n}")).await, Ok(Lookup::Found(())), "{n}");
        }
        for n in 0..kept {
            assert_eq!(world.status(&format!("meanwhile{n}")).await, Ok(Lookup::Found(())), "{n}");
        }
    };
    all_is_read(&world).await;
    FAULTS.writes.store(false, Ordering::Relaxed);
    until(async || world.put("after").await.is_ok()).await;
    all_is_read(&world).await;
    world.end().await;
}

#[tokio::test]
async fn after_a_read_that_failed_the_file_is_opened_again_by_itself() {
    static FAULTS: Faults = Faults::none();
    let backend = |file| Box::new(Faulty { file, faults: &FAULTS }) as _;
    let world = World::start(|plan| (plan.backend, plan.cache) = (backend, 0)).await;
    for n in 0..100 {
        world.put(&format!("r{n}")).await.unwrap();
    }
    // What is only in memory needs no disk.
    until(async || world.length() > 100_000).await;
    FAULTS.reads.store(true, Ordering::Relaxed);
    let mut n = 0;
    until(async || {
        n = (n + 1) % 100;
        world.status(&format!("r{n}")).await.is_err()
    })
    .await;
    FAULTS.reads.store(false, Ordering::Relaxed);
    until(async || world.status("r0").await.is_ok()).await;
    for n in 0..100 {
        assert_eq!(world.status(&format!("r{n}")).await, Ok(Lookup::Found(())), "{n}");
    }
    world.put("after").await.unwrap();
    world.end().await;
}

#[tokio::test]
async fn nobody_waits_for_a_slow_device() {
    static FAULTS: Faults = Faults::none();
    let backend = |file| Box::new(Faulty { file, faults: &FAULTS }) as _;
    let world = World::start(|plan| plan.backend = backend).await;
    FAULTS.set_stuck(true);
    let _freed = Freed(&FAULTS);
    // Past several write-outs.
    for n in 0..1000 {
        world.put(&format!("r{n}")).await.unwrap();
    }
    let (id, later) = (ResponseId::new("r7"), SystemTime::now() + Duration::from_secs(7200));
    assert_eq!(world.store.touch(&id, later).await, Ok(Lookup::Found(())));
    assert_eq!(world.store.delete(&ResponseId::new("r8")).await, Ok(Lookup::Found(())));
    assert_eq!(world.store.sweep(SystemTime::now() + Duration::from_secs(5000)).await, Ok(999));
    assert_eq!(world.status("r7").await, Ok(Lookup::Found(())));
    assert_eq!(world.status("r9").await, Ok(Lookup::Unknown));
    // The memory for that has its bound.
    let mut waits = None;
    for n in 0..80 {
        let input = vec![Item::input_text("user", &"x".repeat(1 << 20))];
        let put = world.store.put(StoredResponse { input, ..record(&format!("huge{n}")) });
        if tokio::time::timeout(Duration::from_secs(3), put).await.is_err() {
            waits = Some(n);
            break;
        }
    }
    assert!(waits.is_some_and(|n| n >= 8), "{waits:?}");
    FAULTS.set_stuck(false);
    world.put("after").await.unwrap();
    assert_eq!(world.status("huge0").await, Ok(Lookup::Found(())));
    world.end().await;
}

#[tokio::test]
async fn a_file_that_is_mostly_free_is_compacted_while_it_is_used() {
    let world = World::start(|_| ()).await;
    let huge = |name: String| {
        let input = vec![Item::input_text("user", &"x".repeat(1 << 20))];
        StoredResponse { input, ..record(&name) }
    };
    for n in 0..12 {
        world.store.put(huge(format!("huge{n}"))).await.unwrap();
    }
    let mut children = Vec::new();
    for n in 0..200 {
        let previous = if n % 2 == 0 { "huge0".into() } else { format!("r{}", n - 1) };
        children
            .push(StoredResponse { previous: Some(ResponseId::new(previous)), ..record(&format!("r{n}")) });
    }
    for child in children {
        world.store.put(child).await.unwrap();
    }
    until(async || world.length() > 12 << 20).await;
    let before = world.length();
    for n in 0..12 {
        world.store.delete(&ResponseId::new(format!("huge{n}"))).await.unwrap();
    }
    // Whatever happens meanwhile is in the new file as well.
    let (mut puts, mut deleted) = (0, 0);
    until(async || {
        world.put(&format!("new{puts}")).await.unwrap();
        puts += 1;
        if puts % 3 == 0 && deleted < 150 {
            let id = ResponseId::new(format!("r{}", 199 - deleted));
            assert_eq!(world.store.delete(&id).await, Ok(Lookup::Found(())));
            deleted += 1;
        }
        assert_eq!(world.status("r0").await, Ok(Lookup::Found(())));
        world.length() < before / 3
    })
    .await;
    world.put("last").await.unwrap();
    let size = world.store.size().await;
    let look = async |store: &EmbeddedStore| {
        let status = async |name: &str| store.get(&ResponseId::new(name)).await.unwrap().map(drop);
        for n in 0..puts {
            assert_eq!(status(&format!("new{n}")).await, Lookup::Found(()), "{n}");
        }
        for n in 0..200 {
            let expected = if n >= 200 - deleted { Lookup::Deleted } else { Lookup::Found(()) };
            assert_eq!(status(&format!("r{n}")).await, expected, "{n}");
        }
        assert_eq!((status("huge0").await, status("last").await), (Lookup::Deleted, Lookup::Found(())));
        let Ok(Lookup::Found(chain)) = store.chain(&ResponseId::new("r1")).await else { panic!("no chain") };
        assert_eq!(chain.before.len(), 2);
    };
    look(&world.store).await;
    world.store.close().await;
    let again = EmbeddedStore::start(plan(world.folder.path()), &world.tasks).await.unwrap();
    assert_eq!(again.size().await, size);
    look(&again).await;
    // Nothing is left behind, and what is left goes when its time is up.
    let swept = again.sweep(SystemTime::now() + Duration::from_secs(7200)).await.unwrap();
    assert!(swept >= usize::try_from(size.unwrap().unwrap().0).unwrap(), "{swept}");
    assert_eq!(again.size().await.unwrap(), Some((0, 0)));
    let files = std::fs::read_dir(world.folder.path()).unwrap().count();
    assert_eq!(files, 3, "the file and its journals");
    again.close().await;
    world.end().await;
}
