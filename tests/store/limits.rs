//! The stores that bound themselves: what goes past a limit, and what a sweep leaves.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use codex_bridge::config::{StoreBackend, StoreConfig};
use codex_bridge::store::{Lookup, StoreError, StoredResponse};

use crate::records::{HOUR, World, expired, id, now, record, said, sized};

const BOTH: [StoreBackend; 2] = [StoreBackend::Memory, StoreBackend::Embedded];

async fn limited(backend: StoreBackend, max_records: usize, max_bytes: usize) -> World {
    World::with(StoreConfig { backend, max_records, max_bytes, ..StoreConfig::default() }).await
}

#[tokio::test]
async fn past_the_number_the_least_recently_used_goes() {
    for backend in BOTH {
        let world = limited(backend, 3, 1 << 20).await;
        for (n, name) in (0..).zip(["a", "b", "c"]) {
            world.put(sized(name, 10, n)).await;
        }
        world.store.touch(&id("a"), now() + HOUR).await.expect("a touch");
        world.put(record("d", None)).await;
        let there = |name| world.status(name);
        assert_eq!(there("b").await, Lookup::Unknown);
        for name in ["a", "c", "d"] {
            assert_eq!(there(name).await, Lookup::Found(()), "{name}");
        }
        assert_eq!(world.size().await.0, 3);
    }
}

#[tokio::test]
async fn bytes_are_bounded_too() {
    for backend in BOTH {
        let world = limited(backend, 1000, 10_000).await;
        for (n, name) in (0..).zip(["a", "b", "c", "d", "e"]) {
            world.put(sized(name, 2000, n)).await;
        }
        let (records, bytes) = world.size().await;
        assert!((3..=4).contains(&records) && bytes <= 10_000, "{records} records, {bytes} bytes");
        assert_eq!(world.status("a").await, Lookup::Unknown);
        // One that would take the room of all others is not taken.
        let huge = world.store.put(sized("huge", 50_000, 9)).await;
        assert_eq!(huge, Err(StoreError::TooLarge { limit: 10_000 }), "{backend:?}");
        assert_eq!((world.status("huge").await, world.size().await), (Lookup::Unknown, (records, bytes)));
    }
}

#[tokio::test]
async fn one_chain_takes_at_most_half_of_the_bytes() {
    for backend in BOTH {
        let world = limited(backend, 1000, 20_000).await;
        for name in ["a", "b"] {
            world.put(sized(name, 1000, 0)).await;
        }
        let mut previous = None;
        let mut taken = 0;
        for n in 0..30 {
            let name = format!("c{n}");
            let record = StoredResponse { previous: previous.clone(), ..sized(&name, 1000, 1) };
            let put = world.store.put(record).await;
            assert!(matches!(put, Ok(_) | Err(StoreError::TooLarge { .. })), "{put:?}");
            if put.is_ok() {
                assert_eq!(taken, n, "none is taken after one that was not");
                taken += 1;
                previous = Some(id(&name));
            }
        }
        assert!((4..8).contains(&taken), "{backend:?}: {taken}");
        for name in ["a", "b", "c0"] {
            assert_eq!(world.status(name).await, Lookup::Found(()), "{name}");
        }
        // Others are taken as ever.
        world.put(sized("d", 1000, 2)).await;
    }
}

#[tokio::test]
async fn a_chain_goes_from_its_end_so_that_none_is_left_with_a_gap() {
    for backend in BOTH {
        let world = limited(backend, 4, 1 << 20).await;
        let at = |name: &'static str, previous, used| StoredResponse {
            last_used_at: now() - HOUR + Duration::from_secs(used),
            ..record(name, previous)
        };
        world.put(at("a", None, 0)).await;
        world.put(at("b", Some("a"), 1)).await;
        world.put(at("x", None, 2)).await;
        world.put(at("c", Some("b"), 3)).await;
        // Older than all: but `b` and `c` need `a`.
        world.put(at("y", None, 4)).await;
        assert_eq!(world.status("x").await, Lookup::Unknown);
        assert_eq!(world.texts("c").await, Ok(said(&["a", "b", "c"])));
        world.put(at("z", None, 5)).await;
        assert_eq!(world.status("c").await, Lookup::Unknown);
        assert_eq!(world.texts("b").await, Ok(said(&["a", "b"])));
    }
}

#[tokio::test]
async fn a_sweep_lets_go_of_all_that_expired_and_of_nothing_else() {
    for backend in BOTH {
        let world = World::of(backend).await;
        for n in 0..300 {
            world.put(expired(&format!("gone{n}"), None)).await;
        }
        let mut previous: Option<String> = None;
        for n in 0..200 {
            let name = format!("chain{n}");
            world.put(expired(&name, previous.as_deref())).await;
            previous = Some(name);
        }
        world.put(record("tip", previous.as_deref())).await;
        world.put(record("alone", None)).await;
        assert_eq!(world.store.sweep(SystemTime::now()).await, Ok(500));
        assert_eq!(world.size().await.0, 202);
        assert_eq!(world.status("gone7").await, Lookup::Unknown);
        assert!(matches!(world.texts("tip").await, Ok(Lookup::Found(texts)) if texts.len() == 402));
        assert_eq!(world.store.sweep(SystemTime::now()).await, Ok(0));
        // With its tip the whole chain goes, a bounded part of it at once.
        world.store.delete(&id("tip")).await.expect("a delete");
        assert!(world.size().await.0 > 100);
        world.store.sweep(SystemTime::now()).await.expect("a sweep");
        assert_eq!(world.size().await.0, 2, "the deleted tip, and the one alone");
        world.store.sweep(SystemTime::now() + 2 * HOUR).await.expect("a sweep");
        assert_eq!(world.size().await, (0, 0));
    }
}

/// What a chain of so many responses, of a kilobyte each, takes: in bytes of the store's own counting, and on disk
/// or on the server.
async fn chain_takes(backend: StoreBackend, responses: usize) -> u64 {
    let world = World::of(backend).await;
    let mut previous: Option<String> = None;
    for n in 0..responses {
        let name = format!("r{n}");
        let mut record = record(&name, previous.as_deref());
        record.input = sized(&name, 1000, 0).input;
        world.put(record).await;
        previous = Some(name);
    }
    let tip = previous.expect("a tip");
    assert!(matches!(world.texts(&tip).await, Ok(Lookup::Found(texts)) if texts.len() == 2 * responses));
    match backend {
        StoreBackend::Memory => world.size().await.1,
        StoreBackend::Embedded => {
            let counted = world.size().await.1;
            world.store.close().await;
            let file = std::fs::metadata(world.folder.path().join("responses.redb")).expect("the file").len();
            // Pages that are half empty, and the least that a file takes.
            assert!(file < 3 * counted + (2 << 20), "{file} bytes for {counted}");
            counted
        }
        StoreBackend::Redis => {
            let client =
                redis::Client::open(world.server.as_ref().expect("a server").url()).expect("a client");
            let mut connection = client.get_multiplexed_async_connection().await.expect("a connection");
            let mut keys = redis::cmd("KEYS");
            let keys: Vec<String> = keys.arg("*").query_async(&mut connection).await.expect("the keys");
            assert_eq!(keys.len(), responses);
            let mut taken = 0;
            for key in keys {
                let mut usage = redis::cmd("MEMORY");
                let usage = usage
                    .arg("USAGE")
                    .arg(key)
                    .arg("SAMPLES")
                    .arg(0)
                    .query_async::<u64>(&mut connection)
                    .await;
                taken += usage.expect("a size");
            }
            taken
        }
    }
}

#[tokio::test]
async fn a_chain_takes_what_its_items_take_each_once() {
    for backend in [StoreBackend::Memory, StoreBackend::Embedded, StoreBackend::Redis] {
        let (ten, hundred) = (chain_takes(backend, 10).await, chain_takes(backend, 100).await);
        assert!(hundred < 100 * 3000, "{backend:?}: {hundred} bytes");
        assert!((9 * ten..11 * ten).contains(&hundred), "{backend:?}: {ten} bytes for 10, {hundred} for 100");
    }
}

/// A small generator of numbers: the walk is the same in every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, most: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from((self.0 >> 33) % most as u64).expect("a small number")
    }
}

/// A random tree of records that are deleted, expire, are put again and swept, beside a model that forgets
/// nothing: every living record's chain is whole at every step, and in the end nothing is left.
#[tokio::test]
async fn over_a_random_walk_every_living_chain_is_whole() {
    for backend in BOTH {
        for seed in 0..6 {
            let world = World::of(backend).await;
            let mut dice = Dice(seed);
            // Name to predecessor and whether it lives.
            let mut model: HashMap<String, (Option<String>, bool)> = HashMap::new();
            let mut names: Vec<String> = Vec::new();
            for step in 0..250 {
                let any = (!names.is_empty()).then(|| names[dice.below(names.len())].clone());
                let alive = any.filter(|name| model[name].1);
                match (dice.below(10), alive) {
                    (0 | 1, Some(name)) => {
                        assert_eq!(world.store.delete(&id(&name)).await, Ok(Lookup::Found(())), "{name}");
                        model.get_mut(&name).expect("a record").1 = false;
                    }
                    (2, Some(name)) => {
                        let previous = model[&name].0.clone();
                        world.put(expired(&name, previous.as_deref())).await;
                        model.get_mut(&name).expect("a record").1 = false;
                    }
                    (3, Some(name)) => {
                        let found = world.store.touch(&id(&name), now() + HOUR).await;
                        assert_eq!(found, Ok(Lookup::Found(())));
                    }
                    (4, _) => drop(world.store.sweep(SystemTime::now()).await.expect("a sweep")),
                    (_, alive) => {
                        let name = format!("s{step}");
                        world.put(record(&name, alive.as_deref())).await;
                        model.insert(name.clone(), (alive, true));
                        names.push(name);
                    }
                }
                if step % 10 != 0 {
                    continue;
                }
                for name in &names {
                    let mut chain = vec![name.as_str()];
                    while let Some(previous) = model[chain[chain.len() - 1]].0.as_deref() {
                        chain.push(previous);
                    }
                    chain.reverse();
                    let found = world.texts(name).await;
                    if model[name].1 {
                        assert_eq!(found, Ok(said(&chain)), "{backend:?}, seed {seed}, step {step}");
                    } else {
                        assert!(!matches!(found, Ok(Lookup::Found(_))), "{name} came back");
                    }
                }
            }
            for name in names {
                world.store.delete(&id(&name)).await.expect("a delete");
            }
            world.store.sweep(SystemTime::now() + 2 * HOUR).await.expect("a sweep");
            assert_eq!(world.size().await, (0, 0), "{backend:?}, seed {seed}");
        }
    }
}
