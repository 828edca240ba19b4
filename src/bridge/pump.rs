//! One task per turn: reads the thread's events, feeds the client, and ends the turn exactly once, whatever
//! happens: the model answers, fails or falls silent, a limit passes, the client leaves, the bridge stops.

mod endings;
mod retries;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tracing::{debug, info, trace, warn};

use self::retries::Retries;
use super::breaker::{Fault, Pass};
use super::emulate::Emulation;
use super::failure::Known;
use super::progress::{Calls, Kind, Part, Progress};
use super::slots::Slot;
use super::start::{Plan, Started};
use super::threads::LiveThread;
use super::tools::Tools;
use super::turn::{Gone, TurnSender};
use super::{BridgeError, Inner, failure};
use crate::app_server::{
    FailureKind, ItemKind, ThreadEvent, ThreadStatus, ToolCallReply, TurnFailure, TurnStatus,
};
use crate::model::{Ended, IncompleteReason, Outcome, Route, TurnEvent, TurnId};

/// How long an interrupted turn may take to say so; then its thread is let go all the same.
const INTERRUPT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long until a refused interrupt is asked for again.
const INTERRUPT_AGAIN: Duration = Duration::from_millis(20);
/// A backend that has told nothing for so long has failed, however little time the client gave it.
const LONG_SILENCE: Duration = Duration::from_secs(30);
/// How long a question about a silent thread may take.
const STATUS_TIMEOUT: Duration = Duration::from_secs(5);

/// Everything one running turn owns.
#[derive(Debug)]
pub(super) struct Pump {
    inner: Arc<Inner>,
    plan: Plan,
    /// Before the replies: a thread that is let go is interrupted before its open calls fail.
    live: LiveThread,
    turn: TurnId,
    route: Route,
    /// Open calls, by id.
    replies: Vec<(String, ToolCallReply)>,
    sender: TurnSender,
    /// Returns when the turn is over, not when the client has read it.
    slot: Slot,
    /// Until it is known what the backend did.
    pass: Option<Pass>,
    deadline: Instant,
    progress: Progress,
    /// The answer has begun.
    heard: bool,
    began: Instant,
    /// The client has been told that the turn runs.
    begun: bool,
    /// Not told yet: the answer may have to be asked for once more.
    waiting: Vec<TurnEvent>,
    /// The demand was not met once, and made again.
    again: bool,
    retries: Retries,
}

/// What a turn was given before it could start.
#[derive(Debug)]
pub(super) struct Admitted {
    pub(super) slot: Slot,
    pub(super) pass: Pass,
}

/// Why the loop woke.
enum Wake {
    Event(ThreadEvent),
    ClientLeft,
    Killed,
    Deadline,
    RetriesTooLong,
    Silence,
}

/// How a turn ended.
enum End {
    /// The model answered in full.
    Answered,
    /// The model wants functions called, and its turn waits.
    Calls,
    /// A rule of the client's ended the answer; the turn still runs upstream and must be stopped.
    Cut,
    /// The backend ended the answer early.
    Incomplete,
    /// The turn is over upstream, without an answer.
    Failed(BridgeError),
    /// The app-server, or the way to it, was lost under the turn.
    Lost(BridgeError),
    /// The turn still runs upstream and must be stopped.
    Stop(BridgeError),
    /// The client left; the turn still runs upstream and must be stopped.
    Abandoned(Gone),
}

impl Pump {
    pub(super) fn new(
        inner: Arc<Inner>,
        started: Started,
        sender: TurnSender,
        admitted: Admitted,
        deadline: Instant,
    ) -> Self {
        let Admitted { slot, pass } = admitted;
        let Started { live, turn, plan, route } = started;
        let (mut progress, retries) = (progress(&inner, &plan), retries(&inner, &plan));
        if !live.shape.is_raw() {
            progress.set_forked();
        }
        Self {
            inner,
            plan,
            live,
            turn,
            route,
            replies: Vec::new(),
            sender,
            slot,
            pass: Some(pass),
            deadline,
            progress,
            heard: false,
            began: Instant::now(),
            begun: false,
            waiting: Vec::new(),
            again: false,
            retries,
        }
    }

    /// Runs the turn to its end.
    pub(super) async fn run(mut self) {
        let started = Instant::now();
        let end = loop {
            match self.pump().await {
                End::Answered | End::Calls if !self.is_honoured() && self.may_demand_again() => {
                    if let Err(end) = self.demand_again().await {
                        break end;
                    }
                }
                end @ (End::Answered | End::Calls) => break self.refusal().map_or(end, End::Stop),
                End::Lost(error) if self.may_run_again() => {
                    if let Err(end) = self.run_again(&error).await {
                        break end;
                    }
                }
                end => break end,
            }
        };
        // What an error leaves half done is not told.
        let is_told = matches!(end, End::Answered | End::Calls | End::Cut | End::Incomplete);
        let end = if is_told { self.tell().await.err().map_or(end, End::Abandoned) } else { end };
        // What nobody waits for any more is not to be found later.
        let end = if is_told && self.sender.is_abandoned() { End::Abandoned(Gone::Left) } else { end };
        self.judge(&end);
        let thread = self.live.thread.id().clone();
        let (response_id, turn) = (self.plan.request.response_id.clone(), self.turn.clone());
        let ms = started.elapsed().as_millis();
        match end {
            End::Answered if self.plan.request.compacts => {
                debug!(%response_id, %thread, %turn, ms, "conversation compacted");
                self.replaced();
            }
            End::Answered => {
                debug!(%response_id, %thread, %turn, ms, "turn answered");
                self.answered().await;
            }
            End::Calls => {
                debug!(%response_id, %thread, %turn, ms, calls = self.progress.calls().len(), "turn calls");
                self.called().await;
            }
            End::Cut => {
                debug!(%response_id, %thread, %turn, ms, "turn cut");
                self.count_usage().await;
                let kept = self.record().await;
                self.note_ended(Ended::Cut);
                self.sender.finish(Ok(Outcome { kept, ..self.progress.into_outcome() }));
                stop(self.live, &self.turn).await;
            }
            End::Incomplete => {
                debug!(%response_id, %thread, %turn, ms, "turn incomplete");
                self.count_usage().await;
                let kept = self.record().await;
                self.note_ended(Ended::Incomplete);
                self.sender.finish(Ok(Outcome { kept, ..self.progress.into_outcome() }));
            }
            End::Failed(error) | End::Lost(error) => {
                info!(%response_id, %thread, %turn, ms, error = %error.for_log(), "turn failed");
                self.note_ended(Ended::Failed);
                self.sender.finish(Err(error));
            }
            End::Stop(error) => {
                warn!(%response_id, %thread, %turn, ms, error = %error.for_log(), "turn stopped");
                self.note_ended(Ended::Failed);
                self.sender.finish(Err(error));
                stop(self.live, &self.turn).await;
            }
            End::Abandoned(gone) => {
                info!(%response_id, %thread, %turn, ms, ?gone, "client gone, turn interrupted");
                self.note_ended(Ended::Abandoned);
                self.sender.finish(Err(BridgeError::Interrupted));
                stop(self.live, &self.turn).await;
            }
        }
    }

    /// Tells the breaker what the backend did, and the login's keeper that it was refused.
    fn judge(&mut self, end: &End) {
        let Some(pass) = self.pass.take() else { return };
        match end {
            End::Answered | End::Calls | End::Cut | End::Incomplete => pass.succeeded(),
            End::Failed(error) | End::Stop(error) => {
                if matches!(error, BridgeError::LoginRequired { .. }) {
                    self.inner.app_server.doubt_login();
                }
                // A client in a hurry says nothing of the backend, nor does what was left of a first attempt's time;
                // unless all that it heard for long was nothing.
                let request = &self.plan.request;
                let in_a_hurry = request.until.is_some()
                    || request.deadline.is_some_and(|limit| limit < self.inner.turn.deadline);
                let hurried = in_a_hurry && (self.heard || self.began.elapsed() < LONG_SILENCE);
                let fault = Fault::of(error).filter(|fault| *fault != Fault::Timeout || !hurried);
                if let Some(fault) = fault {
                    pass.failed(fault);
                }
            }
            // The way to the backend, not the backend; or nobody who would know.
            End::Lost(_) | End::Abandoned(_) => {}
        }
    }

    /// For the trace and the books, before the end is told.
    fn note_ended(&self, ended: Ended) {
        let request = &self.plan.request;
        self.inner.spent.add(&request.key, &self.plan.model.id, ended, self.progress.cost());
        let trace = &request.trace;
        let done = trace.elapsed();
        trace.note(|trace| {
            (trace.phases.done, trace.ended) = (Some(done), Some(ended));
            trace.upstream_response_id = self.progress.upstream_response_id().map(str::to_owned);
            trace.usage = self.progress.whole_cost();
            trace.retries += self.progress.retries();
        });
    }

    async fn pump(&mut self) -> End {
        let mut heard = Instant::now();
        let mut checked = heard;
        let limits = self.inner.turn.clone();
        let kill = self.inner.kill.clone();
        loop {
            let silence = checked + limits.status_check;
            let patience = self.retries.deadline();
            // Every branch is cancel-safe: events stay queued, the rest are timers and tokens.
            let wake = tokio::select! {
                biased;
                () = self.sender.abandoned() => Wake::ClientLeft,
                () = kill.cancelled() => Wake::Killed,
                event = self.live.thread.next_event() => Wake::Event(event),
                () = tokio::time::sleep_until(self.deadline) => Wake::Deadline,
                () = tokio::time::sleep_until(patience.unwrap_or(self.deadline)), if patience.is_some() => {
                    Wake::RetriesTooLong
                }
                () = tokio::time::sleep_until(silence) => Wake::Silence,
            };
            match wake {
                Wake::ClientLeft => return End::Abandoned(Gone::Left),
                Wake::Killed => return End::Stop(BridgeError::Interrupted),
                Wake::Deadline => {
                    let limit = self.plan.request.time_limit(limits.deadline);
                    return End::Stop(BridgeError::Timeout { what: "The turn", limit });
                }
                Wake::RetriesTooLong => return End::Stop(self.given_up()),
                Wake::Silence => {
                    if heard.elapsed() >= limits.idle_timeout && self.awaits_outputs() {
                        return End::Calls;
                    }
                    if heard.elapsed() >= limits.idle_timeout {
                        let limit = limits.idle_timeout;
                        return End::Stop(BridgeError::Timeout { what: "The model's silence", limit });
                    }
                    if self.has_ended_unheard().await {
                        return self.lost_terminal().await;
                    }
                    checked = Instant::now();
                }
                Wake::Event(event) => {
                    trace!(response_id = %self.plan.request.response_id, ?event);
                    heard = Instant::now();
                    checked = heard;
                    if let Some(end) = self.event(event).await {
                        return end;
                    }
                }
            }
        }
    }

    /// Takes one event in and tells what comes of it.
    async fn event(&mut self, event: ThreadEvent) -> Option<End> {
        if self.is_of_another(&event) {
            debug!(response_id = %self.plan.request.response_id, ?event, "of another turn");
            return None;
        }
        let mut out = Vec::new();
        let end = self.fed(event, &mut out).await;
        if !self.heard && !out.is_empty() {
            self.heard = true;
            let trace = &self.plan.request.trace;
            let first = trace.elapsed();
            trace.note(|trace| trace.phases.first_event = Some(first));
            if let Some(pass) = &mut self.pass {
                pass.answering();
            }
        }
        self.waiting.extend(out);
        if end.is_some() || self.holds_back() {
            return end;
        }
        self.tell().await.err().map(End::Abandoned)
    }

    /// Whether it is of another turn of the thread: one that has ended unheard may tell of it late. A conversation is
    /// rewritten in whichever turn.
    fn is_of_another(&self, event: &ThreadEvent) -> bool {
        let rewrites = matches!(event, ThreadEvent::ItemStarted { kind: ItemKind::ContextCompaction, .. });
        !rewrites && event.turn().is_some_and(|turn| *turn != self.turn)
    }

    /// Whether the client is not to be told yet, since what is told cannot be taken back: it demands a call
    /// that is not there, or has a call now that may have to be asked for again. Where one may have to be
    /// refused, nothing is told before text is.
    fn holds_back(&self) -> bool {
        !self.is_honoured()
            || !self.begun && self.progress.may_refuse() && !self.waiting.iter().any(is_of_message)
    }

    async fn tell(&mut self) -> Result<(), Gone> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        if !self.begun {
            self.begun = true;
            let (thread, turn) = (self.live.thread.id().clone(), self.turn.clone());
            self.waiting.insert(0, TurnEvent::Started { thread, turn });
            // Not before the answer begins: starting a thread would compete with it.
            Inner::start_spares(&self.inner, &self.live.shape);
        }
        // Nothing that comes while it waits is looked at: a client that takes a little now and then has no more time
        // than one that takes all.
        let kill = self.inner.kill.clone();
        for event in std::mem::take(&mut self.waiting) {
            // Cancel-safe: what is dropped here ends the turn.
            tokio::select! {
                biased;
                sent = self.sender.send(event) => sent?,
                () = kill.cancelled() => return Err(Gone::Stalled),
                () = tokio::time::sleep_until(self.deadline) => return Err(Gone::Stalled),
            }
        }
        Ok(())
    }

    async fn fed(&mut self, event: ThreadEvent, out: &mut Vec<TurnEvent>) -> Option<End> {
        if self.sender.is_whole() {
            self.progress.set_unseen();
        }
        let progress = &mut self.progress;
        let retries_before = progress.retries();
        let (retry, answers) = (matches!(event, ThreadEvent::Retrying { .. }), is_answer(&event));
        let fed = match event {
            // What it says is read when it is done.
            event if self.plan.request.compacts && is_of_items(&event) => Ok(()),
            ThreadEvent::ItemStarted { kind: ItemKind::Message, item_id, .. } => {
                progress.started(Kind::Message, &item_id, out);
                Ok(())
            }
            ThreadEvent::ItemStarted { kind: ItemKind::Reasoning, item_id, .. } => {
                progress.started(Kind::Reasoning, &item_id, out);
                Ok(())
            }
            // Ours never compacts; somebody else's would have rewritten the client's words.
            ThreadEvent::ItemStarted { kind: ItemKind::ContextCompaction, .. } => {
                let message =
                    "The app-server rewrote the conversation to make it fit; the answer was not used.";
                Err(failure::upstream(message.into(), None, "context_compacted"))
            }
            ThreadEvent::SummaryPartAdded { item_id, index, .. } => {
                progress.summary_part(&item_id, index, out);
                Ok(())
            }
            ThreadEvent::TextDelta { item_id, delta, .. } => {
                progress.delta(Part::Text, &item_id, 0, delta, out)
            }
            ThreadEvent::SummaryDelta { item_id, index, delta, .. } => {
                progress.delta(Part::Summary, &item_id, index, delta, out)
            }
            ThreadEvent::ReasoningDelta { item_id, index, delta, .. } => {
                progress.delta(Part::Reasoning, &item_id, index, delta, out)
            }
            ThreadEvent::RawItem { item, .. } => progress.item_done(item, out),
            // A fork tells no raw items, and of its one upstream response no more than the usage.
            ThreadEvent::ItemCompleted { item: Some(item), .. } if !self.live.shape.is_raw() => {
                progress.item_done(item, out)
            }
            ThreadEvent::UsageUpdated { turn, last } if !self.live.shape.is_raw() => {
                if turn == self.turn {
                    progress.usage_fallback(last);
                }
                Ok(())
            }
            ThreadEvent::ResponseCompleted { response_id, usage, .. } => {
                progress.response_completed(response_id, usage);
                Ok(())
            }
            ThreadEvent::OwnCallDone { call_id, item, .. } => progress.own_call_done(&call_id, item, out),
            ThreadEvent::ToolCall { call_id, namespace, name, reply, .. } => {
                // One that was not offered has no answer: dropped, it fails at once.
                if progress.offers(namespace.as_deref(), &name) {
                    self.replies.push((call_id, reply));
                }
                Ok(())
            }
            ThreadEvent::Retrying { failure, .. } => {
                let (kind, status) = (&failure.kind, failure.status);
                info!(response_id = %self.plan.request.response_id, ?kind, status, "the app-server retries");
                if let Some(reason) = self.incomplete(&failure) {
                    // The next attempt would tell the model so, in words that are not the client's.
                    self.progress.ended_early(reason, out);
                    return Some(End::Cut);
                }
                self.progress.retried();
                self.retries.told(failure);
                Ok(())
            }
            ThreadEvent::Overflow => {
                let message = "The answer came faster than it could be taken in.";
                Err(failure::upstream(message.into(), None, "events_overrun"))
            }
            ThreadEvent::TurnCompleted { status, .. } => return Some(self.completed(status, out).await),
            ThreadEvent::Closed(reason) => {
                let error = BridgeError::ConnectionLost { reason: reason.to_string() };
                return Some(if reason.is_loss() { End::Lost(error) } else { End::Failed(error) });
            }
            ThreadEvent::TurnStarted { .. }
            | ThreadEvent::ItemStarted { .. }
            | ThreadEvent::ItemCompleted { .. }
            | ThreadEvent::UsageUpdated { .. } => Ok(()),
        };
        if let Err(error) = fed {
            return Some(End::Stop(error));
        }
        let untold = !retry && self.progress.retries() > retries_before;
        if untold {
            self.retries.untold();
        }
        if answers {
            self.retries.answering(self.progress.bytes());
        }
        if (retry || untold) && self.retries.are_too_many() {
            return Some(End::Stop(self.given_up()));
        }
        if self.progress.cut().is_some() {
            return Some(End::Cut);
        }
        let batch = self.progress.is_batch();
        batch.then(|| self.progress.check_complete().map_or_else(End::Stop, |()| End::Calls))
    }

    /// Whether the failure is an answer that was ended early, and why; half a summary is none.
    fn incomplete(&self, failure: &TurnFailure) -> Option<IncompleteReason> {
        failure::incomplete(failure).filter(|_| !self.plan.request.compacts)
    }

    /// The app-server has tried again for long enough.
    fn given_up(&self) -> BridgeError {
        match self.retries.last() {
            Some(last) => self.explain(last.clone(), failure::of_retry),
            None => BridgeError::Upstream {
                message: "The answer was cut off upstream, and the app-server began it again.".into(),
                status: None,
                code: "stream_disconnected",
            },
        }
    }

    fn explain(
        &self,
        failure: TurnFailure,
        meaning: fn(TurnFailure, Known<'_>) -> BridgeError,
    ) -> BridgeError {
        let limits = self.inner.app_server.rate_limits().map(|known| known.limits);
        let model = self.progress.model();
        meaning(failure, Known { model, limits: limits.as_ref(), pause: self.retries.pause() })
    }

    async fn completed(&mut self, status: TurnStatus, out: &mut Vec<TurnEvent>) -> End {
        match status {
            TurnStatus::Completed if self.plan.request.compacts => {
                self.wait_for_usage().await;
                self.compacted(out).await
            }
            TurnStatus::Completed => {
                self.wait_for_usage().await;
                self.progress.check_complete().map_or_else(End::Failed, |()| End::Answered)
            }
            TurnStatus::Interrupted => End::Failed(BridgeError::Interrupted),
            TurnStatus::Failed(mut failure) => {
                self.retries.ended();
                // The last of several failures comes without its kind; those before it had it.
                if failure.kind == FailureKind::Other
                    && let Some(last) = self.retries.last()
                    && last.details.as_deref() == Some(&failure.message)
                {
                    (failure.kind, failure.status) = (last.kind.clone(), last.status);
                }
                if let Some(reason) = self.incomplete(&failure) {
                    self.progress.ended_early(reason, out);
                    return End::Incomplete;
                }
                if failure.kind == FailureKind::UsageLimitExceeded {
                    self.inner.learn_of_limit().await;
                }
                End::Failed(self.explain(failure, failure::of_turn))
            }
        }
    }

    /// Usage may come after the end; it is waited for within a bound.
    async fn wait_for_usage(&mut self) {
        let until = Instant::now() + self.inner.turn.usage_timeout;
        while self.progress.usage().is_none() {
            match tokio::time::timeout_at(until, self.live.thread.next_event()).await {
                Ok(event) if self.is_of_another(&event) => {}
                Ok(ThreadEvent::ResponseCompleted { response_id, usage, .. }) => {
                    self.progress.response_completed(response_id, usage);
                }
                Ok(ThreadEvent::UsageUpdated { last, .. }) => self.progress.usage_fallback(last),
                Ok(ThreadEvent::Closed(_)) | Err(_) => {
                    debug!(response_id = %self.plan.request.response_id, "usage never came");
                    return;
                }
                Ok(_) => {}
            }
        }
    }

    /// Whether all calls that were made are open. The app-server then waits for outputs, even where it never says
    /// that the upstream response is complete: it was cut off after them.
    fn awaits_outputs(&self) -> bool {
        let calls = self.progress.calls();
        !calls.is_empty() && calls.iter().all(|call| self.replies.iter().any(|(id, _)| id == call))
    }

    /// A silent turn: has it ended without our hearing of it?
    async fn has_ended_unheard(&self) -> bool {
        match tokio::time::timeout(STATUS_TIMEOUT, self.live.thread.status()).await {
            Ok(Ok(ThreadStatus::Active | ThreadStatus::Unknown(_)) | Err(_)) | Err(_) => false,
            Ok(Ok(ThreadStatus::Idle | ThreadStatus::NotLoaded | ThreadStatus::SystemError)) => true,
        }
    }

    /// The thread is idle, so the turn is over: what is still queued decides, then what was heard before.
    async fn lost_terminal(&mut self) -> End {
        while let Ok(event) =
            tokio::time::timeout(Duration::from_millis(50), self.live.thread.next_event()).await
        {
            if let Some(end) = self.event(event).await {
                return end;
            }
        }
        if self.progress.is_answered() {
            // What it has not told yet may come later, in the middle of another turn.
            self.live.spoiled = true;
            return End::Answered;
        }
        End::Failed(BridgeError::Upstream {
            message: "The turn ended without the app-server saying how.".into(),
            status: None,
            code: "lost_turn",
        })
    }
}

/// A turn's progress at its beginning.
fn progress(inner: &Inner, plan: &Plan) -> Progress {
    let request = &plan.request;
    let rules = Emulation::new(request.max_output_tokens, &request.stop);
    let calls = Calls::new(Tools::offered(request), request.parallel_tool_calls);
    let mut progress = Progress::new(plan.model.id.clone(), inner.turn.max_output_bytes, rules, calls);
    progress.set_spent(request.spent, None);
    progress
}

/// A turn's retries at its beginning: how long they may last is the client's to shorten.
fn retries(inner: &Inner, plan: &Plan) -> Retries {
    let ours = if inner.turn.fail_fast { Duration::ZERO } else { inner.turn.max_retry_wait };
    Retries::new(plan.request.max_retry_wait.map_or(ours, |asked| asked.min(ours)))
}

/// Whether the event tells of a message.
fn is_of_message(event: &TurnEvent) -> bool {
    match event {
        TurnEvent::MessageStarted { .. } | TurnEvent::TextDelta { .. } => true,
        TurnEvent::ItemDone(item) => item.kind() == "message",
        _ => false,
    }
}

/// Whether the event tells of an item, or of a part of one.
fn is_of_items(event: &ThreadEvent) -> bool {
    is_answer(event) && !matches!(event, ThreadEvent::ResponseCompleted { .. } | ThreadEvent::ToolCall { .. })
        || matches!(event, ThreadEvent::ItemCompleted { .. } | ThreadEvent::OwnCallDone { .. })
}

/// Whether the event shows that the model answers.
fn is_answer(event: &ThreadEvent) -> bool {
    matches!(
        event,
        ThreadEvent::ItemStarted { .. }
            | ThreadEvent::SummaryPartAdded { .. }
            | ThreadEvent::TextDelta { .. }
            | ThreadEvent::SummaryDelta { .. }
            | ThreadEvent::ReasoningDelta { .. }
            | ThreadEvent::RawItem { .. }
            | ThreadEvent::ToolCall { .. }
            | ThreadEvent::ResponseCompleted { .. }
    )
}

/// Interrupts the turn and lets its thread go; a spoiled thread is never used again.
async fn stop(mut live: LiveThread, turn: &TurnId) {
    let stopped = async {
        // A turn that has only just been accepted is not active yet, and its interrupt is refused: asked again
        // until it is taken or the turn has ended.
        while let Err(error) = live.thread.interrupt(turn).await {
            debug!(%turn, %error, "interrupt refused");
            let event = tokio::time::timeout(INTERRUPT_AGAIN, live.thread.next_event()).await;
            if let Ok(ThreadEvent::TurnCompleted { .. } | ThreadEvent::Closed(_)) = event {
                return;
            }
        }
        loop {
            match live.thread.next_event().await {
                ThreadEvent::TurnCompleted { .. } | ThreadEvent::Closed(_) => return,
                _ => {}
            }
        }
    };
    if tokio::time::timeout(INTERRUPT_TIMEOUT, stopped).await.is_err() {
        warn!(%turn, "an interrupted turn did not end in time");
    }
}
