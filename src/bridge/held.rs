//! Turns that wait for their tools' outputs. Each has a task that keeps its thread's events from piling up;
//! a request that brings the outputs takes the turn over.
//!
//! Bounded: past `held_turns` the oldest is given up, and each after `held_ttl`. Nothing is lost by that: the
//! conversation is rebuilt from its items. A held turn takes no slot.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use super::calls::{self, Answers};
use super::continuations::Step;
use super::threads::{LiveThread, Owner};
use super::tools::Settings;
use crate::app_server::{ItemKind, ThreadEvent, ToolCallReply};
use crate::config::ContinuationConfig;
use crate::model::{Item, Rebuilt, ResponseId, TurnId, TurnRequest};

/// How long the call of a batch whose other calls came may be on its way.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// A turn with open calls. Dropped, it is interrupted.
#[derive(Debug)]
pub(super) struct HeldTurn {
    /// Before the replies: a turn that is given up is interrupted first, so that it does not go on with calls
    /// that failed.
    pub(super) live: LiveThread,
    pub(super) turn: TurnId,
    /// By call id, as far as the app-server has asked.
    pub(super) replies: Vec<(String, ToolCallReply)>,
}

/// What a turn was held after, and under which conditions it may go on.
#[derive(Debug)]
pub(super) struct Batch {
    /// The response that handed the calls over.
    pub(super) id: ResponseId,
    pub(super) owner: Owner,
    pub(super) settings: Settings,
    /// Everything said, the calls included.
    pub(super) step: Arc<Step>,
    /// Their ids.
    pub(super) calls: Vec<String>,
    /// The connection's.
    pub(super) generation: u64,
}

/// A turn taken over, and what it is to be told.
#[derive(Debug)]
pub(super) struct Resumption {
    pub(super) held: HeldTurn,
    pub(super) calls: Vec<String>,
    pub(super) answers: Answers,
    /// Everything said before the outputs.
    pub(super) step: Arc<Step>,
    /// The outputs and what follows them.
    pub(super) input: Vec<Item>,
}

/// Who asks for a held turn.
#[derive(Debug, Clone, Copy)]
pub(super) struct Claim<'a> {
    pub(super) request: &'a TurnRequest,
    pub(super) settings: &'a Settings,
    pub(super) owner: &'a Owner,
    /// The generations of the connections that may be used.
    pub(super) current: &'a [u64],
}

/// The turns that are held, oldest first: few, so that a scan is cheaper than an index.
#[derive(Debug)]
pub(super) struct Held {
    /// Never held across an await.
    entries: Mutex<VecDeque<Entry>>,
    limit: usize,
    ttl: Duration,
}

#[derive(Debug)]
struct Entry {
    batch: Arc<Batch>,
    /// Asks the keeping task for the turn; dropped, that gives it up.
    ask: oneshot::Sender<oneshot::Sender<HeldTurn>>,
}

/// A turn that is held no more, and has not been asked for yet. Dropped, it is given up.
#[derive(Debug)]
pub(super) struct Claimed(Entry);

/// Whether what a request brings answers a batch, and nothing but that has been said since. To be asked off the
/// async threads: it reads both conversations.
#[derive(Debug)]
pub(super) struct Question {
    batch: Arc<Batch>,
    /// The request names the batch's response; else both conversations must be the same.
    is_named: bool,
    /// What was said before the request's input.
    previous: Option<Arc<Step>>,
}

/// The keeping task's end of an entry.
#[derive(Debug)]
pub(super) struct Kept {
    id: ResponseId,
    asked: oneshot::Receiver<oneshot::Sender<HeldTurn>>,
    until: Instant,
}

impl Held {
    pub(super) fn new(config: &ContinuationConfig) -> Self {
        Self { entries: Mutex::default(), limit: config.held_turns, ttl: config.held_ttl }
    }

    /// Makes the batch answerable; the oldest makes room. The turn itself goes to [`Held::keep`]. `None` where
    /// no turn is held at all.
    pub(super) fn insert(&self, batch: Batch) -> Option<Kept> {
        if self.limit == 0 {
            return None;
        }
        let (ask, asked) = oneshot::channel();
        let kept = Kept { id: batch.id.clone(), asked, until: Instant::now() + self.ttl };
        let mut entries = self.lock();
        let evicted = (entries.len() >= self.limit).then(|| entries.pop_front()).flatten();
        entries.push_back(Entry { batch: Arc::new(batch), ask });
        drop(entries);
        if let Some(evicted) = evicted {
            info!(response_id = %evicted.batch.id, "too many turns wait for their tools; the oldest is given up");
        }
        Some(kept)
    }

    /// Keeps the turn until it is asked for, its time is up, or it is of no more use.
    pub(super) async fn keep(&self, mut kept: Kept, mut turn: HeldTurn, stop: [CancellationToken; 2]) {
        let why = loop {
            // Every branch is cancel-safe.
            tokio::select! {
                biased;
                asked = &mut kept.asked => match asked {
                    Ok(back) => {
                        // Whoever asked and left has let the turn go with it.
                        drop(back.send(turn));
                        return;
                    }
                    Err(_) => break "given up",
                },
                () = stop[0].cancelled() => break "shutting down",
                () = stop[1].cancelled() => break "shutting down",
                () = tokio::time::sleep_until(kept.until) => break "its time is up",
                event = turn.live.thread.next_event() => {
                    if !turn.take_in(event) {
                        break "the turn went on or ended without its outputs";
                    }
                }
            }
        };
        info!(response_id = %kept.id, why, "a turn that waited for its tools is let go");
        self.lock().retain(|entry| entry.batch.id != kept.id);
    }

    /// Takes out the turn that the request's outputs are for. One that cannot go on under the request's settings is
    /// given up; then why, where there is a word for it.
    pub(super) fn take(&self, claim: Claim<'_>) -> Result<Claimed, Option<Rebuilt>> {
        let entry = {
            let mut entries = self.lock();
            let at = entries.iter().rposition(|entry| entry.batch.is_meant(claim)).ok_or(None)?;
            entries.remove(at).ok_or(None)?
        };
        entry.batch.allows(claim).inspect_err(|_| {
            info!(response_id = %entry.batch.id, "the outputs came with something changed: the conversation is rebuilt");
        })?;
        Ok(Claimed(entry))
    }

    /// What the turn that the request would get would be told, and how many outputs are among it. Blocking: it
    /// reads whole conversations, and no lock is held meanwhile.
    pub(super) fn would_claim(
        &self,
        claim: Claim<'_>,
        previous: Option<&Arc<Step>>,
    ) -> Result<(Answers, usize), Option<Rebuilt>> {
        let batch = {
            let entries = self.lock();
            let entry = entries.iter().rfind(|entry| entry.batch.is_meant(claim)).ok_or(None)?;
            Arc::clone(&entry.batch)
        };
        batch.allows(claim)?;
        let calls = batch.calls.len();
        let answers = Question::new(batch, claim.request, previous).answers(&claim.request.input);
        answers.map(|(answers, _)| (answers, calls)).ok_or(None)
    }

    /// Gives up what belongs to a connection that is none of the `current` generations'.
    pub(super) fn sweep(&self, current: &[u64]) {
        self.lock().retain(|entry| current.contains(&entry.batch.generation));
    }

    /// Gives up the turn of the response `id`.
    pub(super) fn forget(&self, id: &ResponseId) {
        self.lock().retain(|entry| entry.batch.id != *id);
    }

    /// Gives up every turn.
    pub(super) fn clear(&self) {
        self.lock().clear();
    }

    pub(super) fn count(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Batch {
    /// Whether the request's outputs are for these calls: by the response it continues, else by call id, within
    /// the conversation that the caller names. One of another session stays for its own.
    fn is_meant(&self, Claim { request, owner, .. }: Claim<'_>) -> bool {
        self.owner.is_of_key(&request.key)
            && (self.is_continued_by(request)
                || self.owner.is_in_session_of(owner)
                    && calls::first_output(&self.calls, &request.input).is_some())
    }

    fn is_continued_by(&self, request: &TurnRequest) -> bool {
        request.previous.as_ref() == Some(&self.id)
    }

    /// Whether the turn may go on for whoever asks; else why not.
    fn allows(&self, claim: Claim<'_>) -> Result<(), Option<Rebuilt>> {
        if !self.owner.is_under_login_of(claim.owner) {
            return Err(Some(Rebuilt::OtherAccount));
        }
        if !claim.current.contains(&self.generation) {
            return Err(Some(Rebuilt::Disconnected));
        }
        if let Some(changed) = self.settings.changed(claim.settings) {
            return Err(Some(changed));
        }
        if !self.owner.shares_cache_with(claim.owner) {
            return Err(Some(Rebuilt::SettingsChanged));
        }
        Ok(())
    }
}

impl Question {
    fn new(batch: Arc<Batch>, request: &TurnRequest, previous: Option<&Arc<Step>>) -> Self {
        Self { is_named: batch.is_continued_by(request), batch, previous: previous.cloned() }
    }

    /// About how many bytes are read beside the request's input.
    pub(super) fn bytes(&self) -> usize {
        let previous = self.previous.as_ref().map_or(0, |step| step.bytes());
        if self.is_named { 0 } else { previous + self.batch.step.bytes() }
    }

    /// What `input` answers, and all that follows the calls in it; `None` if anything else was said.
    pub(super) fn answers(&self, input: &[Item]) -> Option<(Answers, Vec<Item>)> {
        let mut tail = input;
        if !self.is_named {
            let (prefix, outputs) = input.split_at(calls::first_output(&self.batch.calls, input)?);
            let mut said = self.previous.as_ref().map(Step::transcript).unwrap_or_default();
            said.extend_from_slice(prefix);
            if !calls::same_conversation(&self.batch.step.transcript(), &said) {
                return None;
            }
            tail = outputs;
        }
        Some((Answers::read(&self.batch.calls, tail)?, tail.to_vec()))
    }
}

impl Claimed {
    /// Whether the request answers its calls.
    pub(super) fn question(&self, request: &TurnRequest, previous: Option<&Arc<Step>>) -> Question {
        Question::new(Arc::clone(&self.0.batch), request, previous)
    }

    /// The turn, if there are answers for it.
    pub(super) async fn resume(
        self,
        answers: Option<(Answers, Vec<Item>)>,
    ) -> Result<Resumption, Option<Rebuilt>> {
        let Self(Entry { batch, ask }) = self;
        let Some((answers, input)) = answers else {
            info!(response_id = %batch.id, "the outputs came with something changed: the conversation is rebuilt");
            return Err(None);
        };
        let (back, given) = oneshot::channel();
        ask.send(back).map_err(|_| Some(Rebuilt::Lost))?;
        let mut held = given.await.map_err(|_| Some(Rebuilt::Lost))?;
        if !held.wait_for(&batch.calls).await {
            debug!(response_id = %batch.id, "the app-server never asked for an output");
            return Err(Some(Rebuilt::Lost));
        }
        let (calls, step) = (batch.calls.clone(), Arc::clone(&batch.step));
        Ok(Resumption { held, calls, answers, step, input })
    }
}

impl HeldTurn {
    /// Takes in what comes while the turn waits; `false` if it does not wait any more.
    fn take_in(&mut self, event: ThreadEvent) -> bool {
        match event {
            ThreadEvent::ToolCall { call_id, reply, .. } => self.replies.push((call_id, reply)),
            ThreadEvent::UsageUpdated { .. }
            | ThreadEvent::ItemCompleted { .. }
            | ThreadEvent::OwnCallDone { .. }
            | ThreadEvent::ItemStarted { kind: ItemKind::Other(_), .. } => {}
            // Of calls beside these that the app-server answered by itself.
            ThreadEvent::RawItem { item, .. } if item.kind() == "function_call_output" => {}
            _ => return false,
        }
        true
    }

    /// Waits until all `calls` are open.
    async fn wait_for(&mut self, calls: &[String]) -> bool {
        let all = async {
            while !calls.iter().all(|call| self.replies.iter().any(|(id, _)| id == call)) {
                let event = self.live.thread.next_event().await;
                if !self.take_in(event) {
                    return false;
                }
            }
            true
        };
        tokio::time::timeout(CALL_TIMEOUT, all).await.unwrap_or(false)
    }
}
