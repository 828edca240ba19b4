//! What a turn has said so far: native events in, client events and the outcome out. No I/O, no time.

mod parts;

use std::collections::HashMap;

use super::BridgeError;
use super::emulate::{Cut, Emulation};
use super::replay::{Diverged, Replay};
use super::tools::{ClientCall, Tools};
use crate::model::{IncompleteReason, Item, Outcome, Strict, TurnEvent, Usage};
use parts::{
    delta_event, diverged, is_output, message_of, started_event, text_of, texts_of, unreadable, with_id,
};

/// The state of one turn's output. One owner: the pump.
#[derive(Debug)]
pub(super) struct Progress {
    model: String,
    max_bytes: usize,
    /// Nobody sees events before the end: a retry may say what it likes.
    unseen: bool,
    /// The client's own rules for the answer's text. One for all messages of the answer: the limit is the
    /// answer's; a stop sequence does not reach from one message into the next.
    rules: Option<Emulation>,
    /// The rules as they were when the last message was done: where a retry that nobody saw begins anew.
    settled_rules: Option<Emulation>,
    /// Items begun and not done, in order of appearance.
    open: Vec<Open>,
    /// A retried response may give an item another id; clients keep the first.
    renamed: HashMap<String, String>,
    /// In the order in which they were done, each with its place in the answer.
    output: Vec<(usize, Item)>,
    /// Items begun so far.
    places: usize,
    upstream_response_id: Option<String>,
    usage: Option<Usage>,
    /// Of earlier attempts at the same answer, in turns of their own.
    earlier: Option<Usage>,
    /// Of earlier attempts in this turn.
    spent: Option<Usage>,
    /// Items of `output` that `usage` is for.
    accounted: usize,
    calls: Calls,
    incomplete: Option<IncompleteReason>,
    /// How often the upstream response was begun again, told or seen.
    retries: u32,
    /// It comes from a fork: reasoning without its encrypted content, and no upstream id.
    forked: bool,
    /// Bytes of text sent and items kept.
    bytes: usize,
}

/// The tools that may be called, and the calls that were handed over.
#[derive(Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "four facts of a turn, none of which says anything of another"
)]
pub(super) struct Calls {
    tools: Tools,
    /// Whether there may be more than one call.
    parallel: bool,
    ids: Vec<String>,
    /// Calls were left out: the thread holds more than the answer.
    left_out: bool,
    /// The app-server has answered one by itself, and the thread holds more of that than the item that stands for it.
    own_seen: bool,
    /// Calls that the app-server answers by itself with a tool that was asked for, and has not ended yet.
    own: Vec<String>,
    /// Calls of the upstream response that is complete wait for the client.
    due: bool,
    /// The first tool that was called with what its schema or grammar does not allow, of the strictest.
    misfit: Option<(String, Strict)>,
}

impl Calls {
    /// None yet.
    pub(super) fn new(tools: Tools, parallel: bool) -> Self {
        Self {
            tools,
            parallel,
            ids: Vec::new(),
            left_out: false,
            own_seen: false,
            own: Vec::new(),
            due: false,
            misfit: None,
        }
    }

    /// A call of the model's as the client gets it; `None` for one that is left out: a tool that was not
    /// offered (the app-server answers it by itself), or a second call where only one may be.
    fn take(&mut self, call: &Item) -> Option<Item> {
        if self.tools.is_own(call) {
            self.own_seen = true;
            self.own.push(call.str("call_id").unwrap_or_default().to_owned());
            return None;
        }
        let call = self.tools.client_call(call).filter(|_| self.parallel || self.ids.is_empty());
        let Some(ClientCall { item, misfit }) = call else {
            self.left_out = true;
            return None;
        };
        self.ids.push(item.str("call_id").unwrap_or_default().to_owned());
        if let Some(strict) = misfit
            && self.misfit.as_ref().is_none_or(|(_, known)| *known < strict)
        {
            self.misfit = Some((item.str("name").unwrap_or_default().to_owned(), strict));
        }
        Some(item)
    }

    /// A call that the app-server answered by itself, and of which it told no more than the output, has failed.
    fn answered(&mut self, output: &Item) {
        self.own.retain(|own| output.str("call_id") != Some(own));
    }
}

#[derive(Debug)]
struct Open {
    id: String,
    kind: Kind,
    /// Its place in the answer, as the client counts.
    place: usize,
    /// One text for a message (index 0); one for each summary or content part of a reasoning item.
    texts: HashMap<(Part, u32), Replay>,
    /// What the rules let through of a message.
    told: String,
    /// Begun again by a retry, and not yet claimed by an item of the new attempt.
    unclaimed: bool,
}

/// Items that are told about before they are done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Message,
    Reasoning,
}

/// Which text of an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Part {
    Text,
    Summary,
    Reasoning,
}

impl Progress {
    pub(super) fn new(model: String, max_bytes: usize, rules: Option<Emulation>, calls: Calls) -> Self {
        Self {
            calls,
            model,
            max_bytes,
            unseen: false,
            settled_rules: rules.clone(),
            rules,
            open: Vec::new(),
            renamed: HashMap::new(),
            output: Vec::new(),
            places: 0,
            upstream_response_id: None,
            usage: None,
            earlier: None,
            spent: None,
            accounted: 0,
            incomplete: None,
            retries: 0,
            forked: false,
            bytes: 0,
        }
    }

    /// The app-server begins an item. Items of one upstream response come one after the other: one that begins
    /// before another is done says that the response is being tried again (over the upstream WebSocket
    /// nothing else says so).
    pub(super) fn started(&mut self, kind: Kind, id: &str, out: &mut Vec<TurnEvent>) {
        if self.open.iter().any(|open| !open.unclaimed) {
            self.retried();
        }
        self.ensure(kind, id, out);
        if let Some(open) = self.find(id) {
            open.unclaimed = false;
        }
    }

    fn ensure(&mut self, kind: Kind, id: &str, out: &mut Vec<TurnEvent>) {
        if self.find(id).is_some() {
            return;
        }
        if let Some(open) = self.open.iter_mut().find(|open| open.unclaimed && open.kind == kind) {
            open.unclaimed = false;
            self.renamed.insert(id.to_owned(), open.id.clone());
            return;
        }
        let place = self.next_place();
        self.open.push(Open {
            id: id.to_owned(),
            kind,
            place,
            texts: HashMap::new(),
            told: String::new(),
            unclaimed: false,
        });
        out.push(started_event(kind, id.to_owned()));
    }

    /// A summary part begins.
    pub(super) fn summary_part(&mut self, id: &str, index: u32, out: &mut Vec<TurnEvent>) {
        self.ensure(Kind::Reasoning, id, out);
        if let Some(open) = self.find(id)
            && !open.texts.contains_key(&(Part::Summary, index))
        {
            open.texts.insert((Part::Summary, index), Replay::default());
            out.push(TurnEvent::SummaryPartAdded { item_id: open.id.clone(), index });
        }
    }

    /// More text.
    pub(super) fn delta(
        &mut self,
        part: Part,
        id: &str,
        index: u32,
        delta: String,
        out: &mut Vec<TurnEvent>,
    ) -> Result<(), BridgeError> {
        match part {
            Part::Text => self.ensure(Kind::Message, id, out),
            Part::Summary => self.summary_part(id, index, out),
            Part::Reasoning => self.ensure(Kind::Reasoning, id, out),
        }
        let Some(open) = self.find(id) else { return Ok(()) };
        open.unclaimed = false;
        let item_id = open.id.clone();
        let fresh = open.texts.entry((part, index)).or_default().take(delta).map_err(diverged)?;
        let Some(fresh) = fresh else { return Ok(()) };
        self.grow(fresh.len())?;
        if part != Part::Text || self.rules.is_none() {
            out.push(delta_event(part, item_id, index, fresh));
            return Ok(());
        }
        if let Some(at) = self.open.iter().position(|open| open.id == item_id) {
            let ruled = self.ruled(&fresh, /*ended*/ false);
            self.tell(at, ruled, out);
            if self.cut().is_some() {
                self.close_cut(at, out);
            }
        }
        Ok(())
    }

    /// An item is complete. What its text has beyond the deltas is told first.
    pub(super) fn item_done(&mut self, item: Item, out: &mut Vec<TurnEvent>) -> Result<(), BridgeError> {
        if !is_output(&item) {
            self.calls.answered(&item);
            return Ok(());
        }
        let item = match item.kind() {
            "function_call" | "custom_tool_call" => match self.calls.take(&item) {
                Some(call) => call,
                None => return Ok(()),
            },
            _ => item,
        };
        if item.kind() == "message" && self.rules.is_some() {
            return self.ruled_message_done(item, out);
        }
        let kind = match item.kind() {
            "message" => Some(Kind::Message),
            "reasoning" => Some(Kind::Reasoning),
            _ => None,
        };
        let known = item.id().map(str::to_owned);
        let at = kind.and_then(|kind| self.position(known.as_deref(), kind));
        let (place, item) = match at.map(|at| self.open.remove(at)) {
            None => (self.next_place(), item),
            Some(open) => {
                for (part, index, text) in texts_of(&item) {
                    let said = open.texts.get(&(part, index));
                    let rest =
                        said.map_or(Ok(text.as_str()), |said| said.rest_of(&text)).map_err(diverged)?;
                    if rest.is_empty() {
                        continue;
                    }
                    if part == Part::Summary && said.is_none() {
                        out.push(TurnEvent::SummaryPartAdded { item_id: open.id.clone(), index });
                    }
                    out.push(delta_event(part, open.id.clone(), index, rest.to_owned()));
                }
                // Its text was counted as it came.
                self.bytes -= open.len();
                (open.place, with_id(item, open.id))
            }
        };
        self.grow(item.weight())?;
        self.output.push((place, item.clone()));
        out.push(TurnEvent::ItemDone(item));
        Ok(())
    }

    /// A call that the app-server answered by itself has ended.
    pub(super) fn own_call_done(
        &mut self,
        call_id: &str,
        item: Item,
        out: &mut Vec<TurnEvent>,
    ) -> Result<(), BridgeError> {
        let Some(at) = self.calls.own.iter().position(|own| own == call_id) else { return Ok(()) };
        self.calls.own.remove(at);
        self.grow(item.weight())?;
        let place = self.next_place();
        self.close(place, item, out);
        Ok(())
    }

    /// A compaction is complete. Most of it is the client's own and was bounded with its request.
    pub(super) fn compacted(&mut self, items: Vec<Item>, out: &mut Vec<TurnEvent>) {
        for item in items {
            let place = self.next_place();
            self.close(place, item, out);
        }
    }

    /// A message is complete, and the client's rules have the last word on its text.
    fn ruled_message_done(&mut self, item: Item, out: &mut Vec<TurnEvent>) -> Result<(), BridgeError> {
        let text = text_of(&item);
        // One that was never begun is told as a whole.
        let mut untold = Vec::new();
        let (at, deltas) = match self.position(item.id(), Kind::Message) {
            Some(at) => (at, &mut *out),
            None => (self.open_unseen(&item), &mut untold),
        };
        let said = self.open[at].texts.get(&(Part::Text, 0));
        let rest = said.map_or(Ok(text.as_str()), |said| said.rest_of(&text)).map_err(diverged)?.to_owned();
        let ruled = self.ruled(&rest, /*ended*/ true);
        self.tell(at, ruled, deltas);
        if self.cut().is_some() {
            self.close_cut(at, out);
            return Ok(());
        }
        self.settled_rules.clone_from(&self.rules);
        let open = self.open.remove(at);
        self.bytes -= open.len();
        self.grow(item.weight())?;
        let item = with_id(item, open.id);
        self.output.push((open.place, item.clone()));
        out.push(TurnEvent::ItemDone(item));
        Ok(())
    }

    /// A message that comes whole, with no word of it told before.
    fn open_unseen(&mut self, item: &Item) -> usize {
        let (id, place) = (item.id().unwrap_or_default().to_owned(), self.next_place());
        let (texts, told) = (HashMap::new(), String::new());
        self.open.push(Open { id, kind: Kind::Message, place, texts, told, unclaimed: false });
        self.open.len() - 1
    }

    /// What of `fresh` may be told; at a message's end also what was held back.
    fn ruled(&mut self, fresh: &str, ended: bool) -> String {
        let Some(rules) = &mut self.rules else { return fresh.to_owned() };
        let mut fits = rules.push(fresh);
        if ended {
            fits.push_str(&rules.end());
        }
        fits
    }

    fn tell(&mut self, at: usize, text: String, out: &mut Vec<TurnEvent>) {
        if text.is_empty() {
            return;
        }
        let open = &mut self.open[at];
        open.told.push_str(&text);
        out.push(delta_event(Part::Text, open.id.clone(), 0, text));
    }

    /// Whether, and why, the client's rules have ended the answer. Nothing may be fed after that.
    pub(super) fn cut(&self) -> Option<Cut> {
        self.rules.as_ref().and_then(Emulation::cut)
    }

    /// The rules end the answer with the message at `at`, which is exactly what was told of it.
    fn close_cut(&mut self, at: usize, out: &mut Vec<TurnEvent>) {
        let open = self.open.remove(at);
        let whole = self.cut() == Some(Cut::Stop);
        self.incomplete = (!whole).then_some(IncompleteReason::MaxOutputTokens);
        self.close(open.place, message_of(&open.id, &open.told, whole), out);
    }

    /// The backend ended the answer early: what there is of an open message is part of it, what there is of
    /// anything else is not.
    pub(super) fn ended_early(&mut self, reason: IncompleteReason, out: &mut Vec<TurnEvent>) {
        if let Some(at) = self.open.iter().position(|open| open.kind == Kind::Message) {
            if self.rules.is_some() {
                let ruled = self.ruled("", /*ended*/ true);
                self.tell(at, ruled, out);
                if self.cut().is_some() {
                    self.close_cut(at, out);
                    return;
                }
            }
            let open = self.open.remove(at);
            let said = open.texts.get(&(Part::Text, 0)).map_or("", Replay::text);
            let text = if self.rules.is_some() { &open.told } else { said };
            self.close(open.place, message_of(&open.id, text, /*whole*/ false), out);
        }
        self.incomplete = Some(reason);
    }

    fn close(&mut self, place: usize, item: Item, out: &mut Vec<TurnEvent>) {
        self.output.push((place, item.clone()));
        out.push(TurnEvent::ItemDone(item));
    }

    /// The turn runs on a fork.
    pub(super) fn set_forked(&mut self) {
        self.forked = true;
    }

    /// The client wants the end alone.
    pub(super) fn set_unseen(&mut self) {
        self.unseen = true;
    }

    /// The upstream response is tried again: what is not done starts from the beginning. What is done stays:
    /// the app-server tries again with it.
    pub(super) fn retried(&mut self) {
        self.retries += 1;
        if self.unseen {
            self.bytes -= self.open.drain(..).map(|open| open.len()).sum::<usize>();
            self.rules.clone_from(&self.settled_rules);
        }
        for open in &mut self.open {
            open.unclaimed = true;
            for text in open.texts.values_mut() {
                text.restart();
            }
        }
    }

    /// The turn is complete. What was begun and never was done has been seen by the client, and is no part of
    /// the answer; without a retry it is something that the app-server does not pass on.
    pub(super) fn check_complete(&self) -> Result<(), BridgeError> {
        let told = self.usage.map_or(0, |usage| usage.output_tokens.saturating_sub(usage.reasoning_tokens));
        if self.retries == 0
            && (!self.open.is_empty() || self.output.is_empty() && !self.calls.left_out && told > 0)
        {
            return Err(unreadable());
        }
        if self.open.is_empty() || self.unseen { Ok(()) } else { Err(diverged(Diverged)) }
    }

    /// One upstream response is complete.
    pub(super) fn response_completed(&mut self, id: String, usage: Option<Usage>) {
        self.upstream_response_id = Some(id);
        self.calls.due |= !self.calls.ids.is_empty();
        if let Some(usage) = usage {
            self.add_usage(usage);
        }
    }

    /// Of one more upstream response: all items so far are accounted for.
    pub(super) fn add_usage(&mut self, usage: Usage) {
        self.usage = Some(self.usage.map_or(usage, |sum| sum + usage));
        self.accounted = self.output.len();
    }

    /// Usage told by another event, for when the response's own has none.
    pub(super) fn usage_fallback(&mut self, usage: Usage) {
        if self.usage.is_none() {
            self.add_usage(usage);
        }
    }

    /// What of the answer is accounted for, and what is of an upstream response whose usage never came, if there
    /// is one.
    pub(super) fn unaccounted(&self) -> Option<(Vec<Item>, Vec<Item>)> {
        let is_open = self.usage.is_none() || self.output.len() > self.accounted || !self.open.is_empty();
        is_open.then(|| {
            let items = |output: &[(usize, Item)]| output.iter().map(|(_, item)| item.clone()).collect();
            let (before, open) = self.output.split_at(self.accounted);
            (items(before), items(open))
        })
    }

    /// Earlier attempts at the same answer had their usage too: `earlier` in turns that are booked already,
    /// `spent` in this one.
    pub(super) fn set_spent(&mut self, earlier: Option<Usage>, spent: Option<Usage>) {
        (self.earlier, self.spent) = (earlier, spent);
    }

    /// What this turn has cost, as far as it is known: for the books.
    pub(super) fn cost(&self) -> Option<Usage> {
        sum(self.spent, self.usage)
    }

    /// What the answer has cost, as far as it is known.
    pub(super) fn whole_cost(&self) -> Option<Usage> {
        sum(self.earlier, self.cost())
    }

    /// Whether the batch of calls is complete: its upstream response is, and what the app-server answers by
    /// itself beside it.
    pub(super) fn is_batch(&self) -> bool {
        self.calls.due && self.calls.own.is_empty()
    }

    /// The ids of the calls the client is to answer, in order.
    pub(super) fn calls(&self) -> &[String] {
        &self.calls.ids
    }

    /// Whether the tool, by the app-server's name for it, may be called.
    pub(super) fn offers(&self, namespace: Option<&str>, name: &str) -> bool {
        self.calls.tools.offers(namespace, name)
    }

    /// Whether a tool was called with what its schema or grammar does not allow.
    pub(super) fn is_misfit(&self) -> bool {
        self.calls.misfit.is_some()
    }

    /// The tool that was called so, where that is no call.
    pub(super) fn refused(&self) -> Option<&str> {
        let (tool, strict) = self.calls.misfit.as_ref()?;
        (*strict == Strict::Asked).then_some(tool)
    }

    /// Whether a call may have to be refused.
    pub(super) fn may_refuse(&self) -> bool {
        self.calls.tools.may_refuse()
    }

    /// Whether the thread holds calls that are no part of the answer.
    pub(super) fn left_calls_out(&self) -> bool {
        self.calls.left_out
    }

    /// Whether the thread holds something that is no part of the answer.
    pub(super) fn is_spoiled(&self) -> bool {
        self.calls.left_out || self.calls.own_seen
    }

    pub(super) fn model(&self) -> &str {
        &self.model
    }

    /// Bytes of text sent and items kept.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether the raw events alone make a whole answer.
    pub(super) fn is_answered(&self) -> bool {
        let ended = self.upstream_response_id.is_some() || self.forked && self.usage.is_some();
        self.open.is_empty() && !self.output.is_empty() && ended
    }

    /// The items in the order in which the thread has them, for the record.
    pub(super) fn history(&self) -> impl Iterator<Item = &Item> {
        self.output.iter().map(|(_, item)| item)
    }

    pub(super) fn incomplete(&self) -> Option<IncompleteReason> {
        self.incomplete
    }

    pub(super) fn upstream_response_id(&self) -> Option<&str> {
        self.upstream_response_id.as_deref()
    }

    /// Of all attempts at the answer; `None` while that of this one is not known.
    pub(super) fn usage(&self) -> Option<Usage> {
        self.usage.and_then(|_| self.whole_cost())
    }

    pub(super) fn retries(&self) -> u32 {
        self.retries
    }

    pub(super) fn into_outcome(mut self) -> Outcome {
        // A retry may finish an item after a later one.
        self.output.sort_by_key(|(place, _)| *place);
        Outcome {
            stopped: self.cut() == Some(Cut::Stop),
            usage: self.usage(),
            upstream_response_id: self.upstream_response_id,
            model: self.model,
            output: self.output.into_iter().map(|(_, item)| item).collect(),
            incomplete: self.incomplete,
            kept: None,
        }
    }

    fn next_place(&mut self) -> usize {
        self.places += 1;
        self.places - 1
    }

    fn find(&mut self, id: &str) -> Option<&mut Open> {
        let id = self.renamed.get(id).map_or(id, String::as_str);
        self.open.iter_mut().find(|open| open.id == id)
    }

    /// The open item that a finished one completes: by id, else the first one of its kind.
    fn position(&self, id: Option<&str>, kind: Kind) -> Option<usize> {
        let id = id.map(|id| self.renamed.get(id).map_or(id, String::as_str));
        let by_id = self.open.iter().position(|open| Some(open.id.as_str()) == id);
        by_id.or_else(|| self.open.iter().position(|open| open.kind == kind))
    }

    fn grow(&mut self, bytes: usize) -> Result<(), BridgeError> {
        self.bytes += bytes;
        if self.bytes > self.max_bytes {
            return Err(BridgeError::AnswerTooLarge { limit: self.max_bytes });
        }
        Ok(())
    }
}

/// Both, where there are two.
fn sum(one: Option<Usage>, other: Option<Usage>) -> Option<Usage> {
    one.into_iter().chain(other).reduce(|one, other| one + other)
}

impl Open {
    /// Text told so far, bytes.
    fn len(&self) -> usize {
        self.texts.values().map(Replay::len).sum()
    }
}

#[cfg(test)]
mod tests;
