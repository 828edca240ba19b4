//! One task per turn: reads the thread's events, feeds the client, and ends the turn exactly once, whatever
//! happens: the model answers, fails or falls silent, a limit passes, the client leaves, the bridge stops.

mod endings;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tracing::{debug, info, trace, warn};

use super::emulate::Emulation;
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
use crate::model::{TurnEvent, TurnId};

/// How long an interrupted turn may take to say so; then its thread is let go all the same.
const INTERRUPT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long until a refused interrupt is asked for again.
const INTERRUPT_AGAIN: Duration = Duration::from_millis(20);
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
    /// Open calls, by id.
    replies: Vec<(String, ToolCallReply)>,
    sender: TurnSender,
    /// Returns when the turn is over, not when the client has read it.
    slot: Slot,
    deadline: Instant,
    progress: Progress,
    /// The client has been told that the turn runs.
    begun: bool,
    /// Not told before the call is there that the client demands.
    waiting: Vec<TurnEvent>,
    /// The demand was not met once, and made again.
    again: bool,
    /// Why the app-server last tried again.
    last_retry: Option<TurnFailure>,
}

/// Why the loop woke.
enum Wake {
    Event(ThreadEvent),
    ClientLeft,
    Killed,
    Deadline,
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
        slot: Slot,
        deadline: Instant,
    ) -> Self {
        let Started { live, turn, plan } = started;
        let progress = progress(&inner, &plan);
        Self {
            inner,
            plan,
            live,
            turn,
            replies: Vec::new(),
            sender,
            slot,
            deadline,
            progress,
            begun: false,
            waiting: Vec::new(),
            again: false,
            last_retry: None,
        }
    }

    /// Runs the turn to its end.
    pub(super) async fn run(mut self) {
        let started = Instant::now();
        let end = loop {
            match self.pump().await {
                End::Answered | End::Calls if !self.is_honoured() => match self.demand_again().await {
                    Ok(()) => {}
                    Err(error) => break End::Stop(error),
                },
                end => break end,
            }
        };
        let thread = self.live.thread.id().clone();
        let (response_id, turn) = (self.plan.request.response_id.clone(), self.turn.clone());
        let ms = started.elapsed().as_millis();
        match end {
            End::Answered => {
                info!(%response_id, %thread, %turn, ms, "turn answered");
                self.answered();
            }
            End::Calls => {
                info!(%response_id, %thread, %turn, ms, calls = self.progress.calls().len(), "turn calls");
                self.called().await;
            }
            End::Cut => {
                info!(%response_id, %thread, %turn, ms, "turn cut");
                self.count_usage().await;
                self.record(self.step());
                self.sender.finish(Ok(self.progress.into_outcome()));
                stop(self.live, &self.turn).await;
            }
            End::Incomplete => {
                info!(%response_id, %thread, %turn, ms, "turn incomplete");
                self.record(self.step());
                self.sender.finish(Ok(self.progress.into_outcome()));
            }
            End::Failed(error) => {
                info!(%response_id, %thread, %turn, ms, %error, "turn failed");
                self.sender.finish(Err(error));
            }
            End::Stop(error) => {
                warn!(%response_id, %thread, %turn, ms, %error, "turn stopped");
                self.sender.finish(Err(error));
                stop(self.live, &self.turn).await;
            }
            End::Abandoned(gone) => {
                info!(%response_id, %thread, %turn, ms, ?gone, "client gone, turn interrupted");
                self.sender.finish(Err(BridgeError::Interrupted));
                stop(self.live, &self.turn).await;
            }
        }
    }

    async fn pump(&mut self) -> End {
        let mut heard = Instant::now();
        let mut checked = heard;
        let limits = self.inner.turn.clone();
        let kill = self.inner.kill.clone();
        loop {
            let silence = checked + limits.status_check;
            // Every branch is cancel-safe: events stay queued, the rest are timers and tokens.
            let wake = tokio::select! {
                biased;
                () = self.sender.abandoned() => Wake::ClientLeft,
                () = kill.cancelled() => Wake::Killed,
                event = self.live.thread.next_event() => Wake::Event(event),
                () = tokio::time::sleep_until(self.deadline) => Wake::Deadline,
                () = tokio::time::sleep_until(silence) => Wake::Silence,
            };
            match wake {
                Wake::ClientLeft => return End::Abandoned(Gone::Left),
                Wake::Killed => return End::Stop(BridgeError::Interrupted),
                Wake::Deadline => {
                    return End::Stop(BridgeError::Timeout { what: "The turn", limit: limits.deadline });
                }
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
        let mut out = Vec::new();
        let end = self.fed(event, &mut out).await;
        // What an error leaves half done is not told.
        if matches!(end, Some(End::Failed(_) | End::Stop(_))) {
            return end;
        }
        let whole = matches!(end, Some(End::Cut | End::Incomplete));
        match self.tell(out, whole).await {
            Ok(()) => end,
            Err(gone) => Some(End::Abandoned(gone)),
        }
    }

    /// Tells the client, unless it demands a call that is not there yet; what is not whole is told as it is.
    async fn tell(&mut self, out: Vec<TurnEvent>, incomplete: bool) -> Result<(), Gone> {
        self.waiting.extend(out);
        if self.waiting.is_empty() || !(incomplete || self.is_honoured()) {
            return Ok(());
        }
        if !self.begun {
            self.begun = true;
            let (thread, turn) = (self.live.thread.id().clone(), self.turn.clone());
            self.waiting.insert(0, TurnEvent::Started { thread, turn });
            // Not before the answer begins: starting a thread would compete with it.
            Inner::start_spares(&self.inner, &self.live.shape);
        }
        for event in std::mem::take(&mut self.waiting) {
            self.sender.send(event).await?;
        }
        Ok(())
    }

    async fn fed(&mut self, event: ThreadEvent, out: &mut Vec<TurnEvent>) -> Option<End> {
        if self.sender.is_whole() {
            self.progress.set_unseen();
        }
        let progress = &mut self.progress;
        let fed = match event {
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
                Err(BridgeError::Upstream {
                    message:
                        "The app-server rewrote the conversation to make it fit; the answer was not used."
                            .into(),
                    status: None,
                    code: "context_compacted",
                })
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
            ThreadEvent::ResponseCompleted { response_id, usage, .. } => {
                progress.response_completed(response_id, usage);
                if !progress.calls().is_empty() && progress.cut().is_none() {
                    return Some(progress.check_complete().map_or_else(End::Stop, |()| End::Calls));
                }
                Ok(())
            }
            ThreadEvent::ToolCall { call_id, name, reply, .. } => {
                // One that was not offered has no answer: dropped, it fails at once.
                if progress.offers(&name) {
                    self.replies.push((call_id, reply));
                }
                Ok(())
            }
            ThreadEvent::Retrying { failure, .. } => {
                info!(response_id = %self.plan.request.response_id, message = %failure.message, "the app-server retries");
                progress.retried();
                self.last_retry = Some(failure);
                Ok(())
            }
            ThreadEvent::Overflow => Err(BridgeError::Upstream {
                message: "The answer came faster than it could be taken in.".into(),
                status: None,
                code: "events_overrun",
            }),
            ThreadEvent::TurnCompleted { status, .. } => return Some(self.completed(status, out).await),
            ThreadEvent::Closed(reason) => {
                return Some(End::Failed(BridgeError::ConnectionLost { reason: reason.to_string() }));
            }
            ThreadEvent::TurnStarted { .. }
            | ThreadEvent::ItemStarted { .. }
            | ThreadEvent::ItemCompleted { .. }
            | ThreadEvent::UsageUpdated { .. } => Ok(()),
        };
        match fed {
            Err(error) => Some(End::Stop(error)),
            Ok(()) => self.progress.cut().map(|_| End::Cut),
        }
    }

    async fn completed(&mut self, status: TurnStatus, out: &mut Vec<TurnEvent>) -> End {
        match status {
            TurnStatus::Completed => {
                self.wait_for_usage().await;
                self.progress.check_complete().map_or_else(End::Failed, |()| End::Answered)
            }
            TurnStatus::Interrupted => End::Failed(BridgeError::Interrupted),
            TurnStatus::Failed(mut failure) => {
                // The last of several failures comes without its kind; those before it had it.
                if failure.kind == FailureKind::Other
                    && let Some(last) = self.last_retry.take()
                    && last.details.as_deref() == Some(&failure.message)
                {
                    (failure.kind, failure.status) = (last.kind, last.status);
                }
                if let Some(reason) = failure::incomplete(&failure) {
                    self.progress.ended_early(reason, out);
                    return End::Incomplete;
                }
                let limits = self.inner.app_server.rate_limits().map(|known| known.limits);
                End::Failed(failure::of_turn(failure, self.progress.model(), limits.as_ref()))
            }
        }
    }

    /// Usage may come after the end; it is waited for within a bound.
    async fn wait_for_usage(&mut self) {
        let until = Instant::now() + self.inner.turn.usage_timeout;
        while !self.progress.has_usage() {
            match tokio::time::timeout_at(until, self.live.thread.next_event()).await {
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
    Progress::new(plan.model.id.clone(), inner.turn.max_output_bytes, rules, calls)
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
