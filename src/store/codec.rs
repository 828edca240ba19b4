//! How a record is written down: versioned JSON, sealed where there is a key. What of a record changes with its
//! use, and its place in the chain, is in its [`Node`].

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::node::{Node, micros, time};
use super::seal::Seal;
use super::{StoreError, StoredResponse};
use crate::config::EncryptionKey;
use crate::model::{IncompleteReason, Item, KeyId, ResponseId, Route, SessionId, ThreadId, TurnId, Usage};
use crate::tasks::Tasks;

/// Most records of a chain: a bound on what one look-up reads, should the links ever run in a circle.
const LONGEST_CHAIN: usize = 10_000;

/// The first byte of what is written: the form of the rest.
const PLAIN: u8 = 1;
const SEALED: u8 = 2;

/// Writes records and reads them again.
#[derive(Debug, Default)]
pub(super) struct Codec {
    seal: Option<Seal>,
}

impl Codec {
    /// Seals with `key`, where there is one.
    pub(super) fn new(key: Option<&EncryptionKey>) -> Self {
        Self { seal: key.map(Seal::new) }
    }

    /// A value by which a later run knows that it has the same key; `None` without one.
    pub(super) fn check_value(&self) -> Option<Vec<u8>> {
        self.seal.as_ref()?.seal(Seal::CHECK, Seal::CHECK)
    }

    /// Whether this key made the check value; `false` without a key.
    pub(super) fn is_right(&self, check_value: &[u8]) -> bool {
        self.seal.as_ref().is_some_and(|seal| seal.open(Seal::CHECK, check_value).is_some())
    }

    pub(super) fn encode(&self, record: &StoredResponse) -> Result<Vec<u8>, StoreError> {
        let mut plain = vec![PLAIN];
        serde_json::to_writer(&mut plain, &Written::of(record)).map_err(|error| unreadable(&error))?;
        self.wrapped(record.id.as_str().as_bytes(), plain)
    }

    /// `plain`, as it is kept for what it belongs to.
    pub(super) fn wrap(&self, belongs_to: &[u8], plain: &[u8]) -> Result<Vec<u8>, StoreError> {
        self.wrapped(belongs_to, [&[PLAIN], plain].concat())
    }

    /// The inverse of [`Codec::wrap`].
    pub(super) fn unwrap(&self, belongs_to: &[u8], bytes: &[u8]) -> Result<Vec<u8>, StoreError> {
        match (bytes.split_first(), &self.seal) {
            (Some((&PLAIN, plain)), _) => Ok(plain.to_vec()),
            (Some((&SEALED, sealed)), Some(seal)) => {
                let plain = seal.open(belongs_to, sealed);
                let mut plain =
                    plain.ok_or_else(|| unreadable(&"it was encrypted with another key, or is damaged"))?;
                if plain.first() != Some(&PLAIN) {
                    return Err(unreadable(&"its form is not known to this version"));
                }
                plain.remove(0);
                Ok(plain)
            }
            (Some((&SEALED, _)), None) => {
                Err(unreadable(&"it is encrypted, and there is no store.encryption_key"))
            }
            _ => Err(unreadable(&"its form is not known to this version")),
        }
    }

    /// Sealed, where there is a key. The first byte of `plain` is [`PLAIN`].
    fn wrapped(&self, belongs_to: &[u8], plain: Vec<u8>) -> Result<Vec<u8>, StoreError> {
        let Some(seal) = &self.seal else { return Ok(plain) };
        let sealed = seal.seal(belongs_to, &plain);
        let sealed = sealed.ok_or_else(|| unreadable(&"it cannot be encrypted"))?;
        Ok([&[SEALED], sealed.as_slice()].concat())
    }

    pub(super) fn decode(
        &self,
        id: &ResponseId,
        node: &Node,
        bytes: &[u8],
    ) -> Result<StoredResponse, StoreError> {
        let written: Read = self.read(id, bytes)?;
        written
            .record(id, node)
            .ok_or_else(|| unreadable(&"a field has a value that this version does not know"))
    }

    /// The record's items alone, input then output.
    pub(super) fn items(&self, id: &ResponseId, bytes: &[u8]) -> Result<Vec<Item>, StoreError> {
        let items: ReadItems = self.read(id, bytes)?;
        Ok(items.input.into_iter().chain(items.output).map(Item::new).collect())
    }

    fn read<T: for<'de> Deserialize<'de>>(&self, id: &ResponseId, bytes: &[u8]) -> Result<T, StoreError> {
        parse(&self.unwrap(id.as_str().as_bytes(), bytes)?)
    }
}

/// Writes or reads records off the async threads: a record may be megabytes, a chain thousands of them.
pub(super) async fn blocking<T: Send + 'static>(
    tasks: &Tasks,
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    tasks.blocking(work).await.unwrap_or_else(|| Err(unreadable(&"the work on it broke off")))
}

/// The items of all records before `node`, oldest first; `find` reads one.
pub(super) fn before<C: AsRef<[u8]>>(
    codec: &Codec,
    node: Node,
    find: impl Fn(&ResponseId) -> Result<Option<(Node, C)>, StoreError>,
) -> Result<Vec<Vec<Item>>, StoreError> {
    let mut before = Vec::new();
    let mut next = node.previous;
    while let Some(id) = next {
        if before.len() == LONGEST_CHAIN {
            return Err(unreadable(&"its chain is too long"));
        }
        let (node, content) =
            find(&id)?.ok_or_else(|| unreadable(&"an earlier response of its chain is gone"))?;
        before.push(codec.items(&id, content.as_ref())?);
        next = node.previous;
    }
    before.reverse();
    Ok(before)
}

fn parse<T: for<'de> Deserialize<'de>>(json: &[u8]) -> Result<T, StoreError> {
    // The error tells a place and what was expected there, no content.
    serde_json::from_slice(json).map_err(|error| unreadable(&format_args!("{:?} error", error.classify())))
}

pub(super) fn unreadable(reason: &dyn std::fmt::Display) -> StoreError {
    StoreError::Unreadable { reason: reason.to_string() }
}

/// The record as it is written; the names are part of the form.
#[derive(Serialize)]
struct Written<'a> {
    key: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    account: Option<&'a str>,
    session: &'a str,
    session_by_caller: bool,
    model: &'a str,
    route: &'static str,
    thread: &'a str,
    turn: &'a str,
    generation: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    upstream: Option<&'a str>,
    input: &'a [Item],
    output: &'a [Item],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    open_calls: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<[u64; 6]>,
    own_input: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    incomplete: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    head: Option<&'a str>,
    chain_length: u32,
    created_at: u64,
}

impl<'a> Written<'a> {
    fn of(record: &'a StoredResponse) -> Self {
        let usage = |usage: Usage| {
            [
                usage.input_tokens,
                usage.cached_input_tokens,
                usage.cache_write_input_tokens,
                usage.output_tokens,
                usage.reasoning_tokens,
                usage.total_tokens,
            ]
        };
        Self {
            key: record.key.as_str(),
            account: record.account.as_deref(),
            session: record.session.as_str(),
            session_by_caller: record.session_by_caller,
            model: &record.model,
            route: record.route.as_str(),
            thread: record.thread.as_str(),
            turn: record.turn.as_str(),
            generation: record.generation,
            upstream: record.upstream_response_id.as_deref(),
            input: &record.input,
            output: &record.output,
            open_calls: &record.open_calls,
            usage: record.usage.map(usage),
            own_input: record.own_input,
            incomplete: record.incomplete.map(IncompleteReason::as_str),
            head: record.head.as_deref(),
            chain_length: record.chain_length,
            created_at: micros(record.created_at),
        }
    }
}

/// The record as it is read.
#[derive(Deserialize)]
struct Read {
    key: String,
    account: Option<String>,
    session: String,
    /// Not written by the first versions.
    #[serde(default)]
    session_by_caller: bool,
    model: String,
    route: String,
    thread: String,
    turn: String,
    generation: u64,
    upstream: Option<String>,
    input: Vec<Map<String, Value>>,
    output: Vec<Map<String, Value>>,
    #[serde(default)]
    open_calls: Vec<String>,
    usage: Option<[u64; 6]>,
    /// Not written by the first version, nor are the two that follow.
    own_input: Option<usize>,
    incomplete: Option<String>,
    head: Option<String>,
    chain_length: u32,
    created_at: u64,
}

#[derive(Deserialize)]
struct ReadItems {
    input: Vec<Map<String, Value>>,
    output: Vec<Map<String, Value>>,
}

impl Read {
    fn record(self, id: &ResponseId, node: &Node) -> Option<StoredResponse> {
        let routes = [Route::Fresh, Route::Live, Route::Held, Route::Rebuilt, Route::Template];
        let usage = |[input, cached, cache_write, output, reasoning, total]: [u64; 6]| Usage {
            input_tokens: input,
            cached_input_tokens: cached,
            cache_write_input_tokens: cache_write,
            output_tokens: output,
            reasoning_tokens: reasoning,
            total_tokens: total,
        };
        let incomplete = match &self.incomplete {
            Some(reason) => Some(IncompleteReason::of(reason)?),
            None => None,
        };
        Some(StoredResponse {
            id: id.clone(),
            previous: node.previous.clone(),
            key: KeyId::new(self.key),
            account: self.account,
            session: SessionId::new(self.session),
            session_by_caller: self.session_by_caller,
            model: self.model,
            route: routes.into_iter().find(|route| route.as_str() == self.route)?,
            thread: ThreadId::new(self.thread),
            turn: TurnId::new(self.turn),
            generation: self.generation,
            upstream_response_id: self.upstream,
            own_input: self.own_input.unwrap_or(self.input.len()).min(self.input.len()),
            incomplete,
            head: self.head.map(Into::into),
            input: self.input.into_iter().map(Item::new).collect(),
            output: self.output.into_iter().map(Item::new).collect(),
            open_calls: self.open_calls,
            usage: self.usage.map(usage),
            chain_length: self.chain_length,
            created_at: time(self.created_at),
            last_used_at: time(node.last_used_at),
            expires_at: time(node.expires_at),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn json_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::vec((any::<String>(), inner), 0..4)
                    .prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    fn items() -> impl Strategy<Value = Vec<Item>> {
        let item = proptest::collection::vec((any::<String>(), json_value()), 0..4)
            .prop_map(|fields| Item::new(fields.into_iter().collect()));
        proptest::collection::vec(item, 0..4)
    }

    fn moment() -> impl Strategy<Value = SystemTime> {
        (0..1u64 << 60).prop_map(|micros| SystemTime::UNIX_EPOCH + Duration::from_micros(micros))
    }

    prop_compose! {
        fn record()(
            texts in any::<[String; 6]>(),
            options in any::<[Option<String>; 4]>(),
            route in 0..5usize,
            numbers in any::<(u64, u32)>(),
            (input, output) in (items(), items()),
            open_calls in proptest::collection::vec(any::<String>(), 0..3),
            usage in any::<Option<[u64; 6]>>(),
            times in (moment(), moment(), moment()),
        ) -> StoredResponse {
            let [id, key, model, thread, turn, session] = texts;
            let [previous, account, upstream_response_id, head] = options;
            StoredResponse {
                id: ResponseId::new(id),
                previous: previous.map(ResponseId::new),
                key: KeyId::new(key),
                account,
                session: SessionId::new(session),
                session_by_caller: route % 2 == 0,
                model,
                route: [Route::Fresh, Route::Live, Route::Held, Route::Rebuilt, Route::Template][route],
                thread: ThreadId::new(thread),
                turn: TurnId::new(turn),
                generation: numbers.0,
                upstream_response_id,
                own_input: input.len() / 2,
                incomplete: [None, Some(IncompleteReason::MaxOutputTokens), Some(IncompleteReason::ContentFilter)][route % 3],
                head: head.map(Into::into),
                input,
                output,
                open_calls,
                usage: usage.map(|[a, b, c, d, e, f]| Usage {
                    input_tokens: a,
                    cached_input_tokens: b,
                    cache_write_input_tokens: c,
                    output_tokens: d,
                    reasoning_tokens: e,
                    total_tokens: f,
                }),
                chain_length: numbers.1,
                created_at: times.0,
                last_used_at: times.1,
                expires_at: times.2,
            }
        }
    }

    fn empty_node() -> Node {
        let (expires_at, last_used_at) = (0, 0);
        Node { previous: None, linked: false, children: 0, deleted: false, expires_at, last_used_at, size: 0 }
    }

    fn node(record: &StoredResponse) -> Node {
        Node {
            previous: record.previous.clone(),
            expires_at: micros(record.expires_at),
            last_used_at: micros(record.last_used_at),
            ..empty_node()
        }
    }

    fn codecs() -> [Codec; 2] {
        [Codec::default(), Codec::new(Some(&EncryptionKey::new([7; 32])))]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_record_comes_back_as_it_was(record in record()) {
            for codec in codecs() {
                let bytes = codec.encode(&record).unwrap();
                let read = codec.decode(&record.id, &node(&record), &bytes).unwrap();
                prop_assert_eq!(&read, &record);
                // In the same order of properties, too.
                let text = |items: &[Item]| serde_json::to_string(items).unwrap();
                prop_assert_eq!(text(&read.input), text(&record.input));
                let all = [record.input.as_slice(), &record.output].concat();
                prop_assert_eq!(codec.items(&record.id, &bytes).unwrap(), all);
            }
        }

        #[test]
        fn damage_is_an_error_and_no_panic(record in record(), bytes: Vec<u8>, at: usize) {
            for codec in codecs() {
                let whole = codec.encode(&record).unwrap();
                let cut = &whole[..at % whole.len()];
                prop_assert!(codec.decode(&record.id, &node(&record), cut).is_err());
                prop_assert!(codec.decode(&record.id, &node(&record), &bytes).is_err());
            }
        }
    }

    #[test]
    fn the_session_of_a_record_of_an_earlier_version_has_no_name() {
        let codec = Codec::default();
        let id = ResponseId::new("a");
        let written = json!({
            "key": "k", "session": "s", "model": "m", "route": "fresh", "thread": "t", "turn": "u", "generation": 1,
            "input": [], "output": [], "chain_length": 1, "created_at": 1,
        });
        let bytes = codec.wrap(id.as_str().as_bytes(), written.to_string().as_bytes()).unwrap();
        assert!(!codec.decode(&id, &empty_node(), &bytes).unwrap().session_by_caller);
    }

    #[test]
    fn what_is_sealed_is_read_with_its_key_alone_and_what_is_not_by_all() {
        let [plain, sealed] = codecs();
        let other = Codec::new(Some(&EncryptionKey::new([8; 32])));
        let item = Item::from_value(json!({"type": "message", "content": "the words"})).unwrap();
        let mut runner = proptest::test_runner::TestRunner::deterministic();
        let tree = record().new_tree(&mut runner).unwrap();
        let record = StoredResponse { input: vec![item], ..proptest::strategy::ValueTree::current(&tree) };
        let bytes = sealed.encode(&record).unwrap();
        assert!(!bytes.windows(5).any(|part| part == b"words"));
        for wrong in [&plain, &other] {
            let error = wrong.decode(&record.id, &node(&record), &bytes).unwrap_err();
            assert!(matches!(&error, StoreError::Unreadable { .. }), "{error}");
        }
        let bytes = plain.encode(&record).unwrap();
        assert_eq!(sealed.decode(&record.id, &node(&record), &bytes), Ok(record));
        assert!(sealed.is_right(&sealed.check_value().unwrap()));
        assert!(!other.is_right(&sealed.check_value().unwrap()));
    }
}
