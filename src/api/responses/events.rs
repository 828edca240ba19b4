//! The stream of events: engine steps become the official series, each item from its beginning to its end,
//! and one terminal event.

mod item;

use std::sync::Arc;

use serde_json::Value;

use self::item::OpenItem;
use super::output::{self, official_items};
use super::wire::{Body, Event, Head, OutputItem, Place, Progress, Response, What};
use crate::api::error::ApiError;
use crate::api::observe::{Call, Envelope};
use crate::api::sse::{Encode, Frames};
use crate::bridge::BridgeError;
use crate::model::{Outcome, TurnEvent, Usage};

/// Encodes one turn.
#[derive(Debug)]
pub(crate) struct Events {
    head: Head,
    /// Told of a failure after the head was sent.
    call: Call,
    /// The socket's lane that the events go to, where it has a name.
    stream_id: Option<Arc<str>>,
    /// The next event's.
    sequence_number: u64,
    /// In the order they began, which is their order in the output.
    items: Vec<Slot>,
    ended: bool,
}

/// An item's place in the output.
#[derive(Debug)]
enum Slot {
    Open(OpenItem),
    Done(OutputItem),
}

/// Numbers events and writes them.
pub(super) struct Emit<'a> {
    stream_id: Option<&'a str>,
    sequence_number: &'a mut u64,
    out: &'a mut Frames,
}

impl Events {
    pub(crate) fn new(head: Head, call: Call) -> Self {
        Self { head, call, stream_id: None, sequence_number: 0, items: Vec::new(), ended: false }
    }

    /// The same, each event with the name of its lane.
    #[must_use]
    pub(super) fn on_lane(self, stream_id: Option<Arc<str>>) -> Self {
        Self { stream_id, ..self }
    }

    /// The open item with this id, begun now if it is new; `None` if it is already done.
    fn open<'a>(
        &'a mut self,
        kind: &'static str,
        id: &str,
        out: &'a mut Frames,
    ) -> Option<(&'a mut OpenItem, Emit<'a>)> {
        let known = self.items.iter().rposition(|slot| slot.is(kind, id));
        let index = known.unwrap_or(self.items.len());
        let mut emit =
            Emit { stream_id: self.stream_id.as_deref(), sequence_number: &mut self.sequence_number, out };
        if known.is_none() {
            let begun = output::begun_unknown(kind, id);
            self.items.push(Slot::Open(OpenItem::begin(&begun, index, &mut emit)));
        }
        match self.items.get_mut(index)? {
            Slot::Open(item) => Some((item, emit)),
            Slot::Done(_) => None,
        }
    }

    /// Ends an item, begun before or not; once.
    fn end_item(&mut self, done: OutputItem, out: &mut Frames) {
        let (kind, id) = (output::kind(&done), output::id(&done));
        let known = self.items.iter().rposition(|slot| slot.is(kind, id));
        let index = known.unwrap_or(self.items.len());
        let mut emit =
            Emit { stream_id: self.stream_id.as_deref(), sequence_number: &mut self.sequence_number, out };
        if known.is_none() {
            let begun = output::begun(&done);
            self.items.push(Slot::Open(OpenItem::begin(&begun, index, &mut emit)));
        }
        let Some(slot) = self.items.get_mut(index) else { return };
        if let Slot::Open(open) = slot {
            open.end(&done, &mut emit);
            *slot = Slot::Done(done);
        }
    }

    fn completed(&mut self, outcome: &Outcome, out: &mut Frames) {
        let output = official_items(&outcome.output, self.head.form());
        for item in &output {
            self.end_item(item.clone(), out);
        }
        let mut emit =
            Emit { stream_id: self.stream_id.as_deref(), sequence_number: &mut self.sequence_number, out };
        for slot in &mut self.items {
            if let Slot::Open(open) = slot {
                tracing::warn!("an item that had begun is not in the answer");
                *slot = Slot::Done(open.abandon(&mut emit));
            }
        }
        let kind = if outcome.incomplete.is_some() { "response.incomplete" } else { "response.completed" };
        self.response(kind, Progress::ended(outcome.incomplete), &output, outcome.usage, out);
    }

    /// Ends with a failure, where nothing has ended it yet.
    pub(super) fn fail(&mut self, error: &ApiError, out: &mut Frames) {
        if !std::mem::replace(&mut self.ended, true) {
            self.failed(error, out);
        }
    }

    fn failed(&mut self, error: &ApiError, out: &mut Frames) {
        self.call.note_error(error);
        let output = self.done();
        let message = error.named_message();
        let progress = Progress::Failed { code: error.response_code(), message: &message };
        self.response("response.failed", progress, &output, None, out);
    }

    /// What is told of a response that waits for its turn.
    pub(super) fn queued(&mut self, out: &mut Frames) {
        self.response("response.created", Progress::Queued, &[], None, out);
        self.response("response.queued", Progress::Queued, &[], None, out);
    }

    /// What is told once its turn has come, which names the model.
    pub(super) fn in_progress(&mut self, model: String, out: &mut Frames) {
        self.head.model = model;
        self.response("response.in_progress", Progress::Running, &[], None, out);
    }

    /// The response object as it stands, with the items that are done.
    pub(super) fn object(&self, progress: Progress<'_>) -> Value {
        let output = self.done();
        let response = Response::new(&self.head, progress, &output, None).with_trace(self.trace(progress));
        serde_json::to_value(response).unwrap_or_default()
    }

    fn done(&self) -> Vec<OutputItem> {
        let done = self.items.iter().filter_map(|slot| match slot {
            Slot::Done(item) => Some(item.clone()),
            Slot::Open(_) => None,
        });
        done.collect()
    }

    fn trace(&self, progress: Progress<'_>) -> Option<Envelope> {
        let is_over = !matches!(progress, Progress::Queued | Progress::Running);
        is_over.then(|| self.call.envelope()).flatten()
    }

    /// An event that carries the whole response.
    fn response(
        &mut self,
        kind: &'static str,
        progress: Progress<'_>,
        output: &[OutputItem],
        usage: Option<Usage>,
        out: &mut Frames,
    ) {
        let trace = self.trace(progress);
        let response = Box::new(Response::new(&self.head, progress, output, usage).with_trace(trace));
        Emit { stream_id: self.stream_id.as_deref(), sequence_number: &mut self.sequence_number, out }
            .event(kind, Body::Response { response });
    }
}

impl Encode for Events {
    fn start(&mut self, out: &mut Frames) {
        self.response("response.created", Progress::Running, &[], None, out);
        self.response("response.in_progress", Progress::Running, &[], None, out);
    }

    fn event(&mut self, _index: usize, event: TurnEvent, out: &mut Frames) {
        if self.ended {
            return;
        }
        match event {
            TurnEvent::Started { .. } => {}
            TurnEvent::MessageStarted { item_id } => {
                self.open("message", &item_id, out);
            }
            TurnEvent::TextDelta { item_id, delta } => {
                if let Some((item, mut emit)) = self.open("message", &item_id, out) {
                    item.text_delta(&delta, &mut emit);
                }
            }
            TurnEvent::ReasoningStarted { item_id } => {
                self.open("reasoning", &item_id, out);
            }
            TurnEvent::SummaryPartAdded { item_id, index } => {
                if let Some((item, mut emit)) = self.open("reasoning", &item_id, out) {
                    item.summary_delta(index, "", &mut emit);
                }
            }
            TurnEvent::SummaryDelta { item_id, index, delta } => {
                if let Some((item, mut emit)) = self.open("reasoning", &item_id, out) {
                    item.summary_delta(index, &delta, &mut emit);
                }
            }
            TurnEvent::ReasoningDelta { item_id, index, delta } => {
                if let Some((item, mut emit)) = self.open("reasoning", &item_id, out) {
                    item.reasoning_delta(index, &delta, &mut emit);
                }
            }
            TurnEvent::ItemDone(item) => {
                if let Some(done) = output::official(&item, self.items.len(), self.head.form()) {
                    self.end_item(done, out);
                }
            }
        }
    }

    fn finish(&mut self, _index: usize, result: Result<Outcome, BridgeError>, out: &mut Frames) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        match result {
            Ok(outcome) => self.completed(&outcome, out),
            Err(error) => self.failed(&error.into(), out),
        }
    }

    fn end(&mut self, out: &mut Frames) {
        out.done();
    }
}

impl Slot {
    fn is(&self, kind: &str, id: &str) -> bool {
        match self {
            Self::Open(item) => item.is(kind, id),
            Self::Done(item) => output::kind(item) == kind && output::id(item) == id,
        }
    }
}

impl Emit<'_> {
    fn event(&mut self, kind: &'static str, body: Body<'_>) {
        let (sequence_number, stream_id) = (*self.sequence_number, self.stream_id);
        self.out.event(Some(kind), &Event { kind, sequence_number, body, stream_id });
        *self.sequence_number += 1;
    }

    fn item(&mut self, kind: &'static str, output_index: usize, item: &OutputItem) {
        self.event(kind, Body::Item { output_index, item });
    }

    fn placed(&mut self, kind: &'static str, place: Place<'_>, what: What<'_>) {
        self.event(kind, Body::Placed { place, what });
    }
}

#[cfg(test)]
pub(crate) mod tests;
