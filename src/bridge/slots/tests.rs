use std::collections::HashMap;
use std::pin::Pin;

use futures_util::FutureExt;
use proptest::prelude::*;
use tokio::task::{JoinSet, yield_now};
use tokio::time::timeout;

use super::*;

fn slots(slots: usize, queue: usize) -> Arc<Slots> {
    Arc::new(Slots::new(&AdmissionConfig { slots, queue, queue_timeout: Duration::from_secs(5) }))
}

fn claim(key: &str, priority: Priority) -> Claim {
    Claim { key: KeyId::new(key), priority, concurrency: None, call: CallTicket::default() }
}

fn anyone() -> Claim {
    claim(KeyId::anonymous().as_str(), Priority::Interactive)
}

fn waiting(slots: &Arc<Slots>) -> JoinSet<Result<(), BridgeError>> {
    let slots = Arc::clone(slots);
    let mut waiting = JoinSet::new();
    waiting.spawn(async move { slots.acquire(anyone()).await.map(drop) });
    waiting
}

fn figures(slots: &Slots) -> (usize, usize) {
    let health = slots.health();
    (health.in_use, health.queued)
}

type Waiting<'a> = Pin<Box<dyn Future<Output = Result<Slot, BridgeError>> + 'a>>;

/// Waiters in the order in which they came, and who is granted.
struct Line<'a> {
    slots: &'a Slots,
    waiters: Vec<(String, Waiting<'a>)>,
}

impl<'a> Line<'a> {
    fn new(slots: &'a Slots) -> Self {
        Self { slots, waiters: Vec::new() }
    }

    fn join(&mut self, name: impl Into<String>, claim: Claim) {
        let mut waiter = Box::pin(self.slots.acquire(claim));
        assert!(waiter.as_mut().now_or_never().is_none(), "it need not wait");
        self.waiters.push((name.into(), waiter));
    }

    /// Who has a slot now, where it is one.
    fn granted(&mut self) -> Option<(String, Slot)> {
        for at in 0..self.waiters.len() {
            if let Some(slot) = self.waiters[at].1.as_mut().now_or_never() {
                let (name, _) = self.waiters.remove(at);
                return Some((name, slot.expect("a slot")));
            }
        }
        None
    }

    /// Gives one slot back after the other; who had it, in order.
    fn order(&mut self, mut held: Slot) -> Vec<String> {
        let mut order = Vec::new();
        loop {
            drop(held);
            let Some((name, slot)) = self.granted() else { return order };
            (order, held) = ([order, vec![name]].concat(), slot);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_refuses_at_once_and_a_long_wait_later() {
    let slots = slots(1, 1);
    let held = slots.acquire(anyone()).await.unwrap();
    let mut waiter = waiting(&slots);
    yield_now().await;
    assert_eq!(figures(&slots), (1, 1));
    assert!(matches!(slots.acquire(anyone()).await, Err(BridgeError::Busy { .. })));
    let start = Instant::now();
    assert!(matches!(waiter.join_next().await.unwrap().unwrap(), Err(BridgeError::Busy { .. })));
    assert_eq!(start.elapsed().as_secs(), 5);
    drop(held);
    assert_eq!(figures(&slots), (0, 0));
    let counts = slots.health().counts;
    assert_eq!((counts.refused_full, counts.timed_out, counts.left), (1, 1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_waiter_that_leaves_gives_its_place_back_and_takes_no_slot() {
    let slots = slots(1, 4);
    let held = slots.acquire(anyone()).await.unwrap();
    let left = timeout(Duration::from_secs(1), slots.acquire(anyone())).await;
    assert!(left.is_err());
    assert_eq!(figures(&slots), (1, 0));
    drop(held);
    assert_eq!(figures(&slots), (0, 0));
    drop(slots.acquire(anyone()).await.unwrap());
    assert_eq!(slots.health().counts.left, 1);
}

/// At each of its await points: before the first poll, while it waits, and with the slot granted but not seen.
#[tokio::test(start_paused = true)]
async fn whoever_is_dropped_passes_the_slot_on() {
    let slots = slots(1, 4);
    drop(slots.acquire(anyone()));
    let held = slots.acquire(anyone()).await.unwrap();
    let mut first = Box::pin(slots.acquire(anyone()));
    let mut second = Box::pin(slots.acquire(anyone()));
    assert!(first.as_mut().now_or_never().is_none());
    assert!(second.as_mut().now_or_never().is_none());
    drop(held);
    // Granted to the first, which never looks.
    assert_eq!(figures(&slots), (1, 1));
    drop(first);
    assert_eq!(figures(&slots), (1, 0));
    let slot = second.as_mut().now_or_never().expect("the second has it").unwrap();
    assert_eq!(figures(&slots), (1, 0));
    drop((second, slot));
    assert_eq!(figures(&slots), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn closing_refuses_waiters_and_newcomers() {
    let slots = slots(1, 4);
    let _held = slots.acquire(anyone()).await.unwrap();
    let mut waiter = waiting(&slots);
    yield_now().await;
    slots.close();
    assert!(matches!(waiter.join_next().await.unwrap().unwrap(), Err(BridgeError::Draining)));
    assert!(matches!(slots.acquire(anyone()).await, Err(BridgeError::Draining)));
    assert_eq!(figures(&slots), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn retry_after_follows_the_pace_of_the_class_and_the_key() {
    let slots = slots(2, 4);
    let held = (slots.acquire(anyone()).await.unwrap(), slots.acquire(anyone()).await.unwrap());
    tokio::time::advance(Duration::from_secs(20)).await;
    drop(held);
    let _held = (slots.acquire(anyone()).await.unwrap(), slots.acquire(anyone()).await.unwrap());
    let mut line = Line::new(&slots);
    for key in ["a", "b"] {
        line.join(key, claim(key, Priority::Interactive));
    }
    for key in ["c", "d"] {
        line.join(key, claim(key, Priority::Batch));
    }
    let wait = |claim| match slots.acquire(claim).now_or_never() {
        Some(Err(BridgeError::Busy { retry_after })) => retry_after.as_secs(),
        other => panic!("not refused: {other:?}"),
    };
    assert_eq!(wait(claim("x", Priority::Interactive)), 2 * 20, "two before it, two slots");
    assert_eq!(wait(claim("x", Priority::Batch)), 3 * 20, "four before it");
    let one_at_a_time = Claim { concurrency: Some(1), ..claim("c", Priority::Interactive) };
    assert_eq!(wait(one_at_a_time), 2 * 20, "its own one before it");
}

#[tokio::test(start_paused = true)]
async fn keys_take_turns() {
    let slots = slots(1, 100);
    let held = slots.acquire(anyone()).await.unwrap();
    let mut line = Line::new(&slots);
    for n in 0..4 {
        line.join(format!("greedy {n}"), claim("greedy", Priority::Interactive));
    }
    line.join("modest 0", claim("modest", Priority::Interactive));
    line.join("late 0", claim("late", Priority::Interactive));
    line.join("modest 1", claim("modest", Priority::Interactive));
    assert_eq!(
        line.order(held),
        ["greedy 0", "modest 0", "late 0", "greedy 1", "modest 1", "greedy 2", "greedy 3"]
    );
}

#[tokio::test(start_paused = true)]
async fn a_key_at_its_bound_waits_and_holds_nobody_up() {
    let slots = slots(2, 10);
    let bounded = || Claim { concurrency: Some(1), ..claim("bounded", Priority::Interactive) };
    let first = slots.acquire(bounded()).await.unwrap();
    let mut line = Line::new(&slots);
    // A slot is free, and not for this key.
    line.join("bounded", bounded());
    let other = slots.acquire(claim("other", Priority::Batch)).await.unwrap();
    line.join("batch", claim("other", Priority::Batch));
    assert_eq!(figures(&slots), (2, 2));
    drop(other);
    let (name, _batch) = line.granted().unwrap();
    assert_eq!(name, "batch");
    assert!(line.granted().is_none());
    drop(first);
    assert_eq!(line.granted().unwrap().0, "bounded");
}

#[tokio::test(start_paused = true)]
async fn batch_waits_for_interactive_but_not_for_good() {
    let slots = slots(1, 100);
    let held = slots.acquire(anyone()).await.unwrap();
    let mut line = Line::new(&slots);
    for n in 0..3 {
        line.join(format!("batch {n}"), claim("b", Priority::Batch));
    }
    for n in 0..20 {
        line.join(format!("now {n}"), claim("i", Priority::Interactive));
    }
    let order = line.order(held);
    let at: Vec<usize> =
        (0..3).map(|n| order.iter().position(|name| *name == format!("batch {n}")).unwrap()).collect();
    assert_eq!(at, [8, 17, 22]);
}

#[tokio::test(start_paused = true)]
async fn neither_one_key_nor_batch_fills_the_queue() {
    let slots = slots(1, 4);
    let _held = slots.acquire(anyone()).await.unwrap();
    let mut line = Line::new(&slots);
    let refused = |claim| matches!(slots.acquire(claim).now_or_never(), Some(Err(BridgeError::Busy { .. })));
    line.join("a", claim("a", Priority::Interactive));
    line.join("a", claim("a", Priority::Batch));
    assert!(refused(claim("a", Priority::Interactive)));
    line.join("b", claim("b", Priority::Batch));
    assert!(refused(claim("c", Priority::Batch)));
    line.join("c", claim("c", Priority::Interactive));
    assert!(refused(claim("c", Priority::Interactive)));
    let counts = slots.health().counts;
    assert_eq!((counts.refused_share, counts.refused_full), (2, 1));
}

/// Two that fill the queue between them keep nobody else out.
#[tokio::test(start_paused = true)]
async fn in_a_full_queue_a_key_with_nothing_takes_anothers_newest_place() {
    let slots = slots(1, 4);
    let held = slots.acquire(anyone()).await.unwrap();
    let [first, mut second] = [0; 2].map(|_| Box::pin(slots.acquire(claim("a", Priority::Interactive))));
    let [third, mut fourth] = [0; 2].map(|_| Box::pin(slots.acquire(claim("b", Priority::Batch))));
    let mut all = [first, third];
    for waiting in all.iter_mut().chain([&mut second, &mut fourth]) {
        assert!(waiting.as_mut().now_or_never().is_none());
    }
    // Batch goes first, and takes none of interactive's.
    let mut batch = Box::pin(slots.acquire(claim("c", Priority::Batch)));
    assert!(batch.as_mut().now_or_never().is_none());
    let refused = fourth.as_mut().now_or_never();
    assert!(matches!(refused, Some(Err(BridgeError::Busy { .. }))), "{refused:?}");
    assert!(slots.acquire(claim("d", Priority::Batch)).now_or_never().is_some(), "there is nobody with two");
    let mut late = Box::pin(slots.acquire(claim("d", Priority::Interactive)));
    assert!(late.as_mut().now_or_never().is_none());
    // Dropped without a look, it gives back nothing that is another's.
    drop(second);
    assert_eq!(figures(&slots), (1, 4));
    assert!(slots.acquire(claim("e", Priority::Interactive)).now_or_never().is_some(), "one place each");
    let counts = slots.health().counts;
    assert_eq!((counts.refused_share, counts.refused_full, counts.left), (2, 2, 0));
    drop(held);
    let slot = all[0].as_mut().now_or_never().expect("the first of all").unwrap();
    drop((slot, all, fourth, batch, late));
    assert_eq!(figures(&slots), (0, 0));
}

/// What a key may do changes while its requests wait.
#[tokio::test(start_paused = true)]
async fn a_raised_bound_lets_those_run_who_wait_already() {
    let slots = slots(3, 10);
    let bound = |concurrency| Claim { concurrency, ..claim("k", Priority::Interactive) };
    let _held = slots.acquire(bound(Some(1))).await.unwrap();
    let mut waiting = Box::pin(slots.acquire(bound(Some(1))));
    assert!(waiting.as_mut().now_or_never().is_none());
    let mut late = Box::pin(slots.acquire(bound(Some(2))));
    assert!(late.as_mut().now_or_never().is_none(), "it does not overtake");
    let first = waiting.as_mut().now_or_never().expect("the first has it").unwrap();
    let free = slots.acquire(bound(None)).now_or_never().is_none();
    assert!(free, "the one before it has the last slot");
    let second = late.as_mut().now_or_never().expect("the second has it").unwrap();
    drop((first, second));
}

/// Nobody knows yet how long a turn takes; the first one tells the least.
#[tokio::test(start_paused = true)]
async fn retry_after_grows_before_the_first_turn_has_ended() {
    let slots = slots(1, 0);
    let _held = slots.acquire(anyone()).await.unwrap();
    for (after, expected) in [(0, 1), (10, 10), (20, 30)] {
        tokio::time::advance(Duration::from_secs(after)).await;
        let refused = slots.acquire(anyone()).await;
        let Err(BridgeError::Busy { retry_after }) = refused else { panic!("{refused:?}") };
        assert_eq!(retry_after, Duration::from_secs(expected));
    }
}

/// Where there are no keys, nobody is kept out by whoever uses it all.
#[tokio::test(start_paused = true)]
async fn without_keys_the_whole_queue_is_everyones() {
    let slots = slots(1, 4);
    let _held = slots.acquire(anyone()).await.unwrap();
    let mut line = Line::new(&slots);
    for _ in 0..4 {
        line.join("any", anyone());
    }
    assert!(slots.acquire(anyone()).await.is_err());
}

#[derive(Debug, Clone)]
enum Step {
    Arrive {
        key: usize,
        batch: bool,
        look: bool,
    },
    /// Of those that wait or were granted, this one leaves.
    Leave(usize),
    /// Of those that run, this one ends.
    Release(usize),
    /// This one looks whether it was granted.
    Look(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let arrive = (0..4_usize, any::<bool>(), any::<bool>());
    let step = prop_oneof![
        4 => arrive.prop_map(|(key, batch, look)| Step::Arrive { key, batch, look }),
        1 => any::<usize>().prop_map(Step::Leave),
        3 => any::<usize>().prop_map(Step::Release),
        2 => any::<usize>().prop_map(Step::Look),
    ];
    prop::collection::vec(step, 1..120)
}

/// The concurrency of each key of the property test.
const BOUNDS: [Option<usize>; 4] = [None, Some(1), Some(2), None];

struct Waits<'a> {
    key: usize,
    future: Waiting<'a>,
}

/// Plays `steps`. After each: never more than the slots, never a key past its bound, nobody who may run left
/// waiting beside a free slot; at the end everything is back.
fn play(steps: Vec<Step>, capacity: usize) {
    let slots = slots(capacity, 12);
    let mut waits: Vec<Waits<'_>> = Vec::new();
    let mut runs: Vec<(usize, Slot)> = Vec::new();
    let look = |wait: &mut Waits<'_>| wait.future.as_mut().now_or_never();
    for step in steps {
        match step {
            Step::Arrive { key, batch, look: looks } => {
                let priority = if batch { Priority::Batch } else { Priority::Interactive };
                let claim = Claim { concurrency: BOUNDS[key], ..claim(&key.to_string(), priority) };
                let mut wait = Waits { key, future: Box::pin(slots.acquire(claim)) };
                if !looks {
                    // A future that was never polled is nobody yet.
                    continue;
                }
                match look(&mut wait) {
                    Some(Ok(slot)) => runs.push((key, slot)),
                    Some(Err(_)) => {}
                    None => waits.push(wait),
                }
            }
            Step::Leave(at) if !waits.is_empty() => drop(waits.swap_remove(at % waits.len())),
            Step::Release(at) if !runs.is_empty() => drop(runs.swap_remove(at % runs.len())),
            Step::Look(at) if !waits.is_empty() => {
                let at = at % waits.len();
                if let Some(slot) = look(&mut waits[at]) {
                    runs.push((waits.swap_remove(at).key, slot.unwrap()));
                }
            }
            _ => {}
        }
        let health = slots.health();
        assert!(health.in_use <= capacity && health.queued <= 12);
        // Whose place went to somebody else.
        while health.in_use + health.queued < runs.len() + waits.len() {
            let at = waits.iter_mut().position(|wait| match look(wait) {
                Some(Ok(slot)) => {
                    runs.push((wait.key, slot));
                    true
                }
                Some(Err(error)) => matches!(error, BridgeError::Busy { .. }),
                None => false,
            });
            waits.swap_remove(at.expect("one that was told"));
        }
        // Some were granted a slot and have not looked yet.
        assert_eq!(health.in_use + health.queued, runs.len() + waits.len());
        let mut running: HashMap<usize, usize> = HashMap::new();
        for (key, _) in &runs {
            *running.entry(*key).or_default() += 1;
        }
        for (key, bound) in BOUNDS.iter().enumerate() {
            assert!(bound.is_none_or(|bound| running.get(&key).copied().unwrap_or_default() <= bound));
        }
        if health.in_use < capacity && health.queued > 0 {
            // Only bounded keys may wait beside a free slot.
            let granted: Vec<usize> =
                waits.iter().filter(|wait| BOUNDS[wait.key].is_none()).map(|wait| wait.key).collect();
            let unlooked = health.in_use - runs.len();
            assert!(granted.len() <= unlooked, "somebody who may run waits");
        }
    }
    // No wake-up is lost: whoever still waits has its turn.
    let mut left = waits.len();
    while left > 0 {
        runs.clear();
        let mut still = Vec::new();
        for mut wait in waits {
            match look(&mut wait) {
                Some(slot) => runs.push((wait.key, slot.unwrap())),
                None => still.push(wait),
            }
        }
        waits = still;
        assert!(waits.len() < left, "nobody was woken");
        left = waits.len();
    }
    runs.clear();
    assert_eq!(figures(&slots), (0, 0));
}

proptest! {
    #[test]
    fn whatever_comes_and_goes_the_bounds_hold_and_nobody_is_forgotten(
        steps in steps(), capacity in 1..4_usize,
    ) {
        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
            play(steps, capacity);
        });
    }

    /// Between two grants of one key, each other one that waits has at most one.
    #[test]
    fn round_robin_is_fair(waiters in prop::collection::vec(0..5_usize, 1..60)) {
        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
            let slots = slots(1, 1000);
            let held = slots.acquire(anyone()).await.unwrap();
            let mut line = Line::new(&slots);
            for key in &waiters {
                line.join(key.to_string(), claim(&key.to_string(), Priority::Interactive));
            }
            let order = line.order(held);
            assert_eq!(order.len(), waiters.len());
            for (at, name) in order.iter().enumerate() {
                let next = order[at + 1..].iter().position(|other| other == name);
                let Some(next) = next else { continue };
                let between = &order[at + 1..=at + next];
                let mut once = between.to_vec();
                once.sort();
                once.dedup();
                assert_eq!(once.len(), between.len(), "{order:?}");
            }
        });
    }
}
