//! What a chain has said, response by response.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use super::super::calls;
use crate::model::{Item, PackedItems, ResponseId};

/// One step of a chain: what came in and what came out. Steps point at their predecessor, so a chain of a
/// hundred responses holds each item once, and branches share their stem.
#[derive(Debug)]
pub(in crate::bridge) struct Step {
    previous: Option<Arc<Step>>,
    items: PackedItems,
    /// Responses in the chain, this one included.
    length: u32,
    /// Items in the chain, this step's included.
    total: usize,
    /// About how many bytes the items of the chain take, this step's included.
    bytes: usize,
    /// Whether an item of the chain has an image.
    has_image: bool,
    /// Whether one has audio.
    has_audio: bool,
    /// Calls of the chain that have no output yet.
    open_calls: Vec<String>,
    /// The record of the store that holds this step's items, once one does.
    stored: OnceLock<ResponseId>,
    /// That record is gone, and its items may be gone with it.
    lost: AtomicBool,
    /// Where its bytes are counted, once it is kept.
    counted: OnceLock<Gauge>,
}

/// Bytes that are kept, each step's counted once, however many records need it.
#[derive(Debug, Clone, Default)]
pub(super) struct Gauge(Arc<AtomicUsize>);

impl Gauge {
    pub(super) fn bytes(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl Step {
    pub(in crate::bridge) fn new(previous: Option<Arc<Step>>, items: &[Item]) -> Arc<Self> {
        let mut open_calls = previous.as_ref().map(|step| step.open_calls.clone()).unwrap_or_default();
        calls::follow(&mut open_calls, items);
        let packed = PackedItems::pack(items);
        let before = previous.as_deref();
        let has = |kind: &str| items.iter().any(|item| item.has_part(kind));
        Arc::new(Self {
            length: previous.as_ref().map_or(0, |step| step.length).saturating_add(1),
            total: previous.as_ref().map_or(0, |step| step.total) + items.len(),
            bytes: previous.as_ref().map_or(0, |step| step.bytes) + packed.weight(),
            has_image: before.is_some_and(Self::has_image) || has("input_image"),
            has_audio: before.is_some_and(Self::has_audio) || has("input_audio"),
            open_calls,
            previous,
            items: packed,
            stored: OnceLock::new(),
            lost: AtomicBool::new(false),
            counted: OnceLock::new(),
        })
    }

    /// Everything said so far, oldest first.
    pub(in crate::bridge) fn transcript(self: &Arc<Self>) -> Vec<Item> {
        let steps: Vec<&Self> = self.backwards().collect();
        steps.iter().rev().flat_map(|step| step.items.unpack()).collect()
    }

    /// Responses in the chain.
    pub(in crate::bridge) fn length(&self) -> u32 {
        self.length
    }

    /// Items in the chain.
    pub(in crate::bridge) fn total(&self) -> usize {
        self.total
    }

    /// About how many bytes the items of the chain take.
    pub(in crate::bridge) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether an item of the chain has an image.
    pub(in crate::bridge) fn has_image(&self) -> bool {
        self.has_image
    }

    /// Whether an item of the chain has audio.
    pub(in crate::bridge) fn has_audio(&self) -> bool {
        self.has_audio
    }

    /// Calls of the chain that have no output yet, by call id.
    pub(in crate::bridge) fn open_calls(&self) -> &[String] {
        &self.open_calls
    }

    /// Whether the store has it.
    pub(super) fn is_stored(&self) -> bool {
        self.stored.get().is_some() && !self.lost.load(Ordering::Relaxed)
    }

    /// Its record is gone, or may go at any time: what continues it must not count on the store for it.
    pub(super) fn set_lost(&self) {
        self.lost.store(true, Ordering::Relaxed);
    }

    /// The store has its items, in the record `id`.
    pub(super) fn set_stored(&self, id: &ResponseId) {
        // Only ever by the one id.
        let _ = self.stored.set(id.clone());
    }

    /// The nearest step before this one that the store has, and its record; not `replaced`, which this one takes
    /// the place of, nor what a lost record continued: that may have gone with it.
    pub(super) fn stem(&self, replaced: &ResponseId) -> Option<(&Self, &ResponseId)> {
        let trusted = self.backwards().skip(1).take_while(|step| !step.lost.load(Ordering::Relaxed));
        let mut stored = trusted.filter_map(|step| Some((step, step.stored.get()?)));
        stored.find(|(_, id)| *id != replaced)
    }

    /// What was said before this step and after `stem`, oldest first.
    pub(super) fn said_since(&self, stem: Option<&Self>) -> Vec<Item> {
        let is_stem = |step: &Self| stem.is_some_and(|stem| std::ptr::eq(stem, step));
        let steps: Vec<&Self> = self.backwards().skip(1).take_while(|step| !is_stem(step)).collect();
        steps.iter().rev().flat_map(|step| step.items.unpack()).collect()
    }

    /// About how many bytes those take.
    pub(super) fn bytes_since(&self, stem: Option<&Self>) -> usize {
        let before = self.previous.as_ref().map_or(0, |step| step.bytes);
        before.saturating_sub(stem.map_or(0, |stem| stem.bytes))
    }

    /// Counts this step and those before it.
    pub(super) fn count(&self, gauge: &Gauge) {
        for step in self.backwards() {
            if step.counted.set(gauge.clone()).is_err() {
                return;
            }
            gauge.0.fetch_add(step.items.weight(), Ordering::Relaxed);
        }
    }

    fn backwards(&self) -> impl Iterator<Item = &Self> {
        std::iter::successors(Some(self), |step| step.previous.as_deref())
    }
}

/// Unlinks step by step: dropping a long chain recursively would overflow the stack.
impl Drop for Step {
    fn drop(&mut self) {
        if let Some(gauge) = self.counted.get() {
            gauge.0.fetch_sub(self.items.weight(), Ordering::Relaxed);
        }
        let mut next = self.previous.take();
        while let Some(step) = next {
            next = Arc::into_inner(step).and_then(|mut step| step.previous.take());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(previous: Option<&Arc<Step>>, text: &str) -> Arc<Step> {
        Step::new(previous.cloned(), &[Item::input_text("user", text)])
    }

    #[test]
    fn what_the_store_lacks_is_what_was_said_since_its_last_record() {
        let id = |name: &str| ResponseId::new(name);
        let texts = |items: Vec<Item>| -> Vec<String> {
            items
                .iter()
                .map(|item| item.get("content").unwrap()[0]["text"].as_str().unwrap().into())
                .collect()
        };
        let stored = step(None, "a");
        stored.set_stored(&id("a"));
        let lost = step(Some(&stored), "b");
        let tip = step(Some(&lost), "c");
        let stem = |tip: &Step, replaced: &str| {
            let replaced = id(replaced);
            let stem = tip.stem(&replaced);
            let named = stem.map_or_else(String::new, |(_, id)| id.to_string());
            (named, texts(tip.said_since(stem.map(|(step, _)| step))).concat())
        };
        assert_eq!(stem(&tip, "c"), ("a".to_owned(), "b".to_owned()));
        // A record that this one takes the place of cannot be its stem.
        assert_eq!(stem(&tip, "a"), (String::new(), "ab".to_owned()));
        tip.set_stored(&id("c"));
        let next = step(Some(&tip), "d");
        assert_eq!(stem(&next, "d"), ("c".to_owned(), String::new()));
        tip.set_lost();
        assert_eq!(stem(&next, "d"), (String::new(), "abc".to_owned()));
    }

    #[test]
    fn a_chain_knows_what_media_it_holds() {
        let with = |previous: Option<&Arc<Step>>, kind: &str| {
            let content = serde_json::json!([{"type": kind}]);
            let item = serde_json::json!({"type": "message", "role": "user", "content": content});
            Step::new(previous.cloned(), &[Item::from_value(item).unwrap()])
        };
        let text = with(None, "input_text");
        let image = with(Some(&text), "input_image");
        let audio = with(Some(&with(Some(&image), "input_text")), "input_audio");
        let media = [&text, &image, &audio].map(|step| (step.has_image(), step.has_audio()));
        assert_eq!(media, [(false, false), (true, false), (true, true)]);
    }

    #[test]
    fn bytes_are_counted_once_and_until_nobody_needs_them() {
        let gauge = Gauge::default();
        let stem = step(None, "a");
        let (left, right) = (step(Some(&stem), "b"), step(Some(&stem), "c"));
        stem.count(&gauge);
        let one = gauge.bytes();
        left.count(&gauge);
        right.count(&gauge);
        assert_eq!(gauge.bytes(), 3 * one);
        drop(stem);
        drop(left);
        assert_eq!(gauge.bytes(), 2 * one, "the right branch needs the stem");
        drop(right);
        assert_eq!(gauge.bytes(), 0);
    }

    #[test]
    fn a_very_long_chain_is_dropped_without_overflowing_the_stack() {
        let mut step = Step::new(None, &[]);
        for _ in 0..200_000 {
            step = Step::new(Some(step), &[]);
        }
        drop(step);
    }
}
