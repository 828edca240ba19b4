//! What a turn leaves behind when it ends well: its record, its thread for what may follow, or itself, held.

use std::sync::Arc;

use tracing::info;

use super::{Pump, progress, stop};
use crate::bridge::continuations::{Record, Step};
use crate::bridge::held::{Batch, HeldTurn};
use crate::bridge::start::start_timed_out;
use crate::bridge::tools::{self, Settings};
use crate::bridge::{BridgeError, counted};
use crate::model::{Item, Retention, ToolChoice};

impl Pump {
    /// Records the answer, tells it, and keeps the thread for what may follow: in this order, so that a
    /// client can continue the moment it has the answer.
    pub(super) fn answered(self) {
        let recorded = self.record(self.step());
        let spoiled = self.is_spoiled();
        let let_go = if recorded && !spoiled {
            self.inner.threads.keep_warm(self.plan.request.response_id, self.live)
        } else {
            Some(self.live)
        };
        drop(self.slot);
        // The client first: the goodbye to a thread can wait for it.
        self.sender.finish(Ok(self.progress.into_outcome()));
        drop(let_go);
    }

    /// Records the calls, hands them over, and holds the turn for their outputs; without its slot.
    pub(super) async fn called(self) {
        let step = self.step();
        self.record(Arc::clone(&step));
        // What the answer leaves out, the next request must not meet.
        if self.progress.left_calls_out() || self.inner.slots.is_closed() {
            self.sender.finish(Ok(self.progress.into_outcome()));
            drop(self.slot);
            stop(self.live, &self.turn).await;
            return;
        }
        let (request, inner) = (&self.plan.request, self.inner);
        let batch = Batch {
            id: request.response_id.clone(),
            key: request.key.clone(),
            account: self.plan.account,
            settings: Settings::of(request, &self.plan.model.id),
            step,
            calls: self.progress.calls().to_vec(),
            generation: self.live.thread.connection().generation(),
        };
        let turn = HeldTurn { live: self.live, turn: self.turn, replies: self.replies };
        if let Some(kept) = inner.held.insert(batch) {
            let ends = [inner.kill.clone(), inner.tasks.stop_token().clone()];
            let tasks = inner.tasks.clone();
            tasks.spawn("held turn", async move { inner.held.keep(kept, turn, ends).await });
        }
        drop(self.slot);
        self.sender.finish(Ok(self.progress.into_outcome()));
    }

    /// Makes the answer continuable, unless nothing is to be kept of it.
    pub(super) fn record(&self, step: Arc<Step>) -> bool {
        let request = &self.plan.request;
        if request.retention == Retention::Nothing {
            return false;
        }
        let record = Record { key: request.key.clone(), account: self.plan.account.clone(), step };
        self.inner.registry.insert(request.response_id.clone(), record);
        true
    }

    /// What was said, this turn included.
    pub(super) fn step(&self) -> Arc<Step> {
        let mut items = self.plan.request.input.clone();
        items.extend(self.progress.history().cloned());
        Step::new(self.plan.previous.clone(), &items)
    }

    /// Whether the thread holds something that is no part of the conversation.
    fn is_spoiled(&self) -> bool {
        self.progress.left_calls_out() || matches!(self.plan.request.tool_choice, ToolChoice::Required(_))
    }

    /// Whether the answer has the call that the client demands, if it demands one.
    pub(super) fn is_honoured(&self) -> bool {
        tools::honoured(&self.plan.request.tool_choice, self.progress.history())
    }

    /// The demanded call did not come: once more, on a fresh thread. Nothing has been told yet.
    pub(super) async fn demand_again(&mut self) -> Result<(), BridgeError> {
        if self.again {
            return Err(BridgeError::Upstream {
                message:
                    "The model did not call the function that `tool_choice` demands, though asked twice."
                        .into(),
                status: None,
                code: "tool_choice_not_honoured",
            });
        }
        info!(response_id = %self.plan.request.response_id, "the demanded call did not come, asking again");
        self.again = true;
        self.waiting.clear();
        let starting = tokio::time::timeout_at(self.deadline, self.inner.start_again(&self.plan)).await;
        let limit = self.inner.turn.deadline;
        // The old thread is let go here, and its turn with it.
        (self.live, self.turn) = starting.map_err(|_| start_timed_out(limit))??;
        self.replies.clear();
        self.progress = progress(&self.inner, &self.plan);
        Ok(())
    }

    /// A turn that is cut short never hears its usage: it is counted here.
    pub(super) async fn count_usage(&mut self) {
        let request = self.plan.request.clone();
        let before = self.plan.previous.as_ref().map(Step::transcript).unwrap_or_default();
        let output: Vec<Item> = self.progress.history().cloned().collect();
        // Megabytes of input take the tokenizer a second.
        let counting = self.inner.tasks.blocking(move || counted::usage(&request, &before, &output));
        if let Some(usage) = counting.await {
            self.progress.set_usage(usage);
        }
    }
}
