//! Which conversation a request belongs to: one ordered chain of sources, header, body, the conversation's
//! beginning, and last a fresh id. Pure.
//!
//! What a caller sends is only read here: no header of a caller's goes any further.

mod beginning;
mod forward;

use std::borrow::Cow;
use std::collections::BTreeMap;

use http::HeaderMap;
use serde_json::{Map, Value};

pub(crate) use self::beginning::Beginning;
pub(crate) use self::forward::forwarded;
use super::classes;
use super::ignored::Ignored;
use super::request_id::is_safe;
use crate::model::{SessionId, SessionIdentity, SessionSource};

/// Turns the trace on.
pub(crate) const X_TRACE: &str = "x-codex-bridge-trace";
/// A longer `x-codex-turn-metadata` is not read, bytes.
const MAX_JSON: usize = 16 * 1024;

/// Where a caller may name its session.
#[derive(Debug)]
struct Source {
    place: SessionSource,
    /// The header is a JSON object, and the first of these members that is there is the name.
    members: &'static [&'static str],
    /// The name is likely to be another one on the next request.
    of_one_request: bool,
}

/// In the order in which they are asked: the first well-formed name wins.
const SOURCES: &[Source] = &[
    Source::header("session-id"),
    Source::header("session_id"),
    Source::header("x-session-id"),
    Source::header("thread-id"),
    // Codex clients put the thread's id there; others a new one each time, as the official API wants it.
    Source { of_one_request: true, ..Source::header("x-client-request-id") },
    Source { members: &["session_id", "thread_id"], ..Source::header("x-codex-turn-metadata") },
    Source::body("metadata.session_id"),
    Source::body("metadata.thread_id"),
    Source::body("metadata.conversation_id"),
    Source::body("prompt_cache_key"),
];

/// What the body may name.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Body<'a> {
    pub(crate) metadata: &'a BTreeMap<String, String>,
    pub(crate) prompt_cache_key: Option<&'a str>,
}

/// What a request's head says of its caller.
#[derive(Debug, Clone, Default)]
pub(crate) struct Caller {
    session: Option<SessionIdentity>,
    /// Headers that say nothing that can be used, each once.
    malformed: Vec<&'static str>,
    /// The trace is asked for.
    pub(crate) wants_trace: bool,
    /// The class of task that it names.
    pub(crate) task_class: Option<String>,
}

impl Caller {
    /// Reads the head.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let mut caller = Self { task_class: classes::header(headers), ..Self::default() };
        caller.session = first(
            |place| header(headers, place),
            |place| {
                caller.malformed.extend(place.name());
            },
        );
        match headers.get(X_TRACE).map(http::HeaderValue::as_bytes) {
            None | Some(b"0" | b"false") => {}
            Some(b"1" | b"true") => caller.wants_trace = true,
            Some(_) => caller.malformed.push(X_TRACE),
        }
        caller
    }
}

/// What [`Caller::of`] reads of a head, as far as it is text: to be kept with a call that goes on without its
/// request.
pub(crate) fn kept(headers: &HeaderMap) -> Vec<(String, String)> {
    let sources = SOURCES.iter().filter_map(|source| match source.place {
        SessionSource::Header(name) => Some(name),
        _ => None,
    });
    let names = sources.chain([X_TRACE, classes::X_TASK_CLASS]);
    let pairs = names.flat_map(|name| headers.get_all(name).iter().map(move |value| (name, value)));
    pairs.filter_map(|(name, value)| Some((name.to_owned(), value.to_str().ok()?.to_owned()))).collect()
}

/// The request's session. A malformed name is passed over and reported; it never fails a request.
/// `beginning` is `None` for a request that continues a response: it begins elsewhere.
pub(crate) fn resolve(
    caller: &Caller,
    body: Body<'_>,
    beginning: Option<Beginning<'_>>,
    ignored: &mut Ignored,
) -> SessionIdentity {
    for name in &caller.malformed {
        ignored.add(format!("headers.{name}"));
    }
    let named = caller.session.clone().or_else(|| {
        first(
            |source| Ok(body.field(source.place).map(Cow::Borrowed)),
            |place| {
                ignored.add(place.name().unwrap_or_default());
            },
        )
    });
    let derived = || Some(SessionIdentity::derived(beginning?.digest()?));
    named.or_else(derived).unwrap_or_else(SessionIdentity::fresh)
}

/// Something is there, and it is no name.
struct Malformed;

/// The first well-formed name; what is there before it and is none is told.
fn first<'a>(
    read: impl Fn(&'static Source) -> Result<Option<Cow<'a, str>>, Malformed>,
    mut malformed: impl FnMut(SessionSource),
) -> Option<SessionIdentity> {
    SOURCES.iter().find_map(|source| {
        match read(source) {
            Ok(None) => {}
            Ok(Some(name)) if is_safe(&name) => {
                let id = SessionId::new(&*name);
                return Some(if source.of_one_request {
                    SessionIdentity::of_one_request(id, source.place)
                } else {
                    SessionIdentity::named(id, source.place)
                });
            }
            Ok(Some(_)) | Err(Malformed) => malformed(source.place),
        }
        None
    })
}

/// What a header names; `None` where the source is no header or the header is not there.
fn header<'h>(headers: &'h HeaderMap, source: &Source) -> Result<Option<Cow<'h, str>>, Malformed> {
    let SessionSource::Header(name) = source.place else { return Ok(None) };
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    // Two that differ name nothing.
    if values.any(|other| other != value) {
        return Err(Malformed);
    }
    let text = value.to_str().map_err(|_| Malformed)?;
    if source.members.is_empty() { Ok(Some(text.into())) } else { member(text, source.members) }
}

/// The first of `members` in the JSON object `text`.
fn member(text: &str, members: &[&str]) -> Result<Option<Cow<'static, str>>, Malformed> {
    if text.len() > MAX_JSON {
        return Err(Malformed);
    }
    let mut fields: Map<String, Value> = serde_json::from_str(text).map_err(|_| Malformed)?;
    match members.iter().find_map(|name| fields.remove(*name).filter(|value| !value.is_null())) {
        None => Ok(None),
        Some(Value::String(name)) => Ok(Some(name.into())),
        Some(_) => Err(Malformed),
    }
}

impl<'a> Body<'a> {
    fn field(&self, place: SessionSource) -> Option<&'a str> {
        let SessionSource::Body(path) = place else { return None };
        match path.strip_prefix("metadata.") {
            Some(key) => self.metadata.get(key).map(String::as_str),
            None => self.prompt_cache_key,
        }
    }
}

impl Source {
    const fn header(name: &'static str) -> Self {
        Self { place: SessionSource::Header(name), members: &[], of_one_request: false }
    }

    const fn body(path: &'static str) -> Self {
        Self { place: SessionSource::Body(path), members: &[], of_one_request: false }
    }
}

#[cfg(test)]
mod tests;
