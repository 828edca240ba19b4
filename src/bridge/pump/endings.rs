//! What a turn leaves behind when it ends well: its record, its thread for what may follow, or itself, held.

use std::sync::Arc;
use std::time::SystemTime;

use tracing::{info, warn};

use super::{End, Pump, progress, retries, stop};
use crate::bridge::continuations::Step;
use crate::bridge::held::{Batch, HeldTurn};
use crate::bridge::references::Holder;
use crate::bridge::start::start_timed_out;
use crate::bridge::threads::{Owner, Rank, Warm};
use crate::bridge::tools::{self, Settings};
use crate::bridge::turn::Gone;
use crate::bridge::{Bridge, BridgeError, counted};
use crate::model::{Ended, Item, Kept, Outcome, Retention, Route, ToolChoice, TurnEvent};
use crate::store::StoredResponse;

impl Pump {
    /// Records the answer, tells it, and keeps the thread for what may follow: in this order, so that a
    /// client can continue the moment it has the answer.
    pub(super) async fn answered(mut self) {
        let kept = self.record().await;
        self.note_ended(Ended::Answered);
        self.live.said(self.progress.history());
        // One that nobody can name is found by its history, where that is kept.
        let findable = kept.is_some() || self.live.history.is_some();
        let let_go = if findable && !self.is_spoiled() {
            let (rank, request) = (self.rank(), self.plan.request);
            let owner = Owner::of(&request, self.plan.account.as_deref());
            let tip = request.response_id;
            let no_room =
                self.inner.threads.keep_warm(Warm { tip: tip.clone(), owner, rank, live: self.live });
            // The deletion that came before it has not found it.
            if self.inner.continuations.is_deleted(&tip) {
                self.inner.threads.forget(&tip);
            }
            no_room
        } else {
            Some(self.live)
        };
        drop(self.slot);
        // The client first: the goodbye to a thread can wait for it.
        self.sender.finish(Ok(Outcome { kept, ..self.progress.into_outcome() }));
        drop(let_go);
    }

    /// The conversation is compacted: what takes its place is the answer.
    pub(super) async fn compacted(&mut self, out: &mut Vec<TurnEvent>) -> End {
        self.count_usage().await;
        match self.inner.compacted(&self.live, &self.plan).await {
            Ok(items) => {
                self.progress.compacted(items, out);
                End::Answered
            }
            Err(error) => End::Failed(error),
        }
    }

    /// Tells what has taken the conversation's place. Nothing is kept of it, and the thread least of all.
    pub(super) fn replaced(self) {
        self.note_ended(Ended::Answered);
        drop(self.slot);
        self.sender.finish(Ok(self.progress.into_outcome()));
    }

    /// Records the calls, hands them over, and holds the turn for their outputs; without its slot.
    pub(super) async fn called(mut self) {
        self.live.said(self.progress.history());
        let step = self.step().await;
        let kept = self.record_as(step.clone()).await;
        self.note_ended(Ended::Called);
        // It goes on as it is; what follows it does not.
        self.live.spoiled |= self.progress.is_spoiled();
        // What the answer leaves out, the next request must not meet.
        let ends_here =
            self.progress.left_calls_out() || self.inner.slots.is_closed() || self.sender.is_abandoned();
        let Some(step) = step.filter(|_| !ends_here) else {
            self.sender.finish(Ok(Outcome { kept, ..self.progress.into_outcome() }));
            drop(self.slot);
            stop(self.live, &self.turn).await;
            return;
        };
        let (request, inner) = (&self.plan.request, self.inner);
        let batch = Batch {
            id: request.response_id.clone(),
            owner: Owner::of(request, self.plan.account.as_deref()),
            settings: Settings::of(request, &self.plan.model.id),
            step,
            calls: self.progress.calls().to_vec(),
            generation: self.live.thread.connection().generation(),
        };
        let turn = HeldTurn { live: self.live, turn: self.turn, replies: self.replies };
        if let Some(kept) = inner.held.insert(batch) {
            let ends = [inner.kill.clone(), inner.tasks.stop_token().clone()];
            let tasks = inner.tasks.clone();
            let (holder, id) = (Arc::clone(&inner), request.response_id.clone());
            tasks.spawn("held turn", async move { holder.held.keep(kept, turn, ends).await });
            // The deletion that came before it has not found it.
            if inner.continuations.is_deleted(&id) {
                inner.held.forget(&id);
            }
        }
        drop(self.slot);
        self.sender.finish(Ok(Outcome { kept, ..self.progress.into_outcome() }));
    }

    /// Makes the answer continuable, unless nothing is to be kept of it. Not before that may its end be told.
    pub(super) async fn record(&mut self) -> Option<Kept> {
        let step = self.step().await;
        self.record_as(step).await
    }

    /// The same, where what was said is known.
    async fn record_as(&self, step: Option<Arc<Step>>) -> Option<Kept> {
        let (step, request, now) = (step?, &self.plan.request, SystemTime::now());
        if request.retention != Retention::Nothing {
            let holder = Holder { key: request.key.clone(), account: self.plan.account.clone() };
            self.inner.references.remember(&holder, &request.response_id, self.progress.history());
        }
        let response = StoredResponse {
            id: request.response_id.clone(),
            previous: request.previous.clone(),
            key: request.key.clone(),
            account: self.plan.account.clone(),
            session: request.session.id().clone(),
            session_by_caller: request.session.is_by_caller(),
            model: self.plan.model.id.clone(),
            route: self.route,
            thread: self.live.thread.id().clone(),
            turn: self.turn.clone(),
            generation: self.live.thread.connection().generation(),
            upstream_response_id: self.progress.upstream_response_id().map(str::to_owned),
            own_input: request.input.len(),
            input: request.input.clone(),
            incomplete: self.progress.incomplete(),
            head: request.head.clone(),
            output: self.progress.history().cloned().collect(),
            open_calls: step.open_calls().to_vec(),
            usage: self.progress.usage(),
            chain_length: step.length(),
            created_at: now,
            last_used_at: now,
            expires_at: now,
        };
        let mut kept = self.inner.continuations.record(response, step, request.retention).await;
        // Whoever has left meanwhile may have wanted it deleted, and too early.
        if kept.is_some() && self.sender.is_abandoned() {
            let bridge = Bridge(Arc::clone(&self.inner), request.key.clone());
            match bridge.delete_response(&request.response_id, &request.key).await {
                Ok(_) => kept = None,
                Err(error) => {
                    warn!(response_id = %request.response_id, %error, "an abandoned answer is still kept");
                }
            }
        }
        request.trace.note(|trace| trace.kept = kept);
        kept
    }

    /// What was said, this turn included; `None` if it could not be told.
    async fn step(&mut self) -> Option<Arc<Step>> {
        let (previous, output) = (self.plan.previous.clone(), self.progress.history().cloned());
        let output: Vec<Item> = output.collect();
        let bytes = output.iter().map(Item::weight).sum();
        let step = move |input: &[Item]| Step::new(previous, &[input, &output].concat());
        self.inner.with_input(&mut self.plan, bytes, step).await.ok()
    }

    /// How likely the thread is to be continued.
    fn rank(&self) -> Rank {
        let request = &self.plan.request;
        let by_model = |item: &Item| item.kind() != "message" || item.str("role") == Some("assistant");
        match self.route {
            Route::Live | Route::Held | Route::Rebuilt => Rank::Conversation,
            Route::Fresh | Route::Template if request.input.iter().any(by_model) => Rank::Conversation,
            Route::Fresh | Route::Template if request.retention == Retention::Nothing => Rank::OneShot,
            Route::Fresh | Route::Template => Rank::Named,
        }
    }

    /// Whether the thread holds something that is no part of the conversation.
    fn is_spoiled(&self) -> bool {
        let is_demanded = matches!(self.plan.request.tool_choice, ToolChoice::Required(_));
        is_demanded || self.live.spoiled || self.progress.is_spoiled()
    }

    /// Whether the answer has the call that the client demands, if it demands one, and no call that a schema
    /// or grammar of the client's does not allow.
    pub(super) fn is_honoured(&self) -> bool {
        !self.progress.is_misfit() && tools::honoured(&self.plan.request.tool_choice, self.progress.history())
    }

    /// Why an answer that will not be asked for again is none. A call that was only hoped to fit is one.
    pub(super) fn refusal(&self) -> Option<BridgeError> {
        let (message, code) = if let Some(tool) = self.progress.refused() {
            let message =
                format!("The model called the tool '{tool}' with what its schema or grammar does not allow.");
            (message, "invalid_tool_input")
        } else if !tools::honoured(&self.plan.request.tool_choice, self.progress.history()) {
            let message =
                "The model did not call the function that `tool_choice` demands, though asked twice.";
            (message.into(), "tool_choice_not_honoured")
        } else {
            return None;
        };
        Some(BridgeError::Upstream { message, status: None, code })
    }

    /// Whether the answer may be asked for once more: it was not yet, and its client has seen nothing of it.
    pub(super) fn may_demand_again(&self) -> bool {
        !self.again && (!self.begun || self.sender.is_whole())
    }

    /// The answer's calls are not what the client demands: once more, on a fresh thread.
    pub(super) async fn demand_again(&mut self) -> Result<(), End> {
        info!(response_id = %self.plan.request.response_id, "the calls are not the ones demanded, asking again");
        self.again = true;
        self.count_usage().await;
        self.start_over().await
    }

    /// Whether a turn that was lost with the app-server may be run once more: it was not yet, and its client has
    /// seen nothing of it.
    pub(super) fn may_run_again(&self) -> bool {
        !self.plan.rerun && (!self.begun || self.sender.is_whole())
    }

    /// The app-server was lost: once more, on a fresh thread of the one that takes its place. What the model may
    /// have said meanwhile is paid for and never heard of.
    pub(super) async fn run_again(&mut self, error: &BridgeError) -> Result<(), End> {
        self.inner.note_rerun(&mut self.plan, error);
        self.start_over().await
    }

    /// Begins the answer anew, on a fresh thread.
    async fn start_over(&mut self) -> Result<(), End> {
        self.waiting.clear();
        let kill = self.inner.kill.clone();
        let starting = tokio::time::timeout_at(self.deadline, self.inner.start_again(&mut self.plan));
        // A start that is given up halfway lets its thread go by itself.
        let started = tokio::select! {
            biased;
            () = self.sender.abandoned() => return Err(End::Abandoned(Gone::Left)),
            () = kill.cancelled() => return Err(End::Stop(BridgeError::Interrupted)),
            started = starting => started,
        };
        let limit = self.plan.request.time_limit(self.inner.turn.deadline);
        let started = started.unwrap_or_else(|_| Err(start_timed_out(limit)));
        // The old thread is let go here, and its turn with it.
        (self.live, self.turn, self.route) = started.map_err(|error| {
            // Of the app-server, as with a first start: it says nothing of the backend.
            self.pass = None;
            End::Stop(error)
        })?;
        self.replies.clear();
        let (seen, spent) = (self.progress.retries(), self.progress.cost());
        self.plan.request.trace.note(|trace| trace.retries += seen);
        self.heard = false;
        self.progress = progress(&self.inner, &self.plan);
        self.progress.set_spent(self.plan.request.spent, spent);
        self.retries = retries(&self.inner, &self.plan);
        Ok(())
    }

    /// The usage of an upstream response that is cut short never comes: it is counted here.
    pub(super) async fn count_usage(&mut self) {
        let Some((said, output)) = self.progress.unaccounted() else { return };
        let request = self.plan.request.clone();
        let mut before = self.plan.previous.as_ref().map(Step::transcript).unwrap_or_default();
        before.extend(said);
        // Megabytes of input take the tokenizer a second.
        let counting = self.inner.tasks.blocking(move || counted::usage(&request, &before, &output));
        if let Some(usage) = counting.await {
            self.progress.add_usage(usage);
        }
    }
}
