use http::{HeaderName, HeaderValue};
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::model::{Item, KeyId};

/// Source and name of the request's session, and what was reported.
#[derive(Debug, PartialEq)]
struct Resolved {
    id: String,
    source: SessionSource,
    ignored: Vec<String>,
}

fn resolved(
    headers: &[(&'static str, &[u8])],
    metadata: &[(&str, &str)],
    cache_key: Option<&str>,
) -> Resolved {
    let mut given = HeaderMap::new();
    for (name, value) in headers {
        given.append(HeaderName::from_static(name), HeaderValue::from_bytes(value).unwrap());
    }
    let metadata = metadata.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    let mut ignored = Ignored::default();
    let items = [Item::input_text("user", "hi")];
    let key = KeyId::anonymous();
    let beginning = Beginning { key: &key, instructions: None, items: &items };
    let body = Body { metadata: &metadata, prompt_cache_key: cache_key };
    let session = resolve(&Caller::of(&given), body, Some(beginning), &mut ignored);
    Resolved { id: session.id().to_string(), source: session.source(), ignored: ignored.names().to_vec() }
}

#[test]
fn the_first_source_that_names_one_wins() {
    const TURN: &[u8] = br#"{"turn_id": "x", "thread_id": "from-turn", "session_id": null}"#;
    let mut headers: Vec<(&str, &[u8])> = vec![
        ("session-id", b"a"),
        ("session_id", b"b"),
        ("x-session-id", b"c"),
        ("thread-id", b"d"),
        ("x-client-request-id", b"e"),
        ("x-codex-turn-metadata", TURN),
    ];
    let mut metadata = vec![("session_id", "f"), ("thread_id", "g"), ("conversation_id", "h")];
    let mut expected = vec![
        ("a", SessionSource::Header("session-id")),
        ("b", SessionSource::Header("session_id")),
        ("c", SessionSource::Header("x-session-id")),
        ("d", SessionSource::Header("thread-id")),
        ("e", SessionSource::Header("x-client-request-id")),
        ("from-turn", SessionSource::Header("x-codex-turn-metadata")),
        ("f", SessionSource::Body("metadata.session_id")),
        ("g", SessionSource::Body("metadata.thread_id")),
        ("h", SessionSource::Body("metadata.conversation_id")),
        ("i", SessionSource::Body("prompt_cache_key")),
    ];
    let places: Vec<SessionSource> = SOURCES.iter().map(|source| source.place).collect();
    assert_eq!(places, expected.iter().map(|(_, place)| *place).collect::<Vec<_>>());
    while !expected.is_empty() {
        let (id, source) = expected.remove(0);
        let found = resolved(&headers, &metadata, Some("i"));
        assert_eq!(found, Resolved { id: id.into(), source, ignored: Vec::new() });
        if !headers.is_empty() {
            headers.remove(0);
        } else if !metadata.is_empty() {
            metadata.remove(0);
        }
    }
    assert_eq!(resolved(&[], &[], None).source, SessionSource::Derived);
}

#[test]
fn what_is_no_name_is_passed_over_and_reported() {
    let long = "x".repeat(129);
    for bad in [&b""[..], b"a b", b"\xff", b"a,b", b"a\"b", long.as_bytes()] {
        let found = resolved(&[("session-id", bad), ("thread-id", b"good")], &[], None);
        assert_eq!(found.source, SessionSource::Header("thread-id"), "{bad:?}");
        assert_eq!(found.ignored, ["headers.session-id"]);
    }
    // Twice the same is one name; two names are none.
    assert_eq!(resolved(&[("session-id", b"a"), ("session-id", b"a")], &[], None).id, "a");
    let twice = resolved(&[("session-id", b"a"), ("session-id", b"b")], &[], None);
    assert_eq!((twice.source, &*twice.ignored), (SessionSource::Derived, &["headers.session-id".into()][..]));

    let large = format!("{{\"session_id\": \"a\", \"x\": \"{}\"}}", "x".repeat(MAX_JSON));
    for bad in ["", "no json", "[]", "\"a\"", "{\"session_id\": 1}", "{\"session_id\": \"a b\"}", &large] {
        let found = resolved(&[("x-codex-turn-metadata", bad.as_bytes())], &[], None);
        assert_eq!(found.source, SessionSource::Derived, "{bad}");
        assert_eq!(found.ignored, ["headers.x-codex-turn-metadata"]);
    }
    let nothing = resolved(&[("x-codex-turn-metadata", b"{\"turn_id\": \"a\"}")], &[], None);
    assert_eq!(nothing.ignored, Vec::<String>::new());

    let found = resolved(&[], &[("session_id", "a b"), ("thread_id", "t")], None);
    assert_eq!(found.ignored, ["metadata.session_id"]);
    assert_eq!(found.source, SessionSource::Body("metadata.thread_id"));
    assert_eq!(resolved(&[], &[], Some("a b")).ignored, ["prompt_cache_key"]);
    assert_eq!(
        resolved(&[("x-codex-bridge-trace", b"maybe")], &[], None).ignored,
        ["headers.x-codex-bridge-trace"]
    );
}

#[test]
fn a_request_id_is_no_scope() {
    let scope = |name: &'static str| {
        let mut headers = HeaderMap::new();
        headers.insert(name, HeaderValue::from_static("a"));
        Caller::of(&headers).session.unwrap().scope().is_some()
    };
    assert!(scope("session-id") && !scope("x-client-request-id"));
}

#[test]
fn a_continuation_without_a_name_waits_for_the_one_of_its_response() {
    let metadata = BTreeMap::new();
    let body = Body { metadata: &metadata, prompt_cache_key: None };
    let session = resolve(&Caller::default(), body, None, &mut Ignored::default());
    assert_eq!(session.source(), SessionSource::Fresh);
    let empty = Beginning { key: &KeyId::anonymous(), instructions: Some("x"), items: &[] };
    let session = resolve(&Caller::default(), body, Some(empty), &mut Ignored::default());
    assert_eq!(session.source(), SessionSource::Fresh);
}

fn digest(instructions: Option<&str>, items: &[Item]) -> String {
    let key = KeyId::anonymous();
    Beginning { key: &key, instructions, items }.digest().map(|id| id.to_string()).unwrap_or_default()
}

fn user(text: &str) -> Item {
    Item::input_text("user", text)
}

fn developer(text: &str) -> Item {
    Item::input_text("developer", text)
}

#[test]
fn where_instructions_end_and_items_begin_is_part_of_the_identity() {
    let all = [
        digest(Some("a"), &[user("bc")]),
        digest(Some("ab"), &[user("c")]),
        digest(Some("abc"), &[user("")]),
        digest(None, &[user("abc")]),
        digest(Some(""), &[user("abc")]),
        digest(None, &[developer("a"), user("bc")]),
        digest(None, &[developer("ab"), user("c")]),
        digest(None, &[developer("a"), developer("b"), user("c")]),
        digest(None, &[developer("a"), developer("bc")]),
        digest(Some("a"), &[developer("b"), user("c")]),
        digest(
            None,
            &[Item::message(
                "user",
                vec![json!({"type": "input_text", "text": "a"}), json!({"type": "input_text", "text": "bc"})],
            )],
        ),
    ];
    for (at, one) in all.iter().enumerate() {
        assert!(is_safe(one) && one.starts_with("derived_") && one.len() == 40, "{one}");
        assert!(!all[..at].contains(one), "{at}");
    }
    let other = Beginning { key: &KeyId::new("other"), instructions: None, items: &[user("abc")] };
    assert_ne!(other.digest().unwrap().as_str(), all[3]);
}

#[test]
fn ids_do_not_count() {
    let said = |id: &str| {
        let value =
            json!({"type": "message", "id": id, "status": "completed", "role": "user", "content": []});
        digest(None, &[Item::from_value(value).unwrap()])
    };
    assert_eq!(said("a"), said("b"));
}

/// Instructions, developer texts, then what the user says first.
type Begun = (Option<String>, Vec<String>, String);

fn begun() -> impl Strategy<Value = Begun> {
    // Few letters, so that the same text comes in other places.
    let text = || "[ab\"]{0,3}";
    (proptest::option::of(text()), proptest::collection::vec(text(), 0..3), text())
}

fn of((instructions, developers, first): &Begun, more: &[Item]) -> String {
    let mut items: Vec<Item> = developers.iter().map(|text| developer(text)).collect();
    items.push(user(first));
    items.extend(more.iter().cloned());
    digest(instructions.as_deref(), &items)
}

proptest! {
    #[test]
    fn two_beginnings_never_share_an_identity(one in begun(), other in begun()) {
        prop_assert_eq!(one == other, of(&one, &[]) == of(&other, &[]));
    }

    #[test]
    fn a_conversation_keeps_its_identity_while_it_grows(begun in begun(), more in proptest::collection::vec("[ab]{0,3}", 0..4)) {
        let roles = ["assistant", "user", "developer"].into_iter().cycle();
        let more: Vec<Item> = roles.zip(&more).map(|(role, text)| Item::input_text(role, text)).collect();
        prop_assert_eq!(of(&begun, &more), of(&begun, &[]));
    }

    #[test]
    fn any_header_is_a_name_or_reported(value in proptest::collection::vec(any::<u8>(), 0..200)) {
        let Ok(header) = HeaderValue::from_bytes(&value) else { return Ok(()) };
        for source in SOURCES {
            let SessionSource::Header(name) = source.place else { continue };
            let mut headers = HeaderMap::new();
            headers.insert(name, header.clone());
            let caller = Caller::of(&headers);
            match &caller.session {
                Some(session) => prop_assert!(is_safe(session.id().as_str()) && caller.malformed.is_empty()),
                None => prop_assert!(source.members.len() > 1 || caller.malformed == [name]),
            }
        }
    }
}

fn passed(metadata: &[(&str, &str)]) -> (BTreeMap<String, String>, Vec<String>) {
    let metadata = metadata.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    let mut ignored = Ignored::default();
    (forwarded(&metadata, &mut ignored), ignored.names().to_vec())
}

#[test]
fn what_the_app_server_keeps_for_itself_goes_by_another_name() {
    let (passed, ignored) =
        passed(&[("a", "b"), ("turn_id", "x"), ("x-codex-window-id", "y"), ("client_turn_id", "z")]);
    let expected = [("a", "b"), ("client_turn_id", "z"), ("client_x-codex-window-id", "y")];
    assert_eq!(passed, expected.map(|(key, value)| (key.to_owned(), value.to_owned())).into());
    assert!(ignored.is_empty());
    assert!(forward::KEPT.is_sorted());
}

#[test]
fn what_does_not_fit_upstream_is_named() {
    let (plain, wide) = ("x".repeat(512), "ü".repeat(512));
    // Six bytes a letter upstream: the third does not fit, what is smaller still does.
    let (some, ignored) = passed(&[("a", &wide), ("b", &plain), ("c", &wide), ("d", "x")]);
    assert_eq!(some.keys().collect::<Vec<_>>(), ["a", "b", "d"]);
    assert_eq!(ignored, ["metadata.c"]);
    let all: Vec<String> = (0..7).map(|n| format!("k{n}")).collect();
    let all: Vec<(&str, &str)> = all.iter().map(|key| (&**key, &*plain)).collect();
    assert_eq!(passed(&all).1, Vec::<String>::new());
}

#[test]
fn the_readmes_table_is_this_chain() {
    let readme = include_str!("../../../README.md");
    let table = readme
        .split_once("<!-- session:begin -->")
        .and_then(|(_, rest)| rest.split_once("<!-- session:end -->"));
    let rows = table.map(|(table, _)| table).unwrap_or_default().lines();
    let names: Vec<&str> =
        rows.filter_map(|row| row.strip_prefix("| `")?.split_once('`').map(|(name, _)| name)).collect();
    assert_eq!(names, SOURCES.iter().filter_map(|source| source.place.name()).collect::<Vec<_>>());
}
