//! What a thread has said, as a digest: so that a request which brings its whole conversation with it (a Chat
//! Completions client knows no other way) finds the warm thread that holds the beginning of it.
//!
//! The digest is a SHA-256 chain over the items in their canonical form ([`calls::canonical`]), so two
//! histories with the same digest say the same. Differences that say nothing do not count: ids, `status`, the
//! form of content, absent and null fields, how arguments are laid out, and into how many messages the
//! assistant's text was cut, which Chat Completions joins. Reasoning stands beside the chain: a client need not
//! send it back, but what it does send back must be the thread's own, in its place; without its encrypted content
//! it says nothing either.

use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::calls;
use super::references::is_bare_reasoning;
use crate::model::Item;

type Digest = [u8; 32];

/// What stands between two messages of one answer in Chat Completions.
const BREAK: &str = "\n\n";

/// What was said, as far as it matters to whoever goes on from it.
#[derive(Debug, Clone, Default)]
pub(super) struct History {
    digest: Digest,
    /// Items so far, reasoning left out.
    said: usize,
    /// Each reasoning item: how many others came before it, and what it says.
    reasoning: Vec<(usize, Digest)>,
    /// The assistant's text at the end, which its next message may go on.
    open: Option<Sha256>,
}

impl History {
    /// Of a conversation.
    pub(super) fn of<'a>(items: impl IntoIterator<Item = &'a Item>) -> Self {
        let mut history = Self::default();
        history.extend(items);
        history
    }

    /// More was said.
    pub(super) fn extend<'a>(&mut self, items: impl IntoIterator<Item = &'a Item>) {
        for item in items {
            self.push(item);
        }
    }

    fn push(&mut self, item: &Item) {
        if is_bare_reasoning(item) {
            return;
        }
        let said = calls::canonical(item);
        if item.kind() == "reasoning" {
            self.reasoning.push((self.said, linked(Sha256::new(), item, &said)));
            return;
        }
        self.said += 1;
        self.open = assistant_text(item, &said).map(|text| match self.open.take() {
            Some(open) => open.chain_update(BREAK).chain_update(text),
            None => Sha256::new().chain_update(self.digest).chain_update("text").chain_update(text),
        });
        self.digest = match &self.open {
            Some(open) => open.clone().finalize().into(),
            None => linked(Sha256::new().chain_update(self.digest).chain_update("item"), item, &said),
        };
    }

    /// Whether `given` says the same, but for reasoning that it leaves out.
    pub(super) fn is_said_by(&self, given: &Self) -> bool {
        self.digest == given.digest && leaves_out(&given.reasoning, &self.reasoning)
    }
}

/// A conversation on its way in, with what its history was after each item.
#[derive(Debug)]
pub(super) struct Trail {
    pub(super) history: History,
    /// After each item: the digest, and the reasoning items so far.
    marks: Vec<(Digest, usize)>,
}

impl Trail {
    /// Of a conversation.
    pub(super) fn of<'a>(items: impl IntoIterator<Item = &'a Item>) -> Self {
        let (mut history, mut marks) = (History::default(), Vec::new());
        for item in items {
            history.push(item);
            marks.push((history.digest, history.reasoning.len()));
        }
        Self { history, marks }
    }

    /// How many items `held` has said of it, where it goes on from there.
    pub(super) fn goes_on_from(&self, held: &History) -> Option<usize> {
        let (_, before_last) = self.marks.split_last()?;
        let said = |(digest, reasoning): &(Digest, usize)| {
            *digest == held.digest && leaves_out(&self.history.reasoning[..*reasoning], &held.reasoning)
        };
        before_last.iter().rposition(said).map(|at| at + 1)
    }
}

/// Whether `given` is `held`, in order, but for some that are left out.
fn leaves_out(given: &[(usize, Digest)], held: &[(usize, Digest)]) -> bool {
    let mut held = held.iter();
    given.iter().all(|given| held.any(|held| held == given))
}

/// The text of an assistant's message that is nothing but text.
fn assistant_text<'a>(item: &Item, said: &'a Value) -> Option<&'a str> {
    if item.kind() != "message" || item.str("role") != Some("assistant") {
        return None;
    }
    match said[1].as_array()?.as_slice() {
        [text] => text.as_str(),
        _ => None,
    }
}

fn linked(mut chain: Sha256, item: &Item, said: &Value) -> Digest {
    feed(&mut chain, &Value::from(item.kind()));
    feed(&mut chain, said);
    chain.finalize().into()
}

/// Feeds a value so that no two give the same bytes; the order of fields says nothing.
fn feed(chain: &mut Sha256, value: &Value) {
    let length = |length: usize| (length as u64).to_le_bytes();
    match value {
        Value::Null => chain.update("z"),
        Value::Bool(flag) => chain.update(if *flag { "t" } else { "f" }),
        Value::Number(number) => chain.update(format!("n{number};")),
        Value::String(text) => {
            chain.update("s");
            chain.update(length(text.len()));
            chain.update(text);
        }
        Value::Array(values) => {
            chain.update("a");
            chain.update(length(values.len()));
            for value in values {
                feed(chain, value);
            }
        }
        Value::Object(fields) => {
            chain.update("o");
            chain.update(length(fields.len()));
            let mut fields: Vec<_> = fields.iter().collect();
            fields.sort_unstable_by_key(|(name, _)| name.as_str());
            for (name, value) in fields {
                chain.update(length(name.len()));
                chain.update(name);
                feed(chain, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn items(values: &Value) -> Vec<Item> {
        values.as_array().unwrap().iter().map(|value| Item::from_value(value.clone()).unwrap()).collect()
    }

    fn said(role: &str, text: &str) -> Value {
        json!({"type": "message", "role": role, "content": text})
    }

    fn thought(encrypted: &str) -> Value {
        json!({"type": "reasoning", "id": "rs", "summary": [], "encrypted_content": encrypted})
    }

    /// Where `given` goes on from `held`.
    fn split(held: &Value, given: &Value) -> Option<usize> {
        Trail::of(&items(given)).goes_on_from(&History::of(&items(held)))
    }

    #[test]
    fn a_conversation_goes_on_where_the_thread_ends() {
        let held = json!([said("developer", "be brief"), said("user", "a"), said("assistant", "b")]);
        let more = |more: Vec<Value>| {
            let mut given = held.as_array().unwrap().clone();
            given.extend(more);
            Value::from(given)
        };
        assert_eq!(split(&held, &more(vec![said("user", "c")])), Some(3));
        assert_eq!(split(&held, &more(vec![said("assistant", "c"), said("user", "d")])), Some(3));
        // Nothing is left to ask, or something is not what it was.
        assert_eq!(split(&held, &held), None);
        for other in [
            json!([
                said("developer", "be long"),
                said("user", "a"),
                said("assistant", "b"),
                said("user", "c")
            ]),
            json!([said("user", "a"), said("assistant", "b"), said("user", "c")]),
            json!([said("developer", "be brief"), said("user", "a"), said("user", "b"), said("user", "c")]),
            json!([
                said("developer", "be brief"),
                said("user", "a"),
                said("assistant", "b "),
                said("user", "c")
            ]),
            json!([said("developer", "be brief"), said("user", "a"), said("user", "c")]),
            json!([
                said("developer", "be briefa"),
                said("user", ""),
                said("assistant", "b"),
                said("user", "c")
            ]),
        ] {
            assert_eq!(split(&held, &other), None, "{other}");
        }
    }

    #[test]
    fn what_says_nothing_does_not_count() {
        let held = json!([
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hi"}]},
            {"type": "message", "id": "m", "role": "assistant", "status": "completed", "phase": null,
                "content": [{"type": "output_text", "text": "let me see", "annotations": [], "logprobs": []}]},
            {"type": "function_call", "id": "fc", "call_id": "a", "name": "f", "arguments": "{\"x\":1, \"y\":[2]}"},
            {"type": "function_call_output", "call_id": "a", "output": "42"},
            {"type": "message", "id": "m1", "role": "assistant", "content": [{"type": "output_text", "text": "one"}]},
            {"type": "message", "id": "m2", "role": "assistant", "content": [{"type": "output_text", "text": "two"}]},
        ]);
        let given = json!([
            {"type": "message", "role": "user", "content": "hi"},
            {"type": "message", "role": "assistant", "content": "let me see"},
            {"type": "function_call", "call_id": "a", "name": "f", "arguments": "{ \"y\": [ 2 ], \"x\": 1 }"},
            {"type": "function_call_output", "call_id": "a", "output": [{"type": "input_text", "text": "42"}]},
            {"type": "message", "role": "assistant", "content": "one\n\ntwo"},
            said("user", "on"),
        ]);
        assert_eq!(split(&held, &given), Some(5));
    }

    #[test]
    fn reasoning_may_be_left_out_but_not_made_up() {
        let held = json!([said("user", "a"), thought("x"), thought("y"), said("assistant", "b")]);
        let with = |thoughts: &[&str]| {
            let mut given = vec![said("user", "a")];
            given.extend(thoughts.iter().map(|encrypted| thought(encrypted)));
            given.extend([said("assistant", "b"), said("user", "c")]);
            Value::from(given)
        };
        for (thoughts, expected) in [
            (&[][..], Some(2)),
            (&["x"], Some(3)),
            (&["y"], Some(3)),
            (&["x", "y"], Some(4)),
            (&["y", "x"], None),
            (&["z"], None),
        ] {
            assert_eq!(split(&held, &with(thoughts)), expected, "{thoughts:?}");
        }
        let elsewhere = json!([thought("x"), said("user", "a"), said("assistant", "b"), said("user", "c")]);
        assert_eq!(split(&held, &elsewhere), None);
        // Of the thread's own only as much as it has.
        let after = json!([said("user", "a"), said("assistant", "b"), thought("x"), said("user", "c")]);
        assert_eq!(split(&json!([said("user", "a"), said("assistant", "b")]), &after), Some(2));
    }

    #[test]
    fn reasoning_without_its_content_says_nothing() {
        let bare =
            || json!({"type": "reasoning", "id": "rs", "summary": [{"type": "summary_text", "text": "hm"}]});
        let held = json!([said("user", "a"), thought("x"), said("assistant", "b")]);
        let given = json!([said("user", "a"), bare(), said("assistant", "b"), bare(), said("user", "c")]);
        assert_eq!(split(&held, &given), Some(4));
        let of_a_fork = json!([said("user", "a"), bare(), said("assistant", "b")]);
        assert_eq!(split(&of_a_fork, &given), Some(4));
        let without = json!([said("user", "a"), said("assistant", "b"), said("user", "c")]);
        assert_eq!(split(&of_a_fork, &without), Some(2));
    }

    proptest! {
        /// Whatever is said, a history made step by step is that of the whole, and no proper part of it.
        #[test]
        fn step_by_step_is_as_at_once(texts in prop::collection::vec(("user|assistant|developer", "[ab]{0,3}"), 1..12)) {
            let all: Vec<Item> =
                texts.iter().map(|(role, text)| Item::from_value(said(role, text)).unwrap()).collect();
            let trail = Trail::of(&all);
            for at in 1..all.len() {
                let held = History::of(&all[..at]);
                let found = trail.goes_on_from(&held);
                let same = found.is_some_and(|found| held.is_said_by(&History::of(&all[..found])));
                prop_assert!(same, "{found:?} of {at}");
            }
            let mut stepped = History::default();
            for item in &all {
                stepped.extend([item]);
            }
            prop_assert!(stepped.is_said_by(&trail.history) && trail.history.is_said_by(&stepped));
        }
    }
}
