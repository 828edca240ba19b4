//! The stream of events: engine steps become the official series, each item from its beginning to its end,
//! and one terminal event.

mod item;

use self::item::OpenItem;
use super::output::{self, official_items};
use super::wire::{Body, Event, Head, OutputItem, Place, Progress, Response, What};
use crate::api::error::ApiError;
use crate::api::observe::Call;
use crate::api::sse::{Encode, Frames};
use crate::bridge::BridgeError;
use crate::model::{Outcome, TurnEvent, Usage};

/// Encodes one turn.
#[derive(Debug)]
pub(crate) struct Events {
    head: Head,
    /// Told of a failure after the head was sent.
    call: Call,
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
    sequence_number: &'a mut u64,
    out: &'a mut Frames,
}

impl Events {
    pub(crate) fn new(head: Head, call: Call) -> Self {
        Self { head, call, sequence_number: 0, items: Vec::new(), ended: false }
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
        let mut emit = Emit { sequence_number: &mut self.sequence_number, out };
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
        let mut emit = Emit { sequence_number: &mut self.sequence_number, out };
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
        let output = official_items(&outcome.output, &self.head);
        for item in &output {
            self.end_item(item.clone(), out);
        }
        let mut emit = Emit { sequence_number: &mut self.sequence_number, out };
        for slot in &mut self.items {
            if let Slot::Open(open) = slot {
                tracing::warn!("an item that had begun is not in the answer");
                *slot = Slot::Done(open.abandon(&mut emit));
            }
        }
        let kind = if outcome.incomplete.is_some() { "response.incomplete" } else { "response.completed" };
        self.response(kind, Progress::ended(outcome.incomplete), &output, outcome.usage, out);
    }

    fn failed(&mut self, error: BridgeError, out: &mut Frames) {
        let error = ApiError::from(error);
        self.call.note_error(&error);
        let done = self.items.iter().filter_map(|slot| match slot {
            Slot::Done(item) => Some(item.clone()),
            Slot::Open(_) => None,
        });
        let output: Vec<OutputItem> = done.collect();
        let message = error.named_message();
        let progress = Progress::Failed { code: error.response_code(), message: &message };
        self.response("response.failed", progress, &output, None, out);
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
        let trace = if matches!(progress, Progress::Running) { None } else { self.call.envelope() };
        let response = Box::new(Response::new(&self.head, progress, output, usage).with_trace(trace));
        Emit { sequence_number: &mut self.sequence_number, out }.event(kind, Body::Response { response });
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
                if let Some(done) = output::official(&item, self.items.len(), &self.head) {
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
            Err(error) => self.failed(error, out),
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
        self.out.event(Some(kind), &Event { kind, sequence_number: *self.sequence_number, body });
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
