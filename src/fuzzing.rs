//! A fuzzer for what reads bytes, on stable Rust: no coverage, but seeds from `tests/fuzz/<target>` that are changed
//! at random, and an input that fails is made as small as it gets before it is printed. Each target is a test;
//! `FUZZ_SECONDS` says how long it runs (`scripts/fuzz`), without it a moment.

use std::fmt::Debug;
use std::path::Path;
use std::time::{Duration, Instant};

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::test_runner::{Config, TestError, TestRunner};
use serde_json::{Map, Value, json};

/// How long a target runs as one of many tests.
const MOMENT: Duration = Duration::from_millis(400);
/// Inputs between two looks at the clock.
const ROUND: u32 = 64;
/// An input that takes longer has hung, or grows worse than its size; generous, for a busy machine.
const HANGS: Duration = Duration::from_secs(20);
/// Most changes of one seed.
const CHANGES: usize = 12;

/// What readers trip over.
const PIECES: &[&str] = &[
    "\r",
    "\n",
    "\r\n",
    "\n\n",
    "\u{2028}",
    "\u{2029}",
    "\u{feff}",
    "\0",
    "\u{1f600}",
    "\u{7f}",
    "\"",
    "'",
    "\"\"\"",
    "\\",
    "\\ud800",
    "\\u0000",
    "{",
    "}",
    "[",
    "]",
    "[[",
    "null",
    "true",
    "-0",
    "-1",
    "1e999",
    "1e-999",
    "0x7f",
    "9223372036854775808",
    "18446744073709551616",
    "=",
    "= ",
    ",",
    ":",
    ";",
    ".",
    "#",
    "//",
    "~/",
    "..",
    "data: ",
    "event: ",
    "id",
    "method",
    "params",
];

/// Runs `check`, which panics at what is wrong, on the seeds and on what becomes of them.
pub(crate) fn bytes(target: &str, seeds: &[Vec<u8>], check: impl Fn(&[u8])) {
    let seeds: Vec<Vec<u8>> =
        corpus(target).into_iter().chain(seeds.iter().cloned()).chain([Vec::new()]).collect();
    for seed in &seeds {
        check(seed);
    }
    let changes = (any::<Index>(), vec(change(), 1..CHANGES));
    let made = |(seed, changes): &(Index, Vec<Change>)| {
        let mut bytes = seed.get(&seeds).clone();
        for change in changes {
            change.apply(&mut bytes, &seeds);
        }
        bytes
    };
    let shown = |bytes: &Vec<u8>| format!("b\"{}\"", bytes.escape_ascii());
    run(target, &changes, made, |bytes| check(bytes), shown);
}

/// The same for JSON values, changed as values: what gets past the parser.
pub(crate) fn json(target: &str, seeds: &[Value], check: impl Fn(&Value)) {
    let read = |bytes: Vec<u8>| serde_json::from_slice(&bytes).expect("a seed of JSON");
    let seeds: Vec<Value> = corpus(target).into_iter().map(read).chain(seeds.iter().cloned()).collect();
    seeds.iter().for_each(&check);
    let edits = (any::<Index>(), vec(edit(), 1..CHANGES));
    let made = |(seed, edits): &(Index, Vec<Edit>)| {
        let mut value = seed.get(&seeds).clone();
        for edit in edits {
            edit.apply(&mut value, &seeds);
        }
        value
    };
    run(target, &edits, made, check, Value::to_string);
}

/// The files of `tests/fuzz/<target>`: seeds, and inputs that have failed once.
fn corpus(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz").join(target);
    let files = std::fs::read_dir(&folder).expect("the target's folder");
    let mut files: Vec<_> = files.map(|file| file.expect("a file").path()).collect();
    files.sort();
    files.iter().map(|file| std::fs::read(file).expect("a seed")).collect()
}

fn run<C: Debug, I>(
    target: &str,
    changes: &impl Strategy<Value = C>,
    made: impl Fn(&C) -> I,
    check: impl Fn(&I),
    shown: impl Fn(&I) -> String,
) {
    let seconds = crate::config::environment().get("FUZZ_SECONDS").map(|seconds| seconds.parse());
    let time =
        seconds.map_or(MOMENT, |seconds| Duration::from_secs(seconds.expect("FUZZ_SECONDS is a number")));
    let until = Instant::now() + time;
    let mut inputs = 0;
    while Instant::now() < until {
        let config = Config { cases: ROUND, failure_persistence: None, ..Config::default() };
        let result = TestRunner::new(config).run(changes, |changes| {
            let (input, began) = (made(&changes), Instant::now());
            check(&input);
            prop_assert!(began.elapsed() < HANGS, "it took {:?}", began.elapsed());
            Ok(())
        });
        match result {
            Ok(()) => inputs += ROUND,
            Err(TestError::Fail(reason, smallest)) => {
                panic!("{target}: {reason}\nthe smallest input: {}", shown(&made(&smallest)))
            }
            Err(TestError::Abort(reason)) => panic!("{target}: {reason}"),
        }
    }
    println!("{target}: {inputs} inputs in {time:?}");
}

/// One change of a text. Places are shares of its length.
#[derive(Debug, Clone)]
enum Change {
    Set(Index, u8),
    Insert(Index, Vec<u8>),
    Remove(Index, usize),
    /// So many bytes, again and again.
    Repeat(Index, usize, usize),
    /// A part of a seed.
    Splice {
        seed: Index,
        from: Index,
        length: usize,
        at: Index,
    },
}

fn change() -> impl Strategy<Value = Change> {
    let piece = prop_oneof![
        4 => select(PIECES).prop_map(|piece| piece.as_bytes().to_vec()),
        1 => vec(any::<u8>(), 1..8),
        1 => any::<String>().prop_map(String::into_bytes),
    ];
    prop_oneof![
        2 => (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Change::Set(at, byte)),
        4 => (any::<Index>(), piece).prop_map(|(at, piece)| Change::Insert(at, piece)),
        3 => (any::<Index>(), 1..64usize).prop_map(|(at, length)| Change::Remove(at, length)),
        1 => (any::<Index>(), 1..16usize, 2..300usize).prop_map(|(at, length, times)| Change::Repeat(at, length, times)),
        2 => (any::<Index>(), any::<Index>(), 1..200usize, any::<Index>())
            .prop_map(|(seed, from, length, at)| Change::Splice { seed, from, length, at }),
    ]
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>, seeds: &[Vec<u8>]) {
        let place = |index: &Index, length: usize| index.index(length + 1);
        let part = |from: &[u8], at: &Index, length: usize| {
            let start = place(at, from.len());
            from[start..from.len().min(start + length)].to_vec()
        };
        match self {
            Self::Set(at, byte) => {
                let at = at.index(bytes.len().max(1));
                if let Some(old) = bytes.get_mut(at) {
                    *old = *byte;
                }
            }
            Self::Insert(at, piece) => drop(insert(bytes, place(at, bytes.len()), piece)),
            Self::Remove(at, length) => {
                let start = place(at, bytes.len());
                bytes.drain(start..bytes.len().min(start + length));
            }
            Self::Repeat(at, length, times) => {
                let piece = part(bytes, at, *length).repeat(*times);
                insert(bytes, place(at, bytes.len()), &piece);
            }
            Self::Splice { seed, from, length, at } => {
                let seed: &Vec<u8> = seed.get(seeds);
                let piece = part(seed, from, *length);
                insert(bytes, place(at, bytes.len()), &piece);
            }
        }
    }
}

fn insert(bytes: &mut Vec<u8>, at: usize, piece: &[u8]) -> usize {
    bytes.splice(at..at, piece.iter().copied()).count()
}

/// One change of a value; places are any of its nodes.
#[derive(Debug, Clone)]
enum Edit {
    Replace(Index, Value),
    Remove(Index),
    /// One node is put where another one was, of a seed too.
    Copy {
        seed: Option<Index>,
        from: Index,
        to: Index,
    },
    Rename(Index, String),
    Wrap(Index, bool),
}

fn edit() -> impl Strategy<Value = Edit> {
    let leaf = prop_oneof![
        3 => select(vec![
            Value::Null, json!(true), json!(false), json!(0), json!(-1), json!(1.5), json!(i64::MAX), json!(u64::MAX),
            json!(1e308), json!(""), json!([]), json!({}), json!([[]]), json!("auto"), json!("none"), json!("x".repeat(600)),
            json!("data:;base64,"), json!("https://x.invalid/"), json!("\u{0}\u{2028}"), json!({"type": "x"}),
        ]),
        1 => any::<String>().prop_map(Value::from),
        1 => any::<i64>().prop_map(Value::from),
    ];
    let name = prop_oneof![select(PIECES).prop_map(str::to_owned), any::<String>(), Just("type".to_owned())];
    prop_oneof![
        4 => (any::<Index>(), leaf).prop_map(|(at, value)| Edit::Replace(at, value)),
        3 => any::<Index>().prop_map(Edit::Remove),
        3 => (any::<Option<Index>>(), any::<Index>(), any::<Index>())
            .prop_map(|(seed, from, to)| Edit::Copy { seed, from, to }),
        1 => (any::<Index>(), name).prop_map(|(at, name)| Edit::Rename(at, name)),
        1 => (any::<Index>(), any::<bool>()).prop_map(|(at, array)| Edit::Wrap(at, array)),
    ]
}

impl Edit {
    fn apply(&self, value: &mut Value, seeds: &[Value]) {
        let at = |value: &Value, index: &Index| {
            let mut all = Vec::new();
            nodes(value, String::new(), &mut all);
            index.get(&all).clone()
        };
        let node =
            |value: &Value, index: &Index| value.pointer(&at(value, index)).cloned().unwrap_or_default();
        match self {
            Self::Replace(index, new) => set(value, &at(value, index), new.clone()),
            Self::Remove(index) => drop(take(value, &at(value, index))),
            Self::Copy { seed, from, to } => {
                let copied = node(seed.map_or(&*value, |seed| seed.get(seeds)), from);
                set(value, &at(value, to), copied);
            }
            Self::Rename(index, name) => {
                let place = at(value, index);
                let holder = place
                    .rsplit_once('/')
                    .and_then(|(holder, _)| value.pointer(holder))
                    .is_some_and(Value::is_object);
                if holder && let Some(old) = take(value, &place) {
                    let holder = place.rsplit_once('/').and_then(|(holder, _)| value.pointer_mut(holder));
                    holder.and_then(Value::as_object_mut).map(|fields| fields.insert(name.clone(), old));
                }
            }
            Self::Wrap(index, array) => {
                let place = at(value, index);
                let old = node(value, index);
                let new = if *array {
                    json!([old.clone(), old])
                } else {
                    Value::Object(Map::from_iter([("x".to_owned(), old)]))
                };
                set(value, &place, new);
            }
        }
    }
}

/// The pointers of all nodes.
fn nodes(value: &Value, here: String, all: &mut Vec<String>) {
    match value {
        Value::Array(values) => {
            values.iter().enumerate().for_each(|(at, value)| nodes(value, format!("{here}/{at}"), all));
        }
        Value::Object(fields) => fields.iter().for_each(|(name, value)| {
            nodes(value, format!("{here}/{}", name.replace('~', "~0").replace('/', "~1")), all);
        }),
        _ => {}
    }
    all.push(here);
}

fn set(value: &mut Value, place: &str, new: Value) {
    if let Some(node) = value.pointer_mut(place) {
        *node = new;
    }
}

/// Takes a node out of what holds it; the whole value stays.
fn take(value: &mut Value, place: &str) -> Option<Value> {
    let (holder, name) = place.rsplit_once('/')?;
    match value.pointer_mut(holder)? {
        Value::Object(fields) => fields.shift_remove(&name.replace("~1", "/").replace("~0", "~")),
        Value::Array(values) => Some(values.remove(name.parse().ok()?)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    /// What is said of a target that fails.
    fn failure(run: impl FnOnce()) -> String {
        let panic = catch_unwind(AssertUnwindSafe(run)).expect_err("it fails");
        panic.downcast_ref::<String>().expect("a text").clone()
    }

    #[test]
    fn what_fails_is_found_and_told_at_its_smallest() {
        let brackets = |bytes: &[u8]| bytes.iter().any(|byte| b"[]{}".contains(byte));
        let told = failure(|| bytes("sse", &[], |bytes| assert!(!brackets(bytes), "a bracket")));
        let (_, smallest) = told.split_once("smallest input: ").expect("an input");
        assert!(told.contains("a bracket") && brackets(smallest.as_bytes()), "{told}");
        let told = failure(|| json("standin", &[], |value| assert!(value["model"].is_string(), "no model")));
        assert!(told.contains("no model"), "{told}");
    }
}
